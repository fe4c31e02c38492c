"""The same recipe with several seeds: mean and spread of what each step reaches."""

import statistics
from collections.abc import Sequence
from typing import Any

from tfopt.evaluate.report import Report


def spread(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of every metric and of the bytes, for each step that all `reports` have.

    The standard deviation is that of the sample (divided by n - 1); it is 0 for one report.

    Returns:
        A plain dict per step: "step", "runs", and "mean" and "deviation" by name.
    """
    steps = [row.step for row in reports[0].rows if all(row.step in _steps(report) for report in reports)]
    return [_of_step(step, reports) for step in steps]


def _of_step(step: str, reports: Sequence[Report]) -> dict[str, Any]:
    rows = [next(row for row in report.rows if row.step == step) for report in reports]
    values = {name: [row.metrics[name] for row in rows] for name in rows[0].metrics}
    values["bytes"] = [float(row.bytes) for row in rows]
    return {
        "step": step,
        "runs": len(rows),
        "mean": {name: statistics.fmean(found) for name, found in values.items()},
        "deviation": {name: statistics.stdev(found) if len(found) > 1 else 0.0 for name, found in values.items()},
    }


def table(steps: Sequence[dict[str, Any]], title: str) -> Any:
    """Return `spread` as a `rich.table.Table`."""
    from rich.table import Table

    found = Table(title=title, title_justify="left")
    found.add_column("step")
    names = list(steps[0]["mean"])
    for name in names:
        found.add_column(name, justify="right")
    for step in steps:
        cells = (_cell(step["mean"][name], step["deviation"][name], name) for name in names)
        found.add_row(step["step"], *cells)
    return found


def _cell(mean: float, deviation: float, name: str) -> str:
    return f"{mean:,.0f} ± {deviation:,.0f}" if name == "bytes" else f"{mean:.4f} ± {deviation:.4f}"


def _steps(report: Report) -> set[str]:
    return {row.step for row in report.rows}
