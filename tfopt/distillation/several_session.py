"""A distillation over a whole run, for models with several inputs or outputs."""

from typing import Any

from tfopt.data import Dataset, FrontEnd, Preprocessing
from tfopt.data.position import Position
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.distillation.ports import keras_teacher
from tfopt.errors import ModelError, RecipeError
from tfopt.teachers import Answering


class SeveralSession:
    """Everything a stage needs to train its model as a student of `teacher`, output by output.

    Args:
        distillation: for all outputs; None chooses a loss for each, see `distill`.
        teacher: with the same inputs and outputs, a Keras model or the path of one; it runs at every step.
        data: the training data.

    Raises:
        RecipeError: there is no teacher.
        ModelError: it is no Keras model, or takes pixels on another scale than the student.
    """

    keeps_any_epoch = True
    """Whether the student may get the weights of an earlier epoch."""

    def __init__(self, distillation: Distillation | None, teacher: Answering | None, data: Dataset) -> None:
        if teacher is None:
            raise RecipeError("The distillation needs a teacher: pass optimize(..., teacher=...) or --teacher.")
        self.distillation, self.data, self.teacher = distillation, data, keras_teacher(teacher)
        _require_same_scale(teacher, data.preprocessing)

    def student(self, model: Any) -> Any:
        """Return `model` (from a stage's `apply`) as one to compile and fit on `batches`."""
        return distill(model, self.teacher, self.distillation)

    def batches(self, batch_size: int, *, seed: int, epochs: int, position: Position | None = None) -> Any:
        """Return training batches in the order of `seed`, from `position` on."""
        del epochs
        return self.data.batches("train", batch_size, shuffle=True, seed=seed, position=position)

    def summary(self, history: dict[str, list[float]]) -> list[str]:
        """Return the final loss terms of a stage, as a note, from the history of `fit`."""
        skipped = ("val_", "lr", "learning_rate")
        values = ", ".join(f"{name} {value[-1]:.4g}" for name, value in history.items() if not name.startswith(skipped))
        return [f"distilled from '{self.teacher.name}'; last epoch: {values}"]

    def notes(self) -> list[str]:
        """Return notes for the report."""
        return [f"the teacher '{self.teacher.name}' runs at every step"]


def _require_same_scale(teacher: Any, given: FrontEnd) -> None:
    own = teacher.preprocessing
    if not isinstance(own, Preprocessing) or not isinstance(given, Preprocessing):
        return
    if (own.scale, own.offset, own.order) != (given.scale, given.offset, given.order):
        raise ModelError(
            f"The teacher '{teacher.name}' takes {own.describe()}, the student {given.describe()}; with several inputs "
            "or outputs both must take the same. Load the data as the teacher takes them, or leave its "
            "preprocessing out."
        )
