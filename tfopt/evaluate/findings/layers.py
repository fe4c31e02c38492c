"""The layers of a finished file: what each holds, and its weights before and after."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base.weight_statistics import sparsity, unique_weights
from tfopt.base.words import counted
from tfopt.evaluate.findings.types import Histogram, LayerFinding
from tfopt.evaluate.verify import layer_signals
from tfopt.tflite.prove.signals import LEAST_DB, Signal
from tfopt.tflite.read import LiteModel, Op, Weight
from tfopt.tflite.read.parameters import bias_tensors

MOST_LAYERS = 600
MOST_HISTOGRAMS = 24
BINS = 48
EQUAL = 160.0
"""Decibels beyond the precision of float32, instead of infinity, which JSON lacks."""


def layer_findings(lite: LiteModel, signals: list[Signal]) -> list[LayerFinding]:
    """Return the operators of the main graph of `lite`, with the `signals` that `signals_of` found."""
    contents = _Contents(lite)
    ops = [op for op in lite.ops() if op.subgraph == 0 and op.outputs]
    left = list(signals)
    return [contents.finding(op, _taken(left, op, lite.layers.get(op.index, ""))) for op in ops[:MOST_LAYERS]]


def signals_of(lite: LiteModel, flat_model: Any, x: Any) -> list[Signal]:
    """Return the signals of a quantized file against its model in float; nothing for a float file, which has no noise.

    Args:
        lite: the file.
        flat_model: the tf_keras model of it.
        x: samples.
    """
    if all(weight.tensor.dtype == "float32" for weight in lite.weights()):
        return []
    return layer_signals(flat_model, lite, x)[0]


def low_signals(layers: Sequence[LayerFinding]) -> list[str]:
    """Return a note on the operators whose result is below `LEAST_DB`, with the worst of them, if there are any."""
    found = [(layer.sqnr, layer) for layer in layers if layer.sqnr is not None]
    low = [(sqnr, layer) for sqnr, layer in found if sqnr < LEAST_DB]
    if not low:
        return []
    sqnr, worst = min(low, key=lambda each: each[0])
    where = f" of {worst.layer}" if worst.layer else ""
    return [
        f"{len(low)} of {counted(len(found), 'operator')} with a signal-to-quantization-noise ratio below {LEAST_DB:g} "
        f"dB; the worst is {worst.operator}{where} with {sqnr:.1f} dB: `tfopt verify` lists them"
    ]


def _taken(signals: list[Signal], op: Op, layer: str) -> float | None:
    """Return the noise of `op` and remove its signal, the first of its operator and layer."""
    for at, signal in enumerate(signals):
        if signal.operator == op.name and (signal.layers == layer or not layer):
            return _finite(signals.pop(at).sqnr)
    return None


def _finite(decibels: float) -> float:
    return 0.0 if math.isnan(decibels) else round(min(max(decibels, -EQUAL), EQUAL), 1)


class _Contents:
    """The tensors of a file by index."""

    def __init__(self, lite: LiteModel) -> None:
        self._lite = lite
        self._tensors = {tensor.index: tensor for tensor in lite.tensors() if tensor.subgraph == 0}
        self._weights = {weight.tensor.index: weight.values for weight in lite.weights() if weight.tensor.subgraph == 0}
        self._biases = {t.index: lite.values(t) for t in bias_tensors(lite) if t.subgraph == 0}

    def finding(self, op: Op, sqnr: float | None) -> LayerFinding:
        numbers = self._weights | self._biases
        held = [index for index in op.inputs if index in numbers]
        largest = max(
            (index for index in held if index in self._weights), key=lambda at: numbers[at].size, default=None
        )
        result = self._tensors[op.outputs[0]]
        return LayerFinding(
            layer=self._lite.layers.get(op.index, ""),
            operator=op.name,
            shape=" x ".join(map(str, result.shape[1:])),
            parameters=sum(numbers[index].size for index in held),
            bytes=sum(self._tensors[index].bytes for index in held),
            sparsity=None if largest is None else round(sparsity(numbers[largest]), 4),
            unique=None if largest is None else unique_weights(numbers[largest]),
            weights="" if largest is None else self._tensors[largest].dtype,
            computes=result.dtype,
            sqnr=sqnr,
        )


def histograms(before: LiteModel, after: LiteModel) -> list[Histogram]:
    """Return the histograms of the layers with most weights, in the order in which they run."""
    old, new = _largest_by_layer(before), _largest_by_layer(after)
    largest = sorted(new, key=lambda layer: -new[layer].values.size)[:MOST_HISTOGRAMS]
    return [_histogram(layer, old.get(layer), new[layer]) for layer in new if layer in largest]


def _largest_by_layer(lite: LiteModel) -> dict[str, Weight]:
    """Return the largest weight of each layer; layers that nothing names are left out."""
    found: dict[str, Weight] = {}
    for weight in lite.weights():
        for layer in {lite.layers.get(op.index, "") for op in weight.readers if op.subgraph == 0} - {""}:
            if layer not in found or weight.values.size > found[layer].values.size:
                found[layer] = weight
    return found


def _histogram(layer: str, before: Weight | None, after: Weight) -> Histogram:
    parts = [part.dequantized for part in (before, after) if part is not None]
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = [np.histogram(part, BINS, (low, high))[0].tolist() for part in parts]
    return Histogram(
        layer=layer,
        low=float(f"{low:.6g}"),
        high=float(f"{high:.6g}"),
        before=None if before is None else counts[0],
        after=counts[-1],
        unique=(None if before is None else unique_weights(before.values), unique_weights(after.values)),
    )
