"""Transferability scores, computed without training: LogME, LEEP and the H-score.

Each takes a source's outputs for the samples of the target task and returns one number; higher is better. Scores of one
kind on the same labels are comparable, others are not. Arithmetic is in float64.
"""

import math

import numpy as np

from tfopt.data.check import check_bytes
from tfopt.errors import DataError

# The evidence of LogME has converged when it changes by less than this fraction. You et al. allow 1e-3; an
# iteration costs next to nothing once the singular values are known.
CONVERGED = 1e-10
ITERATIONS = 10_000


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """Return LogME: the mean log evidence per sample of linear models from `features` to `labels` (You et al. 2021).

    arXiv:2102.11005: maximized over the precisions alpha of the weights and beta of the noise by the paper's
    fixed-point iteration. Classes use one model for each class against the rest, values one for each column; the score
    is their mean.

    Args:
        features: (n, d), float.
        labels: (n,) ints, the classes; or regression targets: (n,) floats, or (n, k) of any numbers.

    Returns:
        The score, in nats.

    Raises:
        DataError: wrong shapes, fewer than two samples or two classes, a value that is not finite, or a constant column
            of values.

    Examples:
        >>> features = tfopt.transfer.feature_extractor(teacher).predict(x, verbose=0)
        >>> noise = np.random.default_rng(0).normal(size=features.shape)
        >>> tfopt.transfer.logme(features, y) > tfopt.transfer.logme(noise, y)
        True
    """
    features, labels = _checked(features, labels)
    targets = _one_hot(labels) if _are_classes(labels) else labels.reshape(len(labels), -1).astype(np.float64)
    if np.any(np.ptp(targets, axis=0) == 0):
        raise DataError("Expected labels that differ; one column has the same value in all samples.")
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    keep = singular > singular.max(initial=0.0) * max(features.shape) * np.finfo(np.float64).eps
    left, squares = left[:, keep], singular[keep] ** 2
    return float(np.mean([_evidence(left, squares, target, features.shape[1]) for target in targets.T]))


def _evidence(left: np.ndarray, squares: np.ndarray, target: np.ndarray, dimensions: int) -> float:
    """Return the maximum log evidence per sample. `left` (n, r), `squares` (r,): of F F^T; `target` (n,)."""
    n = len(target)
    along = (left.T @ target) ** 2
    total = float(target @ target)
    beside = max(total - float(along.sum()), 0.0)  # the part of the target that no weights can fit
    tiny = total * np.finfo(np.float64).eps  # if the features fit the target exactly, beta is unbounded
    alpha = beta = 1.0
    best = -math.inf
    for _ in range(ITERATIONS):
        curvature = alpha + beta * squares
        length = float((beta**2 * squares * along / curvature**2).sum())  # |m|^2
        residual = beside + float(((alpha / curvature) ** 2 * along).sum())  # |F m - y|^2
        evidence = (
            n * math.log(beta / (2 * math.pi)) + len(squares) * math.log(alpha) - float(np.log(curvature).sum())
            - beta * residual - alpha * length
        ) / (2 * n)  # fmt: skip
        if abs(evidence - best) <= CONVERGED * max(1.0, abs(evidence)):
            break
        best = evidence
        effective = float((beta * squares / curvature).sum())  # gamma
        alpha = max(effective, np.finfo(np.float64).eps) / max(length, tiny / dimensions)
        beta = max(n - effective, np.finfo(np.float64).eps) / max(residual, tiny)
    return evidence


def leep(source_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return LEEP: the mean log likelihood of `labels` under the source's classes (Nguyen et al., ICML 2020).

    arXiv:2002.12462: log sum_z P(y | z) theta(x)_z, where P(y | z) comes from the empirical joint distribution of
    labels and the source's probabilities theta on these samples. At most 0, which it reaches if the source's classes
    determine the target's.

    Args:
        source_probabilities: (n, z), the output of a classifier of other classes for each sample; rows sum to one.
        labels: (n,) ints, the classes.

    Returns:
        The score, in nats.

    Raises:
        DataError: wrong shapes, fewer than two classes, a value that is not finite, or rows that are not probabilities.

    Examples:
        >>> certain = np.eye(2)[[0, 0, 1, 1]]  # the source's classes are those of the labels
        >>> round(tfopt.transfer.leep(certain, np.array([1, 1, 0, 0])), 6)
        0.0
    """
    probabilities, labels = _checked(source_probabilities, labels)
    members = _one_hot(_classes(labels))
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise DataError(
            "Expected probabilities of the source's classes, each row 0 or more and summing to 1; apply a softmax to "
            "scores first."
        )
    joint = members.T @ probabilities  # (classes, z)
    marginal = joint.sum(axis=0)
    given = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    likelihood = (probabilities @ given.T)[members.astype(bool)]
    return float(np.log(likelihood).mean())


def h_score(features: np.ndarray, labels: np.ndarray, *, shrinkage: float | None = None) -> float:
    """Return the H-score: tr(cov(f)^-1 cov(E[f | y])), the class separation of `features` (Bao et al., ICIP 2019).

    With few samples the inverse is noisy; so the covariance of the features is shrunk toward a multiple of the
    identity, (1 - s) cov(f) + s tr(cov(f)) / d, and the covariance of the class means is multiplied by 1 - s (Ibrahim
    et al. 2021, arXiv:2110.06893).

    Args:
        features: (n, d), float.
        labels: (n,) ints, the classes.
        shrinkage: s, from 0 to less than 1: 0 is the score of Bao et al. with a pseudo-inverse. None estimates it from
            the features as Ledoit & Wolf 2004 do.

    Returns:
        The score.

    Raises:
        DataError: wrong shapes, fewer than two classes, a value that is not finite, constant features, or shrinkage out
            of range.

    Examples:
        >>> features = tfopt.transfer.feature_extractor(teacher).predict(x, verbose=0)
        >>> tfopt.transfer.h_score(features, y) > 0
        True
    """
    features, labels = _checked(features, labels)
    members = _one_hot(_classes(labels))
    if shrinkage is not None and not 0 <= shrinkage < 1:
        raise DataError(f"Expected a shrinkage from 0 to less than 1; got {shrinkage}.")
    centered = features - features.mean(axis=0)
    covariance = centered.T @ centered / len(features)
    scale = float(np.trace(covariance)) / len(covariance)
    if scale == 0:
        raise DataError("Expected features that differ; all samples have the same.")
    share = _ledoit_wolf(centered, covariance) if shrinkage is None else shrinkage
    shrunk = (1 - share) * covariance + share * scale * np.eye(len(covariance))
    counts = members.sum(axis=0)
    means = members.T @ centered / counts[:, None]  # (classes, d)
    inverse = np.linalg.pinv(shrunk, hermitian=True)
    return float((1 - share) * np.einsum("c,ci,ij,cj->", counts / len(features), means, inverse, means, optimize=True))


def _ledoit_wolf(centered: np.ndarray, covariance: np.ndarray) -> float:
    """Return the optimal expected shrinkage: the noise of the covariance over its distance from the identity."""
    n, d = centered.shape
    scale = np.trace(covariance) / d
    distance = float(((covariance - scale * np.eye(d)) ** 2).sum())
    noise = float((centered**2).sum(axis=1) @ (centered**2).sum(axis=1)) / n**2 - float((covariance**2).sum()) / n
    return min(max(noise, 0.0) / distance, 1.0) if distance > 0 else 0.0


def _checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `features` in float64 and `labels` unchanged, both finite and of equal length."""
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or not features.size or features.dtype.kind not in "fiub":
        raise DataError(f"Expected features (samples, dimensions) of numbers; got {features.dtype} {features.shape}.")
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "fiub" or len(labels) != len(features):
        raise DataError(
            f"Expected labels ({len(features)},) or ({len(features)}, k) of numbers, one for each sample; "
            f"got {labels.dtype} {labels.shape}."
        )
    if len(features) < 2:
        raise DataError("Expected at least two samples; got one.")
    features = features.astype(np.float64)
    if not np.isfinite(features).all() or not np.isfinite(labels).all():
        raise DataError("Expected finite numbers; got NaN or infinity among features or labels.")
    return features, labels


def _are_classes(labels: np.ndarray) -> bool:
    return labels.ndim == 1 and labels.dtype.kind in "iub"


def _classes(labels: np.ndarray) -> np.ndarray:
    if not _are_classes(labels):
        raise DataError(f"Expected classes, (samples,) of ints; got {labels.dtype} {labels.shape}.")
    return labels


def _one_hot(labels: np.ndarray) -> np.ndarray:
    """Return (n, classes) float64, one column for each class that occurs."""
    found, numbers = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise DataError(f"Expected at least two classes; all samples are of class {found[0]}.")
    check_bytes(8 * len(found) * (len(found) + len(labels)), f"{len(found):,} classes of {len(labels):,} samples")
    return np.eye(len(found))[numbers]
