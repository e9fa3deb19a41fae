"""The check of feature names that every network makes."""

from collections.abc import Iterable


def check_features(network: str, asked: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError if a name in ``asked`` is not one of ``known``."""
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise ValueError(f"{network} has no feature {', '.join(unknown)}; known: {', '.join(sorted(known))}")
