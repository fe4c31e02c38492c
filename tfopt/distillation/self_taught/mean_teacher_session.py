"""A mean teacher over a whole run: the same labeled samples, and two views of all of them, through all stages."""

import dataclasses
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.batches import AUGMENTATION
from tfopt.data.position import Position
from tfopt.data.random_changes import RandomChanges
from tfopt.data.split import choose
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher, mean_teacher
from tfopt.distillation.self_taught.semi_supervised import OTHER_VIEW, UNLABELED, labeled_per_batch, mixed_batches
from tfopt.distillation.targets import ASKED_AT_ONCE, LOOK
from tfopt.errors import RecipeError
from tfopt.tasks import task_of

# Keeps the random numbers of this choice apart from others with the same seed.
LABELED = 2


class MeanTeacherSession:
    """What a stage needs to train its model under the average of its own weights; used like `DistillationSession`.

    Each stage begins a new average, from the weights that the stage begins with. At its end a model in wrappers
    (Prune, Cluster, Quantize) keeps its own weights, for which the stage's promise holds; one without gets the average
    where `MeanTeacher.use` says so.

    Args:
        settings: what is learned, and from how many labels.
        data: what is learned from; of the training labels `settings.labeled` are used.
        augment: of the training images; the student and its teacher see different changes of each.
        seed: of the choice of labels, the same in all stages.

    Raises:
        RecipeError: the task is another than the data's, there are too few labels, or the augmentation moves places.
    """

    def __init__(
        self,
        settings: MeanTeacher,
        data: Dataset,
        *,
        augment: RandomChanges | None,
        seed: int,
    ) -> None:
        if settings.task != data.task:
            raise RecipeError(f"The data is for {data.task}: use MeanTeacher(task={data.task!r}).")
        if data.train.weights is not None:
            raise RecipeError("A MeanTeacher takes samples without weights; leave them or the MeanTeacher out.")
        if augment and task_of(data).has_places:
            raise RecipeError(
                "Expected no augmentation with MeanTeacher and a class for each place: its two views of an image would "
                "not match place by place. Take it out of Training."
            )
        self.settings, self.data, self.augment = settings, data, augment
        self.labeled, self.unlabeled = _parted(data, settings.labeled, seed)
        self._learner: Any = None

    @property
    def labeled_data(self) -> Dataset:
        """The data with only the training samples whose labels are used."""
        return dataclasses.replace(self.data, train=self.data.train.at(self.labeled))

    keeps_any_epoch = False
    """Whether the student may get the weights of an earlier epoch; here it gets an average at the end."""

    def notes(self) -> list[str]:
        """Return notes for the report."""
        all_of_them = len(self.data.train)
        said = [f"mean teacher: {len(self.labeled):,} of {all_of_them:,} training labels used, the same in all stages"]
        if self.augment is None and not self.settings.noise:
            said.append(
                "no augmentation and no noise: student and mean teacher see the same inputs, so they differ only by "
                "the model's Dropout and past weights"
            )
        return said

    def summary(self, history: dict[str, list[float]]) -> list[str]:
        """Return the loss terms at the end of a stage, and the quality of the average as a note."""
        names = [name for name in ("loss", "hard_loss", "consistency") if name in history]
        values = ", ".join(f"{name} {history[name][-1]:.4g}" for name in names)
        return [f"taught by the mean of its own weights; terms in the last epoch: {values}", self._compared()]

    def _compared(self) -> str:
        learner = self._learner
        mean = self._measured(learner.average.answers)
        if learner.hands_over:
            return f"continuing with the mean of the model's weights: {mean} on the validation set"
        own = self._measured(lambda x: learner.student(x, training=False))
        return (
            f"on the validation set the model has {own}, the mean of its weights {mean}; continuing with the model's "
            "own weights"
        )

    def _measured(self, ask: Any) -> str:
        validation = self.data.validation
        starts = range(0, len(validation), ASKED_AT_ONCE)
        outputs = np.concatenate([np.asarray(ask(validation.x(slice(i, i + ASKED_AT_ONCE)))) for i in starts])
        logits = self._learner.response.form == "logits"
        metrics = task_of(self.data).metrics(outputs.astype(np.float32), validation.y(), logits=logits)
        return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())

    def student(self, model: Any) -> Any:
        """Return a model to compile and fit on `batches`, for the `model` that a stage's `apply` returned."""
        self._learner = mean_teacher(model, dataclasses.replace(self.settings, labeled=1.0))
        self._learner.check_fit(self.data.train.x(slice(0, LOOK)))
        return self._learner

    def batches(self, batch_size: int, *, seed: int, epochs: int, position: Position | None = None) -> Any:
        """Return training batches in an order of `seed`, as many per epoch as the data has, from `position` on."""
        del epochs
        train, augment = self.data.train, self.augment
        if batch_size < 2 and len(self.unlabeled):
            raise RecipeError("A batch holds labeled and unlabeled samples; pass a batch_size of 2 or more.")
        sizes = len(self.labeled), len(self.unlabeled), batch_size
        each = labeled_per_batch(*sizes, self.settings.batch_share)

        def gather(step: int, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, ...]:
            known = self.labeled[first]
            x = train.x(np.concatenate([known, self.unlabeled[second]]))
            return x, train.y(known), *self._drawn(len(x), seed, step)

        def views(x: Any, y: Any, *drawn: Any) -> Any:
            one = x if augment is None else augment.apply(x, drawn[0])
            mixed = {"inputs": one[:each], UNLABELED: one[each:]}
            if augment is not None:
                mixed[OTHER_VIEW] = augment.apply(x, drawn[1])
            return mixed, y

        steps = self.data.steps(batch_size)
        return mixed_batches(gather, *sizes, each, steps=steps, seed=seed, position=position).map(views)

    def _drawn(self, count: int, seed: int, step: int) -> list[np.ndarray]:
        """Return what augmentation does to the samples of a batch in the two views."""
        if self.augment is None:
            return []
        shape = self.data.input_shape
        return [self.augment.draw(count, shape, [seed, step, view, AUGMENTATION]) for view in range(2)]


def _parted(data: Dataset, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of labeled and unlabeled training samples, spread over classes as evenly as possible."""
    everyone = np.arange(len(data.train))
    if share == 1:
        return everyone, everyone[:0]
    count = round(share * len(everyone))
    groups = task_of(data).groups(data.train.labels)
    if count < len(np.unique(groups)):
        raise RecipeError(
            f"labeled={share} leaves {count} labels of {len(everyone):,} for {len(np.unique(groups))} classes; take "
            "more."
        )
    labeled = choose(count, groups, np.random.default_rng([seed, LABELED]), even=True)
    return labeled, np.setdiff1d(everyone, labeled)
