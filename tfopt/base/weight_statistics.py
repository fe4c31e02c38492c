"""Statistics of weights and predictions. NumPy only; every function is pure.

Weights are arrays of any dtype; `-0.0` counts as zero. Predictions are float arrays (N, ...) as a model returns them;
labels are those of the same N samples.
"""

import math
import zlib

import numpy as np
from numpy.typing import ArrayLike

from tfopt.errors import ModelError

# Weights -----------------------------------------------------------------------------------------


def sparsity(weights: ArrayLike) -> float:
    """Return the fraction of exact zeros: zeros / elements, in [0, 1]; 0 for an empty array."""
    array = np.asarray(weights)
    return float(np.count_nonzero(array == 0) / array.size) if array.size else 0.0


def unique_weights(weights: ArrayLike, axis: int | None = None) -> int:
    """Return the number of distinct values.

    With an `axis` (e.g. the output channels), return the largest number within any one slice along it.
    """
    array = np.asarray(weights)
    if axis is None or not array.size:
        return int(np.unique(array).size)
    return max(int(np.unique(channel).size) for channel in np.moveaxis(array, axis, 0))


def deflated_bytes(data: bytes) -> int:
    """Return the number of bytes after DEFLATE (zlib, level 9).

    Pruned and clustered weights save bytes only once they are entropy-coded. Han et al. 2015, "Deep Compression"
    (arXiv:1510.00149), section 4, uses Huffman coding; DEFLATE is LZ77 followed by Huffman coding, and it is what app
    stores and web servers apply to files.
    """
    return len(zlib.compress(data, 9))


def entropy_bits(values: ArrayLike) -> float:
    """Return the bits that an ideal symbol code needs for all values: -sum(n_i log2(n_i / N)).

    This is Shannon's (1948) entropy of the array's own frequencies n_i. No code for single values, such as Huffman's,
    needs fewer bits; one that finds repeated runs, such as DEFLATE or zstd, may.
    """
    counts = np.unique(np.asarray(values), return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) + 0.0  # avoids -0.0


def decibels(power: float, noise: float) -> float:
    """Return the signal-to-noise ratio 10 log10(power / noise); infinite without noise, -infinite without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf


def zeros_in_blocks(weights: ArrayLike, block_size: tuple[int, int]) -> float:
    """Return the fraction of zero weights that lie in all-zero blocks; 1 if there are no zeros.

    `weights` is (rows, columns) after axes of length 1 are dropped, as TF-MOT's `block_size` requires. Blocks start at
    the first element; those at the far edges may be cut short, as in TF-MOT's mask.

    Raises:
        ModelError: another rank, or a block size below 1.
    """
    array = np.asarray(weights)
    matrix = array if array.ndim == 2 else np.squeeze(array)
    height, width = block_size
    if matrix.ndim != 2 or height < 1 or width < 1:
        raise ModelError(
            f"Blocks need weights with two axes and sizes of at least 1; got shape {array.shape} and "
            f"block_size={tuple(block_size)}."
        )
    zero = matrix == 0
    if not zero.any():
        return 1.0
    rows, columns = matrix.shape
    padded = np.pad(zero, ((0, -rows % height), (0, -columns % width)), constant_values=True)
    tiles = padded.reshape(padded.shape[0] // height, height, -1, width)
    whole = np.broadcast_to(tiles.all(axis=(1, 3), keepdims=True), tiles.shape)
    in_blocks = whole.reshape(padded.shape)[:rows, :columns]
    return float(np.count_nonzero(in_blocks) / np.count_nonzero(zero))


def m_by_n_holds(kernel: ArrayLike, m: int, n: int) -> bool:
    """Return whether every `n` consecutive input channels of each output hold at least `m` zeros.

    `kernel` is in Keras's layout: (in, out) or (height, width, in, out). Groups run along `in`, the last axis of the
    layout in a .tflite. The elements after the last whole group may have up to n - m non-zeros, as in TF-MOT's
    `is_pruned_m_by_n`.

    Raises:
        ModelError: another rank, or not 0 < m < n.
    """
    array = np.asarray(kernel)
    if array.ndim not in (2, 4) or not 0 < m < n:
        raise ModelError(
            f"M-by-n sparsity needs a kernel of rank 2 or 4 and 0 < m < n; got shape {array.shape}, m={m}, n={n}."
        )
    rows = np.moveaxis(array, -1, 0).reshape(-1, array.shape[-2]) != 0
    groups = np.pad(rows, ((0, 0), (0, -rows.shape[1] % n))).reshape(-1, n)
    return bool((groups.sum(axis=1) <= n - m).all())


# Predictions -------------------------------------------------------------------------------------
