"""Metrics of predictions, in NumPy."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfopt.errors import DataError


def threshold(*, logits: bool) -> float:
    """Return the output above which a binary answer is yes: 0 for logits, 0.5 for probabilities."""
    return 0.0 if logits else 0.5


def predicted_classes(predictions: ArrayLike, *, logits: bool = False) -> NDArray[np.integer]:
    """Return the predicted class numbers.

    Args:
        predictions: (N, ..., C) with C > 1, of which the largest wins; or (N, ..., 1) or (N,), for class 1 against 0.
        logits: whether predictions are logits rather than probabilities; it matters to a single output only.

    Returns:
        (N, ...), or (N,).

    Raises:
        DataError: there are NaNs, or no samples.
    """
    scores = _checked(predictions)
    if _has_classes(scores):
        return np.asarray(np.argmax(scores, axis=-1))
    return (_single(scores) > threshold(logits=logits)).astype(np.int64)


def accuracy(predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> float:
    """Return the share of samples whose predicted class is the label's, in [0, 1].

    Args:
        predictions: as in `predicted_classes`.
        labels: class numbers (N, ...) or (N, ..., 1), or one-hot (N, ..., C).
        logits: whether predictions are logits rather than probabilities.

    Raises:
        DataError: the shapes do not match, or there are NaNs.
    """
    return float(np.mean(_right_classes(predictions, labels, logits=logits)))


def _right_classes(predictions: ArrayLike, labels: ArrayLike, *, logits: bool) -> NDArray[np.bool_]:
    scores, truth = _checked(predictions), np.asarray(labels)
    wide = _has_classes(scores)
    true = _class_numbers(scores, truth) if wide else _single(_aligned(scores, truth)) > 0.5
    return np.asarray(predicted_classes(scores, logits=logits) == true)


def mean_iou(predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> float:
    """Return the mean over classes of intersection over union, in [0, 1], over all places of all samples.

    For each class, the number of places where prediction and label name it, divided by those where at least one does
    (Jaccard index). Classes that neither names do not count.

    Args:
        predictions: as in `predicted_classes`.
        labels: as in `accuracy`.
        logits: whether predictions are logits rather than probabilities.

    Raises:
        DataError: the shapes do not match, or there are NaNs.
    """
    both, one, other = _overlap(predictions, labels, logits=logits)
    union = one + other - both
    return float(np.mean(both[union > 0] / union[union > 0]))


def mean_dice(predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> float:
    """Return the mean over classes of the Dice coefficient, in [0, 1], over all places of all samples.

    For each class, 2 TP / (2 TP + FP + FN): twice the number of places where prediction and label name it, divided by
    the sum of the places where each does (Dice 1945, doi:10.2307/1932409). Classes that neither names do not count.

    Args:
        predictions: as in `predicted_classes`.
        labels: as in `accuracy`.
        logits: whether predictions are logits rather than probabilities.

    Raises:
        DataError: the shapes do not match, or there are NaNs.
    """
    both, one, other = _overlap(predictions, labels, logits=logits)
    named = one + other
    return float(np.mean(2 * both[named > 0] / named[named > 0]))


def _overlap(
    predictions: ArrayLike, labels: ArrayLike, *, logits: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return by class the number of places where both prediction and label, the prediction, and the label name it."""
    scores, truth = _checked(predictions), np.asarray(labels)
    chosen = predicted_classes(scores, logits=logits).ravel()
    wide = _has_classes(scores)
    true = (_class_numbers(scores, truth) if wide else _single(_aligned(scores, truth)) > 0.5).ravel().astype(np.int64)
    number = max(int(chosen.max()), int(true.max())) + 1
    both, one, other = (np.bincount(each, minlength=number) for each in (true[chosen == true], chosen, true))
    return both, one, other


def binary_accuracy(predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> float:
    """Return the share of elements that are above the threshold exactly where the label is 1, each label separately.

    Args:
        predictions: (N, L).
        labels: (N, L), 0 or 1.
        logits: whether predictions are logits rather than probabilities.

    Raises:
        DataError: the shapes differ, or there are NaNs.
    """
    return float(np.mean(_right_labels(predictions, labels, logits=logits)))


def _right_labels(predictions: ArrayLike, labels: ArrayLike, *, logits: bool) -> NDArray[np.bool_]:
    scores = _checked(predictions)
    return np.asarray((scores > threshold(logits=logits)) == (_aligned(scores, np.asarray(labels)) > 0.5))


def mean_squared_error(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return mean((prediction - label)^2) over all elements, in squared units of the label.

    Raises:
        DataError: the shapes differ (other than in trailing axes of length 1), or there are NaNs.
    """
    return float(np.mean(np.square(_difference(predictions, labels))))


def mean_absolute_error(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return mean(|prediction - label|) over all elements, in units of the label; raises as `mean_squared_error`."""
    return float(np.mean(np.abs(_difference(predictions, labels))))


def root_mean_squared_error(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return sqrt(mean((prediction - label)^2)), in units of the label; raises as `mean_squared_error`."""
    return math.sqrt(mean_squared_error(predictions, labels))


def area_under_roc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the probability that a positive sample has a higher score than another one; ties count half.

    That is the area under the ROC curve (Hanley & McNeil 1982).

    Args:
        scores: (N,).
        positive: bool (N,), with samples of both kinds.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(positive), np.asarray(scores)))


def top_k_accuracy(predictions: ArrayLike, labels: ArrayLike, k: int = 5) -> float:
    """Return the share of samples with fewer than `k` classes scored above the label's, in [0, 1].

    A tie counts in favor of the label, as in `tf.math.in_top_k`. Shapes as in `accuracy`, with C > 1.
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


def agreement(a: ArrayLike, b: ArrayLike, *, logits: bool | Sequence[bool] = False) -> float:
    """Return the share of samples for which two predictions of the same shape give the same class.

    `logits` says whether predictions are logits rather than probabilities, of both or of each.
    """
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape:
        raise DataError(f"Predictions to compare must have the same shape; got {first.shape} and {second.shape}.")
    how = (logits, logits) if isinstance(logits, bool) else logits
    classes = [predicted_classes(each, logits=form) for each, form in zip((first, second), how, strict=True)]
    return float(np.mean(classes[0] == classes[1]))


Metric = Callable[..., float]
"""Of predictions and labels; for a task with probabilities, it also takes `logits=`."""

_TERMS: dict[Metric, Callable[..., NDArray[Any]]] = {
    accuracy: _right_classes,
    binary_accuracy: _right_labels,
    mean_squared_error: lambda predictions, labels: np.square(_difference(predictions, labels)),
    mean_absolute_error: lambda predictions, labels: np.abs(_difference(predictions, labels)),
}
"""What the metrics are the mean of, (N, ...)."""


def on_each(metric: Metric, predictions: ArrayLike, labels: ArrayLike, **how: bool) -> NDArray[np.float64]:
    """Return `metric` on each sample by itself, (N,); `how` is `logits=`, where it takes that."""
    if metric in _TERMS:
        terms = _TERMS[metric](predictions, labels, **how)
        return np.asarray(terms.reshape(len(terms), -1).mean(axis=1, dtype=np.float64))
    one_by_one = zip(np.asarray(predictions), np.asarray(labels), strict=True)
    return np.array([metric(made[None], wanted[None], **how) for made, wanted in one_by_one])


def guessing(labels: ArrayLike) -> float:
    """Return the accuracy of always predicting the most frequent class.

    Args:
        labels: class numbers (N, ...), or one-hot (N, ..., C) in float.
    """
    array = np.asarray(labels)
    if array.ndim > 1 and array.shape[-1] > 1 and array.dtype.kind == "f":
        array = array.argmax(axis=-1)
    _, counts = np.unique(array, return_counts=True)
    return float(counts.max() / array.size)


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a proportion, given `successes` in `n` independent samples.

    Wilson 1927: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), where z is the normal quantile of
    (1 + confidence)/2.

    Raises:
        DataError: not 0 <= successes <= n, n > 0 and 0 < confidence < 1.
    """
    if not (0 <= successes <= n and n > 0 and 0 < confidence < 1):
        raise DataError(f"Expected 0 <= successes <= n, n > 0, 0 < confidence < 1; got {successes}, {n}, {confidence}.")
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    center = p + z * z / (2 * n)
    margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)


def _checked(predictions: ArrayLike) -> NDArray[np.floating]:
    """Return predictions as floats. Raise DataError if they are empty or hold NaN, which argmax would hide."""
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


def _single(scores: NDArray[Any]) -> NDArray[Any]:
    """Return (N, ..., 1) or (N,) without the last axis: (N, ...) or (N,)."""
    return scores.reshape(scores.shape[:-1]) if scores.ndim > 1 else scores


def _class_numbers(scores: NDArray[np.floating], labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels, sparse or one-hot, as class numbers of shape (N, ...) for scores (N, ..., C)."""
    if labels.shape == scores.shape:
        return np.asarray(np.argmax(labels, axis=-1))
    if labels.shape in (scores.shape[:-1], (*scores.shape[:-1], 1)):
        return labels.reshape(scores.shape[:-1])
    raise DataError(f"Labels of shape {labels.shape} do not fit predictions of shape {scores.shape}.")


def _aligned(scores: NDArray[np.floating], labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels in the shape of scores; (N,) and (N, 1) match and must never broadcast to (N, N)."""
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
