"""The channels that a model loses while it is trained: their weights are held at zero until `strip` removes them."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.annotations import annotate, annotations, trained_model
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, RecipeError
from tfopt.graph.types import flatten, map_leaves
from tfopt.stages.channels.criteria import OF_GRADIENTS, scores, scores_of_gradients, weights_of
from tfopt.stages.channels.gradients import gradients_on
from tfopt.stages.channels.selection import least_important, select
from tfopt.surgery.channels.cut import masked_weights
from tfopt.surgery.channels.groups import Channels

BATCH = 32
"""Samples at once for gradients of "taylor"; those of "fisher" are of one sample each."""


class Shrinking:
    """What a `PruneChannels` stage does to one model.

    Args:
        channels: of the model that is trained.
        stage: the settings.
        schedule: pairs of a step, and the share of the cost that is left from there on.
        steps: of the training; 0 for none.

    Attributes:
        removed: roots of the channels that are gone.
        samples: inputs for criteria that need them.
        solved: whether kernels were solved by least squares.
    """

    def __init__(self, channels: Channels, stage: Any, schedule: Sequence[tuple[int, float]], steps: int) -> None:
        self.channels, self.stage, self.schedule, self.steps = channels, stage, tuple(schedule), steps
        self.cost = cost_of(channels, stage.measure)
        self.whole = self.cost(())
        self.limits = stage.limits(channels)
        self.removed: list[int] = []
        self.samples: Any = None
        self.solved = False
        self._plan: list[int] | None = None
        self._pending = list(self.schedule)
        self._start: int | None = None
        self._before = {key: np.array(value) for key, value in weights_of(channels).items()}
        self._masks: list[tuple[Any, Any]] = []

    def target(self, ratio: float) -> int:
        """Return the largest cost that is the share `ratio` of the whole."""
        return int(self.whole * ratio)

    def require_reachable(self) -> None:
        """Raise `RecipeError` if the final cost cannot be reached."""
        smallest = self.cost(self._chosen(0, [np.ones(len(group)) for group in self.channels.groups]))
        if smallest > self.target(self.stage.final_ratio):
            raise RecipeError(
                f"final_ratio={self.stage.final_ratio:g} cannot be reached: at least {smallest / self.whole:.3f} of "
                f"the {self.stage.measure} stay. {self._blocked()}Give a larger final_ratio"
                f"{', a smaller round_to or least' if self.stage.round_to > 1 or self.stage.least else ''}."
            )

    def _blocked(self) -> str:
        found = sorted(self.channels.barriers().items(), key=lambda item: -item[1])[:3]
        return f"Channels that stay: {'; '.join(f'{count:,} since {why}' for why, count in found)}. " if found else ""

    def update(self, ratio: float) -> None:
        """Remove the least important channels, on the way to the final share, when the share `ratio` should be left.

        How many each group loses is decided the first time; which ones, by the scores of each time.
        """
        found, final = self._scores(), self.stage.final_ratio
        if self._plan is None:
            gone = self._chosen(self.target(final), found)
            self._plan = [int(np.isin(group.roots, gone).sum()) for group in self.channels.groups]
        progress = min(1.0, (1 - ratio) / (1 - final))
        counts = [
            planned if progress > 1 - 1e-9 else int(progress * planned) // block * block
            for planned, block in zip(self._plan, self.limits.round_to, strict=True)
        ]
        self.removed = least_important(self.channels, found, counts, self.removed)
        self.mask_all()

    def _chosen(self, most: int, found: Sequence[np.ndarray]) -> list[int]:
        return select(self.channels, found, self.cost, most, self.limits, distribution=self.stage.distribution)

    @property
    def complete(self) -> bool:
        """Whether the last channels are gone."""
        return self._plan is not None and self.cost(self.removed) <= self.target(self.stage.final_ratio)

    def _scores(self) -> list[np.ndarray]:
        criterion, values = self.stage.criterion, weights_of(self.channels)
        if criterion not in OF_GRADIENTS:
            return scores(self.channels, criterion, values, self.stage.seed or 0)
        if self.samples is None:
            raise DataError(
                f'criterion="{criterion}" needs inputs: call stage.calibrate(model, inputs) before fit, or choose "l2".'
            )
        size = 1 if criterion == "fisher" else min(BATCH, len(flatten(self.samples)[0]))
        gradients = gradients_on(self.model, self.channels, self.samples, size, self.stage.seed or 0)
        return scores_of_gradients(self.channels, values, list(gradients))

    def few_samples(self, most: int) -> Any:
        """Return at most that many of the samples, or as many as the model takes at once; None if there are too few."""
        fixed = self.model.inputs[0].shape[0]
        if self.samples is None or len(flatten(self.samples)[0]) < (fixed or 1):
            return None
        return map_leaves(lambda array: array[: fixed or most], self.samples)

    def whole_model(self) -> Any:
        """Return a copy of the model before any channel was removed."""
        copy = bridge.clone(self.model)
        for (name, index), values in self._before.items():
            copy.get_layer(name).weights[index].assign(values)
        return copy

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self._model()

    def belongs_to(self, model: Any) -> None:
        """Keep the model in mind, but not alive."""
        import weakref

        self._model: Callable[[], Any] = weakref.ref(model)

    def keep_samples(self, inputs: Any, most: int) -> None:
        """Keep the first `most` inputs."""
        self.samples = map_leaves(lambda array: np.asarray(array)[:most], inputs)

    def mask_all(self) -> None:
        """Set the weights of removed channels to zero, and remember how to do so after each step."""
        self._masks = masks_of(self.channels, self.removed)
        self.mask()

    def mask(self) -> None:
        """Set the weights of removed channels to zero."""
        for variable, mask in self._masks:
            variable.assign(variable * mask)

    def advance(self, iterations: int) -> None:
        """Remove channels if it is time, after that many steps of the optimizer."""
        self._start = iterations if self._start is None else self._start
        due = [ratio for step, ratio in self._pending if step <= iterations - self._start]
        if due:
            self._pending = self._pending[len(due) :]
            self.update(due[-1])


def cost_of(channels: Channels, measure: str) -> Callable[[Iterable[int]], int]:
    """Return the function from removed channels to what the model costs."""
    if measure == "macs":
        return channels.macs
    if measure == "parameters":
        return channels.parameters
    total = sum(map(len, channels.groups))
    return lambda removed: total - len(set(removed))


def masks_of(channels: Channels, removed: Iterable[int]) -> list[tuple[Any, Any]]:
    """Return the weights that belong to channels `removed`, as variables, each with its mask."""
    import tensorflow as tf

    found = []
    ones = masked_weights(channels, removed, ones=True)
    for leaf in channels.trace.graph.leaves:
        for variable, mask in zip(getattr(leaf.layer, "weights", ()), ones.get(leaf.name, ()), strict=False):
            if not mask.all():
                found.append((variable, tf.constant(mask, variable.dtype)))
    return found


def shrinking_of(model: Any) -> Shrinking | None:
    """Return what happens to a model that `PruneChannels.apply` returned, or to the student of a distilled one."""
    found = annotations(trained_model(model)).shrinking
    return found if isinstance(found, Shrinking) else None


def remember(model: Any, shrinking: Shrinking) -> None:
    """Attach `shrinking` to `model`."""
    shrinking.belongs_to(model)
    annotate(model, shrinking=shrinking)


def zero_channels(channels: Channels) -> list[int]:
    """Return the channels whose weights are all zero, as in a file of a model that was shrunk."""
    values, gone = weights_of(channels), []
    for group in channels.groups:
        zero = np.ones(len(group), bool)
        for part in group.parts:
            array = np.moveaxis(values[part.slot.leaf.name, part.slot.index], part.slot.axis, 0)
            zero &= ~np.any(array[part.places].reshape(len(group), -1), axis=1)
        gone += [int(root) for root in group.roots[zero]][: len(group) - 1]
    return gone


@functools.cache
def shrink_class() -> Any:
    """Return the callback that removes channels on schedule and holds their weights at zero."""
    base: Any = tf_keras().callbacks.Callback

    class ShrinkChannels(base):  # type: ignore[misc]
        """Follows the schedule of the model that it is given."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if (found := shrinking_of(self.model)) is not None:
                found.advance(int(self.model.optimizer.iterations))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if (found := shrinking_of(self.model)) is not None:
                found.mask()

    return ShrinkChannels
