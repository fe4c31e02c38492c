"""PruneChannels: remove channels, neurons and attention heads, for a model that is smaller and faster everywhere."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base.annotations import annotations, trained_model
from tfopt.base.config import config
from tfopt.base.keras_compat import is_tf_keras_model
from tfopt.base.words import counted
from tfopt.errors import DataError, ModelError, PromiseError, RecipeError
from tfopt.graph.types import flatten
from tfopt.stages.channels import shrinking
from tfopt.stages.channels.criteria import OF_GRADIENTS, Criterion
from tfopt.stages.channels.inputs import check_inputs, random_inputs, rows_of
from tfopt.stages.channels.limits import limits_of
from tfopt.stages.channels.reconstruction import reconstruct
from tfopt.stages.channels.selection import Distribution, select
from tfopt.stages.channels.shrinking import (
    BATCH,
    Shrinking,
    goal_of,
    measure_name,
    remember,
    scores_of,
    shrinking_of,
    zero_channels,
)
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.stage import Stage
from tfopt.surgery.channels.cut import without_channels
from tfopt.surgery.channels.groups import Channels, Group, channels_of
from tfopt.training.batchnorm import recompute_statistics

_CALLER = 5  # frames up from `strip`
# Channels go during this share of the steps; in the rest, the others recover.
RAMP = 0.5
# A retry with a lower target keeps a share halfway between final_ratio and 1.
LOWER = 0.5
CHECKED_ON = 4
"""Samples on which the smaller model is compared with the one with zeros."""


@config
class PruneChannels(Stage):
    """Remove the least important channels during training; `strip` returns the smaller model.

    Channels that depend on each other, such as those added by a residual connection, are removed together (DepGraph,
    Fang et al. 2023, arXiv:2301.12900). The result computes the same as the trained model with these channels at zero.
    It is trained, clustered and quantized like any other.

    A rule in `layers` sets False, to keep all channels that a layer makes, or the share of them that is kept, rounded
    to a multiple of `round_to`.

    Attributes:
        final_ratio: share of the `measure` that stays, between 0 and 1.
        measure: "macs", the multiplications of one sample; "parameters"; "channels"; or, of files that are exported and
            measured to choose the widths, "bytes" and "milliseconds". By hand, these two need
            `tfopt.search.widths.choose_widths` first.
        criterion: what makes a channel important, see `tfopt.stages.channels.criteria`. "taylor" and "fisher" need
            `calibrate`.
        distribution: how scores are compared across layers, see `tfopt.stages.channels.selection`.
        round_to: each layer keeps a multiple of it, since kernels compute channels in blocks, or all its channels.
        least: every layer keeps at least this share of its channels.
        attention: what `MultiHeadAttention` loses: whole "heads", the "widths" of all heads, or "both".
        through_norms: also remove channels over which a LayerNormalization normalizes; it then normalizes over those
            that stay, so that the model with zeros computes something else.
        iterations: how many times channels are removed, on a cubic schedule over the first half of the steps.
        regularization: the largest strength of a penalty on the squared norms of channels, the less important ones up
            to 16 times more than the others, which grows before they are removed (DepGraph, equation 4; growing as in
            Wang et al. 2021, arXiv:2012.09243), e.g. 0.1; channels then go from a quarter of the steps on. 0: none.
        score_samples: inputs for "taylor", "fisher" and the reconstruction.
        reconstruct: without training, solve the kernels that read removed channels by least squares on inputs from
            `calibrate` (He et al. 2017, arXiv:1707.06168), and recompute the statistics of BatchNormalizations.
        widths: the number of channels that stay of each group, in their order, as `choose_widths` found them; then
            neither `final_ratio` nor `distribution` counts.
        seed: of random choices. None: the seed of the recipe's training, or 0 if applied by hand.

    Examples:
        >>> stage = tfopt.PruneChannels(final_ratio=0.5, round_to=4)  # half of the multiplications
        >>> wrapped = stage.apply(model, steps=7 * 4)
        >>> history = wrapped.fit(x, y, epochs=4, verbose=0)
        >>> small = stage.strip(wrapped)
        >>> small.count_params() < model.count_params()
        True
    """

    min_steps: NonNegativeInt = 300
    final_ratio: float = Field(default=0.5, gt=0, lt=1)
    measure: Literal["macs", "parameters", "channels", "bytes", "milliseconds"] = "macs"
    criterion: Criterion = "l2"
    distribution: Distribution = "isomorphic"
    round_to: PositiveInt = 8
    least: float = Field(default=0.1, ge=0, lt=1)
    attention: Literal["heads", "widths", "both"] = "heads"
    through_norms: bool = False
    iterations: PositiveInt = 8
    regularization: NonNegativeFloat = 0.0
    score_samples: PositiveInt = 512
    reconstruct: bool = True
    widths: tuple[PositiveInt, ...] = ()
    seed: NonNegativeInt | None = None

    resizes: ClassVar[bool] = True

    @property
    @override
    def _with_lower_target(self) -> "Stage | None":
        if self.widths:
            return None
        return replace(self, final_ratio=1 - LOWER * (1 - self.final_ratio), retry="never")

    @property
    @override
    def samples_wanted(self) -> int:
        return self.score_samples

    @override
    def for_dry_run(self) -> "Stage":
        return replace(self._without_samples, reconstruct=False)

    @property
    def _without_samples(self) -> "PruneChannels":
        """This stage with a criterion that needs no samples."""
        return replace(self, criterion="l2") if self.criterion in OF_GRADIENTS else self

    @property
    def measures_files(self) -> bool:
        """Whether the widths are still to be chosen by exported files, see `tfopt.search.widths`."""
        return self.measure in ("bytes", "milliseconds") and not self.widths

    @override
    def holds_after(self, steps: int) -> int:
        return max((step for step, _ in self._schedule(steps)), default=0)

    @override
    def callbacks(self) -> list[Any]:
        return [shrinking.shrink_class()(self)]

    def _schedule(self, steps: int) -> list[tuple[int, float]]:
        """Return the steps at which channels go, with the share of them that is gone then: 1 - (1 - t)^3."""
        start = RAMP / 2 * steps if self.regularization else 0.0
        count = min(self.iterations, max(1, int(RAMP * steps - start)))
        length = (RAMP * steps - start) / count
        return [(round(start + length * number), 1 - (1 - (number + 1) / count) ** 3) for number in range(count)]

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del keep
        if self.measures_files:
            raise RecipeError(
                f'measure="{self.measure}" needs files to choose the widths by: give '
                "tfopt.search.widths.choose_widths(stage, model, inputs), or run the recipe with tfopt.optimize."
            )
        model = bridge.clone(flat_model)
        found = Shrinking(self.channels(model), self, self._schedule(steps), steps)
        found.require_reachable()
        remember(model, found)
        if not steps and self.criterion not in OF_GRADIENTS:
            found.update(1.0)
        return model

    def channels(self, model: Any) -> Channels:
        """Return the channels of `model`, of either Keras, that this stage may remove.

        Raises:
            ModelError: there are none.
            RecipeError: `round_to` is above the width of every layer.
        """
        flat_model = bridge.as_flat_model(model)
        channels = channels_of(flat_model, through_norms=self.through_norms)
        channels.groups = [group for group in channels.groups if self._wants(group)]
        if not channels.groups:
            why = "; ".join(f"{count:,} channels stay since {said}" for said, count in channels.barriers().items())
            raise ModelError(
                f"No channel of '{flat_model.name}' can be removed: {why or 'it has no layers that make channels'}. If "
                "a layer class is yours, declare how it treats channels with the class attribute tfopt_channels: "
                '"alone" (each value by itself, no weights), "merge" (joins its inputs value by value) or "places" '
                "(mixes neighbors, not channels)."
            )
        widest = max((len(group) for group in channels.groups if group.kind != "heads"), default=0)
        if self.round_to >= widest > 0 and self.round_to > 1 and not any(g.kind == "heads" for g in channels.groups):
            raise RecipeError(
                f"round_to={self.round_to} leaves nothing to remove: the widest group of '{flat_model.name}' has "
                f"{widest} channels. Give a smaller round_to, such as {max(1, widest // 4)}."
            )
        return channels

    def _wants(self, group: Group) -> bool:
        if group.kind == "heads":
            return self.attention in ("heads", "both")
        return group.kind not in ("key_dim", "value_dim") or self.attention in ("widths", "both")

    @override
    def calibrate(self, model: Any, inputs: Any, *, progress: Callable[[str], None] | None = None) -> None:
        """Keep inputs for the scores; without training, remove the channels now and let the others make up for them.

        Args:
            model: the model that `apply` returned; changed in place.
            inputs: one array, batch first, or a list or dict of arrays for several inputs.
            progress: called with a line of text after each part of long work.
        """
        found = self._shrinking(model)
        inputs = bridge.by_valid_names(trained_model(model), inputs)
        check_inputs(trained_model(model), inputs)
        found.keep_samples(inputs, self.score_samples)
        if found.steps:
            return
        if self.criterion in OF_GRADIENTS and not found.removed:
            found.update(1.0)
        if self.reconstruct and not found.solved:
            solved = self._reconstruct(trained_model(model), found)
            if progress:
                progress(f"solved {solved} kernels by least squares")

    def _reconstruct(self, model: Any, found: Shrinking) -> int:
        """Solve kernels and recompute statistics for the channels that stay; return the number of kernels."""
        found.solved = True
        solved = reconstruct(model, found.whole_model(), found.channels, found.removed, found.samples)
        count, size = len(flatten(found.samples)[0]), model.inputs[0].shape[0] or BATCH
        starts = range(0, count - count % size or count, size)
        parts = [slice(start, start + size) for start in starts]
        batches = ((rows_of(found.samples, rows), len(range(count)[rows])) for rows in parts)
        recompute_statistics(model, batches)
        found.mask_all()
        return solved

    def resumed(self, model: Any) -> Shrinking:
        """Return the state to go on training a wrapped flat model that was loaded from a file.

        Args:
            model: flat tf_keras, in which the weights of the channels that are gone are zero.

        Raises:
            ModelError: not all channels are gone in it.
        """
        channels = self.channels(model)
        found = Shrinking(channels, self, [], 1)
        found.removed = zero_channels(channels, found.limits)
        if not found.complete:
            raise ModelError(
                f"PruneChannels cannot go on with '{model.name}': it did not come from PruneChannels.apply in this "
                "process, and too few of its channels are zero, so it was not saved at the end of a training. Apply "
                "the stage again, or load a file that was saved later."
            )
        remember(model, found)
        found.mask_all()
        return found

    def _shrinking(self, model: Any) -> Shrinking:
        found = shrinking_of(model)
        if found is None:
            raise ModelError(
                f"Expected the model that PruneChannels.apply returned; '{model.name}' is a different one. Pass the "
                "object that apply returned."
            )
        return found

    @override
    def _origin(self, model: Any) -> Any:
        like = bridge.origin(model)
        if like is None and is_tf_keras_model(model):
            channels = self.channels(model)
            if zero_channels(channels, limits_of(self, channels)):
                return bridge.clone(model)  # from a file
        return super()._origin(model)

    @override
    def _stripped(self, model: Any, like: Any) -> Any:
        known = shrinking_of(model)
        channels = self.channels(model) if known is None else known.channels
        removed = self._removed(known, channels)
        cost, most = goal_of(channels, self)
        if cost(removed) > most:
            raise PromiseError(
                f"PruneChannels: {cost(removed) / cost(()):.3f} of the "
                f"{measure_name('channels' if self.widths else self.measure)} remain, promised {most / cost(()):g}. "
                f"{self._advice()}"
            )
        samples = annotations(model).samples if known is None else known.few_samples(CHECKED_ON)
        samples = random_inputs(model) if samples is None else samples
        return without_channels(channels, removed, None if self.through_norms else samples)

    def _removed(self, known: Shrinking | None, channels: Channels) -> list[int]:
        """Return the channels that are gone in a trained model, after setting their weights to zero once more."""
        if known is None:
            return zero_channels(channels, limits_of(self, channels))
        if not known.complete and not known.steps and self.criterion in OF_GRADIENTS:
            raise DataError(
                f'criterion="{self.criterion}" needs inputs: call stage.calibrate(model, inputs) before strip.'
            )
        if not known.complete:  # weights that were loaded may be those of a finished training
            return zero_channels(channels, known.limits) or known.removed
        if known.has_regrown:
            warnings.warn(
                "Weights of removed channels were no longer zero: something replaced the weights after training, such "
                "as an average or a restored copy. They are set to zero again; evaluate the result",
                stacklevel=_CALLER,
            )
        if not known.steps and self.reconstruct and not known.solved:
            warnings.warn(
                "The channels are removed without training and without calibrate(model, inputs), so nothing "
                "compensates for them; evaluate the result",
                stacklevel=_CALLER,
            )
        known.mask_all()
        return known.removed

    @override
    def untrained_result(self, model: Any) -> Any:
        found = self._shrinking(model)
        found.update(1.0)
        return self._stripped(model, None)

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Return how many channels each layer of `model` would keep, by its weights as they are."""
        del keep
        channels = self.channels(model)
        removed = self._by_weights(channels)
        found = {layer.name: Decision(layer.name) for layer in model.layers if layer.weights}
        found |= {name: Decision(name, why=why) for name, why in self._reasons(channels).items()}
        for group in channels.groups:
            does = self._words(group, removed)
            why = "" if does else f"keeps all {counted(len(group), 'channel')}"
            for name in group.layers:
                others = ", ".join(other for other in group.layers if other != name)
                found[name] = Decision(name, f"{does}, with {others}" if does and others else does, why)
        return found

    def _by_weights(self, channels: Channels) -> list[int]:
        found = scores_of(channels, self._without_samples, None, None)
        cost, most = goal_of(channels, self)
        return select(channels, found, cost, most, limits_of(self, channels), distribution=self.distribution)

    def _words(self, group: Group, removed: list[int]) -> str:
        left = len(group) - int(np.isin(group.roots, removed).sum())
        what = "heads" if group.kind == "heads" else "channels"
        return f"{len(group)} -> {left} {what}" if left < len(group) else ""

    def _reasons(self, channels: Channels) -> dict[str, str]:
        """Return why layers keep the channels that they make, by name."""
        found: dict[str, str] = {}
        for barrier in channels.trace.barriers:
            for slot in channels.trace.slots.values():
                if slot.makes and np.isin(slot.atoms, barrier.atoms).any():
                    found.setdefault(slot.leaf.name, f"keeps its channels: {barrier.why}")
        return found

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        del keep
        said = [f"{name} {why}" for name, why in self._reasons(self.channels(model)).items()]
        chosen = f"the channels of each layer are chosen by the {self.measure} of files when the stage starts"
        return [chosen, *said] if self.measures_files else said

    @override
    def summary(self, model: Any) -> list[str]:
        found = self._shrinking(model)
        channels, removed = found.channels, found.removed
        macs, parameters = ((f(()), f(removed)) for f in (channels.macs, channels.parameters))
        lines = [
            f"MACs {macs[0]:,} -> {macs[1]:,} ({macs[0] / macs[1]:.2f}x fewer), parameters {parameters[0]:,} -> "
            f"{parameters[1]:,}"
        ]
        for group in channels.groups:
            if words := self._words(group, removed):
                lines.append(f"{group.name}: {words}")
        return lines

    def _advice(self) -> str:
        return (
            "Run fit for the steps that were passed to apply(), or give a larger final_ratio. A wrapped model that was "
            "loaded from a file needs fit(..., callbacks=stage.callbacks())."
        )
