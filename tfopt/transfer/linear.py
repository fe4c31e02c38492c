"""Linear heads with a regularization chosen by cross-validation: logistic regression and ridge regression.

Both minimize a convex loss to the end, so there is no learning rate, no number of epochs and no early stopping. With
few samples the L2 penalty matters most, and the training samples alone can choose it.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfopt.tasks import Classification, Multilabel, Regression, Task
from tfopt.tasks.scaling import TargetScale, moments

FOLDS = 5
# Inverse penalties of logistic regression, in the order of fitting: each starts from the one before, and the path ends
# when the loss has grown for several in a row.
STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(-10, 5))
PATIENCE = 3
# Penalties of ridge regression per sample, on features and targets of deviation 1.
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-12, 9))
# Features are divided by this power of their deviation: 1 makes all equally strong, 0 keeps their ratios.
POWERS = (1.0, 0.5, 0.0)
ITERATIONS = 1000


@dataclass(frozen=True)
class LinearHead:
    """One linear layer, outputs = features @ kernel + bias, before the activation of its task.

    Attributes:
        kernel: (width, outputs), float64, for features that are not normalized.
        bias: (outputs,), float64.
        losses: cross-validated loss of each sample (n,); None if there are too few samples.
        quality: cross-validated accuracy, or mean absolute error of values; None likewise.
        note: how it was made, in words.
    """

    kernel: np.ndarray
    bias: np.ndarray
    losses: np.ndarray | None
    quality: float | None
    note: str

    @property
    def loss(self) -> float | None:
        """Cross-validated mean loss per sample."""
        return None if self.losses is None else float(self.losses.mean())


@dataclass(frozen=True)
class _Solved:
    """A solution for normalized features. `scores` returns the outputs before the activation."""

    kernel: np.ndarray
    bias: np.ndarray

    def scores(self, x: np.ndarray) -> np.ndarray:
        scores: np.ndarray = x @ self.kernel + self.bias
        return scores


# From features and labels of one fold to solutions for growing or falling penalties.
_Path = Callable[[np.ndarray, np.ndarray, np.ndarray | None], Iterator[_Solved]]


def fit_linear_head(
    features: np.ndarray,
    labels: np.ndarray,
    task: Task,
    *,
    weights: np.ndarray | None = None,
    seed: int = 0,
    views: int = 1,
) -> LinearHead:
    """Return the linear head for `task` whose L2 penalty has the lowest cross-validated loss.

    Classes get multinomial logistic regression, labels that do not exclude each other one logistic regression each,
    values ridge regression on normalized targets. Features are normalized, as far as the same cross-validation
    suggests; this becomes part of the layer.

    Args:
        features: (n, width) floats.
        labels: (n, ...) in the form of the task.
        task: the task of the labels.
        weights: of the samples in the loss, (n,), not all 0; only their ratios count, and not in the quality.
        seed: of the folds.
        views: the samples are repeated that many times, one whole pass after the other; folds keep them together.

    Returns:
        The head.
    """
    from threadpoolctl import threadpool_limits

    if weights is not None:
        counted = weights > 0
        features, labels, weights = features[counted], labels[counted], weights[counted] / weights[counted].mean()
    kind = _KINDS[type(task)](task, labels)
    targets = kind.targets(labels)
    folds = folds_of(task.groups(labels[: len(labels) // views]), seed, views)
    with threadpool_limits(1):  # these products are too small to share, and threads wait for each other
        tried = [_tried(kind, features, targets, weights, folds, power) for power in (POWERS if folds else POWERS[:1])]
        best = min(tried, key=lambda found: found.losses.mean())
        solved = _nth(kind.path(best.x, targets, weights), best.place)
    kernel = (solved.kernel if best.rotation is None else best.rotation @ solved.kernel) / best.deviation[:, None]
    kernel, bias = kind.folded_back(kernel, solved.bias - best.mean @ kernel)
    note = f"{kind.note(best.place, best.quality, len(folds))}; features divided by their deviation"
    note += "" if best.power == 1 else f" to the power of {best.power:g}"
    return LinearHead(kernel, bias, best.losses if folds else None, best.quality, note)


@dataclass(frozen=True)
class _Tried:
    """The best penalty for one normalization: normalized features `x`, and how they were made."""

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    rotation: np.ndarray | None
    power: float
    place: int
    losses: np.ndarray
    quality: float | None


def _tried(
    kind: "_Kind",
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    folds: list[np.ndarray],
    power: float,
) -> _Tried:
    mean, deviation = moments(features)
    typical = np.sqrt((deviation**2).mean())
    deviation = deviation**power * typical ** (1 - power)
    x, rotation = _rotated((np.asarray(features, np.float64) - mean) / deviation)
    if not folds:
        return _Tried(x, mean, deviation, rotation, power, kind.default, np.zeros(1), None)
    losses, qualities = _validated(kind, x, targets, weights, folds)
    place = _lowest(losses)
    return _Tried(x, mean, deviation, rotation, power, place, losses[place], float(qualities[place].mean()))


def can_fit(task: Task, labels: np.ndarray) -> bool:
    """Return whether `fit_linear_head` knows the task, and the labels differ."""
    return type(task) in _KINDS and len(np.unique(labels, axis=0)) > 1


def worse_by(losses: np.ndarray, best: np.ndarray) -> float:
    """Return how much higher `losses` (n,) are than those of `best` on the same samples, in standard errors.

    Differences that are all the same have no error: they are infinitely many. A single sample says nothing: 0.
    """
    differences = losses - best
    mean, error = float(differences.mean()), float(differences.std() / np.sqrt(len(differences)))
    if error > 0:
        return mean / error
    return math.copysign(math.inf, mean) if mean and len(differences) > 1 else 0.0


def folds_of(groups: np.ndarray, seed: int, views: int = 1) -> list[np.ndarray]:
    """Return the numbers of the samples to hold out in each fold, spread evenly over `groups`; none if that is moot.

    There are no more folds than members of the largest group, so that each fold leaves some of it to learn from.
    """
    counts = np.bincount(np.unique(groups, return_inverse=True)[1])
    number = min(FOLDS, int(counts.max()))
    if number < 2:
        return []
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    later = np.arange(views)[:, None] * len(groups)
    return [(np.sort(order[start::number]) + later).ravel() for start in range(number)]


def _rotated(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return `x` in as few dimensions as it has samples, and the way back; an L2 penalty does not notice (exact)."""
    if x.shape[1] <= len(x):
        return x, None
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    return left * singular, right.T


def _validated(
    kind: "_Kind", x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None, folds: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return loss and quality of each sample, held out once, for each penalty on the path, as far as it is worth.

    The losses are multiplied by the weights.
    """
    rest = [np.setdiff1d(np.arange(len(x)), held) for held in folds]
    paths = [kind.path(x[kept], targets[kept], None if weights is None else weights[kept]) for kept in rest]
    losses: list[np.ndarray] = []
    qualities: list[np.ndarray] = []
    for solutions in zip(*paths, strict=True):
        evaluated = np.empty((2, len(x)))
        for solved, held in zip(solutions, folds, strict=True):
            evaluated[:, held] = kind.evaluated(solved.scores(x[held]), targets[held])
        losses.append(evaluated[0] if weights is None else evaluated[0] * weights)
        qualities.append(evaluated[1])
        if len(losses) - 1 - _lowest(losses) >= PATIENCE:
            break
    return losses, qualities


def _lowest(losses: Sequence[np.ndarray]) -> int:
    return int(np.argmin([each.mean() for each in losses]))


def _nth(path: Iterator[_Solved], number: int) -> _Solved:
    return next(solved for place, solved in enumerate(path) if place == number)


class _Kind:
    """What differs between tasks."""

    default = STRENGTHS.index(1.0)

    def __init__(self, task: Task, labels: np.ndarray) -> None:
        self.task, self.labels = task, labels

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def path(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> Iterator[_Solved]:
        """Yield the solution for each penalty."""
        raise NotImplementedError

    def evaluated(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return loss and quality of each sample: (2, n)."""
        raise NotImplementedError

    def folded_back(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return kernel, bias

    def note(self, best: int, quality: float | None, folds: int) -> str:
        raise NotImplementedError


class _Classes(_Kind):
    def targets(self, labels: np.ndarray) -> np.ndarray:
        return self.task.groups(labels)

    def path(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> Iterator[_Solved]:
        found = np.unique(targets)
        for kernel, bias in _logistic_path(x, targets, weights):
            if len(found) == 1:
                kernel, bias = np.zeros((x.shape[1], 1)), np.zeros(1)
            elif len(found) == 2:  # one score for the second class: the same probabilities, from two
                kernel, bias = np.hstack([-kernel, kernel]) / 2, np.concatenate([-bias, bias]) / 2
            yield self._for_all(kernel, bias, found, x)

    def _for_all(self, kernel: np.ndarray, bias: np.ndarray, found: np.ndarray, x: np.ndarray) -> _Solved:
        """Return the solution with all classes; those without samples stay below all scores of the others."""
        whole = np.zeros((len(kernel), self.task.outputs))
        lowest = (x @ kernel + bias).min() - np.log(len(x) + 1)
        offsets = np.full(self.task.outputs, lowest)
        whole[:, found], offsets[found] = kernel, bias
        return _Solved(whole, offsets)

    def evaluated(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        top = scores.max(axis=1, keepdims=True)
        normalizer = top[:, 0] + np.log(np.exp(scores - top).sum(axis=1))
        loss = normalizer - scores[np.arange(len(scores)), targets]
        return np.stack([loss, scores.argmax(axis=1) == targets])

    def note(self, best: int, quality: float | None, folds: int) -> str:
        return f"multinomial logistic regression, {_strength(best, quality, folds, 'accuracy')}"


class _Labels(_Kind):
    def path(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> Iterator[_Solved]:
        for parts in zip(*[_logistic_path(x, column, weights) for column in targets.T], strict=True):
            kernels, biases = zip(*parts, strict=True)
            yield _Solved(np.hstack(kernels), np.concatenate(biases))

    def evaluated(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        loss = np.logaddexp(0, scores) - targets * scores
        return np.stack([loss.mean(axis=1), ((scores > 0) == (targets > 0.5)).mean(axis=1)])

    def note(self, best: int, quality: float | None, folds: int) -> str:
        return f"a logistic regression for each label, {_strength(best, quality, folds, 'accuracy per label')}"


class _Values(_Kind):
    default = PENALTIES.index(1.0)

    def __init__(self, task: Task, labels: np.ndarray) -> None:
        super().__init__(task, labels)
        self.scale = TargetScale.of(labels)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return self.scale.normalized(labels).reshape(len(labels), -1)

    def path(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> Iterator[_Solved]:
        from sklearn.linear_model import Ridge

        for penalty in PENALTIES:
            total = len(x) if weights is None else weights.sum()
            fitted = Ridge(alpha=penalty * total).fit(x, targets, weights)
            yield _Solved(np.atleast_2d(fitted.coef_).T, np.atleast_1d(fitted.intercept_))

    def evaluated(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        error = scores - targets
        return np.stack([(error**2).mean(axis=1), np.abs(error * self.scale.deviation).mean(axis=1)])

    def folded_back(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.scale.restored(kernel, bias)

    def note(self, best: int, quality: float | None, folds: int) -> str:
        base = np.abs(self.labels.reshape(len(self.labels), -1) - self.scale.mean).mean()
        if quality is None:
            return "ridge regression on normalized targets, alpha = 1 per sample: too few samples to choose it"
        return (
            f"ridge regression on normalized targets, alpha = {PENALTIES[best]:.3g} per sample: "
            f"mean absolute error {quality:.4g} in {folds}-fold cross-validation (predicting the mean: {base:.4g})"
        )


_KINDS: dict[type[Task], type[_Kind]] = {Classification: _Classes, Multilabel: _Labels, Regression: _Values}


def _strength(best: int, quality: float | None, folds: int, name: str) -> str:
    if quality is None:
        return f"C = {STRENGTHS[best]:g}: too few samples to choose it"
    return f"C = {STRENGTHS[best]:.3g}: {name} {quality:.4f} in {folds}-fold cross-validation"


def _logistic_path(
    x: np.ndarray, targets: np.ndarray, weights: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield kernel (width, k) and bias (k,) for each of `STRENGTHS`; k is 1 for two classes.

    Targets that are all equal have no solution: their score is the smoothed log odds of the value.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(targets)) < 2:
        odds = np.log(2 * len(targets) + 1) * (1 if targets[0] else -1)
        yield from ((np.zeros((x.shape[1], 1)), np.array([odds])) for _ in STRENGTHS)
        return
    fitted = LogisticRegression(warm_start=True, max_iter=ITERATIONS)
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.set_params(C=strength).fit(x, targets, weights)
        yield fitted.coef_.T.copy(), fitted.intercept_.copy()
