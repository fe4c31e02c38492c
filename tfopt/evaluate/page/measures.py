"""What the rows of a report measure: which way is better, and how to write it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tfopt.base.words import metric_in_words, shortened
from tfopt.evaluate.report import Row
from tfopt.tasks.table import TASKS

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
SAME, EQUAL_SPEED = "unchanged", "as fast"
Tone = Literal["good", "bad", ""]


@dataclass(frozen=True)
class Measure:
    """One column of the rows.

    Attributes:
        name: in words.
        unit: of the value; "" for none.
        of: the value of a row; None if it was not measured.
        written: the value as text.
        words: for less and more of it, "smaller" and "larger".
        smaller_is_better: which way is better; None if that is unknown.
        is_metric: whether it says how good the answers are, rather than what they cost.
        percent: whether it is a share.
    """

    name: str
    unit: str
    of: Callable[[Row], float | None]
    written: Callable[[float], str]
    words: tuple[str, str] = ("less", "more")
    smaller_is_better: bool | None = True
    is_metric: bool = False
    percent: bool = False

    @property
    def title(self) -> str:
        """The name with the unit, as the head of a column."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, row: Row) -> str:
        """Return the value of a row; "-" if it was not measured."""
        value = self.of(row)
        return "-" if value is None else self.written(value)

    def change(self, row: Row, first: Row) -> str:
        """Return how the value differs from that of the first row: points of a metric, otherwise a factor."""
        value, before = self.of(row), self.of(first)
        if value is None or before is None or row is first:
            return ""
        if self.percent:
            return signed(100 * (value - before), 2, " points")
        if self.is_metric:
            return signed(value - before, 4, "")
        if not value or not before:
            return ""
        return in_times(before / value, self.words)

    def tone(self, row: Row, first: Row) -> Tone:
        """Return whether the value is better or worse than that of the first row; "" if it is as good, or unknown."""
        value, before = self.of(row), self.of(first)
        if value is None or before is None or self.smaller_is_better is None:
            return ""
        if math.isclose(value, before, rel_tol=1e-6):
            return ""
        return "good" if (value < before) == self.smaller_is_better else "bad"


def in_times(factor: float, words: tuple[str, str]) -> str:
    """Return a factor in words, "3.4 times smaller" with a sign; `words` are for factors above and below 1."""
    if factor == 1:
        return SAME
    times, word = max(factor, 1 / factor), words[factor < 1]
    if times < 1.005:
        return f"{_at_least(100 * (times - 1), 2)}% {word}"
    return f"{f'{times:,.0f}' if times >= 100 else f'{times:.3g}'}{TIMES} {word}"


def speed(row: Row) -> str:
    """Return the speed of a file beside the original, measured side by side; "" if it was not measured."""
    if row.speedup and 0.995 < row.speedup < 1.005:  # times vary by more
        return EQUAL_SPEED
    return in_times(row.speedup, ("faster", "slower")) if row.speedup else ""


def signed(value: float, digits: int, unit: str) -> str:
    """Return a difference with its sign; "unchanged" for 0."""
    if not value:
        return SAME
    return f"{'+' if value > 0 else MINUS}{_at_least(abs(value), digits)}{unit}"


def _at_least(value: float, digits: int) -> str:
    """Return a positive value with that many decimals, or that it is less than the smallest such number."""
    smallest = 10.0**-digits
    return f"<{smallest:.{digits}f}" if value < smallest / 2 else f"{value:.{digits}f}"


def metrics_of(row: Row) -> list[Measure]:
    """Return the metrics of a row, the first of which decides."""
    return [_metric(name) for name in row.metrics]


def _metric(name: str) -> Measure:
    """Return a metric by its name; with several outputs, those of one have its name in front."""
    known = ((task, formula) for task in TASKS for formula in task.formulas)
    task = next((task for task, formula in known if name == formula or name.endswith(f"_{formula}")), None)
    error = None if task is None else task.smaller_is_better  # of a metric of the recipe nobody knows
    return Measure(
        heading(name),
        "",
        lambda row: row.metrics.get(name),
        _in_percent if error is False else _in_digits,
        smaller_is_better=error,
        is_metric=True,
        percent=error is False,
    )


def heading(name: str) -> str:
    """Return the name of a metric or a loss as a heading: "Mean IoU"."""
    words = metric_in_words(name)
    return f"{words[:1].upper()}{words[1:]}"


def _in_percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _in_digits(value: float) -> str:
    return f"{value:.4g}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    return shortened(int(value))


BYTES = Measure("Size", "bytes", lambda row: row.bytes, _whole, ("smaller", "larger"))
DEFLATED = Measure("Deflated", "bytes", lambda row: row.deflated_bytes, _whole, ("smaller", "larger"))
LATENCY = Measure("Latency", "ms", lambda row: row.latency_ms, lambda value: f"{value:.3g}", ("faster", "slower"))
MACS = Measure("Multiplications", "", lambda row: row.macs, _short, ("fewer", "more"))
NONZERO = Measure("Nonzero weights", "", lambda row: row.nonzero_parameters, _whole, ("fewer", "more"))
DISTINCT = Measure("Distinct weights", "", lambda row: row.max_unique_weights, _whole, ("fewer", "more"))
COSTS = (BYTES, DEFLATED, LATENCY, MACS)
