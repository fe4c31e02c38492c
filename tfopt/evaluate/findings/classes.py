"""The answers of a file by class, and how far its probabilities can be trusted."""

from collections.abc import Sequence

import numpy as np

from tfopt.evaluate.findings.types import Calibration, Classes
from tfopt.tasks.metrics import predicted_classes
from tfopt.tasks.task import Task

BINS = 15
"""Of confidence, as in Guo et al. 2017, section 4."""
SHOWN_CLASSES = 50
"""Classes that a matrix or bars can show; of more, the worst are shown."""
MOST_PAIRS = SHOWN_CLASSES**2
"""Pairs of label and wrong answer that are kept, the most frequent ones."""


def class_numbers(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return `labels`, sparse or one-hot, as class numbers in the shape of `predicted_classes` of `outputs`."""
    classes = outputs.shape[-1]
    if classes > 1 and labels.shape == outputs.shape:
        return np.asarray(labels.argmax(axis=-1))
    return np.asarray(np.rint(labels), np.int64).reshape(outputs.shape[:-1])


def class_findings(
    outputs: np.ndarray, labels: np.ndarray, task: Task, names: Sequence[str] | None, *, logits: bool
) -> Classes:
    """Count labels and answers.

    Args:
        outputs: (N, ..., C) of the file; with C = 1 for class 1 against 0.
        labels: class numbers or one-hot, for each sample or each of its places.
        task: with classes.
        names: of the classes; None numbers them.
        logits: whether outputs are logits rather than probabilities.
    """
    chosen, truth = predicted_classes(outputs, logits=logits).ravel(), class_numbers(labels, outputs).ravel()
    number = max(outputs.shape[-1], 2)
    missed = truth != chosen
    pairs, counts = np.unique(truth[missed] * number + chosen[missed], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    return Classes(
        names=[names[at] if names and at < len(names) else str(at) for at in range(number)],
        unit="places" if task.has_places else "samples",
        support=np.bincount(truth, minlength=number).tolist(),
        predicted=np.bincount(chosen, minlength=number).tolist(),
        right=np.bincount(truth[~missed], minlength=number).tolist(),
        wrong=[(int(pairs[at] // number), int(pairs[at] % number), int(counts[at])) for at in order],
    )


def probabilities(outputs: np.ndarray, *, logits: bool) -> np.ndarray:
    """Return the probabilities (N, ..., max(C, 2)) of exclusive classes that `outputs` (N, ..., C) stand for."""
    scores = outputs.astype(np.float64)
    if outputs.shape[-1] == 1:
        one = 1 / (1 + np.exp(-scores)) if logits else np.clip(scores, 0, 1)
        return np.concatenate([1 - one, one], axis=-1)
    if not logits:
        return np.asarray(np.clip(scores, 0, 1))
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def calibration(outputs: np.ndarray, labels: np.ndarray, *, logits: bool) -> Calibration:
    """Return the reliability of the probabilities of the predicted classes; arguments as for `class_findings`.

    The error is Guo et al. 2017 (arXiv:1706.04599), equation 3: the mean over all samples of |accuracy - confidence|
    of the bin that a sample is in.
    """
    each = probabilities(outputs, logits=logits)
    confidence = each.max(axis=-1).ravel()
    right = (each.argmax(axis=-1) == class_numbers(labels, outputs)).ravel()
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    sure, correct = (np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right))
    return Calibration(
        error=float(np.abs(sure - correct).sum() / len(confidence)),
        count=count.tolist(),
        confidence=_means(sure, count),
        accuracy=_means(correct, count),
    )


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [round(float(total / count), 5) if count else None for total, count in zip(sums, counts, strict=True)]
