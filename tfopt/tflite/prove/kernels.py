"""Find the kernels of a Keras model in the `.tflite` made from it.

1. Identity: the converter keeps the names of the traced layers in the names of its tensors; those of fused layers are
   joined by ";". The candidates for a layer are the weights that have its name on their tensor or on the result of an
   operator that reads them. If there are none (fused LSTMs, files without names), every weight is a candidate.
2. Content: a candidate must equal the kernel, with any factor per output channel, up to the rounding of the file.
   BatchNormalization multiplies channels; a channel with a factor near zero proves nothing.
3. If several candidates pass, the names of inner layers decide, then how well the numbers agree, then the order in
   which layers are called and operators run.

A kernel may be stored in one tensor, in one per gate or group, or in several copies: a layer that is called twice may
have a BatchNormalization after one of its calls. Two layers may share one tensor.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tfopt.errors import PromiseError
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import Kernel, kernels_by_key
from tfopt.tflite.read import LiteModel, Weight
from tfopt.tflite.read.layer_names import layer_pattern

# Share of a tensor that its kernel must explain. Another layer's kernel of n weights per channel explains about 1 / n.
ALIKE = 0.9
# Smaller differences between shares are not significant.
EQUAL = 1e-3
# Relative rounding error of float16 weights, the coarsest floats in files.
FLOAT_STEP = 2.0**-11
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class FileKernel:
    """The place of a kernel in the file: one tensor, or one per gate or group.

    Attributes:
        parts: the tensors, one per block of output channels.
        axes: the axis of output channels of each part.
        wanted: the kernel itself, in the layout of each part: (output channels, weights per channel).
        copies: other places that store the same kernel, for other calls of its layer.
    """

    parts: tuple[Weight, ...]
    axes: tuple[int, ...]
    wanted: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)
    copies: "tuple[FileKernel, ...]" = ()

    @property
    def values(self) -> np.ndarray:
        """The stored integers or floats minus their zero points, output channels first."""
        centered = [_centered(part) for part in self.parts]
        return np.concatenate([np.moveaxis(part, axis, 0) for part, axis in zip(centered, self.axes, strict=True)])

    @property
    def name(self) -> str:
        """The names of the tensors, joined by commas."""
        return ", ".join(part.tensor.name for part in self.parts)

    @property
    def everywhere(self) -> "tuple[FileKernel, ...]":
        """This place and its copies."""
        return (self, *self.copies)

    def within(self, weights: Mapping[tuple[int, int], Weight]) -> "FileKernel":
        """Return the same place in another file with the same tensors, given its weights by (subgraph, index)."""
        parts = tuple(weights[part.tensor.subgraph, part.tensor.index] for part in self.parts)
        return FileKernel(parts, self.axes, self.wanted, tuple(copy.within(weights) for copy in self.copies))


def match_kernels(lite: LiteModel, layers: Iterable[Any]) -> dict[str, Weight]:
    """Return weight tensors by layer name, for layers with one kernel that is stored in one tensor."""
    return {layer: found.parts[0] for (layer, _), found in find_kernels(lite, layers).items()}


def find_kernels(lite: LiteModel, layers: Iterable[Any], keys: Collection[Key] | None = None) -> dict[Key, FileKernel]:
    """Find the kernels of `layers` in the file, all of them or those in `keys`.

    Raises:
        PromiseError: a kernel is not in the file.
    """
    wanted = kernels_by_key(layers)
    return locate(lite, {key: kernel for key, kernel in wanted.items() if keys is None or key in keys})


def locate(lite: LiteModel, wanted: Mapping[Key, Kernel]) -> dict[Key, FileKernel]:
    """Find the kernels `wanted` in the file; see `find_kernels`."""
    shelf = _Shelf(lite)
    return {(layer, name): shelf.find(layer, kernel) for (layer, name), kernel in wanted.items()}


def same_places(found: Mapping[Key, FileKernel], lite: LiteModel) -> dict[Key, FileKernel]:
    """Return the places `found` in another file with the same tensors, such as the same file without its names."""
    weights = {(weight.tensor.subgraph, weight.tensor.index): weight for weight in lite.weights()}
    return {key: place.within(weights) for key, place in found.items()}


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A weight of the file with its output channels on `axis`; `order` is the position of its first reader."""

    weight: Weight
    axis: int
    order: int
    names: str  # of its tensor and of the results of its readers

    @cached_property
    def rows(self) -> np.ndarray:
        return _rows(self.weight.dequantized, self.axis)

    @cached_property
    def steps(self) -> np.ndarray:
        """The distance between the values that each channel can hold: (channels,)."""
        scales = np.asarray(self.weight.tensor.scales, np.float64)
        if not scales.size:
            return np.asarray(FLOAT_STEP * np.abs(self.rows).max(axis=1, initial=0), np.float64)
        each = scales if len(scales) == len(self.rows) else scales.max()
        return np.broadcast_to(np.asarray(each, np.float64), (len(self.rows),))


@dataclass(frozen=True, order=True)
class _Fit:
    """How well a candidate fits a part of a kernel; greater is better."""

    rank: tuple[float, ...]
    share: float = field(compare=False)
    inner: int = field(compare=False)
    candidate: _Candidate = field(compare=False)
    wanted: np.ndarray = field(compare=False, repr=False)


class _Shelf:
    """The weights of a file by their shape for comparison, (output channels, weights per channel)."""

    def __init__(self, lite: LiteModel) -> None:
        self._by_shape: dict[tuple[int, int], list[_Candidate]] = {}
        self._taken: set[int] = set()
        tensors = {(tensor.subgraph, tensor.index): tensor.name for tensor in lite.tensors()}
        for weight in lite.weights():
            results = [tensors[op.subgraph, output] for op in weight.readers for output in op.outputs]
            names = "".join(f"{name};" for name in (weight.tensor.name, *results))
            shape = weight.values.shape
            # A matrix product has its outputs on the last axis, or on the second to last if transposed.
            for axis in (-1, -2)[: len(shape)] if weight.channel_axis is None else (weight.channel_axis,):
                size = (shape[axis], weight.values.size // shape[axis])
                self._by_shape.setdefault(size, []).append(_Candidate(weight, axis, weight.readers[0].index, names))

    def find(self, layer: str, kernel: Kernel) -> FileKernel:
        """Find `kernel` of `layer`. Raise PromiseError if it is not in the file."""
        views, best = list(_views(kernel)), -1.0
        for bears in (layer_pattern(layer, outermost=True), layer_pattern(layer), None):
            found = [[self._fits(bears, kernel, part) for part in parts] for parts in views]
            fits = max(found, key=_least_share)
            best = max(best, _least_share(fits))
            if best >= ALIKE:
                self._taken.update(id(fit.candidate.weight) for part in fits for fit in part)
                return _place(fits)
        error = PromiseError(
            f"The {kernel.name} of layer '{layer}' was not found in the exported file (best match {max(best, 0):.2f}, "
            f"needed {ALIKE}), so its promises cannot be verified. Was the file made from this model?"
        )
        error.layer = layer
        raise error

    def _fits(self, bears: re.Pattern[str] | None, kernel: Kernel, part: np.ndarray) -> list[_Fit]:
        """Return the best candidate and its copies: weights with the same names that fit as well."""
        candidates = self._by_shape.get(part.shape, ())
        named = [one for one in candidates if bears is None or bears.search(one.names)]
        fits = sorted((self._fit(kernel, part, one) for one in named), reverse=True)
        # Without names, similar weights may belong to another layer.
        copies = [fit for fit in fits[1:] if bears and _as_good(fit, fits[0])]
        return [*fits[:1], *copies]

    def _fit(self, kernel: Kernel, part: np.ndarray, candidate: _Candidate) -> _Fit:
        share, cosine = explained(candidate.rows, part, candidate.steps)
        inner = sum(bool(re.search(rf"/{re.escape(name)}(_\w+)?/", candidate.names)) for name in _inner_names(kernel))
        free = id(candidate.weight) not in self._taken
        rank = (round(share / EQUAL), inner, round(cosine / EQUAL), free, -candidate.order)
        return _Fit(rank, share, inner, candidate, part)


def _inner_names(kernel: Kernel) -> list[str]:
    """Return the names of the inner layers that lead to the kernel: ["query"] for "query/kernel"."""
    return kernel.name.split("/")[:-1]


def _as_good(fit: _Fit, best: _Fit) -> bool:
    return fit.share >= max(ALIKE, best.share - EQUAL) and fit.inner == best.inner


def _least_share(fits: Sequence[Sequence[_Fit]]) -> float:
    return min(part[0].share if part else -1.0 for part in fits)


def _place(fits: Sequence[Sequence[_Fit]]) -> FileKernel:
    """Return the best fit of each part, with its copies; a part with fewer copies repeats its last one."""

    def numbered(number: int) -> FileKernel:
        chosen = [part[min(number, len(part) - 1)] for part in fits]
        candidates = [fit.candidate for fit in chosen]
        weights, axes = tuple(one.weight for one in candidates), tuple(one.axis for one in candidates)
        return FileKernel(weights, axes, tuple(fit.wanted for fit in chosen))

    most = max(len(part) for part in fits)
    return replace(numbered(0), copies=tuple(numbered(number) for number in range(1, most)))


def explained(stored: np.ndarray, kernel: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """Compare a tensor of the file with a kernel.

    Args:
        stored: (output channels, weights per channel), float32, as in the file.
        kernel: the same shape and dtype, as in the model.
        steps: (channels,), the distance between the values that a channel of the file can hold.

    Returns:
        The share of the tensor's sum of squares that the kernel explains if each channel may have any factor, allowing
        for rounding errors of up to one step: at most 1, and 1 for a tensor of zeros. And the absolute cosine between
        both if all channels have the same factor.
    """
    left = total = both = squares = 0.0
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        rows, wanted = (part[start : start + _ROWS_AT_ONCE].astype(np.float64) for part in (stored, kernel))
        products, own = (np.einsum("cn,cn->c", part, wanted) for part in (rows, wanted))
        factors = np.divide(products, own, out=np.zeros_like(products), where=own > 0)
        errors = np.square(rows - factors[:, None] * wanted).sum(axis=1)
        # Errors uniform between -1 and 1 step have a mean square of a third of the squared step.
        rounding = rows.shape[1] * np.square(steps[start : start + _ROWS_AT_ONCE]) / 3
        left += float(np.maximum(errors - rounding, 0).sum())
        total += float(np.square(rows).sum())
        both += float(products.sum())
        squares += float(own.sum())
    if not total:
        return 1.0, 1.0
    return 1 - left / total, abs(both) / math.sqrt(total * squares) if squares else 0.0


def _views(kernel: Kernel) -> Iterator[list[np.ndarray]]:
    """Yield the ways a file may hold `kernel`, each a list of matrices (output channels, weights per channel)."""
    values, facts, whole = kernel.values, facts_of(kernel.owner), rows_of(kernel)
    yield [whole]
    if kernel.spared:
        return
    groups = facts.gates or getattr(kernel.owner, "groups", 1)
    if isinstance(groups, int) and groups > 1 and not len(whole) % groups:
        yield list(np.split(whole, groups))
    if facts.gates == 3 and not len(whole) % 3:  # of a GRU with reset_after=False, whose last gate comes later
        yield list(np.split(whole, [2 * len(whole) // 3]))
    if facts.family == "einsum" or not facts.kernels:
        # A product over any axes: the inputs may be on several axes, first or last.
        for axes in range(1, values.ndim):
            matrix = values.reshape(int(np.prod(values.shape[:axes])), -1)
            yield [matrix.T]
            yield [matrix]


def rows_of(kernel: Kernel) -> np.ndarray:
    """Return the values of `kernel` as (output channels, weights per channel)."""
    if kernel.spared:  # depthwise: (..., channels x multiplier)
        return _rows(kernel.values.reshape(*kernel.shape[:-2], -1), -1)
    return _rows(kernel.values, kernel.channel_axis)


def _rows(values: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _centered(weight: Weight) -> np.ndarray:
    """Return the stored values minus the zero points, exactly zero where the weight is zero."""
    points = weight.tensor.zero_points
    if not any(points):
        return weight.values
    shape = [1] * weight.values.ndim
    if weight.tensor.quantized_axis is not None:
        shape[weight.tensor.quantized_axis] = -1
    return weight.values.astype(np.int32) - np.array(points, np.int32).reshape(shape)
