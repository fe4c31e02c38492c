"""Windows of a series."""

import numpy as np
import pytest

from tfopt.data import load_series
from tfopt.data.windows import naive_forecast
from tfopt.errors import DataError

SERIES = np.stack([np.arange(100.0), np.arange(100.0) ** 2], axis=1)


def test_labels_follow_their_windows():
    data = load_series(SERIES, window=5, horizon=3)
    for part in (data.train, data.validation, data.test):
        x, y = part.x(), part.y()
        assert x.shape[1:] == (5, 2) and y.shape[1:] == (3, 2)
        for window, label in zip(x, y, strict=True):
            begin = int(window[0, 0])
            np.testing.assert_array_equal(window, SERIES[begin : begin + 5])
            np.testing.assert_array_equal(label, SERIES[begin + 5 : begin + 8])
    assert data.task == "forecasting"


def test_no_value_is_forecast_in_two_parts():
    data = load_series(SERIES, window=5, horizon=3, validation=0.1, test=0.2)
    steps = [set(part.y()[..., 0].ravel()) for part in (data.train, data.validation, data.test)]
    assert not steps[0] & steps[1] and not steps[1] & steps[2]
    assert max(steps[0]) < min(steps[1]) and max(steps[1]) < min(steps[2])
    # 100 steps: the last 20 are the test part, the 10 before them the validation part, 5 only begin a window.
    assert steps[2] == set(range(80, 100)) and steps[1] == set(range(70, 80)) and steps[0] == set(range(5, 70))


def test_a_single_target_has_no_axis():
    data = load_series(SERIES, window=4, horizon=2, targets=[1])
    assert data.train.y().shape[1:] == (2,)
    np.testing.assert_array_equal(data.train.y()[0], [16, 25])
    assert load_series(SERIES, window=4, horizon=2, targets=np.array([0, 1])).train.y().shape[1:] == (2, 2)
    assert load_series(SERIES[:, 0], window=4).train.x().shape[1:] == (4, 1)


def test_the_naive_forecast_is_stated():
    data = load_series(SERIES[:, 0], window=4, horizon=2)
    # The last value again is wrong by 1 and 2: mae 1.5, rmse sqrt(2.5).
    assert any("mae 1.5, rmse 1.58114" in note for note in data.notes)


def test_the_naive_forecast_repeats_the_last_value_of_the_columns_that_are_forecast():
    data = load_series(SERIES, window=5, horizon=2, targets=[1, 0])
    assert data.forecast_columns == (1, 0)
    np.testing.assert_array_equal(naive_forecast(data.test, (1, 0))[0], [[79**2, 79]] * 2)
    alone = load_series(SERIES, window=5, horizon=2, targets=[1])
    np.testing.assert_array_equal(naive_forecast(alone.test, (1,))[0], [79**2] * 2)


def test_a_long_validation_part_is_limited_with_a_note():
    data = load_series(np.sin(np.arange(30_000)), window=2, horizon=3, validation=0.1, test=0.2)
    # A tenth are 3,000 steps, which hold 2,998 forecasts of 3 steps; 2,000 of them need 2,002 steps.
    assert len(data.validation) == 2000 and len(data.train) == 30_000 - 6000 - 2002 - 2 - 2
    assert [note for note in data.notes if "limited" in note] == [
        "validation limited to 2,000 of 2,998 windows; the steps before them are for training"
    ]
    short = load_series(np.sin(np.arange(20_020)), window=2, horizon=3, validation=0.1)  # 2,002 steps
    assert len(short.validation) == 2000 and not any("limited" in note for note in short.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 0}, "a window of 1 step or more, a whole number, got 0"),
        ({"window": True}, "a window of 1 step or more"),
        ({"horizon": 1.5}, "a horizon of 1 step or more, a whole number, got 1.5"),
        ({"window": 80}, "enough steps for windows of 80 and forecasts of 1 in three parts, got 100 steps"),
        ({"targets": [2]}, r"targets among the columns 0..1, got \[2\]"),
        ({"targets": []}, "targets among the columns"),
        ({"targets": True}, "targets among the columns 0..1, got True"),
        ({"test": 1.5}, "test as a fraction between 0 and 1"),
        ({"test": None}, "test as a fraction of the series between 0 and 1, got None; leave it out"),
        ({"validation": None}, "validation as a fraction of the series between 0 and 1, got None; leave it out"),
        ({"series": np.zeros((4, 4, 4))}, r"got an array of shape \(4, 4, 4\)"),
        ({"series": [[1, 2], [3]]}, "rows of differing lengths"),
        ({"series": np.where(SERIES == 7, np.nan, SERIES)}, "Expected finite series inputs"),
        ({"series": np.array(["a", "b"])}, "as numbers"),
    ],
)
def test_wrong_series_and_arguments(changes, words):
    with pytest.raises(DataError, match=words):
        load_series(**{"series": SERIES, "window": 5, **changes})
