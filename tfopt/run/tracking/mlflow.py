"""MLflow: a run with the recipe as parameters, the files as artifacts, and versions as tags."""

import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from tfopt.run.tracking.tracker import Start, Tracker

EXPERIMENT = "tfopt"
LONGEST = 500
"""Characters of a parameter that every store takes."""
AT_ONCE = 100
"""Parameters in one request, the most that MLflow takes."""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Otherwise an unreachable server blocks the run for minutes at each request."""


class MLflow(Tracker):
    """A run at the tracking URI `where`, by default what MLFLOW_TRACKING_URI says, else MLflow's own."""

    title = "MLflow"

    @override
    def begin(self, start: Start) -> None:
        for name, value in IMPATIENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self.where)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, tags=dict(start.versions), run_name=start.name).info.run_id
        params = [Param(accepted(key), value[:LONGEST]) for key, value in start.params.items()]
        for first in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._run, params=params[first : first + AT_ONCE])

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(accepted(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    @override
    def end(self, files: Mapping[str, bytes], *, ok: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            if files:
                self._client.log_artifacts(self._run, folder)
        self._client.set_terminated(self._run, "FINISHED" if ok else "FAILED")


def accepted(name: str) -> str:
    """Return a name with "_" for the characters that MLflow does not accept in names."""
    return re.sub(r"[^\w.:/ -]", "_", name, flags=re.ASCII)
