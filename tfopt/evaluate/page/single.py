"""The page of one result."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tfopt.evaluate.findings.types import Answers, Findings
from tfopt.evaluate.page import measures
from tfopt.evaluate.page.charts.anomalies import scores
from tfopt.evaluate.page.charts.answers import confidence, confusion, recall, reliability
from tfopt.evaluate.page.charts.layers import noise, weights
from tfopt.evaluate.page.charts.spec import Chart
from tfopt.evaluate.page.charts.tradeoff import Point, tradeoff
from tfopt.evaluate.page.charts.training import curves, names_of_curves
from tfopt.evaluate.page.classes import ClassRow, Confusion, class_rows, confusions
from tfopt.evaluate.page.measures import Measure, Tone
from tfopt.evaluate.page.recipe import settings_of
from tfopt.evaluate.page.render import rendered_page
from tfopt.evaluate.report import Report, Row
from tfopt.tflite.prove.signals import LEAST_DB

MOST_CONFUSIONS = 12


@dataclass(frozen=True)
class Tile:
    """A number of the finished file beside that of the original; `tone` says whether that is good."""

    name: str
    value: str
    before: str
    change: str
    tone: Tone


@dataclass(frozen=True)
class Verdict:
    """The verdict of a run: its tone, in one word, and in sentences."""

    tone: Tone
    word: str
    headline: str
    text: str


@dataclass(frozen=True)
class AnswersView:
    """What the page shows about the answers of one output; parts without content are empty or None."""

    found: Answers
    classes: list[ClassRow]
    confusion: Chart | None
    recall: Chart | None
    confusions: list[Confusion]
    calibration: list[Chart]
    anomalies: Chart | None

    @classmethod
    def of(cls, found: Answers) -> "AnswersView":
        """Return the view of the answers `found`."""
        rows = class_rows(found.classes) if found.classes else []
        sure = found.calibration
        return cls(
            found=found,
            classes=rows,
            confusion=confusion(found.classes) if found.classes else None,
            recall=recall(rows, found.classes.unit) if found.classes and rows else None,
            confusions=confusions(found.classes, MOST_CONFUSIONS) if found.classes else [],
            calibration=[chart(sure) for chart in (reliability, confidence)] if sure else [],
            anomalies=scores(found.anomalies) if found.anomalies else None,
        )


def report_page(report: Report) -> str:
    """Return the page of a report as HTML in one file.

    Args:
        report: of a run; parts that it lacks are left out.
    """
    findings = report.findings or Findings()
    return rendered_page(
        "report.html.j2",
        report=report,
        findings=findings,
        title=str(report.recipe.get("name", "report")),
        verdict=verdict(report),
        tiles=tiles(report.rows),
        metrics=measures.metrics_of(report.rows[0]) if report.rows else [],
        measures=measures,
        tradeoffs=_tradeoffs(report.rows),
        curves=_curves(report),
        least_db=LEAST_DB,
        noise=noise(findings.layers) if any(layer.sqnr is not None for layer in findings.layers) else None,
        weights=[weights(found) for found in findings.histograms],
        in_float=_notes_on_floats(report.rows),
        answers=[AnswersView.of(found) for found in findings.answers],
        settings=settings_of(report.recipe),
    )


def verdict(report: Report) -> Verdict:
    """Return the verdict of a run: good, bad, or kept as far as anybody can tell."""
    headline = _headline(report.rows)
    if not report.ok:
        return Verdict("bad", "Failed", headline, report.verdict)
    if report.verdict:
        return Verdict("", "Uncertain", headline, report.verdict)
    return Verdict("good", "Passed", headline, "")


def _headline(rows: Sequence[Row]) -> str:
    if len(rows) < 2:
        return ""
    first, last = rows[0], rows[-1]
    metric = measures.metrics_of(first)[0] if first.metrics else None
    size = measures.BYTES.change(last, first)
    said = [f"{metric.name} {metric.text(last)} ({metric.change(last, first)})"] if metric else []
    said += [f"{last.bytes:,} bytes ({size})"] if size else []
    said += [measures.speed(last)] if last.speedup else []
    return ", ".join(said)


def tiles(rows: Sequence[Row]) -> list[Tile]:
    """Return what the finished file has and the original had."""
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    shown = [*measures.metrics_of(first), *measures.COSTS, measures.NONZERO, measures.DISTINCT]
    return [_tile(measure, first, last) for measure in shown if measure.of(last) is not None]


def _tile(measure: Measure, first: Row, last: Row) -> Tile:
    before = measure.text(first) if last is not first else ""
    change, tone = measure.change(last, first), measure.tone(last, first)
    if measure is measures.LATENCY and last.speedup:  # measured side by side
        change = measures.speed(last)
        tone = "" if change == measures.EQUAL_SPEED else "good" if last.speedup > 1 else "bad"
    return Tile(measure.title, measure.text(last), before, change, tone)


def _tradeoffs(rows: Sequence[Row]) -> list[Chart]:
    """Return the first metric, if all rows have it, against each cost that all rows have."""
    if len(rows) < 2 or not rows[0].metrics:
        return []
    metric = measures.metrics_of(rows[0])[0]
    if any(metric.of(row) is None for row in rows):
        return []
    return [
        tradeoff(
            cost.name, cost.unit, _points(rows, cost, metric), metric.name, percent=metric.percent
        )
        for cost in measures.COSTS
        if all(cost.of(row) is not None for row in rows) and len({cost.of(row) for row in rows}) > 1
    ]  # fmt: skip


def _points(rows: Sequence[Row], cost: Measure, metric: Measure) -> list[Point]:
    return [
        Point(row.step, cost.of(row) or 0.0, metric.of(row) or 0.0, place, row is rows[-1])
        for place, row in enumerate(rows)
    ]


def trained_rows(report: Report) -> list[Row]:
    """Return the rows with training; the last row is a file, so its training has the name of the last stage."""
    rows, stages = list(report.rows), report.recipe.get("stages", [])
    if rows and rows[-1].history and stages:
        rows[-1] = dataclasses.replace(rows[-1], step=str(stages[-1].get("stage", rows[-1].step)))
    return [row for row in rows if row.history]


def _curves(report: Report) -> list[Chart]:
    """Return what was logged in training."""
    rows = trained_rows(report)
    shares = {
        name for row in rows for name, it in zip(row.metrics, measures.metrics_of(row), strict=True) if it.percent
    }
    return [curves(rows, name, percent=name in shares) for name in names_of_curves(rows)]


def _notes_on_floats(rows: Sequence[Row]) -> list[str]:
    """Return the notes of the finished file that say what is in float, and why."""
    said = ("left in float", "computed in float")
    return [note for note in rows[-1].notes if any(words in note for words in said)] if rows else []
