"""A distillation over a whole run, for models with several inputs or outputs."""

import hashlib
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.position import Position
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.errors import RecipeError
from tfopt.models.sources import model_from


class SeveralSession:
    """Everything a stage needs to train its model as a student of `teacher`, output by output.

    Args:
        distillation: for all outputs; None chooses a loss for each, see `distill`.
        teacher: a Keras model with the same inputs and outputs, or the path of one; it runs at every step.
        data: the training data.

    Raises:
        RecipeError: there is no teacher.
    """

    keeps_any_epoch = True
    """Whether the student may get the weights of an earlier epoch."""

    def __init__(self, distillation: Distillation | None, teacher: Any, data: Dataset) -> None:
        if teacher is None:
            raise RecipeError("The distillation needs a teacher: pass optimize(..., teacher=...) or --teacher.")
        self.distillation, self.data, self.teacher = distillation, data, model_from(teacher)

    def student(self, model: Any) -> Any:
        """Return `model` (from a stage's `apply`) as one to compile and fit on `batches`."""
        return distill(model, self.teacher, self.distillation)

    def batches(self, batch_size: int, *, seed: int, epochs: int, position: Position | None = None) -> Any:
        """Return training batches in the order of `seed`, from `position` on."""
        del epochs
        return self.data.batches("train", batch_size, shuffle=True, seed=seed, position=position)

    @property
    def identity(self) -> Any:
        """Plain values that identify this teacher."""
        digest = hashlib.sha256()
        for weight in self.teacher.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
        return {"name": self.teacher.name, "weights": digest.hexdigest()}

    def summary(self, history: dict[str, list[float]]) -> list[str]:
        """Return the final loss terms of a stage, as a note, from the history of `fit`."""
        skipped = ("val_", "lr", "learning_rate")
        values = ", ".join(f"{name} {value[-1]:.4g}" for name, value in history.items() if not name.startswith(skipped))
        return [f"distilled from '{self.teacher.name}'; last epoch: {values}"]

    def notes(self) -> list[str]:
        """Return notes for the report."""
        return [f"the teacher '{self.teacher.name}' runs at every step"]
