"""Windows in the order of time: parts that follow each other instead of parts drawn at random."""

import numpy as np
import pytest

import tfopt
from tfopt.data.overlap import _at_change, _last_change, overlap_shift
from tfopt.errors import DataError

SERIES = np.arange(600.0)  # each value says where it is


def windows(steps, horizon, shift):
    starts = np.arange(0, len(SERIES) - steps - horizon + 1, shift)
    x = np.stack([SERIES[at : at + steps, None] for at in starts])
    return x, np.stack([SERIES[at + steps : at + steps + horizon] for at in starts])


@pytest.mark.parametrize("shift", [1, 2, 5, 7])
@pytest.mark.parametrize("task", ["forecasting", None])
def test_no_value_is_a_target_of_two_parts(task, shift):
    data = tfopt.load_data(windows(24, 6, shift), task=task)
    targets = [set(data.split(part).labels.ravel().tolist()) for part in ("train", "validation", "test")]
    assert max(targets[0]) < min(targets[1]) and max(targets[1]) < min(targets[2])
    assert f"each window begins {shift} after the one before: the parts follow in time" in data.notes
    left_out = len(windows(24, 6, shift)[0]) - sum(len(data.split(part)) for part in ("train", "validation", "test"))
    assert left_out == 2 * (-(-6 // shift) - 1)  # no more than needed


def test_forecasts_without_overlap_stay_in_order():
    x, y = windows(4, 2, 6)
    data = tfopt.load_data((x, y), task="forecasting")
    assert np.array_equal(np.concatenate([data.split(part).labels for part in ("train", "validation", "test")]), y)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("columns", [(), (2,)])
@pytest.mark.parametrize(
    ("horizon", "shift", "gap"),
    [(12, 1, 11), (12, 5, 2), (12, 11, 1), (12, 12, 0), (2, 1, 1), (1, 1, 0)],  # ceil(horizon / shift) - 1
)
def test_forecasts_of_short_windows_share_no_targets(window, columns, horizon, shift, gap):
    x, y = windows(window, horizon, shift)
    y = np.broadcast_to(y[(...,) + (None,) * len(columns)], (*y.shape, *columns))
    data = tfopt.load_data((x, y), task="forecasting")
    targets = [set(data.split(part).labels.ravel().tolist()) for part in ("train", "validation", "test")]
    assert max(targets[0]) < min(targets[1]) and max(targets[1]) < min(targets[2])
    assert len(x) - sum(len(data.split(part)) for part in ("train", "validation", "test")) == 2 * gap


@pytest.mark.parametrize("sparse", [False, True])
def test_several_values_that_are_no_series_need_no_gap(sparse):
    x, _ = windows(40, 1, 1)
    y = np.random.default_rng(0).normal(size=(len(x), 60))
    data = tfopt.load_data((x, np.where(y > 1, y, 0) if sparse else y))
    assert sum(len(data.split(part)) for part in ("train", "validation", "test")) == len(x)
    assert "each window begins 1 after the one before: the parts follow in time" in data.notes


def test_a_gap_that_leaves_too_few_samples_is_named():
    # 600 - 40 - 300 + 1 = 261 windows: 52 for the test, 299 before them, since 300 targets follow by 1.
    with pytest.raises(
        DataError, match=r"split test off, got 261 left for training, of which 299 before the test part"
    ):
        tfopt.load_data(windows(40, 300, 1))


NOTE = (
    "neighboring windows overlap, so those split off at random share values with training samples: to measure on other "
)
CLASSES = np.arange(149) % 3


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        np.eye(3)[CLASSES],
        np.maximum(np.eye(4)[CLASSES], [1, 0, 0, 0]),
        np.arange(149 * 8).reshape(149, 8, 1) % 2,
        None,
    ],
    ids=["classes", "one-hot", "multilabel", "steps", "reconstruction"],
)
def test_overlapping_windows_without_values_are_drawn_at_random_with_a_note(labels):
    x, _ = windows(8, 0, 4)
    labels, task = (x, "reconstruction") if labels is None else (labels.astype(int), None)
    notes = tfopt.load_data((x, labels), task=task).notes
    assert f"{NOTE}recordings, give your own test and validation parts" in notes
    assert any(note.endswith("split off for testing, seed 0") for note in notes)
    tested = tfopt.load_data(dict.fromkeys(("train", "test"), (x, labels)), task=task)
    assert f"{NOTE}recordings, give your own validation part" in tested.notes
    own = tfopt.load_data(dict.fromkeys(("train", "validation", "test"), (x, labels)), task=task)
    assert not any("overlap" in note for note in own.notes)


@pytest.mark.parametrize("second", ["values", "classes"])
def test_several_outputs_follow_in_time_if_one_has_values(second):
    x, y = windows(24, 6, 1)
    other = np.random.default_rng(0).normal(size=len(x)) if second == "values" else np.arange(len(x)) % 3
    data = tfopt.load_data(({"a": x, "b": x[:, ::-1].copy()}, {"values": y, "other": other}))
    order = np.concatenate([data.split(part).labels["values"][:, 0] for part in ("train", "validation", "test")])
    assert np.array_equal(order, np.sort(order)) and len(order) == len(x) - 2 * 5  # 6 values that follow by 1
    assert "each window begins 1 after the one before: the parts follow in time" in data.notes
    classes = tfopt.load_data((x, {"one": np.arange(len(x)) % 2, "other": np.arange(len(x)) % 3}))
    assert any(note.startswith(NOTE) for note in classes.notes)


@pytest.mark.parametrize(("recordings", "each"), [(30, 36), (5, 116), (60, 6)])
def test_borders_of_recordings_do_not_hide_that_windows_overlap(recordings, each):
    series = np.random.default_rng(0).normal(size=(recordings, 20 + 5 * (each - 1)))
    x = np.concatenate([[one[at : at + 20] for at in range(0, 5 * each, 5)] for one in series])
    assert len(x) == recordings * each and overlap_shift(x) == 5
    assert overlap_shift(np.random.default_rng(0).permutation(x)) is None


def test_few_places_are_compared_for_each_shift():
    # After 3, 4 the first window stays 4: shifts of 1 and 3 bring a 3 before a 4 there, a shift of 2 a 9.
    before, after = np.array([3, 4, 7, 3, 4, 4]), np.array([3, 4, 3, 4, 9, 1])
    assert _last_change(before) == 3 and _last_change(before[4:]) == 0
    assert _at_change(before, after, 3).tolist() == [True, False, True]
    # Of two columns both must agree: the first window has its own 3 before a 4 only 3 steps earlier.
    both = np.stack([before, before], axis=-1)
    assert _at_change(both, np.stack([after, before], axis=-1), 3).tolist() == [False, False, True]


def test_what_does_not_overlap():
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(windows(24, 6, 1)[0])
    constant = np.zeros((100, 24, 1))
    table = rng.integers(0, 2, (100, 6)).astype(float)
    images = rng.normal(size=(100, 8, 8, 3))
    for inputs in (shuffled, constant, table, images, windows(24, 6, 1)[0][:5]):
        assert overlap_shift(inputs) is None
