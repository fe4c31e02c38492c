"""Windows in the order of time: parts that follow each other instead of parts drawn at random."""

import numpy as np
import pytest

import tfopt
from tfopt.data.overlap import overlap_shift

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


def test_overlapping_windows_with_classes_are_drawn_at_random_with_a_note():
    x, _ = windows(8, 1, 4)
    labels = np.arange(len(x)) % 3
    notes = [note for note in tfopt.load_data((x, labels)).notes if note.startswith("neighboring windows overlap")]
    assert len(notes) == 1
    own = tfopt.load_data(dict.fromkeys(("train", "validation", "test"), (x, labels)))
    assert not any("overlap" in note for note in own.notes)


def test_what_does_not_overlap():
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(windows(24, 6, 1)[0])
    constant = np.zeros((100, 24, 1))
    table = rng.integers(0, 2, (100, 6)).astype(float)
    images = rng.normal(size=(100, 8, 8, 3))
    for inputs in (shuffled, constant, table, images, windows(24, 6, 1)[0][:5]):
        assert overlap_shift(inputs) is None
