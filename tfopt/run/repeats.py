"""The same recipe with several seeds: mean and spread of what each step reaches."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tfopt.base.words import metric_in_words
from tfopt.evaluate.report import Report, Row


def spread(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of every metric and of the bytes, for each step that all `reports` have.

    The standard deviation is that of the sample (divided by n - 1); it is 0 for one report. Both are None for a metric
    that is None in a report.

    Returns:
        A plain dict per step: "step", "runs", and "mean" and "deviation" by name.
    """
    found = [_by_occurrence(report) for report in reports]
    shared = [key for key in found[0] if all(key in each for each in found)]
    return [_of_step(key[0], [each[key] for each in found]) for key in shared]


def _by_occurrence(report: Report) -> dict[tuple[str, int], Row]:
    """Return the rows by step and number: a recipe may have several stages of one class."""
    rows: dict[tuple[str, int], Row] = {}
    for row in report.rows:
        rows[row.step, sum(step == row.step for step, _ in rows)] = row
    return rows


def _of_step(step: str, rows: Sequence[Row]) -> dict[str, Any]:
    values: dict[str, list[float | None]] = {name: [row.metrics[name] for row in rows] for name in rows[0].metrics}
    values["bytes"] = [float(row.bytes) for row in rows]
    return {
        "step": step,
        "runs": len(rows),
        "mean": {name: _of_all(statistics.fmean, found) for name, found in values.items()},
        "deviation": {name: _of_all(_deviation, found) for name, found in values.items()},
    }


def _of_all(formula: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return formula(known) if len(known) == len(values) else None


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(steps: Sequence[dict[str, Any]], title: str) -> Any:
    """Return `spread` as a `rich.table.Table`."""
    from rich.table import Table

    found = Table(title=title, title_justify="left")
    found.add_column("step")
    names = list(steps[0]["mean"])
    for name in names:
        found.add_column(metric_in_words(name), justify="right")
    for step in steps:
        cells = (_cell(step["mean"][name], step["deviation"][name], name) for name in names)
        found.add_row(step["step"], *cells)
    return found


def _cell(mean: float | None, deviation: float | None, name: str) -> str:
    if mean is None or deviation is None:
        return "-"
    return f"{mean:,.0f} ± {deviation:,.0f}" if name == "bytes" else f"{mean:.4f} ± {deviation:.4f}"
