"""The page that compares several results."""

from collections.abc import Sequence
from dataclasses import dataclass

from tfopt.evaluate.page import measures
from tfopt.evaluate.page.charts.spec import Chart
from tfopt.evaluate.page.charts.tradeoff import Point, front, tradeoff
from tfopt.evaluate.page.measures import Measure, Tone
from tfopt.evaluate.page.recipe import settings_of
from tfopt.evaluate.page.render import rendered_page
from tfopt.evaluate.page.single import Verdict, verdict
from tfopt.evaluate.report import Report, Row


@dataclass(frozen=True)
class Candidate:
    """A result in a comparison.

    Attributes:
        name: of the result.
        report: of its run.
        address: where its page is, relative to the comparison; "" without one.
        data: identifies the data; "" if unknown.
    """

    name: str
    report: Report
    address: str = ""
    data: str = ""

    @property
    def row(self) -> Row:
        """The finished file."""
        return self.report.rows[-1]

    @property
    def verdict(self) -> Verdict:
        """Whether the run kept the quality of its model."""
        return verdict(self.report)


@dataclass(frozen=True)
class Cell:
    """A number of one result, and how it differs from that of the first."""

    text: str
    value: float
    change: str
    tone: Tone


@dataclass(frozen=True)
class Setting:
    """A setting of the recipes: a value for each result; "" where a recipe does not have it."""

    place: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the results differ in it. Of a stage that one of them lacks, only the name counts."""
        if self.place.startswith("stages.") and "" in self.values and not self.place.endswith(".stage"):
            return False
        return len(set(self.values)) > 1


def comparison_page(candidates: Sequence[Candidate], title: str = "Comparison") -> str:
    """Return a page with a table, the trade-off of all results and their recipes side by side, as HTML in one file.

    Args:
        candidates: two or more, with rows of the same metrics; the others are compared with the first.
        title: of the page.
    """
    columns = [*measures.metrics_of(candidates[0].row), *measures.COSTS, measures.NONZERO, measures.DISTINCT]
    shown = [measure for measure in columns if any(measure.of(each.row) is not None for each in candidates)]
    return rendered_page(
        "comparison.html.j2",
        title=title,
        candidates=candidates,
        data=_data_of(candidates),
        measures=shown,
        cells=[[_cell(measure, each.row, candidates[0].row) for measure in shown] for each in candidates],
        tradeoffs=_tradeoffs(candidates),
        settings=_settings(candidates),
    )


def _data_of(candidates: Sequence[Candidate]) -> str:
    """Return whether the results are for the same data: "same", "different", or "unknown" if one does not say."""
    found = {each.data for each in candidates}
    if "" in found:
        return "unknown"
    return "same" if len(found) == 1 else "different"


def _cell(measure: Measure, row: Row, first: Row) -> Cell:
    if measure is measures.LATENCY:  # of different runs, perhaps on different machines: their ratio says nothing
        return Cell(measure.text(row), measure.of(row) or 0.0, "", "")
    return Cell(measure.text(row), measure.of(row) or 0.0, measure.change(row, first), measure.tone(row, first))


def _tradeoffs(candidates: Sequence[Candidate]) -> list[Chart]:
    """Return the first metric against each cost that all results have; a line connects the best."""
    metric = measures.metrics_of(candidates[0].row)[0]
    found = []
    for cost in measures.COSTS:
        points = [
            Point(each.name, value, metric.of(each.row) or 0.0)
            for each in candidates
            if (value := cost.of(each.row)) is not None and metric.of(each.row) is not None
        ]
        if len(points) == len(candidates):
            best = front(points, smaller_is_better=bool(metric.smaller_is_better))
            found.append(tradeoff(cost.name, cost.unit, best, metric.name, percent=metric.percent))
    return found


def _settings(candidates: Sequence[Candidate]) -> list[Setting]:
    flat = [settings_of(each.report.recipe) for each in candidates]
    places = dict.fromkeys(place for each in flat for place in each)
    return [Setting(place, tuple(each.get(place, "") for each in flat)) for place in sorted(places)]
