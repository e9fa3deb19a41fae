"""Trackers: where a run can be followed besides its folder. One file a tracker; it is registered by an entry here."""

import importlib.util

from segdistill.utils.trackers.base import Subject, Tracker
from segdistill.utils.trackers.follow import Following
from segdistill.utils.trackers.mlflow import MLflow
from segdistill.utils.trackers.trackio import Trackio
from segdistill.utils.trackers.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "trackio": Trackio, "wandb": WandB}

__all__ = ["TRACKERS", "Following", "Subject", "Tracker", "require_tracker"]


def require_tracker(name: str) -> None:
    """Raise ValueError, with what to install, if the library of a tracker is not there."""
    found = importlib.util.find_spec(TRACKERS[name].PACKAGE)
    if found is None or found.origin is None:  # a folder of that name, such as wandb leaves behind, is no library
        raise ValueError(
            f"--track {name} needs {TRACKERS[name].PACKAGE}, which is not installed: pip install segdistill[{name}]"
        )
