"""PruneChannels: remove channels, neurons and attention heads, so that the model is really smaller and faster."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from typing_extensions import override

from tfopt import bridge
from tfopt.base.annotations import annotations, trained_model
from tfopt.base.config import config
from tfopt.base.keras_compat import is_tf_keras_model
from tfopt.errors import DataError, ModelError, PromiseError, RecipeError
from tfopt.graph.types import flatten
from tfopt.stages.channels import shrinking
from tfopt.stages.channels.criteria import OF_GRADIENTS, Criterion, scores, weights_of
from tfopt.stages.channels.reconstruction import reconstruct
from tfopt.stages.channels.selection import Distribution, Limits, select
from tfopt.stages.channels.shrinking import Shrinking, cost_of, remember, shrinking_of, zero_channels
from tfopt.stages.kernels.choice import Decision
from tfopt.stages.kernels.rules import choose
from tfopt.stages.stage import Stage
from tfopt.surgery.channels.cut import without_channels
from tfopt.surgery.channels.groups import Channels, Group, channels_of
from tfopt.surgery.channels.rules import FREE_SIZE
from tfopt.training.batchnorm import recompute_statistics

# Channels go during this share of the steps; in the rest, the others recover.
RAMP = 0.5
# The share that stays in a second try with a lower target is halfway to all.
LOWER = 0.5
CHECKED_ON = 4
"""Samples on which the smaller model is compared with the one with zeros."""
_OTHER = "other"


@config
class PruneChannels(Stage):
    """Remove the least important channels during training; `strip` returns the smaller model.

    Channels that depend on each other, as those that a residual connection adds, go together (DepGraph, Fang et al.
    2023, arXiv:2301.12900). The result computes the same as the trained model with these channels at zero. It is
    trained, clustered and quantized like any other.

    A rule in `layers` sets False, to keep all channels that a layer makes, or the share of them that stays.

    Attributes:
        final_ratio: share of the `measure` that stays, between 0 and 1.
        measure: "macs", the multiplications of one sample; "parameters"; or "channels".
        criterion: what makes a channel important, see `tfopt.stages.channels.criteria`. "taylor" and "fisher" need
            `calibrate`.
        distribution: how scores are compared across layers, see `tfopt.stages.channels.selection`.
        round_to: the channels that stay are a multiple of it, since kernels compute them in blocks; smaller groups keep
            all.
        least: the smallest share of the channels of a layer that stays.
        attention: what `MultiHeadAttention` loses: whole "heads", the "widths" of all heads, or "both".
        through_norms: also remove channels over which a LayerNormalization normalizes; it then normalizes over those
            that stay, so that the model with zeros computes something else.
        iterations: how many times channels are removed, on a cubic schedule over the first half of the steps.
        score_samples: inputs for "taylor", "fisher" and the reconstruction.
        reconstruct: without training, solve the kernels that read removed channels by least squares on inputs from
            `calibrate` (He et al. 2017, arXiv:1707.06168), and recompute the statistics of BatchNormalizations.
        seed: of random choices. None: the seed of the recipe's training, or 0 if applied by hand.
    """

    min_steps: NonNegativeInt = 300
    final_ratio: float = Field(default=0.5, gt=0, lt=1)
    measure: Literal["macs", "parameters", "channels"] = "macs"
    criterion: Criterion = "l2"
    distribution: Distribution = "isomorphic"
    round_to: PositiveInt = 8
    least: float = Field(default=0.1, ge=0, lt=1)
    attention: Literal["heads", "widths", "both"] = "heads"
    through_norms: bool = False
    iterations: PositiveInt = 8
    score_samples: PositiveInt = 512
    reconstruct: bool = True
    seed: NonNegativeInt | None = None

    resizes: ClassVar[bool] = True

    @property
    @override
    def _with_lower_target(self) -> "Stage | None":
        return replace(self, final_ratio=1 - LOWER * (1 - self.final_ratio))

    @property
    @override
    def samples_wanted(self) -> int:
        return self.score_samples

    @override
    def for_dry_run(self) -> "Stage":
        criterion: Criterion = "l2" if self.criterion in OF_GRADIENTS else self.criterion
        return replace(self, criterion=criterion, reconstruct=False)

    @override
    def holds_after(self, steps: int) -> int:
        return max((step for step, _ in self._schedule(steps)), default=0)

    @override
    def callbacks(self) -> list[Any]:
        return [shrinking.shrink_class()()]

    def _schedule(self, steps: int) -> list[tuple[int, float]]:
        """Return the steps at which channels go, with the share that is left: 1 - (1 - r) (1 - (1 - t)^3)."""
        count = min(self.iterations, max(1, int(RAMP * steps)))
        times = [(number / count, round(RAMP * steps * (number - 1) / count)) for number in range(1, count + 1)]
        return [(step, 1 - (1 - self.final_ratio) * (1 - (1 - time) ** 3)) for time, step in times]

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del keep
        model = bridge.clone(flat_model)
        found = Shrinking(self._channels(model), self, self._schedule(steps), steps)
        found.require_reachable()
        remember(model, found)
        if not steps and self.criterion not in OF_GRADIENTS:
            found.update(self.final_ratio)
        return model

    def _channels(self, flat_model: Any) -> Channels:
        """Return the channels of `flat_model` that this stage may remove.

        Raises:
            ModelError: there are none.
            RecipeError: `round_to` is above the width of every layer.
        """
        channels = channels_of(flat_model, through_norms=self.through_norms)
        channels.groups = [group for group in channels.groups if self._wants(group)]
        if not channels.groups:
            why = "; ".join(f"{count:,} channels stay since {said}" for said, count in channels.barriers().items())
            raise ModelError(
                f"No channel of '{flat_model.name}' can be removed: {why or 'it has no layers that make channels'}. A "
                "layer class of your own says that it treats channels one by one with the class attribute "
                'tfopt_channels = "alone" (no weights), "merge" (inputs joined value by value) or "places" (it mixes '
                "neighbors, not channels)."
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

    def limits(self, channels: Channels) -> Limits:
        """Return what must stay of each group, by the rules.

        Args:
            channels: of the model.

        Raises:
            RecipeError: a rule matches nothing, or sets something else than False, True or a share.
        """
        layers = [leaf.layer for leaf in channels.trace.graph.leaves if getattr(leaf.layer, "weights", None)]
        settings = choose(self.layers, layers, {layer.name: True for layer in layers})
        makers = {name for group in channels.groups for name in group.layers}
        for rule in self.layers:
            matched = choose((rule,), layers, {layer.name: _OTHER for layer in layers})
            if not any(setting != _OTHER and name in makers for name, setting in matched.items()):
                raise RecipeError(
                    f"The rule {rule} has no effect: the layers it matches make no channels that could go. Name the "
                    f"layers that make them: {', '.join(sorted(makers))}."
                )
        least, fixed = [], []
        for group in channels.groups:
            own = [settings[name] for name in group.layers if name in settings]
            shares = [each for each in own if not isinstance(each, bool)]
            if any(not isinstance(each, float | int) or not 0 < each <= 1 for each in shares):
                raise RecipeError(
                    f"Rules of PruneChannels set False, True or a share that stays, 0 < s <= 1; got {own}."
                )
            stay = len(group) if False in own else None
            stay = round(max(map(float, shares)) * len(group)) if shares and stay is None else stay
            fixed.append(stay)
            least.append(max(1, stay or round(self.least * len(group))))
        rounding = [1 if group.kind == "heads" else self.round_to for group in channels.groups]
        return Limits(tuple(least), tuple(fixed), tuple(rounding))

    @override
    def calibrate(self, model: Any, inputs: Any, *, progress: Callable[[str], None] | None = None) -> None:
        """Keep inputs for the scores; without training, remove the channels now and let the others make up for them.

        Args:
            model: the model that `apply` returned; changed in place.
            inputs: one array, batch first, or a list or dict of arrays for several inputs.
            progress: called with a line of text after each part of long work.
        """
        found = self._shrinking(model)
        _check_inputs(trained_model(model), inputs)
        found.keep_samples(inputs, self.score_samples)
        if found.steps:
            return
        if self.criterion in OF_GRADIENTS and not found.removed:
            found.update(self.final_ratio)
        if self.reconstruct and not found.solved:
            found.solved = True
            own, whole = trained_model(model), found.whole_model()
            solved = reconstruct(own, whole, found.channels, found.removed, found.samples)
            recompute_statistics(own, [(found.samples, len(flatten(found.samples)[0]))])
            found.mask_all()
            if progress:
                progress(f"solved {solved} kernels by least squares")

    def _shrinking(self, model: Any) -> Shrinking:
        found = shrinking_of(model)
        if found is None:
            raise ModelError(
                f"PruneChannels expects the model that PruneChannels.apply returned; '{model.name}' is another one."
            )
        return found

    @override
    def _origin(self, model: Any) -> Any:
        like = bridge.origin(model)
        if like is None and is_tf_keras_model(model) and zero_channels(self._channels(model)):
            return bridge.clone(model)  # from a file
        return super()._origin(model)

    @override
    def _stripped(self, model: Any, like: Any) -> Any:
        known = shrinking_of(model)
        channels = self._channels(model) if known is None else known.channels
        if known is None:
            removed = zero_channels(channels)
        elif not known.complete and not known.steps and self.criterion in OF_GRADIENTS:
            raise DataError(f'criterion="{self.criterion}" needs inputs: call stage.calibrate(model, inputs) before.')
        else:
            known.mask_all()  # averages of weights, say, may have brought them back
            removed = known.removed
        cost = cost_of(channels, self.measure)
        ratio = cost(removed) / cost(())
        if ratio > self.final_ratio:
            raise PromiseError(
                f"PruneChannels: {ratio:.3f} of the {self.measure} stay, promised {self.final_ratio:g}. "
                f"{self._advice()}"
            )
        samples = annotations(model).samples if known is None else known.few_samples(CHECKED_ON)
        samples = _random_inputs(model) if samples is None else samples
        return without_channels(channels, removed, None if self.through_norms else samples)

    @override
    def untrained_result(self, model: Any) -> Any:
        found = self._shrinking(model)
        found.update(self.final_ratio)
        return self._stripped(model, None)

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        """Return how many channels each layer of `model` (flat tf_keras) would keep, by its weights as they are."""
        del keep
        channels = self._channels(model)
        removed = self._by_weights(channels)
        does = {name: self._words(group, removed) for group in channels.groups for name in group.layers}
        stays = {name: why for name, why in self._reasons(channels).items() if name not in does}
        return {
            layer.name: Decision(layer.name, does.get(layer.name, ""), stays.get(layer.name, ""))
            for layer in model.layers
            if layer.weights
        }

    def _by_weights(self, channels: Channels) -> list[int]:
        criterion: Criterion = "l2" if self.criterion in OF_GRADIENTS else self.criterion
        cost = cost_of(channels, self.measure)
        found = scores(channels, criterion, weights_of(channels), self.seed or 0)
        most, limits = int(cost(()) * self.final_ratio), self.limits(channels)
        return select(channels, found, cost, most, limits, distribution=self.distribution)

    def _words(self, group: Group, removed: list[int]) -> str:
        left = len(group) - int(np.isin(group.roots, removed).sum())
        what = "heads" if group.kind == "heads" else "channels"
        return f"{len(group)} -> {left} {what}" if left < len(group) else ""

    def _reasons(self, channels: Channels) -> dict[str, str]:
        """Return why layers keep the channels that they make, by name."""
        found: dict[str, str] = {}
        for why, roots in channels.trace.barriers:
            for slot in channels.trace.slots.values():
                if slot.makes and np.isin(slot.atoms, roots).any():
                    found.setdefault(slot.leaf.name, f"keeps its channels: {why}")
        return found

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        del keep
        stays = self._reasons(self._channels(model))
        return [f"{name} {why}" for name, why in stays.items()]

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
        return "Run fit for the steps that were passed to apply(), or give a larger final_ratio."


def _check_inputs(model: Any, inputs: Any) -> None:
    """Raise `DataError` if `inputs` are not arrays of samples for each input of `model`."""
    arrays = [np.asarray(array) for array in flatten(inputs)]
    shapes = [tuple(tensor.shape)[1:] for tensor in model.inputs]
    fits = len(arrays) == len(shapes) and all(
        array.ndim == len(shape) + 1
        and len(array)
        and all(a in (None, b) for a, b in zip(shape, array.shape[1:], strict=True))
        for array, shape in zip(arrays, shapes, strict=True)
    )
    if not fits:
        raise DataError(
            f"Expected an array of samples for each input of '{model.name}', of the shapes {shapes}; got "
            f"{[array.shape for array in arrays]}."
        )


def _random_inputs(model: Any) -> Any:
    """Return a few inputs for a flat model: normal numbers, and small integers; None if it takes anything else."""
    if not all(tensor.dtype.is_floating or tensor.dtype.is_integer for tensor in model.inputs):
        return None
    rng, count = np.random.default_rng(0), model.inputs[0].shape[0] or CHECKED_ON
    arrays = []
    for tensor in model.inputs:
        shape = (count, *(size or FREE_SIZE for size in tensor.shape[1:]))
        drawn = rng.normal(size=shape) if tensor.dtype.is_floating else rng.integers(0, 2, shape)
        arrays.append(drawn.astype(tensor.dtype.as_numpy_dtype))
    return arrays[0] if len(arrays) == 1 else arrays
