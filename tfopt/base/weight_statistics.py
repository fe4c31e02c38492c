"""Numbers about weights and predictions. NumPy only; every function is pure.

Weights are arrays of any dtype; `-0.0` counts as zero. Predictions are float arrays (N, ...) as a model
gives them; labels are what the data set holds for the same N samples.
"""

import math
import zlib
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfopt.errors import DataError, ModelError

# Weights -----------------------------------------------------------------------------------------


def sparsity(weights: ArrayLike) -> float:
    """Return the fraction of exact zeros: zeros / elements, in [0, 1]; 0 for an empty array."""
    array = np.asarray(weights)
    return float(np.count_nonzero(array == 0) / array.size) if array.size else 0.0


def unique_weights(weights: ArrayLike, axis: int | None = None) -> int:
    """Return the number of distinct values.

    With an `axis` (such as the output channels): the largest number within any one slice along it.
    """
    array = np.asarray(weights)
    if axis is None or not array.size:
        return int(np.unique(array).size)
    return max(int(np.unique(channel).size) for channel in np.moveaxis(array, axis, 0))


def deflated_bytes(data: bytes) -> int:
    """Return the number of bytes after DEFLATE (zlib, level 9).

    Pruned and clustered weights save bytes only once they are entropy-coded. Han et al. 2015, "Deep
    Compression" (arXiv:1510.00149), section 4, uses Huffman coding; DEFLATE is Huffman coding after LZ77,
    and what app stores and web servers apply to a file anyway.
    """
    return len(zlib.compress(data, 9))


def entropy_bits(values: ArrayLike) -> float:
    """Return the bits that an ideal code of single values needs for all of them: -sum(n_i log2(n_i / N)).

    Shannon 1948, of the frequencies n_i in the array itself. A code for single values, such as Huffman's, cannot do
    with fewer; one that finds repeated runs, as DEFLATE and zstd do, may.
    """
    counts = np.unique(np.asarray(values), return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) + 0.0  # no negative zero


def decibels(power: float, noise: float) -> float:
    """Return the signal-to-noise ratio 10 log10(power / noise); infinite without noise, -infinite without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf


def zeros_in_blocks(weights: ArrayLike, block_size: tuple[int, int]) -> float:
    """Return the fraction of zero weights that lie in blocks made of zeros only; 1 if there is no zero.

    `weights` is (rows, columns) once axes of length 1 are dropped, as TF-MOT's `block_size` wants it.
    Blocks start at the first element; those at the far edges may be cut short, as TF-MOT's mask is.
    Raises ModelError for another rank, or a block size below 1.
    """
    array = np.asarray(weights)
    matrix = array if array.ndim == 2 else np.squeeze(array)
    height, width = block_size
    if matrix.ndim != 2 or height < 1 or width < 1:
        raise ModelError(
            f"Blocks need weights of two axes and sizes of at least 1; got shape {array.shape} and "
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
    """Whether every `n` consecutive input channels of each output hold at least `m` zeros.

    `kernel` is in Keras's layout: (in, out), or (height, width, in, out). Groups run along `in`, the last
    axis of the layout in a .tflite. The elements after the last whole group may have up to n - m non-zeros,
    as in TF-MOT's `is_pruned_m_by_n`. Raises ModelError for another rank, or unless 0 < m < n.
    """
    array = np.asarray(kernel)
    if array.ndim not in (2, 4) or not 0 < m < n:
        raise ModelError(
            f"m-by-n sparsity needs a kernel of rank 2 or 4 and 0 < m < n; got shape {array.shape}, m={m}, n={n}."
        )
    rows = np.moveaxis(array, -1, 0).reshape(-1, array.shape[-2]) != 0
    groups = np.pad(rows, ((0, 0), (0, -rows.shape[1] % n))).reshape(-1, n)
    return bool((groups.sum(axis=1) <= n - m).all())


# Predictions -------------------------------------------------------------------------------------


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of samples whose predicted class is the label's, in [0, 1].

    `predictions`: (N, ..., C) with C > 1, probabilities or logits, of which the largest counts; or (N, 1) or
    (N,), the probability of class 1, which counts above 0.5 (for logits that threshold would be 0; which of
    the two they are cannot be seen, so pass probabilities). `labels`: class numbers (N, ...) or (N, ..., 1),
    or one-hot (N, ..., C). Raises DataError when the shapes do not fit, or for NaN.
    """
    scores, truth = _checked(predictions), np.asarray(labels)
    if not _has_classes(scores):
        return float(np.mean(_classes(scores) == (_aligned(scores, truth).reshape(len(scores)) > 0.5)))
    return float(np.mean(_classes(scores) == _class_numbers(scores, truth)))


def binary_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of all elements with (prediction > 0.5) == (label > 0.5): each label on its own.

    Both are (N, L), probabilities and {0, 1}. Raises DataError when the shapes differ, or for NaN.
    """
    scores = _checked(predictions)
    return float(np.mean((scores > 0.5) == (_aligned(scores, np.asarray(labels)) > 0.5)))


def mean_squared_error(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return mean((prediction - label)^2) over all elements, in squared units of the label.

    Raises DataError when the shapes differ (other than in axes of length 1 at the end), or for NaN.
    """
    return float(np.mean(np.square(_difference(predictions, labels))))


def mean_absolute_error(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return mean(|prediction - label|) over all elements, in units of the label; raises as the other."""
    return float(np.mean(np.abs(_difference(predictions, labels))))


def top_k_accuracy(predictions: ArrayLike, labels: ArrayLike, k: int = 5) -> float:
    """Return the share of samples with fewer than `k` classes scored above the label's, in [0, 1].

    A tie counts for the label, as in `tf.math.in_top_k`. Shapes as in `accuracy`, with C > 1.
    """
    scores, truth = _checked(predictions), np.asarray(labels)
    if not _has_classes(scores):
        raise DataError(f"Top-{k} accuracy needs predictions (N, C) with C > 1; got shape {scores.shape}.")
    numbers = _class_numbers(scores, truth)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < scores.shape[-1]):
        raise DataError(
            f"Labels must be class numbers from 0 to {scores.shape[-1] - 1}; got {numbers.min()} to {numbers.max()}."
        )
    own = np.take_along_axis(scores, numbers[..., None].astype(np.int64), axis=-1)
    return float(np.mean((scores > own).sum(axis=-1) < k))


def agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Return the share of samples to which two models' predictions of one shape give the same class."""
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape:
        raise DataError(f"Predictions to compare must have one shape; got {first.shape} and {second.shape}.")
    return float(np.mean(_classes(first) == _classes(second)))


Metric = Callable[[ArrayLike, ArrayLike], float]

TASKS: dict[str, dict[str, Metric]] = {
    "classification": {"accuracy": accuracy},
    "multilabel": {"binary_accuracy": binary_accuracy},
    "regression": {"mse": mean_squared_error, "mae": mean_absolute_error},
}


def metrics_for(task: str, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the metrics of a task by name: a row of `TASKS`. Raises DataError for an unknown task."""
    if task not in TASKS:
        raise DataError(f"Unknown task {task!r}; expected one of {', '.join(TASKS)}.")
    return {name: metric(predictions, labels) for name, metric in TASKS[task].items()}


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval in which the true share lies, given `successes` out of `n` independent samples.

    Wilson 1927: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), where z is the normal quantile of
    (1 + confidence)/2. Raises DataError unless 0 <= successes <= n, n > 0 and 0 < confidence < 1.
    """
    if not (0 <= successes <= n and n > 0 and 0 < confidence < 1):
        raise DataError(f"Expected 0 <= successes <= n, n > 0, 0 < confidence < 1; got {successes}, {n}, {confidence}.")
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    center = p + z * z / (2 * n)
    margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)


def _checked(predictions: ArrayLike) -> NDArray[np.floating]:
    """Return predictions as floats; raises DataError when there are none, or NaN: argmax would hide it."""
    scores = np.asarray(predictions)
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    if scores.ndim == 0 or scores.size == 0:
        raise DataError(f"Expected predictions (N, ...) of at least one sample; got shape {scores.shape}.")
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} of {scores.size} predictions are NaN.")
    return scores


def _has_classes(scores: NDArray[np.floating]) -> bool:
    return scores.ndim > 1 and scores.shape[-1] > 1


def _classes(scores: NDArray[np.floating]) -> NDArray[np.integer]:
    """Return class numbers: (N, ..., C) -> (N, ...); (N, 1) or (N,) -> 0 or 1 in (N,)."""
    if _has_classes(scores):
        return np.argmax(scores, axis=-1)
    return (scores.reshape(len(scores), -1)[:, 0] > 0.5).astype(np.int64)


def _class_numbers(scores: NDArray[np.floating], labels: NDArray) -> NDArray:
    """Return labels, sparse or one-hot, as class numbers of shape (N, ...) for scores (N, ..., C)."""
    if labels.shape == scores.shape:
        return np.argmax(labels, axis=-1)
    if labels.shape in (scores.shape[:-1], (*scores.shape[:-1], 1)):
        return labels.reshape(scores.shape[:-1])
    raise DataError(f"Labels of shape {labels.shape} do not fit predictions of shape {scores.shape}.")


def _aligned(scores: NDArray[np.floating], labels: NDArray) -> NDArray:
    """Return labels in the shape of scores; (N,) and (N, 1) fit, and must never broadcast to (N, N)."""
    if _without_trailing_ones(labels.shape) != _without_trailing_ones(scores.shape):
        raise DataError(f"Labels of shape {labels.shape} do not fit predictions of shape {scores.shape}.")
    return labels.reshape(scores.shape)


def _without_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _difference(predictions: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    scores = _checked(predictions).astype(np.float64)
    return scores - _aligned(scores, np.asarray(labels)).astype(np.float64)
