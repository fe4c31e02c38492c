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
    found, alone = paired(reference, lite, layers)
    energies: dict[int, np.ndarray] = {}
    for part in _parts(x):
        ours, theirs = (file.signals(part) for file in (reference, lite))
        for number, (one, other) in enumerate(found):
            if one.tensor in ours and other.tensor in theirs:  # else it is not stored
                true, got = ours[one.tensor].astype(np.float64), theirs[other.tensor].astype(np.float64)
                squares = np.square(true).sum(), np.square(true - got.reshape(true.shape)).sum()
                energies[number] = energies.get(number, 0.0) + np.array(squares)
    names, ends = LayerNames(reference, layers), _ends(reference, outputs)
    signals = [_signal(names, ends, *found[number], *energies[number]) for number in sorted(energies)]
    compared = {found[number][1].op.index for number in energies}
    missing = {step.op.index: step.op.name for step in (*alone, *(other for _, other in found))}
    return signals, [f"{name} ({index})" for index, name in sorted(missing.items()) if index not in compared]


def _signal(names: LayerNames, ends: Mapping[int, str], one: Step, other: Step, power: float, noise: float) -> Signal:
    made = -1 if one.tensor is None else one.tensor
    layers = ", ".join(names.giving(one.op)) or ends.get(made) or _behind(names, one)
    return Signal(layers, other.op.name, decibels(power, noise))


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
