"""Values as text of bounded length, for error messages."""

import itertools
import reprlib
from collections.abc import Mapping


class _Short(reprlib.Repr):
    """``repr`` of the first few elements of the outermost few containers; a tensor as its shape."""

    def repr1(self, value: object, level: int) -> str:
        if isinstance(value, Mapping):
            return self.repr_dict(dict(value), level)
        if isinstance(value, tuple):
            return self.repr_tuple(tuple(value), level)
        if hasattr(value, "shape"):
            return f"{type(value).__name__} of shape {tuple(value.shape)}"
        if isinstance(value, int) and value.bit_length() > 200:
            return f"an int of {value.bit_length()} bits"
        return super().repr1(value, level)

    def repr_dict(self, value: dict, level: int) -> str:
        if level <= 0 and value:
            return "{...}"
        items = itertools.islice(value.items(), self.maxdict)
        parts = [f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}" for key, item in items]
        return "{" + ", ".join([*parts, *(["..."] if len(value) > self.maxdict else [])]) + "}"


_short = _Short()
_short.maxlevel, _short.maxdict, _short.maxstring, _short.maxother = 4, 12, 80, 80


def shown(value: object, most: int = 300) -> str:
    """``repr(value)`` in at most ``most`` characters, without walking more of it than is shown."""
    text = _short.repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
