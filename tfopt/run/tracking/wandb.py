"""Weights & Biases: a run with the recipe as its config, and the files in an artifact."""

import os
from collections.abc import Mapping

from typing_extensions import override

from tfopt.run.tracking.tracker import Start, Tracker

PROJECT = "tfopt"
EPOCH, ROW = "epoch", "row"


class Wandb(Tracker):
    """A run in the project `where`, by default that of WANDB_PROJECT, else "tfopt"."""

    title = "Weights & Biases"

    @override
    def begin(self, start: Start) -> None:
        import wandb

        tags = [f"{name} {version}"[:64] for name, version in start.versions.items()]
        project = self.where or os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project, name=start.name, config=dict(start.params), tags=tags, reinit="create_new"
        )
        self._run.define_metric("*", step_metric=EPOCH)
        self._run.define_metric("file/*", step_metric=ROW)

    @override
    def log(self, values: Mapping[str, float], step: int) -> None:
        axis = ROW if any(name.startswith("file/") for name in values) else EPOCH
        self._run.log({**values, axis: step})

    @override
    def end(self, files: Mapping[str, bytes], *, ok: bool) -> None:
        import wandb

        if files:
            artifact = wandb.Artifact(f"run-{self._run.id}", "model")
            for name, content in files.items():
                with artifact.new_file(name, "wb") as file:
                    file.write(content)
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if ok else 1)
