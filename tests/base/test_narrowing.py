"""What float32 cannot tell apart: spacings by hand. At 1.7e9 numbers are 128 apart, at 1e9 64, at 1e6 1/16."""

from contextlib import nullcontext

import numpy as np
import pytest

from tfopt.base import narrowing
from tfopt.base.narrowing import check_float32
from tfopt.data import load_data, load_series
from tfopt.errors import DataError

STEPS = np.arange(300)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            1.7e9 + STEPS,
            "from 1700000000 to 1700000299 with a standard deviation of 86.6: .* up to 64, and 3 of 300 diff",
        ),
        (1_700_000_000 + STEPS, "3 of 300 different values are left"),
        (1e9 + np.sin(STEPS), "a standard deviation of 0.706: rounding changes them by up to 1, and 1 of 300"),
        (np.where(STEPS % 2, 1e39, 2e39), "up to inf, and 1 of 2"),
    ],
)
def test_lost_values(values, words):
    with pytest.raises(DataError, match=f"^Expected labels that float32, .* apart, got values .*{words}"):
        check_float32("labels", [values])


@pytest.mark.parametrize(
    "values",
    [
        1.7e9 + 86400.0 * STEPS,  # days: a deviation of 7.5e6 against errors below 64
        np.full(300, 0.1),
        np.full(300, 1.7e9 + 1),
        np.where(STEPS % 2, 0.1 * 3, 0.3),  # a constant that is computed in two ways
        np.where(STEPS == 7, 0.996, 1.0),
        np.where(STEPS == 7, 1.0, 0.996),
        np.random.default_rng(0).random(300),
        2e-40 * STEPS,
        (1.7e9 + STEPS).astype(np.float32),  # given so: nothing is narrowed
        2023 + STEPS // 12 + STEPS % 12 / 12,
        (1.7e9 + STEPS)[:7],
    ],
)
def test_values_that_lose_nothing_that_matters(values):
    check_float32("labels", [values])


@pytest.mark.parametrize(("deviation", "lost"), [(15, True), (16, False)])
def test_the_limit_is_a_thousandth_of_the_deviation(deviation, lost):
    """A 1/32 on half of the values at 1e6 is rounded off: the errors deviate by 1/64, 1e-3 of 15.6."""
    values = 1e6 + np.where(STEPS % 2, 1, -1) * deviation + np.where(STEPS // 2 % 2, 1 / 32, 0)
    expected = (
        pytest.raises(DataError, match=r"rounding changes them by up to 0.0312, and 2 of 4") if lost else nullcontext()
    )
    with expected:
        check_float32("labels", [values])


def test_an_error_that_all_values_share_loses_nothing():
    check_float32("labels", [1e6 + 0.01 + 2 * (STEPS % 2)])  # a tick of 0.01 below what float32 holds, on both


def test_columns_are_compared_over_all_parts_and_all_slices(monkeypatch):
    far = np.stack([STEPS, 1.7e9 + STEPS], 1)
    with pytest.raises(DataError, match="Expected column 1 of inputs that float32"):
        check_float32("inputs", [far])
    check_float32("inputs", [far[:100], far[100:] * 2])  # the other part is far away: a deviation of 8e8
    monkeypatch.setattr(narrowing, "_AT_ONCE", 14)
    with pytest.raises(DataError, match=r"column 1 of inputs .* a standard deviation of 86.6: .* and 3 of 300"):
        check_float32("inputs", [far[:100], far[100:]])


def part(x, y):
    return np.asarray(x)[:, None], y


@pytest.mark.parametrize(
    ("load", "what"),
    [
        (lambda path: load_data(part(STEPS / 300, 1.7e9 + STEPS)), "labels"),
        (lambda path: load_data(part(STEPS / 300, 1_700_000_000 + STEPS), task="regression"), "labels"),
        (lambda path: load_data(part(STEPS / 300, {"age": 1.7e9 + STEPS, "size": STEPS / 7})), "labels"),
        (lambda path: load_data(part(1.7e9 + STEPS, STEPS % 2)), "inputs"),
        (lambda path: load_data(({"a": STEPS[:, None], "b": 1.7e9 + STEPS[:, None]}, STEPS % 2)), "inputs 'b'"),
        (lambda path: load_data(path, labels="t"), "labels in column 't'"),
        (lambda path: load_series(1e9 + np.sin(STEPS), window=8), "the series"),
    ],
)
def test_all_sources_are_checked(tmp_path, load, what):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["x,t", *(f"{i % 7},{1_700_000_000 + i}" for i in STEPS)]))
    with pytest.raises(DataError, match=f"Expected {what} that float32, in which models compute"):
        load(path)


def test_columns_of_a_table_are_standardized_before_they_are_narrowed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["t,label", *(f"{1_700_000_000 + i},{'ab'[i % 2]}" for i in STEPS)]))
    assert len(np.unique(load_data(path).train.x())) == len(load_data(path).train)


def test_labels_with_a_fraction_are_not_called_whole_numbers(tmp_path):
    """At 3e7 float32 numbers are 2 apart: all of these become whole, and little of what they tell is lost."""
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["x,y", *(f"{i % 7},{3e7 + 1e5 * i + 0.5}" for i in STEPS)]))
    data = load_data(path, labels="y")
    assert data.train.y().dtype == np.float32 and (data.train.y() == np.round(data.train.y())).all()
    assert not any("whole numbers" in note for note in data.notes)
