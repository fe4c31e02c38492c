"""Windows of a series, and the values after them, for forecasting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tfopt.base.narrowing import check_float32
from tfopt.base.words import counted
from tfopt.data.check import check_inputs
from tfopt.data.dataset import Dataset
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import Split
from tfopt.data.series_file import read_series
from tfopt.data.split import LARGEST_VALIDATION, check_options
from tfopt.errors import DataError
from tfopt.tasks import Forecasting


def load_series(
    series: Any,
    *,
    window: int,
    horizon: int = 1,
    targets: Sequence[int | str] | int | str | None = None,
    validation: float = 0.1,
    test: float = 0.2,
) -> Dataset:
    """Split a series into windows and the values that follow them, for a model that forecasts.

    The parts follow each other in time: the last steps are the test part, those before them the validation part. No
    value that is forecast in one part is forecast in another; windows reach back into the steps before their part.

    Args:
        series: values at equal distances in time, (steps,) or (steps, columns), or the path of a table with columns of
            numbers and a row for each step.
        window: steps that the model sees, 1 or more.
        horizon: steps that it forecasts, 1 or more.
        targets: columns to forecast, or a single one, by number or, of a table, by name; None for all.
        validation: share of the steps, for at most 2,000 windows; the steps beyond are for training.
        test: share of the steps.

    Returns:
        Inputs (n, window, columns); labels (n, horizon, targets), or (n, horizon) for a single target. The notes state
        the errors of the naive forecast, which repeats the last value.

    Raises:
        DataError: the series is no array of finite numbers, too short, or of values that float32 cannot tell apart; an
            argument is out of range.

    Examples:
        >>> data = tfopt.load_series(np.sin(np.arange(500) / 10), window=48, horizon=12)
        >>> data.input_shape, data.train.y().shape[1:], data.task
        ((48, 1), (12,), 'forecasting')
    """
    file = read_series(Path(series)) if isinstance(series, str | Path) else None
    values = _checked(file.values if file else series)
    _check_shares(validation=validation, test=test)
    for name, number in (("window", window), ("horizon", horizon)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise DataError(f"Expected a {name} of 1 step or more, a whole number, got {number!r}.")
    place = f" in {series}" if file else ""
    columns = _columns(targets, values.shape[1], file.names if file else ())
    ends, said = _ends(len(values), window, horizon, validation, test)
    inputs = np.moveaxis(sliding_window_view(values, window, axis=0), -1, 1)
    labels = np.moveaxis(sliding_window_view(values[:, columns], horizon, axis=0), -1, 1)
    labels = labels[..., 0] if len(columns) == 1 else labels
    splits: dict[str, Any] = {
        name: Split(inputs[first - window : last - window], labels[first:last], Preprocessing())
        for name, (first, last) in ends.items()
    }
    errors = Forecasting.metrics(naive_forecast(splits["test"], columns), splits["test"].labels)
    return Dataset(
        **splits,
        class_names=None,
        task=Forecasting.kind,
        labels="values",
        num_classes=None,
        source=f"{counted(len(values), 'step')} of {counted(values.shape[1], 'column')}{place}",
        notes=(
            *(file.notes if file else ()),
            f"windows of {counted(window, 'step')}, forecasts of {counted(horizon, 'step')}; the parts follow in time",
            *said,
            f"naive forecast (the last value again), test part: mae {errors['mae']:.6g}, rmse {errors['rmse']:.6g}",
        ),
        forecast_columns=tuple(columns),
    )


def naive_forecast(part: Split, columns: Sequence[int]) -> np.ndarray:
    """Return the last value of each window as the forecast of every step, in the shape of the labels of `part`.

    Args:
        part: windows (n, window, columns) and the values after them.
        columns: of the inputs, those that are forecast.
    """
    last = part.x()[:, -1:, list(columns)]
    return np.broadcast_to(last[..., 0] if len(columns) == 1 else last, part.labels.shape)


def _checked(series: Any) -> np.ndarray:
    """Return the series as float32 (steps, columns)."""
    try:
        values = np.asarray(series)
    except ValueError as error:
        raise DataError(f"Expected a series (steps, columns), got rows of differing lengths: {error}.") from error
    if values.ndim not in (1, 2):
        raise DataError(f"Expected a series (steps,) or (steps, columns), got an array of shape {values.shape}.")
    values = values[:, None] if values.ndim == 1 else values
    check_inputs("series", values)
    check_float32("the series", [values])
    return values.astype(np.float32)


def _columns(targets: Sequence[int | str] | int | str | None, count: int, names: tuple[str, ...]) -> list[int]:
    """Return the numbers of the columns `targets`. Raise `DataError` for others than there are."""
    given = [targets] if isinstance(targets, str | int | np.integer) else targets
    chosen: list[Any] = list(range(count) if given is None else given)
    if unknown := [each for each in chosen if isinstance(each, str) and each not in names]:
        if names:
            raise DataError(f"Expected targets among the columns {', '.join(names)}, got {unknown[0]!r}.")
        raise DataError(
            f"Expected targets as numbers of columns, since those of an array have no names, got {unknown[0]!r}; give "
            "the number, or the path of a table."
        )
    chosen = [names.index(each) if isinstance(each, str) else each for each in chosen]
    if not chosen or any(isinstance(each, bool) or each not in range(count) for each in chosen):
        raise DataError(f"Expected targets among the columns 0..{count - 1}, got {targets!r}.")
    return chosen


def _check_shares(*, validation: float, test: float) -> None:
    """Raise `DataError` unless both are fractions; a series has no parts of its own, for which None would stand."""
    for name, share in (("validation", validation), ("test", test)):
        if share is None:
            raise DataError(f"Expected {name} as a fraction of the series between 0 and 1, got None; leave it out.")
    check_options(validation=validation, test=test, seed=0, limit=None)


def _ends(
    steps: int, window: int, horizon: int, validation: float, test: float
) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    """Return the first step of the first forecast and of that after the last one, by part, and a note on a limit."""
    test_begins = steps - max(horizon, round(test * steps))
    wanted = max(horizon, round(validation * steps))
    held_out = min(wanted, LARGEST_VALIDATION + horizon - 1)  # n windows forecast n + horizon - 1 steps
    begins = {"train": window, "validation": test_begins - held_out, "test": test_begins}
    stops = {"train": begins["validation"], "validation": test_begins, "test": steps}
    ends = {name: (begins[name], stops[name] - horizon + 1) for name in begins}
    if any(first < window or first >= last for first, last in ends.values()):
        raise DataError(
            f"Expected enough steps for windows of {window} and forecasts of {horizon} in three parts, got "
            f"{counted(steps, 'step')}; shorten them, or bring more."
        )
    if held_out == wanted:
        return ends, ()
    return ends, (
        f"validation limited to {LARGEST_VALIDATION:,} of {wanted - horizon + 1:,} windows; the steps before them are "
        "for training",
    )
