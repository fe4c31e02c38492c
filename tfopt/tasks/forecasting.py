"""Forecasting: values of the steps after a window."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tfopt.tasks.metrics import Metric, mean_absolute_error, root_mean_squared_error
from tfopt.tasks.regression import Regression


@dataclass(frozen=True)
class Forecasting(Regression):
    """Each sample is a window of a series; its labels are the next values, (n, horizon) or (n, horizon, columns)."""

    kind = "forecasting"
    responses = Regression.kind
    formulas: ClassVar[Mapping[str, Metric]] = {"mae": mean_absolute_error, "rmse": root_mean_squared_error}
    keras_metric = "mae"
