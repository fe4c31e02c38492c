"""The channels that a model loses while it is trained: their weights are held at zero until `strip` removes them."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base.annotations import annotate, annotations, trained_model
from tfopt.base.keras_compat import tf_keras
from tfopt.base.words import counted
from tfopt.errors import DataError, RecipeError
from tfopt.graph.types import flatten, map_leaves
from tfopt.stages.channels.criteria import OF_GRADIENTS, scores, scores_of_gradients, weights_of
from tfopt.stages.channels.gradients import gradients_on
from tfopt.stages.channels.limits import limits_of
from tfopt.stages.channels.regularization import shrink_weights
from tfopt.stages.channels.selection import Limits, least_important, select
from tfopt.surgery.channels.cut import masks_by_layer
from tfopt.surgery.channels.groups import Channels

SCORED_EVERY = 50
"""Steps after which a penalty asks for the importance of channels again."""
BATCH = 32
"""Samples at once for gradients of "taylor"; those of "fisher" are of one sample each."""


class Shrinking:
    """State of a `PruneChannels` stage applied to one model.

    Args:
        channels: of the model that is trained.
        stage: the settings.
        schedule: pairs of a step, and the share of the way to the final size that is done from there on.
        steps: of the training; 0 for none.

    Attributes:
        removed: roots of the channels that are gone.
        samples: inputs for criteria that need them.
        solved: whether kernels were solved by least squares.
    """

    def __init__(self, channels: Channels, stage: Any, schedule: Sequence[tuple[int, float]], steps: int) -> None:
        self.channels, self.stage, self.schedule, self.steps = channels, stage, tuple(schedule), steps
        self.cost, self.most = goal_of(channels, stage)
        self.limits = limits_of(stage, channels)
        self.removed: list[int] = []
        self.samples: Any = None
        self.solved = False
        self._plan: list[int] | None = None
        self._pending = list(self.schedule)
        self._done, self._counted = 0, 0
        self._before = {} if steps else {key: np.array(value) for key, value in weights_of(channels).items()}
        self._masks: list[tuple[Any, Any]] = []
        self._importance: list[np.ndarray] = []
        self._scored = self._penalized = 0

    def require_reachable(self) -> None:
        """Raise `RecipeError` if the final cost cannot be reached, with what keeps the channels."""
        smallest = self.cost(self._chosen(0, [np.ones(len(group)) for group in self.channels.groups]))
        if smallest > self.most:
            share = smallest / self.cost(())
            why = "".join(f"; {reason}" for reason in self._reasons())
            raise RecipeError(
                f"final_ratio={self.stage.final_ratio:g} cannot be reached: at least {share:.3f} of the "
                f"{measure_name(self.stage.measure)} remain{why}. Give a final_ratio of at least {share + 5e-4:.3f}"
                f"{''.join(f', or {way}' for way in self._ways())}."
            )

    def _reasons(self) -> list[str]:
        """Return what keeps channels, the most important reasons first."""
        ruled = [g.name for g, fixed in zip(self.channels.groups, self.limits.fixed, strict=True) if fixed is not None]
        barriers = sorted(self.channels.barriers().items(), key=lambda item: -item[1])[:3]
        found = [f"rules set the channels of {', '.join(ruled[:5])}"] if ruled and not self.stage.widths else []
        return [*found, *(f"{counted(count, 'channel')} stay since {why}" for why, count in barriers)]

    def _ways(self) -> list[str]:
        """Return what else would let more channels go."""
        stage, barriers = self.stage, " ".join(self.channels.barriers())
        found = {
            "fewer rules": bool(stage.layers),
            f"least below {stage.least:g}": stage.least > 0,
            f"round_to below {stage.round_to}": stage.round_to > 1,
            "through_norms=True": "normalizes over them" in barriers,
            'attention="both"': self.stage.attention != "both" and self.channels.has_attention,
        }
        return [way for way, helps in found.items() if helps]

    def update(self, progress: float) -> None:
        """Remove the least important channels, the share `progress` of those that go in the end.

        How many each group loses is decided the first time; which ones, by the scores of each time.
        """
        found = scores_of(self.channels, self.stage, self.model, self.samples)
        if self._plan is None:
            gone = self._chosen(self.most, found)
            self._plan = [int(np.isin(group.roots, gone).sum()) for group in self.channels.groups]
        counts = [
            planned if progress >= 1 else int(progress * planned) // block * block
            for planned, block in zip(self._plan, self.limits.round_to, strict=True)
        ]
        self.removed = least_important(self.channels, found, counts, self.removed)
        self.mask_all()

    def _chosen(self, most: int, found: Sequence[np.ndarray]) -> list[int]:
        return select(self.channels, found, self.cost, most, self.limits, distribution=self.stage.distribution)

    @property
    def complete(self) -> bool:
        """Whether the last channels are gone."""
        return self.cost(self.removed) <= self.most

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
        """Hold a weak reference to the trained model."""
        import weakref

        self._model: Callable[[], Any] = weakref.ref(model)

    def keep_samples(self, inputs: Any, most: int) -> None:
        """Keep the first `most` inputs."""
        self.samples = map_leaves(lambda array: np.asarray(array)[:most], inputs)

    def mask_all(self) -> None:
        """Set the weights of removed channels to zero, and remember how to do so after each step."""
        self._masks = masks_of(self.channels, self.removed)
        self.mask()

    @property
    def has_regrown(self) -> bool:
        """Whether weights of removed channels are not zero, as after averaging weights or loading others."""
        return any(np.any(np.asarray(variable)[np.asarray(mask) == 0]) for variable, mask in self._masks)

    def mask(self) -> None:
        """Set the weights of removed channels to zero."""
        for variable, mask in self._masks:
            variable.assign(variable * mask)

    @property
    def has_penalty(self) -> bool:
        """Whether a penalty is to be applied after each step."""
        return bool(self._pending and self.stage.regularization)

    def penalize(self, learning_rate: float) -> None:
        """Apply one step of the penalty, which grows until the last channels go."""
        if not self._importance or self._done - self._scored >= SCORED_EVERY:
            self._importance = scores_of(self.channels, self.stage, self.model, self.samples)
            self._scored = self._done
        growth = self._done / max(1, self._pending[-1][0])
        strength = self.stage.regularization * growth * learning_rate * (self._done - self._penalized)
        self._penalized = self._done
        shrink_weights(self.channels, self._importance, self.removed, strength)

    def get_state(self) -> dict[str, np.ndarray]:
        """Return how far the training is, as arrays by name."""
        counts = [self._done, self._counted, self._scored, self._penalized, len(self._pending)]
        state = {"counts": np.array(counts), "removed": np.array(self.removed, int)}
        if self._plan is not None:
            state["plan"] = np.array(self._plan, int)
        return state | {f"importance_{number}": each for number, each in enumerate(self._importance)}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `get_state` returned; the weights are those of then."""
        self._done, self._counted, self._scored, self._penalized, pending = map(int, state["counts"])
        self._pending = list(self.schedule[len(self.schedule) - pending :])
        self.removed = [int(root) for root in state["removed"]]
        self._plan = [int(count) for count in state["plan"]] if "plan" in state else None
        numbers = range(sum(name.startswith("importance_") for name in state))
        self._importance = [state[f"importance_{number}"] for number in numbers]
        self._masks = masks_of(self.channels, self.removed)

    def start(self, iterations: int) -> None:
        """Start to count at that many steps of the optimizer, as a training begins."""
        self._counted = iterations

    def advance(self, iterations: int) -> None:
        """Count the steps of the optimizer, and remove channels if it is time."""
        self._done, self._counted = self._done + iterations - self._counted, iterations
        due = [progress for step, progress in self._pending if step <= self._done]
        if due:
            self._pending = self._pending[len(due) :]
            self.update(due[-1])


def scores_of(channels: Channels, stage: Any, model: Any, samples: Any) -> list[np.ndarray]:
    """Return the scores of the channels of each group, by the criterion of `stage`.

    Args:
        channels: of `model`.
        stage: a `PruneChannels`.
        model: flat tf_keras.
        samples: inputs for criteria that need them, or None.

    Raises:
        DataError: the criterion needs samples.
    """
    values, seed = weights_of(channels), stage.seed or 0
    if stage.criterion not in OF_GRADIENTS:
        return scores(channels, stage.criterion, values, seed)
    if samples is None:
        raise DataError(
            f'criterion="{stage.criterion}" needs inputs: call stage.calibrate(model, inputs) before fit, or choose '
            '"l2".'
        )
    size = 1 if stage.criterion == "fisher" else min(BATCH, len(flatten(samples)[0]))
    return scores_of_gradients(channels, values, gradients_on(model, channels, samples, size, seed))


def measure_name(measure: str) -> str:
    """Return what a measure is called in a sentence."""
    return "MACs" if measure == "macs" else measure


def goal_of(channels: Channels, stage: Any) -> tuple[Callable[[Iterable[int]], int], int]:
    """Return the function from removed channels to what the model costs, and the most that it may cost in the end."""
    total = sum(map(len, channels.groups))
    measures = {"macs": channels.macs, "parameters": channels.parameters}
    if stage.widths or stage.measure not in measures:
        most = sum(stage.widths) or int(total * stage.final_ratio)
        return lambda removed: total - len(set(removed)), most
    cost = measures[stage.measure]
    return cost, int(cost(()) * stage.final_ratio)


def masks_of(channels: Channels, removed: Iterable[int]) -> list[tuple[Any, Any]]:
    """Return the weights that belong to channels `removed`, as variables, each with its mask."""
    import tensorflow as tf

    found = []
    ones = masks_by_layer(channels, removed)
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


def zero_channels(channels: Channels, limits: Limits) -> list[int]:
    """Return the channels that may go and whose weights are all zero, as in a file of a model that was shrunk."""
    values, gone = weights_of(channels), []
    for group, fixed in zip(channels.groups, limits.fixed, strict=True):
        if fixed == len(group):
            continue
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
        """Follows the schedule of the model that it is given; `stage` resumes one that was loaded from a file."""

        def __init__(self, stage: Any) -> None:
            super().__init__()
            self._stage = stage

        def on_train_begin(self, logs: Any = None) -> None:
            self._shrinking = shrinking_of(self.model) or self._stage.resumed(trained_model(self.model))
            self._shrinking.start(int(self.model.optimizer.iterations.numpy()))

        def get_state(self) -> dict[str, np.ndarray]:
            return self._shrinking.get_state()

        def set_state(self, state: Mapping[str, np.ndarray]) -> None:
            self._shrinking.set_state(state)

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self._shrinking.advance(int(self.model.optimizer.iterations.numpy()))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            iterations = self.model.optimizer.iterations
            self._shrinking.advance(int(iterations.numpy()))
            if self._shrinking.has_penalty:
                rate = self.model.optimizer.learning_rate
                self._shrinking.penalize(float((rate(iterations) if callable(rate) else rate).numpy()))
            self._shrinking.mask()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self._shrinking.mask()  # another callback may have replaced the weights

    return ShrinkChannels
