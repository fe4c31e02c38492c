"""Decode the stored bytes of a constant."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decoded(stored: bytes | NDArray[np.uint8], dtype: str, count: int) -> NDArray[Any]:
    """Return the `count` values of a constant, flat; integers below 8 bits as int8 or uint8.

    Raises:
        TypeError: NumPy does not have the dtype, e.g. "string".
    """
    raw = np.frombuffer(stored, np.uint8)
    bits = {"int4": 4, "uint4": 4, "int2": 2}.get(dtype)
    if bits:
        return _unpack(raw, bits, signed=dtype.startswith("int"))[:count]
    return raw.view(_numpy_dtype(dtype))


def densified(stored: NDArray[Any], sparsity: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a sparsely stored constant as a dense array.

    The format is that of TACO (Kjolstad et al. 2017): the axes, some split into blocks, in traversal order, each either
    dense or with the indices of its entries.

    Args:
        stored: the values, in that order.
        sparsity: a SparsityParametersT of the schema.
        shape: of the dense constant.

    Raises:
        ValueError: the format has more entries than `shape`.
    """
    # The entries reached so far: their index on each axis passed, and their number on the last one.
    number = np.zeros(1, np.int64)
    places: dict[int, NDArray[np.int64]] = {}
    sizes: dict[int, int] = {}
    for axis, level in zip(sparsity.traversalOrder, sparsity.dimMetadata, strict=True):
        axis = int(axis)
        if _grown(number, level) > math.prod(shape):
            raise ValueError(f"the sparse format has more entries than the shape {shape}")
        if level.arraySegments is None:
            counts = np.full(len(number), level.denseSize)
            along = np.tile(np.arange(level.denseSize), len(number))
            number = np.repeat(number * level.denseSize, counts) + along
        else:
            ends = np.asarray(level.arraySegments.values, np.int64)
            counts = ends[number + 1] - ends[number]
            number = np.concatenate([np.arange(ends[n], ends[n + 1]) for n in number])
            along = np.asarray(level.arrayIndices.values, np.int64)[number]
        places = {passed: np.repeat(place, counts) for passed, place in places.items()} | {axis: along}
        sizes[axis] = level.denseSize
    for block, axis in enumerate(() if sparsity.blockMap is None else sparsity.blockMap, start=len(shape)):
        places[int(axis)] = places[int(axis)] * sizes[block] + places[block]
    dense = np.zeros(shape, stored.dtype)
    dense[tuple(places[axis] for axis in range(len(shape)))] = stored
    return dense


def _grown(number: NDArray[np.int64], level: Any) -> int:
    """Return the number of entries after one more level, before creating them."""
    if level.arraySegments is None:
        return len(number) * int(level.denseSize)
    ends = np.asarray(level.arraySegments.values, np.int64)
    return int((ends[number + 1] - ends[number]).sum())


def _unpack(raw: NDArray[np.uint8], bits: int, *, signed: bool) -> NDArray[Any]:
    """Return the 8 / bits values that each byte packs, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values: NDArray[Any] = (raw[:, None] >> shifts & (2**bits - 1)).reshape(-1)
    if not signed:
        return values
    signs: NDArray[Any] = np.where(values >= 2 ** (bits - 1), values.astype(np.int8) - 2**bits, values)
    return signs.astype(np.int8)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found
