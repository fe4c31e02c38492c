"""Transferability scores against evidence maximized by SciPy, definitions written out, and scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf

from tfopt.errors import DataError
from tfopt.transfer.scores import h_score, leep, logme

RNG = np.random.default_rng(3)
CLASSES = np.arange(60) % 3
CENTERS = RNG.normal(size=(3, 8))
GOOD = CENTERS[CLASSES] + 0.7 * RNG.normal(size=(60, 8))
NOISE = RNG.normal(size=(60, 8))
VALUES = GOOD @ RNG.normal(size=(8, 2)) + RNG.normal(size=(60, 2))


def evidence(features, target):
    """The log evidence per sample at the best precisions: y is normal with covariance I / beta + F F' / alpha."""
    gram = features @ features.T

    def negative(logs):
        alpha, beta = np.exp(np.clip(logs, -30, 30))
        covariance = np.eye(len(target)) / beta + gram / alpha
        _, log_size = np.linalg.slogdet(2 * np.pi * covariance)
        return (log_size + target @ np.linalg.solve(covariance, target)) / (2 * len(target))

    largest = np.log(np.abs(gram).max())
    starts = [(largest - 3, 1.0), (largest, 3.0), (largest + 3, 1.0)]
    return -min(minimize(negative, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).fun
                for start in starts)  # fmt: skip


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(GOOD, id="tall"),
        pytest.param(GOOD[:, :1], id="one dimension"),
        pytest.param(np.hstack([GOOD, 2 * GOOD]), id="rank 8 of 16"),
        pytest.param(np.hstack([GOOD, RNG.normal(size=(60, 80))]), id="wide"),
        pytest.param(GOOD.astype("float32"), id="float32"),
        pytest.param(1000 * GOOD, id="large"),
    ],
)
def test_logme_is_the_largest_evidence(features):
    by_class = [evidence(features.astype(np.float64), (c == CLASSES).astype(float)) for c in range(3)]
    assert logme(features, CLASSES) == pytest.approx(np.mean(by_class), abs=1e-5)
    by_column = [evidence(features.astype(np.float64), column) for column in VALUES.T]
    assert logme(features, VALUES) == pytest.approx(np.mean(by_column), abs=1e-5)
    assert logme(features, VALUES[:, 0]) == pytest.approx(by_column[0], abs=1e-5)


def test_logme_of_any_names_of_the_classes():
    assert logme(GOOD, CLASSES * 7 - 3) == pytest.approx(logme(GOOD, CLASSES))


def test_logme_where_the_features_know_everything_or_nothing():
    exact = logme(np.eye(3)[CLASSES], CLASSES)
    assert np.isfinite(exact)
    assert exact > logme(GOOD, CLASSES)
    alone = np.mean([-0.5 * np.log(2 * np.pi * np.mean(y**2)) - 0.5 for y in (np.eye(3)[CLASSES]).T])
    assert logme(np.zeros((60, 4)), CLASSES) == pytest.approx(alone)  # a normal distribution around 0


def rotated(features):
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(8, 8)))
    return features @ rotation


@pytest.mark.parametrize("score", [logme, h_score, lambda f, y: h_score(f, y, shrinkage=0.0)])
def test_rotation_changes_nothing_and_informative_features_rank_above_noise(score):
    assert score(rotated(GOOD), CLASSES) == pytest.approx(score(GOOD, CLASSES), rel=1e-6)
    mixed = GOOD + 1.5 * NOISE
    assert score(GOOD, CLASSES) > score(mixed, CLASSES) > score(NOISE, CLASSES)


# LEEP ---------------------------------------------------------------------------------------------


def test_leep_of_four_samples_by_hand():
    theta = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    labels = np.array([0, 0, 1, 1])
    # Joint sums: of class 0 (1.6, 0.4), of class 1 (0.6, 1.4); of the source's classes (2.2, 1.8).
    given_0, given_1 = (1.6 / 2.2, 0.4 / 1.8), (0.6 / 2.2, 1.4 / 1.8)
    expected = np.mean([
        np.log(0.9 * given_0[0] + 0.1 * given_0[1]),
        np.log(0.7 * given_0[0] + 0.3 * given_0[1]),
        np.log(0.2 * given_1[0] + 0.8 * given_1[1]),
        np.log(0.4 * given_1[0] + 0.6 * given_1[1]),
    ])  # fmt: skip
    assert leep(theta, labels) == pytest.approx(expected, rel=1e-12)


def test_leep_of_a_source_that_knows_the_classes_under_other_names_is_0():
    assert leep(np.eye(5)[[4, 0, 2]][CLASSES], CLASSES + 10) == 0  # two of its five classes never occur


def test_leep_of_a_constant_source_is_the_entropy_of_the_labels():
    labels = np.array([0, 0, 0, 1])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert leep(np.tile([0.2, 0.3, 0.5], (4, 1)), labels) == pytest.approx(-entropy)


def test_leep_ranks_a_source_that_sees_the_classes_above_one_that_guesses():
    def softmax(scores):
        return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)

    assert leep(softmax(GOOD @ CENTERS.T), CLASSES) > leep(softmax(NOISE), CLASSES)


# H-score ------------------------------------------------------------------------------------------


def definition(features, labels, covariance, factor=1.0):
    means = np.array([features[labels == label].mean(axis=0) for label in labels])  # E[f | y] of each sample
    return factor * np.trace(np.linalg.pinv(covariance) @ np.atleast_2d(np.cov(means.T, bias=True)))


@pytest.mark.parametrize("labels", [CLASSES, np.arange(60) // 50], ids=["even", "uneven"])
def test_h_score_by_its_definition(labels):
    covariance = np.cov(GOOD.T, bias=True)
    assert h_score(GOOD, labels, shrinkage=0.0) == pytest.approx(definition(GOOD, labels, covariance), rel=1e-9)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 8 * np.eye(8)
    assert h_score(GOOD, labels, shrinkage=0.3) == pytest.approx(definition(GOOD, labels, shrunk, 0.7), rel=1e-9)


@pytest.mark.parametrize("dimensions", [1, 8, 200])
def test_h_score_shrinks_as_ledoit_and_wolf(dimensions):
    features = np.hstack([GOOD, RNG.normal(size=(60, 200))])[:, :dimensions]
    covariance, share = ledoit_wolf(features)
    assert h_score(features, CLASSES) == pytest.approx(definition(features, CLASSES, covariance, 1 - share), rel=1e-9)


def test_h_score_of_separate_classes_is_their_number_less_one_and_scale_does_not_matter():
    assert h_score(np.eye(3)[CLASSES], CLASSES, shrinkage=0.0) == pytest.approx(2)
    stretched = GOOD @ np.diag(10.0 ** np.linspace(-2, 2, 8))
    assert h_score(stretched, CLASSES, shrinkage=0.0) == pytest.approx(h_score(GOOD, CLASSES, shrinkage=0.0))


def test_shrinkage_helps_where_samples_are_few():
    """In 500 dimensions anything separates 60 samples: without shrinkage, noise scores as well as the truth."""
    wide, noise = (RNG.normal(size=(60, 500)) for _ in range(2))
    wide[:, :8] += 3 * CENTERS[CLASSES]
    assert h_score(wide, CLASSES, shrinkage=0.0) == pytest.approx(h_score(noise, CLASSES, shrinkage=0.0))
    assert h_score(wide, CLASSES) > 2 * h_score(noise, CLASSES)


# Bad input ----------------------------------------------------------------------------------------

SURE = np.eye(3)[CLASSES]
BROKEN = np.where(np.arange(60)[:, None] == 7, np.nan, GOOD)


@pytest.mark.parametrize(
    ("score", "features", "labels", "message"),
    [
        (logme, GOOD[:, 0], CLASSES, r"features \(samples, dimensions\) of numbers; got float64 \(60,\)"),
        (logme, GOOD[:, :0], CLASSES, r"got float64 \(60, 0\)"),
        (logme, GOOD.astype(str), CLASSES, r"got <U"),
        (logme, GOOD, CLASSES[:50], r"labels \(60,\) or \(60, k\).*got int64 \(50,\)"),
        (logme, GOOD, CLASSES.astype(str), r"labels .* of numbers"),
        (logme, GOOD[:1], CLASSES[:1], "at least two samples"),
        (logme, BROKEN, CLASSES, "NaN or infinity"),
        (logme, GOOD, np.where(np.arange(60) == 3, np.inf, VALUES[:, 0]), "NaN or infinity"),
        (logme, GOOD, np.zeros(60, int), "at least two classes; all samples are of class 0"),
        (logme, GOOD, np.hstack([VALUES, np.ones((60, 1))]), "one column has the same value"),
        (leep, SURE, VALUES[:, 0], r"classes, \(samples,\) of ints; got float64 \(60,\)"),
        (leep, SURE, SURE.astype(int), r"got int64 \(60, 3\)"),
        (leep, SURE * 2, CLASSES, "apply a softmax"),
        (leep, GOOD, CLASSES, "apply a softmax"),
        (leep, SURE, np.full(60, 4), "all samples are of class 4"),
        (leep, BROKEN, CLASSES, "NaN or infinity"),
        (h_score, GOOD, VALUES[:, 0], "of ints"),
        (h_score, np.ones((60, 3)), CLASSES, "features that differ"),
        (h_score, GOOD, np.full(60, 4), "all samples are of class 4"),
        (h_score, BROKEN, CLASSES, "NaN or infinity"),
        (lambda f, y: h_score(f, y, shrinkage=1.0), GOOD, CLASSES, "from 0 to less than 1; got 1.0"),
        (lambda f, y: h_score(f, y, shrinkage=-0.1), GOOD, CLASSES, "got -0.1"),
    ],
)
def test_bad_input(score, features, labels, message):
    with pytest.raises(DataError, match=message):
        score(features, labels)
