"""MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are its own variables."""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segdistill.utils.trackers.base import PROJECT, Subject, Tracker

LONGEST_PARAM = 6000
TOTAL = "loss/total"  # the total loss: its file store cannot hold loss beside loss/cross_entropy


class MLflow(Tracker):
    """Options are params and options.json, the environment and the group are tags."""

    PACKAGE = "mlflow"

    def __init__(self, subject: Subject, id: str | None):
        # Of an unreachable server its own default, 7, would hold up a step for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow

        self.entities, self.client = mlflow.entities, mlflow.MlflowClient()
        if id is None:
            experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
            run = self.client.create_run(experiment.experiment_id, run_name=subject.name)
            id = run.info.run_id
            # Params cannot change, options such as the number of steps may: options.json is always the newest.
            params = {key: json.dumps(value)[:LONGEST_PARAM] for key, value in subject.options.items()}
            self.client.log_batch(id, params=[mlflow.entities.Param(*item) for item in params.items()])
        else:
            self.client.update_run(id, status="RUNNING")
        self.id = id
        tags = {"group": subject.group, **{key: str(value) for key, value in subject.environment.items()}}
        self.client.log_batch(id, tags=[mlflow.entities.RunTag(*item) for item in tags.items()])
        self.client.log_dict(id, dict(subject.options), "options.json")

    def last_step(self) -> int | None:
        return max((metric.step for metric in self.client.get_metric_history(self.id, TOTAL)), default=0)

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            self.client.log_image(self.id, picture, key=name, step=step, synchronous=True)
        self._log_metrics(step, values)

    def report(self, step: int, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        self._log_metrics(step, summary)
        for file in files:
            self.client.log_artifact(self.id, str(file))

    def _log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        names = (TOTAL if name == "loss" else re.sub(r"[^\w\-. :/]", "_", name) for name in values)
        metrics = [self.entities.Metric(*item, now, step) for item in zip(names, values.values(), strict=True)]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")
