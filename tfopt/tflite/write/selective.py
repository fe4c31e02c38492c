"""Selective precision: leave the fewest operators of an integer file in float so that its noise stays below a limit.

The noise of an operator is what the file shows when this operator alone has integers; noises of several roughly add up.
So the operators with most noise are left in float first. Blocks of operators are measured before single ones, and only
blocks with noise are divided. What a loop repeats, once it is unrolled, counts as one operator.
"""

import hashlib
import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfopt.errors import CannotRunError
from tfopt.tflite.prove.outputs import OutputProof, compare_output
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.parts import Op, Tensor

SAMPLES = 128
"""Calibration samples on which files are compared."""
BLOCKS = 16
"""Blocks of operators that are measured first."""
SECONDS = 120
"""After which searches on the same files end with what they have found; of large models not even all blocks."""
FEWEST_SECONDS = 30
"""That a search with another limit has, once those before it have used up the time."""
REPEATS = 4
"""From which on operators that are alike, in one layer, are the steps of an unrolled loop."""
ROUGH = 2.0
"""Multiple of the limit from which on the sum of noises says that the file is not good enough."""

FIXED_SCALES = {"LOGISTIC", "SOFTMAX", "TANH"}
"""Operators with one int8 scale for all models: where an output of theirs varies little, it is lost."""

Quantize = Callable[[Sequence[str], bool], bytes]
"""(outputs of the operators that stay in float, whether inputs and outputs are float32) -> .tflite."""


def with_float_operators(
    reference: bytes,
    quantize: Quantize,
    samples: Iterable[Mapping[str, NDArray[Any]]],
    *,
    most: float,
    free_border: bool,
) -> bytes:
    """Return the integer file with the fewest operators in float whose outputs have at most the noise `most`.

    If no choice of operators is good enough, the file with the best one is returned.

    Args:
        reference: the float file.
        quantize: makes the integer file.
        samples: arrays by input name, of one sample or a fixed batch each, for the comparison.
        most: noise of an output, or a channel of it, as a share of its variance.
        free_border: inputs and outputs become float32 where they lose too much as integers.
    """
    whole = quantize((), False)
    search = _Search(reference, whole, quantize, samples, most, free_border)
    if search.is_sound(whole):
        return whole
    if free_border and search.is_sound(whole := quantize((), True)):
        return whole
    ends = search.ends_with_fixed_scales()
    if ends and search.is_sound(made := quantize(ends, free_border)):
        return made
    left = search.fewest()
    as_asked = quantize(left, False)
    return as_asked if not free_border or search.is_sound(as_asked) else quantize(left, True)


@dataclass
class _Measured:
    """What searches have measured of the same files: noise by the outputs of a block; and the seconds they took."""

    noises: dict[tuple[str, ...], float] = field(default_factory=dict)
    seconds: float = 0.0


_MEASURED: dict[bytes, _Measured] = {}
"""What the last searches have measured, by the digest of what it depends on."""


def _measured_before(files: bytes, samples: Mapping[str, NDArray[Any]], free_border: bool) -> _Measured:
    """Return where measurements are kept: a search with another limit does not repeat them.

    Args:
        files: the float file and the integer one, which all settings have made.
        samples: that are compared.
        free_border: as for `with_float_operators`.
    """
    digest = hashlib.sha256(files + bytes([free_border]))
    for name, values in samples.items():
        digest.update(name.encode() + values.tobytes())
    key = digest.digest()
    if key not in _MEASURED:
        _MEASURED.clear()
        _MEASURED[key] = _Measured()
    return _MEASURED[key]


def _first(samples: Iterable[Mapping[str, NDArray[Any]]], most: int) -> list[Mapping[str, NDArray[Any]]]:
    """Return the first of `samples` that together have at least `most` rows; all if there are fewer."""
    rows: list[Mapping[str, NDArray[Any]]] = []
    for each in samples:
        rows.append(each)
        if sum(len(next(iter(one.values()))) for one in rows) >= most:
            break
    return rows


def _units(operators: Sequence[Op], tensors: Mapping[int, Tensor]) -> list[list[Op]]:
    """Return the operators that are chosen together, in the order of the first of each.

    The steps of an unrolled loop are alike: the same kind in the same layer, of the same shape, with the same weights.
    """
    alike: dict[Any, list[Op]] = {}
    for op in operators:
        layer = tensors[op.outputs[0]].name.rpartition("/")[0]
        constants = tuple(end for end in op.inputs if end >= 0 and tensors[end].constant)
        alike.setdefault((op.name, layer, tensors[op.outputs[0]].shape, constants), []).append(op)
    units = [unit for ops in alike.values() for unit in ([ops] if len(ops) >= REPEATS else [[op] for op in ops])]
    return sorted(units, key=lambda unit: unit[0].index)


class _Search:
    def __init__(
        self,
        reference: bytes,
        whole: bytes,
        quantize: Quantize,
        samples: Iterable[Mapping[str, NDArray[Any]]],
        most: float,
        free_border: bool,
    ) -> None:
        lite = LiteModel(reference)
        rows = _first(samples, SAMPLES)
        self._samples = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        self._most, self._expected = most, self._outputs(lite)
        tensors = {tensor.index: tensor for tensor in lite.tensors() if tensor.subgraph == 0}
        computing = [
            op for op in lite.ops() if op.subgraph == 0 and any(tensors[end].dtype == "float32" for end in op.outputs)
        ]
        units = _units(computing, tensors)
        self._operators = [[tensors[end].name for op in unit for end in op.outputs] for unit in units]
        outputs = {port.index for port in lite.outputs}
        self._ends = [
            number
            for number, unit in enumerate(units)
            if any(op.name in FIXED_SCALES and outputs.intersection(op.outputs) for op in unit)
        ]
        self._made: Callable[[Iterable[int]], bytes] = lambda left: quantize(self._names(left), free_border)
        self._until = math.inf
        self._known = _measured_before(reference + whole, self._samples, free_border)

    def ends_with_fixed_scales(self) -> list[str]:
        """Return the outputs of the model whose int8 scale does not depend on it."""
        return self._names(self._ends)

    def fewest(self) -> list[str]:
        """Return the outputs of the operators that stay in float."""
        started = time.monotonic()
        self._until = started + max(FEWEST_SECONDS, SECONDS - self._known.seconds)
        try:
            return self._fewest()
        finally:
            self._known.seconds += time.monotonic() - started

    def _fewest(self) -> list[str]:
        left: list[int] = []
        for numbers, rest in self._by_noise():
            left += numbers
            if self._is_late():
                return self._names(left)
            if rest <= ROUGH * self._most and self.is_sound(self._made(left)):
                break
        if len(left) <= BLOCKS:
            for number in list(left):
                fewer = [other for other in left if other != number]
                if self.is_sound(self._made(fewer)):
                    left = fewer
        return self._names(left)

    def is_sound(self, data: bytes) -> bool:
        """Return whether all outputs of a file are within the limit."""
        proofs = self._proofs(data)
        return bool(proofs) and not any(proof.failures for proof in proofs)

    def _is_late(self) -> bool:
        return time.monotonic() > self._until

    def _by_noise(self) -> Iterator[tuple[list[int], float]]:
        """Yield the operators, those with most noise first, each with the sum of the noises of those behind it.

        When time is up, the block with most noise comes as a whole.
        """
        waiting: list[tuple[float, list[int]]] = []
        self._push(waiting, np.arange(len(self._operators)), BLOCKS)
        while waiting:
            _, block = heapq.heappop(waiting)
            if len(block) == 1 or self._is_late():
                yield block, -sum(noise for noise, _ in waiting)
            else:
                self._push(waiting, np.asarray(block), 2)

    def _push(self, waiting: list[tuple[float, list[int]]], numbers: NDArray[np.int_], parts: int) -> None:
        """Add blocks of operators with the (negative) noise that each has if all others are float."""
        for part in np.array_split(numbers, min(parts, len(numbers))):
            if self._is_late():
                return
            block = [int(number) for number in part]
            heapq.heappush(waiting, (-self._noise(block), block))

    def _noise(self, block: Sequence[int]) -> float:
        """Return the noise of the file in which the operators of `block` alone have integers."""
        names = tuple(self._names(block))
        noises = self._known.noises
        if names not in noises:
            others = set(range(len(self._operators))) - set(block)
            proofs = self._proofs(self._made(others))
            noises[names] = max((max(proof.noise, proof.channel_noise) for proof in proofs), default=np.inf)
        return noises[names]

    def _proofs(self, data: bytes) -> list[OutputProof]:
        """Return the proof of each output; nothing if LiteRT cannot run the file."""
        try:
            found = self._outputs(LiteModel(data))
        except CannotRunError:
            return []
        return [
            compare_output(name, want, found[name], most_noise=self._most, free_steps=0)
            for name, want in self._expected.items()
        ]

    def _names(self, numbers: Iterable[int]) -> list[str]:
        return [name for number in sorted(numbers) for name in self._operators[number]]

    def _outputs(self, lite: LiteModel) -> dict[str, NDArray[Any]]:
        found = lite.predict(self._samples)
        arrays = found if isinstance(found, list) else [found]
        return {port.name: array for port, array in zip(lite.outputs, arrays, strict=True)}
