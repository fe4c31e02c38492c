"""How well features will transfer to a task, told before anything is trained: LogME, LEEP and the H-score.

All take what a source gives for the samples of the target task, and give one number; the higher, the better the source.
Scores of one kind on the same labels can be compared, others cannot. Arithmetic is in float64.
"""

import math

import numpy as np

from tfopt.data.check import check_bytes
from tfopt.errors import DataError

# The evidence of LogME is at its fixed point when it changes by less than this share. You et al. allow 1e-3; an
# iteration costs next to nothing once the singular values are known.
CONVERGED = 1e-10
ITERATIONS = 10_000


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME: the mean log evidence per sample of linear models of `labels` on `features` (You et al., ICML 2021).

    arXiv:2102.11005: maximised over the precisions alpha of the weights and beta of the noise by the paper's fixed
    point iteration. For classes one model for each class against the rest, for values one for each column; the mean
    over them.

    Args:
        features: (n, d), float.
        labels: (n,) ints, the classes; or values to be regressed: (n,) floats, or (n, k) of any numbers.

    Raises:
        DataError: other shapes, fewer than two samples or two classes, a value that is not finite, or a column of
            values that are all the same.
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
    """The largest log evidence per sample. `left` (n, r), `squares` (r,): of F F^T; `target` (n,)."""
    n = len(target)
    along = (left.T @ target) ** 2
    total = float(target @ target)
    beside = max(total - float(along.sum()), 0.0)  # of the target, what no weights can give
    tiny = total * np.finfo(np.float64).eps  # where features fit the target to the last bit, beta has no bound
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
    """LEEP: the mean log likelihood of `labels` under the source's classes (Nguyen et al., ICML 2020).

    arXiv:2002.12462: log sum_z P(y | z) theta(x)_z, where P(y | z) is what labels and the source's
    probabilities theta have in common on these samples. At most 0, which it is when the source's classes tell those of
    the target without doubt.

    Args:
        source_probabilities: (n, z), what a classifier of other classes says of each sample; rows sum to one.
        labels: (n,) ints, the classes.

    Raises:
        DataError: other shapes, fewer than two classes, a value that is not finite, or rows that are no probabilities.
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
    """H-score: tr(cov(f)^-1 cov(E[f | y])), how far apart `features` hold the classes (Bao et al., ICIP 2019).

    With few samples the inverse is noise; so the covariance of the features is shrunk towards a multiple of the
    identity, (1 - s) cov(f) + s tr(cov(f)) / d, and the covariance of the class means is multiplied by 1 - s (Ibrahim
    et al. 2021, arXiv:2110.06893).

    Args:
        features: (n, d), float.
        labels: (n,) ints, the classes.
        shrinkage: s, from 0 to less than 1: 0 is the score of Bao et al. with a pseudo-inverse. None takes that of
            Ledoit & Wolf 2004, which is estimated from the features.

    Raises:
        DataError: other shapes, fewer than two classes, a value that is not finite, features that are all the same, or
            shrinkage out of range.
    """
    features, labels = _checked(features, labels)
    members = _one_hot(_classes(labels))
    if shrinkage is not None and not 0 <= shrinkage < 1:
        raise DataError(f"Expected a shrinkage from 0 to less than 1; got {shrinkage}.")
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / len(features)
    scale = float(np.trace(covariance)) / len(covariance)
    if scale == 0:
        raise DataError("Expected features that differ; all samples have the same.")
    share = _ledoit_wolf(centred, covariance) if shrinkage is None else shrinkage
    shrunk = (1 - share) * covariance + share * scale * np.eye(len(covariance))
    counts = members.sum(axis=0)
    means = members.T @ centred / counts[:, None]  # (classes, d)
    inverse = np.linalg.pinv(shrunk, hermitian=True)
    return float((1 - share) * np.einsum("c,ci,ij,cj->", counts / len(features), means, inverse, means, optimize=True))


def _ledoit_wolf(centred: np.ndarray, covariance: np.ndarray) -> float:
    """The shrinkage that is best in expectation: the noise of the covariance over its distance from the identity."""
    n, d = centred.shape
    scale = np.trace(covariance) / d
    distance = float(((covariance - scale * np.eye(d)) ** 2).sum())
    noise = float((centred**2).sum(axis=1) @ (centred**2).sum(axis=1)) / n**2 - float((covariance**2).sum()) / n
    return min(max(noise, 0.0) / distance, 1.0) if distance > 0 else 0.0


def _checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`features` in float64 and `labels` as they are, both finite and as many."""
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
    """(n, classes) float64, a column for each class that occurs."""
    found, numbers = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise DataError(f"Expected at least two classes; all samples are of class {found[0]}.")
    check_bytes(8 * len(found) * (len(found) + len(labels)), f"{len(found):,} classes of {len(labels):,} samples")
    return np.eye(len(found))[numbers]
