"""A distillation over a whole run: all stages share one teacher and the same views of the data."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.batches import Views, view_inputs
from tfopt.data.position import Position
from tfopt.data.random_changes import RandomChanges
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.distillation.losses.hinton import Hinton
from tfopt.distillation.losses.multilabel import MultilabelKD
from tfopt.distillation.losses.regression import RegressionKD
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher
from tfopt.distillation.self_taught.mean_teacher_session import MeanTeacherSession
from tfopt.distillation.several_session import SeveralSession
from tfopt.distillation.targets import ASKED_AT_ONCE, LOOK, TARGETS
from tfopt.errors import ModelError, RecipeError
from tfopt.tasks import task_named, task_of
from tfopt.teachers.base import Answering
from tfopt.teachers.cache import Answers
from tfopt.teachers.class_names import are_numbers, require_known_order
from tfopt.teachers.ensemble import as_teacher

# Maximum size of all views kept in memory; beyond it the teacher runs at every step.
MEMORY = 2 * 2**30


def adapted_teacher(teacher: Any, distillation: Distillation | MeanTeacher, data: Dataset) -> Answering | None:
    """Return `teacher` (anything `Teacher` accepts) adapted to students of `data`: inputs, outputs, class order.

    Returns:
        The adapted teacher; None if `distillation` needs none.

    Raises:
        RecipeError: a teacher is needed and missing, or given and not needed, or a loss is for another task.
        ModelError: the teacher does not fit the data or the task.
    """
    if not distillation.needs_teacher and teacher is not None:
        raise RecipeError("A teacher is given, but nothing in the recipe's distillation uses one: leave it out.")
    if isinstance(distillation, MeanTeacher):
        return None
    if distillation.task not in (None, task_named(data.task).responses):
        raise RecipeError(
            f"The loss '{distillation.labels()[0]}' is for {distillation.task}, the data is for {data.task}. Choose a "
            "loss for that task."
        )
    if not distillation.needs_teacher:
        return None
    if teacher is None:
        raise RecipeError("The recipe's distillation needs a teacher: pass optimize(..., teacher=...) or --teacher.")
    ready = as_teacher(teacher).for_inputs(data.preprocessing)
    if distillation.task is not None and (names := data.class_names or _numbers(ready, data)):
        ready = ready.for_classes(names)
    if distillation.task is not None:
        require_known_order(ready)
    ready = ready.with_outputs(distillation.layers("teacher"), response=distillation.task is not None)
    return ready.resolved(data.train.x(slice(0, LOOK)), data.task)


def _numbers(teacher: Answering, data: Dataset) -> tuple[str, ...]:
    """Return the class numbers of the data as names, if those of the teacher are numbers too; else ().

    Raises:
        ModelError: the teacher has other numbers.
    """
    known = teacher.class_names or ("",)
    if not are_numbers(known):
        return ()
    wanted = tuple(map(str, range(data.num_classes or 0)))
    if missing := [name for name in wanted if name not in known]:
        raise ModelError(
            f"The teacher '{teacher.name}' knows the classes {', '.join(known)}, the data have {', '.join(wanted)}: it "
            f"does not know {', '.join(missing)}. Fit it on the labels of these data, or name the classes of both "
            "alike (Teacher(class_names=...), load_data)."
        )
    return wanted


def default_distillation(data: Dataset) -> Distillation:
    """Return the distillation for the task of `data`: `Hinton`, `MultilabelKD` or `RegressionKD`."""
    fitting = {loss.task: loss for loss in (Hinton(), MultilabelKD(), RegressionKD())}
    return Distillation(losses=(fitting[task_named(data.task).responses],))


class DistillationSession:
    """Everything a stage needs to train its model as a student of `teacher`.

    Args:
        distillation: the objective.
        teacher: from `adapted_teacher`; None if no loss needs one.
        data: the training data.
        augment: of the training images.
        seed: of the augmentation; all stages use the same views and so share the answers.
        folder: stores the answers on disk, for runs with the same teacher and data; None keeps them in memory.
        progress: shows the teacher's progress.
    """

    def __init__(
        self,
        distillation: Distillation,
        teacher: Answering | None,
        data: Dataset,
        *,
        augment: RandomChanges | None,
        seed: int,
        folder: str | Path | None = None,
        progress: Any = None,
    ) -> None:
        self.distillation, self.data, self.augment, self.seed = distillation, data, augment, seed
        self.teacher = teacher
        self.views = distillation.views if augment else 1
        self.answers = None
        if teacher is not None and distillation.cache != "never":
            self.answers = self._answers(teacher, folder, progress)

    def _answers(self, teacher: Answering, folder: str | Path | None, progress: Any) -> Answers | None:
        about = {
            "data": self.data.fingerprint,
            "augmentation": dataclasses.asdict(self.augment) if self.augment else None,
            "seed": self.seed,
        }
        answers = Answers(teacher, about, len(self.data.train), folder=folder, progress=progress)
        sample = self.data.train.x(slice(0, 2))
        fits = folder or self.views * answers.bytes_per_view(sample) <= MEMORY
        return answers if fits or self.distillation.cache == "always" else None

    def student(self, model: Any) -> Any:
        """Return `model` (from a stage's `apply`) as one to compile and fit on `batches`."""
        distilled = distill(model, self.teacher, self.distillation)
        distilled.targets.check_fit(self.data.train.x(slice(0, LOOK)), self.data.train.y(slice(0, LOOK)))
        return distilled

    def batches(self, batch_size: int, *, seed: int, epochs: int, position: Position | None = None) -> Any:
        """Return training batches for `epochs` epochs in the order of `seed`, with answers if they can be cached.

        `position` says where iterations over them begin.
        """
        order: dict[str, Any] = {"shuffle": True, "seed": seed, "augment": self.augment, "position": position}
        answers = self.answers
        if answers is None:
            return self.data.batches("train", batch_size, **order)
        known = [self._view(answers, view) for view in range(min(self.views, epochs))]

        def beside(view: int, chosen: np.ndarray) -> dict[str, np.ndarray]:
            return {name: np.asarray(values[chosen], np.float32) for name, values in known[view].items()}

        views = Views(len(known), self.seed, TARGETS, beside)
        return self.data.batches("train", batch_size, **order, views=views)

    def _view(self, answers: Answers, view: int) -> dict[str, np.ndarray]:
        def inputs() -> Any:
            shown = view_inputs(self.data.train, view, ASKED_AT_ONCE, seed=self.seed, augment=self.augment)
            for number, x in enumerate(shown):
                yield x, self.data.train.y(slice(number * ASKED_AT_ONCE, number * ASKED_AT_ONCE + len(x)))

        return answers.view(view, inputs)

    keeps_any_epoch = True
    """Whether the student may get the weights of an earlier epoch."""

    def summary(self, history: dict[str, list[float]]) -> list[str]:
        """Return the final loss terms of a stage, as a note, from the history of `fit`."""
        names = ["loss", "hard_loss", *self.distillation.labels()]
        values = ", ".join(f"{name} {history[name][-1]:.4g}" for name in names if name in history)
        taught = f"distilled from '{self.teacher.name}'" if self.teacher is not None else "trained"
        return [f"{taught}; terms in the last epoch: {values}"]

    def notes(self) -> list[str]:
        """Return notes for the report."""
        if self.teacher is None:
            return []
        said = [*self.teacher.notes]
        if self.distillation.task is not None:
            names = self.teacher.class_names
            if self.data.num_classes and not self.data.class_names and names and not are_numbers(names):
                said.append(f"the data name no classes: 0, 1, ... are the teacher's {', '.join(names)} in this order")
            said.append(f"teacher '{self.teacher.name}' on the test set: {self._measured(self.teacher)}")
        if self.answers is None and self.distillation.cache == "auto":
            said.append(
                f"the teacher runs at every step, because all its answers would take over {MEMORY / 2**30:.0f} GiB"
            )
        return said

    def _measured(self, teacher: Answering) -> str:
        outputs = teacher.predict(self.data.test.x(), quiet=True)["output"]
        metrics = task_of(self.data).metrics(outputs, self.data.test.y(), logits=True)
        return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


Session = DistillationSession | MeanTeacherSession | SeveralSession


def session_for(
    settings: Any,
    teacher: Answering | None,
    data: Dataset,
    *,
    augment: RandomChanges | None,
    seed: int,
    folder: str | Path | None = None,
    progress: Any = None,
) -> Session:
    """Return the session for a recipe's distillation, see `DistillationSession`: one class per kind of settings."""
    if isinstance(settings, MeanTeacher):
        return MeanTeacherSession(settings, data, augment=augment, seed=seed)
    return DistillationSession(settings, teacher, data, augment=augment, seed=seed, folder=folder, progress=progress)
