"""Expected values are counted by hand, computed differently in NumPy, or taken from published tables."""

import zlib

import numpy as np
import pytest

from tfopt.base import weight_statistics
from tfopt.errors import DataError, ModelError
from tfopt.tasks import metrics, task_named


def test_sparsity_counts_exact_zeros_of_both_signs() -> None:
    assert weight_statistics.sparsity([[0.0, -0.0, 1e-30], [1, 2, 0]]) == 0.5
    assert weight_statistics.sparsity(np.zeros((0, 3))) == 0.0


@pytest.mark.parametrize(("axis", "expected"), [(None, 5), (0, 3), (1, 2), (-1, 2)])
def test_unique_weights_is_the_largest_number_in_one_slice(axis: int | None, expected: int) -> None:
    assert weight_statistics.unique_weights([[1, 2, 3], [4, 5, 5]], axis) == expected


def test_deflated_bytes_can_be_inflated_to_the_data() -> None:
    data = bytes(1000)
    assert weight_statistics.deflated_bytes(data) < 30
    assert weight_statistics.deflated_bytes(data) == len(zlib.compress(data, level=9))


def test_zeros_in_blocks() -> None:
    weights = np.array([[0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]])
    # Seven zeros; the top-left 2 x 2 block and the cut block at the lower right hold six of them.
    assert weight_statistics.zeros_in_blocks(weights, (2, 2)) == pytest.approx(6 / 7)
    assert weight_statistics.zeros_in_blocks(weights, (1, 1)) == 1.0
    assert weight_statistics.zeros_in_blocks(weights, (1, 4)) == 0.0
    assert weight_statistics.zeros_in_blocks(weights[None, None], (2, 2)) == pytest.approx(6 / 7)
    assert weight_statistics.zeros_in_blocks(np.ones((2, 2)), (2, 2)) == 1.0


def test_zeros_in_blocks_refuses_convolutions() -> None:
    with pytest.raises(ModelError, match=r"\(3, 3, 2, 2\)"):
        weight_statistics.zeros_in_blocks(np.zeros((3, 3, 2, 2)), (2, 2))


def test_m_by_n_runs_along_the_input_channels() -> None:
    dense = np.array([[1, 0], [0, 0], [0, 3], [2, 4]], float)  # (in 4, out 2): two zeros in each column
    assert weight_statistics.m_by_n_holds(dense, 2, 4)
    assert not weight_statistics.m_by_n_holds(dense, 3, 4)
    assert not weight_statistics.m_by_n_holds(dense.T, 1, 2)  # its first column is 1, 0; its last is 2, 4
    conv = np.zeros((1, 2, 4, 3))
    conv[0, 1, :2, 2] = 1
    assert weight_statistics.m_by_n_holds(conv, 2, 4)
    conv[0, 1, 3, 2] = 1
    assert not weight_statistics.m_by_n_holds(conv, 2, 4)


def test_m_by_n_lets_the_cut_group_hold_n_minus_m_values() -> None:
    kernel = np.array([[0], [0], [1], [1], [1], [1]], float)
    assert weight_statistics.m_by_n_holds(kernel, 2, 4)
    assert not weight_statistics.m_by_n_holds(np.concatenate([kernel, [[1]]]), 2, 4)


@pytest.mark.parametrize(("shape", "m", "n"), [((3, 4, 4), 2, 4), ((4, 4), 4, 4), ((4, 4), 0, 4)])
def test_m_by_n_refuses(shape: tuple[int, ...], m: int, n: int) -> None:
    with pytest.raises(ModelError, match="rank 2 or 4"):
        weight_statistics.m_by_n_holds(np.zeros(shape), m, n)


SCORES = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]]


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [[1], [0], [0], [0]], np.eye(3)[[1, 0, 0, 0]]])
def test_accuracy_takes_every_kind_of_label(labels: list) -> None:
    assert metrics.accuracy(SCORES, labels) == 0.5


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("label_shape", [(4,), (4, 1)])
def test_accuracy_of_a_sigmoid(shape: tuple[int, ...], label_shape: tuple[int, ...]) -> None:
    probabilities = np.array([0.9, 0.5, 0.6, 0.1]).reshape(shape)  # 0.5 itself is class 0
    assert metrics.accuracy(probabilities, np.array([1, 0, 0, 1]).reshape(label_shape)) == 0.5


def test_accuracy_of_pixels() -> None:
    scores = np.eye(3)[[[0, 1], [2, 2]]]  # (2, 2, 3)
    assert metrics.accuracy(scores, [[0, 1], [2, 0]]) == 0.75


@pytest.mark.parametrize("labels", [[0, 1], np.zeros((4, 2)), [[0, 1, 2, 0]]])
def test_accuracy_refuses_labels_that_do_not_fit(labels: list) -> None:
    with pytest.raises(DataError, match=r"\(4, 3\)"):
        metrics.accuracy(SCORES, labels)


def test_nan_is_not_scored() -> None:
    with pytest.raises(DataError, match="1 of 2 predictions are NaN"):
        task_named("classification").metrics([[np.nan, 0.5]], [0])


def test_binary_accuracy_counts_each_label() -> None:
    assert metrics.binary_accuracy([[0.9, 0.2, 0.6], [0.4, 0.5, 0.51]], [[1, 0, 0], [1, 0, 1]]) == 4 / 6


def test_errors_of_a_regression_never_broadcast() -> None:
    predictions, labels = np.array([[1.0], [2.0], [5.0]]), np.array([1.0, 4.0, 4.0])
    assert metrics.mean_squared_error(predictions, labels) == pytest.approx(5 / 3)
    assert metrics.mean_absolute_error(predictions, labels) == pytest.approx(1.0)
    with pytest.raises(DataError, match="do not fit"):
        metrics.mean_squared_error(np.zeros((3, 1)), np.zeros((1, 3)))


@pytest.mark.parametrize(("k", "expected"), [(1, 0.25), (2, 0.75), (3, 1.0)])
def test_top_k_accuracy(k: int, expected: float) -> None:
    assert metrics.top_k_accuracy(SCORES, [1, 1, 0, 0], k) == expected


def test_top_k_accuracy_refuses_unknown_classes() -> None:
    with pytest.raises(DataError, match="from 0 to 2; got 0 to 3"):
        metrics.top_k_accuracy(SCORES, [0, 1, 2, 3])


def test_agreement() -> None:
    other = [[0, 2, 1], [9, 0, 0], [7, 0, 0], [0, 0, 1]]
    assert metrics.agreement(SCORES, other) == 0.5
    assert metrics.agreement([0.9, 0.1], [0.6, 0.6]) == 0.5


def test_a_task_names_its_metrics() -> None:
    assert task_named("classification").metrics(SCORES, [1, 0, 2, 1]) == {"accuracy": 1.0}
    assert task_named("multilabel").metrics([[0.9, 0.9]], [[1, 0]]) == {"binary_accuracy": 0.5}
    assert task_named("regression").metrics([1.0, 2.0], [3.0, 2.0]) == {"mse": 2.0, "mae": 1.0}
    with pytest.raises(DataError, match="classification, multilabel, regression"):
        task_named("clustering")


def test_wilson_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert metrics.wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    with pytest.raises(DataError):
        metrics.wilson_interval(3, 2)
