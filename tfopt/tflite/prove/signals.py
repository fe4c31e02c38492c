"""Signal-to-quantization-noise ratios of all layers of a file."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfopt.base.weight_statistics import decibels
from tfopt.tflite.read import LiteModel, Op
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.read.model import Inputs

SAMPLES_AT_ONCE = 32
# Signal-to-quantization-noise ratio in decibels below which a layer is bad: noise at a tenth of the power.
LEAST_DB = 10.0


@dataclass(frozen=True)
class Signal:
    """The output of an operator of the file compared with float: `sqnr` in decibels, infinite if equal.

    10 log10(sum(x^2) / sum((x - y)^2)) over all values of the samples, including the noise of all operators before it.
    """

    layers: str
    operator: str
    sqnr: float


def layer_signals(
    reference: LiteModel, lite: LiteModel, x: Inputs, layers: Sequence[str], last: str
) -> tuple[list[Signal], list[str]]:
    """Return the `Signal` of each operator of `lite`, and the operators that have no counterpart.

    Args:
        reference: the float file of the same model, whose tensors have the names of layers. Counterparts are matched by
            the order of operators and the shapes of their outputs.
        lite: the file.
        x: samples, as in `LiteModel.predict`.
        layers: the names of the flat model's layers.
        last: the output layer, since its tensor has the name of the signature's output.
    """
    pairs, missing = _pairs(reference, lite)
    power, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    for part in _parts(x):
        expected, found = (file.signals(part) for file in (reference, lite))
        for number, (one, other) in enumerate(pairs):
            true, got = (values[op.outputs[0]].astype(np.float64) for values, op in ((expected, one), (found, other)))
            power[number] += np.square(true).sum()
            noise[number] += np.square(true - got.reshape(true.shape)).sum()
    names = LayerNames(reference, layers)
    signals = [
        Signal(", ".join(names.giving(one)) or last, other.name, decibels(*energies))
        for (one, other), *energies in zip(pairs, power, noise, strict=True)
    ]
    return signals, missing


def _parts(x: Inputs) -> Iterator[Inputs]:
    """Yield `x` in parts of `SAMPLES_AT_ONCE` samples."""
    arrays = dict(x) if isinstance(x, Mapping) else {"": np.asarray(x)}
    for start in range(0, len(np.asarray(next(iter(arrays.values())))), SAMPLES_AT_ONCE):
        part = {name: np.asarray(array)[start : start + SAMPLES_AT_ONCE] for name, array in arrays.items()}
        yield part if isinstance(x, Mapping) else part[""]


def _pairs(reference: LiteModel, lite: LiteModel) -> tuple[list[tuple[Op, Op]], list[str]]:
    """Return matching operators of both files, and names of the unmatched ones of `lite`."""
    ours, theirs = (_listed(model) for model in (reference, lite))
    matcher = difflib.SequenceMatcher(None, [key for key, _ in ours], [key for key, _ in theirs], autojunk=False)
    pairs = [
        (ours[block.a + step][1], theirs[block.b + step][1])
        for block in matcher.get_matching_blocks()
        for step in range(block.size)
    ]
    paired = {op.index for _, op in pairs}
    return pairs, [f"{op.name} ({op.index})" for _, op in theirs if op.index not in paired]


def _listed(lite: LiteModel) -> list[tuple[tuple[str, tuple[int, ...]], Op]]:
    """Return the main graph's operators, except type conversions, each with the key that identifies it."""
    shapes = {tensor.index: tensor.shape for tensor in lite.tensors() if tensor.subgraph == 0}
    return [
        ((op.name, shapes[op.outputs[0]][1:]), op)
        for op in lite.ops()
        if op.subgraph == 0 and op.name not in ("QUANTIZE", "DEQUANTIZE", "CAST") and op.outputs
    ]
