"""Signal-to-quantization-noise ratios of all layers of a file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfopt.base.weight_statistics import decibels
from tfopt.tflite.prove.pairing import paired
from tfopt.tflite.prove.steps import Step
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.read.model import Inputs

SAMPLES_AT_ONCE = 32
# Signal-to-quantization-noise ratio in decibels below which a layer is bad: noise at a tenth of the power.
LEAST_DB = 10.0


Value = tuple[Step, int]
"""A step of a file and the tensor that stores its result."""


@dataclass(frozen=True)
class Signal:
    """The output of an operator of the file compared with float: `sqnr` in decibels, infinite if equal.

    10 log10(sum(x^2) / sum((x - y)^2)) over all values of the samples, including the noise of all operators before it.
    """

    layers: str
    operator: str
    sqnr: float


def layer_signals(
    reference: LiteModel, lite: LiteModel, x: Inputs, layers: Sequence[str], outputs: Sequence[str]
) -> tuple[list[Signal], list[str]]:
    """Return the `Signal` of each operator of `lite`, and the operators that have no counterpart.

    Args:
        reference: the float file of the same model, whose tensors have the names of layers. See
            `tfopt.tflite.prove.pairing` for how counterparts are found.
        lite: the file.
        x: samples, as in `LiteModel.predict`.
        layers: the names of the flat model's layers.
        outputs: the names of the flat model's output layers, whose tensors have the names of the signature's outputs.
    """
    pairs, missing = _comparable(*paired(reference, lite, layers))
    power, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    for part in _parts(x):
        expected, found = (file.signals(part) for file in (reference, lite))
        for number, ((_, one), (_, other)) in enumerate(pairs):
            true, got = expected[one].astype(np.float64), found[other].astype(np.float64)
            power[number] += np.square(true).sum()
            noise[number] += np.square(true - got.reshape(true.shape)).sum()
    names, ends = LayerNames(reference, layers), _ends(reference, outputs)
    signals = [
        Signal(
            ", ".join(names.giving(one.op)) or ends.get(made) or _behind(names, one), other.op.name, decibels(*energies)
        )
        for ((one, made), (other, _)), *energies in zip(pairs, power, noise, strict=True)
    ]
    return signals, missing


def _comparable(
    pairs: Sequence[tuple[Step, Step]], alone: Sequence[Step]
) -> tuple[list[tuple[Value, Value]], list[str]]:
    """Return the pairs whose results both files store, and the names of the operators of `lite` without any."""
    found = [
        ((one, one.tensor), (other, other.tensor))
        for one, other in pairs
        if one.tensor is not None and other.tensor is not None
    ]
    compared = {other.op.index for _, (other, _) in found}
    missing = {step.op.index: step.op.name for step in (*alone, *(other for _, other in pairs))}
    return found, [f"{name} ({index})" for index, name in sorted(missing.items()) if index not in compared]


def _ends(reference: LiteModel, outputs: Sequence[str]) -> dict[int, str]:
    """Return the output layers by the tensors of their results."""
    ports = reference.outputs
    named = {port.name for port in ports} == set(outputs)
    return {port.index: port.name if named else name for port, name in zip(ports, outputs, strict=False)}


def _behind(names: LayerNames, step: Step) -> str:
    """Return words for a step whose result has no layer's name."""
    near = ", ".join(names.near(step.op))
    return f"after {near}" if near else "unnamed"


def _parts(x: Inputs) -> Iterator[Inputs]:
    """Yield `x` in parts of `SAMPLES_AT_ONCE` samples."""
    arrays = dict(x) if isinstance(x, Mapping) else {"": np.asarray(x)}
    for start in range(0, len(np.asarray(next(iter(arrays.values())))), SAMPLES_AT_ONCE):
        part = {name: np.asarray(array)[start : start + SAMPLES_AT_ONCE] for name, array in arrays.items()}
        yield part if isinstance(x, Mapping) else part[""]
