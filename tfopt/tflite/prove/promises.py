"""What stages promised of kernels, looked up in the `.tflite` that was written."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfopt.errors import PromiseError
from tfopt.graph.layer_facts import GATES, KERNELS
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import Kernel, kernels_by_key
from tfopt.tflite.read import LiteModel, Weight

# Coarse int8 rounding turns a channel by far less; another layer's kernel is near 0.
ALIKE = 0.9


@dataclass(frozen=True)
class FileKernel:
    """Where a kernel stands in the file: in one tensor, or gate by gate in several.

    `axes` are the axes of output channels, one for each of `parts`.
    """

    parts: tuple[Weight, ...]
    axes: tuple[int, ...]

    @property
    def values(self) -> np.ndarray:
        """All its stored numbers less their zero points, so that zero means zero; output channels first."""
        return _stacked([_centered(part) for part in self.parts], self.axes)

    @property
    def name(self) -> str:
        return ", ".join(part.tensor.name for part in self.parts)


def verify_promises(
    lite: LiteModel, plain: Any, promises: Sequence[Promise], *, trained_ranges: bool | Collection[str]
) -> list[str]:
    """Check in the file what the stages promised of the kernels of `plain` (flat tf_keras).

    Returns notes on promises that hold per output channel only: the converter folds BatchNorm into the
    kernels, and scales of its own per channel make other values of equal weights. Training with `Quantize`
    avoids that: `trained_ranges` asks for the full promise, of all layers or of those named.

    Raises `PromiseError` naming layer, kernel and tensor.
    """
    if not promises:
        return []
    promised = {promise.layer for promise in promises}
    asked = {(promise.layer, promise.weight) for promise in promises}
    found = find_kernels(lite, [layer for layer in plain.layers if layer.name in promised], asked)
    notes = []
    for promise in promises:
        kernel = found[promise.layer, promise.weight]
        values = kernel.values
        wrong = promise.broken(values, 0)
        if wrong and not (trained_ranges if isinstance(trained_ranges, bool) else promise.layer in trained_ranges):
            weaker = promise.after_folding()
            if weaker != promise and not weaker.broken(values, 0):
                where = promise.layer if promise.weight == "kernel" else f"{promise.layer}, {promise.weight}"
                notes.append(f"{where}: holds in each output channel of the file only ({wrong})")
                continue
        if wrong:
            raise PromiseError(f"The exported file breaks a promise: {promise.place}, tensor '{kernel.name}': {wrong}.")
    return notes


def match_kernels(lite: LiteModel, layers: Iterable[Any]) -> dict[str, Weight]:
    """The file's weight tensor by layer name, for layers with one kernel that the file holds in one tensor."""
    return {layer: found.parts[0] for (layer, _), found in find_kernels(lite, layers).items()}


def find_kernels(lite: LiteModel, layers: Iterable[Any], asked: Collection[Key] | None = None) -> dict[Key, FileKernel]:
    """Where the kernels of `layers` (all of them, or those `asked` for) stand in the file.

    Found by shape and content, since names do not survive. BatchNorm folding multiplies each output channel by a
    factor; so channels are compared by direction. Raises `PromiseError` for a kernel that is not there.
    """
    wanted = kernels_by_key(layers)
    return located(lite, {key: kernel for key, kernel in wanted.items() if asked is None or key in asked})


def located(lite: LiteModel, wanted: Mapping[Key, Kernel]) -> dict[Key, FileKernel]:
    """Where the kernels `wanted` stand in the file; see `find_kernels`."""
    shelf = _Shelf(lite.weights())
    found = {}
    for (layer, name), kernel in wanted.items():
        best, score = shelf.find(kernel)
        if best is None or score < ALIKE:
            raise PromiseError(
                f"The {name} of layer '{layer}' was not found in the exported file (best match {max(score, 0):.2f}), "
                "so nothing can be promised of it."
            )
        found[layer, name] = best
    return found


@dataclass(frozen=True)
class _Candidate:
    """A file's tensor seen with its output channels on `axis`."""

    weight: Weight
    axis: int

    @cached_property
    def directions(self) -> np.ndarray:
        return _directions(_rows(self.weight.dequantized, self.axis))


class _Shelf:
    """The weights of a file by the shape (output channels, weights per channel) in which they can be compared."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._by_shape: dict[tuple[int, int], list[_Candidate]] = {}
        for weight in weights:
            shape = weight.values.shape
            # A matrix product holds its outputs last, or last but one where it is transposed.
            for axis in (-1, -2)[: len(shape)] if weight.channel_axis is None else (weight.channel_axis,):
                size = (shape[axis], weight.values.size // shape[axis])
                self._by_shape.setdefault(size, []).append(_Candidate(weight, axis))

    def find(self, kernel: Kernel) -> tuple[FileKernel | None, float]:
        """The best match for `kernel` and how alike they are, 1 at most."""
        best, best_score = None, -1.0
        for parts in _views(kernel):
            matches = [self._nearest(part) for part in parts]
            score = min((score for _, score in matches), default=-1.0)
            if score > best_score:
                candidates = [candidate for candidate, _ in matches if candidate]
                best_score = score
                best = FileKernel(tuple(c.weight for c in candidates), tuple(c.axis for c in candidates))
        return best, best_score

    def _nearest(self, rows: np.ndarray) -> tuple[_Candidate | None, float]:
        wanted = _directions(rows)
        best, best_score, best_tie = None, -1.0, -1.0
        for candidate in self._by_shape.get(rows.shape, ()):
            score = float(np.mean(np.abs(np.einsum("cn,cn->c", candidate.directions, wanted))))
            if score < best_score - 1e-3:
                continue
            # Rows of one weight all point the same way: then the lengths tell them apart.
            tie = _cosine(_rows(candidate.weight.dequantized, candidate.axis), rows)
            if score > best_score + 1e-3 or tie > best_tie:
                best, best_score, best_tie = candidate, score, tie
        return best, best_score


def _views(kernel: Kernel) -> Iterator[list[np.ndarray]]:
    """The ways in which a file may hold `kernel`: each a list of matrices (output channels, weights per channel)."""
    values, kind, whole = kernel.values, type(kernel.owner).__name__, rows_of(kernel)
    yield [whole]
    if kernel.spared:
        return
    if kind in GATES:
        yield list(np.split(whole, GATES[kind]))
    if kind == "EinsumDense" or kind not in KERNELS:
        # A product over any axes: the inputs may be several axes, first or last.
        for axes in range(1, values.ndim):
            matrix = values.reshape(int(np.prod(values.shape[:axes])), -1)
            yield [matrix.T]
            yield [matrix]


def rows_of(kernel: Kernel) -> np.ndarray:
    """The values of `kernel` as (output channels, weights per channel)."""
    if kernel.spared:  # depthwise: (..., channels x multiplier)
        return _rows(kernel.values.reshape(*kernel.shape[:-2], -1), -1)
    return _rows(kernel.values, kernel.channel_axis)


def _rows(values: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _directions(rows: np.ndarray) -> np.ndarray:
    """`rows` with each row of length 1."""
    rows = rows.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    # A channel that is pruned away matches any other that is.
    rows[length[:, 0] == 0, 0] = 1.0
    return rows


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return abs(float(np.vdot(one, other))) / lengths if lengths else 0.0


def _centered(weight: Weight) -> np.ndarray:
    """The stored values less the zero points: exactly zero where the weight is."""
    points = weight.tensor.zero_points
    if not any(points):
        return weight.values
    shape = [1] * weight.values.ndim
    if weight.tensor.quantized_axis is not None:
        shape[weight.tensor.quantized_axis] = -1
    return weight.values.astype(np.int32) - np.array(points, np.int32).reshape(shape)


def _stacked(parts: Sequence[np.ndarray], axes: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.moveaxis(part, axis, 0) for part, axis in zip(parts, axes, strict=True)])
