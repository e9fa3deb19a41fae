"""TensorBoard event files."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from segdistill.utils.files import append


class EventFile:
    """A TensorBoard event file without a writer thread, so that errors are raised at the call.

    SummaryWriter writes in a thread: on a full disk it prints a traceback, and closing it can wait for ever.

    Args:
        purge_step: TensorBoard drops what earlier files of the folder show from this step on.
    """

    def __init__(self, folder: Path, purge_step: int):
        self.path = folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        """Scalars, and pictures (H, W, 3) uint8."""
        summary = Summary()
        for name, value in values.items():
            summary.MergeFrom(scalar(name, value))
        for name, picture in pictures.items():
            summary.MergeFrom(image(name, picture, dataformats="HWC"))
        self._add(Event(step=step, summary=summary))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append(self.path, record.getvalue())
