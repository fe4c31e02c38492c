"""Choose the range of an activation's 256 steps: its observed extremes, or the range with the least rounding error."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfopt.base.byte_values import ByteValues
from tfopt.graph.types import pack
from tfopt.graph.walk import walk
from tfopt.stages.quantize.mask_ranges import FAR, masked_scores
from tfopt.stages.quantize.plan import plan
from tfopt.stages.quantize.ranges import empty, set_range
from tfopt.stages.quantize.replaced_rounding import observe_activations
from tfopt.stages.quantize.wrapped_model import quantized_model

ActivationRanges = Literal["max", "mse"]

STEPS = 255
_BINS = 4096
# Candidate ends, as fractions of the extremes; the two ends are optimized in turn, in `_ROUNDS` rounds.
_FRACTIONS = np.linspace(0.02, 1, 99)
_ROUNDS = 2
_BETWEEN = -FAR / 2  # a mask of -1,000 sends scores to both sides of that
_GAP = 10  # times as far away as the least score: what a mask sends away; distances as scores have no such gap

Batches = Callable[[], Iterable[Any]]


class _Values:
    """Statistics of the values that passed one quantizer."""

    def __init__(self, variables: dict[str, Any]) -> None:
        self.variables = variables
        self.low = self.high = 0.0  # zero must be representable: padding and ReLU need it
        self.least = self.most = 0.0  # of the near values, which no mask has sent away
        self.nearest, self.any_near = -math.inf, False  # of the far values; whether there are near ones
        self.counts, self.sums = np.zeros(_BINS), np.zeros(_BINS)

    def widen(self, values: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        near = values > _BETWEEN
        self.least = min(self.least, float(values.min(where=near, initial=0)))
        self.most = max(self.most, float(values.max(where=near, initial=0)))
        self.nearest = max(self.nearest, float(values.max(where=~near, initial=-math.inf)))
        self.any_near |= bool(near.any())

    @property
    def masked(self) -> bool:
        """Whether a mask has sent values away: far ones with nothing between them and the others, or one far value."""
        apart = self.low <= -FAR and self.nearest <= _GAP * self.least
        return apart and (self.any_near or self.nearest == self.low)

    def count(self, values: np.ndarray) -> None:
        exact = values.astype(np.float64).reshape(-1)
        bins = np.clip((exact - self.low) * (_BINS / max(self.high - self.low, 1e-30)), 0, _BINS - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=_BINS)
        self.sums += np.bincount(bins, exact, minlength=_BINS)


def with_ranges(
    flat_model: Any, batches: Callable[[], Iterable[Sequence[np.ndarray]]], activation_ranges: ActivationRanges
) -> Any:
    """Return a copy of a flat tf_keras model with quantizers that give the converter the ranges of its activations.

    Args:
        flat_model: its weights are left to the converter.
        batches: returns batches with one array per input.
        activation_ranges: as for `set_ranges`.
    """
    graph = walk(flat_model, keep_names=True)
    model = quantized_model(graph, plan(graph, {}), lambda layer, treatment: [])
    set_ranges(model, lambda: (pack(graph.inputs_struct, list(batch)) for batch in batches()), activation_ranges)
    return model


def set_ranges(model: Any, batches: Batches, activation_ranges: ActivationRanges = "max") -> None:
    """Set the range of every activation quantizer to what the float model shows.

    Of layers that share a range, the last has it. An input of bytes has the range of all bytes.

    Args:
        model: from `quantized_model`; changed in place.
        batches: returns batches of model inputs, float32; called twice for "mse".
        activation_ranges: "max", the extremes; "mse", the range with the least squared error of rounding and clipping.
    """
    inputs = [layer for layer in model.layers if getattr(layer, "quantizer_vars", None)]
    pixels = {id(layer.quantizer_vars["min_var"]): ByteValues() for layer in inputs}
    seen = _extremes(model, batches, pixels)
    if activation_ranges == "mse":
        for values in _histograms(model, batches, seen):
            values.low, values.high = least_squares_range(values.sums / np.maximum(values.counts, 1), values.counts)
    for values in seen.values():
        # LiteRT refuses the scale of a range from 0 to 0, which layers have whose units are all dead.
        set_range(values.variables, values.low, values.high if values.high > values.low else 1.0)
    _bring_masks_near(model, seen)
    for layer in inputs:
        found = pixels[id(layer.quantizer_vars["min_var"])].range
        layer.held = found is not None
        if found is not None:
            set_range(layer.quantizer_vars, *found)
    for layer in model.layers:
        if getattr(layer, "shares_with", ""):
            for point in layer.after:
                empty(point.variables)


def _bring_masks_near(model: Any, seen: Mapping[int, _Values]) -> None:
    """Let the ranges of masked scores begin where softmax gives nothing, and hold them there."""
    if all(values.low > -FAR for values in seen.values()):
        return
    for found in masked_scores(model):
        scores = _masked(found.scores, seen)
        if scores is None or not scores.any_near:
            continue
        low = found.low(scores.least)
        farthest = scores.most - low  # brings any score there
        _hold(found.scores, scores, low, farthest)
        for operand in found.operands:
            if (mask := _masked(operand, seen)) is not None:
                _hold(operand, mask, -farthest, farthest)


def _masked(layer: Any, seen: Mapping[int, _Values]) -> _Values | None:
    """Return the statistics of the only output of `layer`, or input, if a mask has sent some of its values away."""
    variables = [point.variables for point in getattr(layer, "after", ())] or [getattr(layer, "quantizer_vars", None)]
    values = seen.get(id(variables[0]["min_var"])) if len(variables) == 1 and variables[0] else None
    return values if values is not None and values.masked else None


def _hold(layer: Any, values: _Values, low: float, farthest: float) -> None:
    set_range(values.variables, low, max(values.most, 0.0))
    for place in getattr(layer, "after", None) or [layer]:
        place.held = True
    layer.farthest = farthest


def least_squares_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return (low, high) of the 256 evenly spaced numbers, including zero, with the least squared rounding error.

    Args:
        values: float64.
        counts: how often each value occurs.
    """
    shown = values[counts > 0]
    extremes = low, high = min(float(shown.min(initial=0)), 0.0), max(float(shown.max(initial=0)), 0.0)
    for _ in range(_ROUNDS):
        high = _with_least_error([(_error(values, counts, low, end), end) for end in extremes[1] * _FRACTIONS])
        low = _with_least_error([(_error(values, counts, end, high), end) for end in extremes[0] * _FRACTIONS])
    return float(low), float(high)


def _with_least_error(candidates: list[tuple[float, float]]) -> float:
    return min(candidates)[1]


def _error(values: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
    step = max((high - low) / STEPS, float(np.finfo(np.float32).tiny))
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, STEPS) - zero) * step
    return float(np.sum(counts * (rounded - values) ** 2))


def _extremes(model: Any, batches: Batches, pixels: Mapping[int, ByteValues]) -> dict[int, _Values]:
    seen: dict[int, _Values] = {}

    def see(variables: dict[str, Any], values: np.ndarray) -> None:
        key = id(variables["min_var"])
        seen.setdefault(key, _Values(variables)).widen(values)
        if key in pixels:
            pixels[key].see(values)

    with observe_activations(model, see):
        for batch in batches():
            model(batch, training=False)
    return seen


def _histograms(model: Any, batches: Batches, seen: dict[int, _Values]) -> Iterable[_Values]:
    with observe_activations(model, lambda variables, values: seen[id(variables["min_var"])].count(values)):
        for batch in batches():
            model(batch, training=False)
    return seen.values()
