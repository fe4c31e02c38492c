"""The course of the training of all stages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tfopt.evaluate.page.charts.spec import DASHED, Chart, Spec, data, number_format, parts, quantity, tips
from tfopt.evaluate.page.measures import heading
from tfopt.evaluate.report import Row

COLORS = {"training": "var(--before)", "validation": "var(--after)"}


@dataclass
class _Course:
    """The values of one metric in all stages, one after the other; epochs count on."""

    points: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    epochs: int = 0

    def add(self, row: Row, name: str) -> None:
        assert row.history is not None
        values = row.history.values
        for part, key in (("training", name), ("validation", f"val_{name}")):
            for number, value in enumerate(values.get(key, []), 1):
                point = {"epoch": self.epochs + number, "number": number, "value": value, "part": part}
                named = {"stage": row.step, "place": len(self.stages), "kept": number == row.history.kept}
                self.points.append({**point, **named})
        self.stages.append({"epoch": self.epochs + 0.5, "stage": row.step})
        self.epochs += max(map(len, values.values()), default=0)


def curves(rows: Sequence[Row], name: str, *, percent: bool) -> Chart:
    """Return what `name` was in each epoch of each stage, on training and validation data, and the epochs kept."""
    course, trained = _Course(), [row for row in rows if row.history]
    for row in trained:
        course.add(row, name)
    title = heading(name)
    x = quantity(
        "epoch", "epoch", axis={"tickMinStep": 1, "format": "d"}, domain=[0.5, course.epochs + 0.5], nice=False
    )
    y = quantity("value", title, percent=percent, zero=False)
    shown = tips(
        stage=("stage", None),
        number=("epoch", "d"),
        part=("data", None),
        value=(title, number_format(percent=percent)),
    )
    kept = [point for point in course.points if point["kept"] and point["part"] == "validation"]
    spec = {"layer": [*_stages(course, x), _lines(course, x, y, shown), _kept(kept, x, y, shown)]}
    words = "; ".join(f"{row.step}: {_kept_in_words(row)}" for row in trained)
    return Chart(title, f"{title} by epoch. {words}", spec, 300)


def names_of_curves(rows: Sequence[Row]) -> list[str]:
    """Return the names of what was logged in any stage: the deciding metric, the loss, then the others."""
    histories = [row.history for row in rows if row.history]
    logged = dict.fromkeys(key.removeprefix("val_") for history in histories for key in history.values)
    first = [*dict.fromkeys(history.metric for history in histories), "loss"]
    return [name for name in first if name in logged] + [name for name in logged if name not in first]


def _kept_in_words(row: Row) -> str:
    assert row.history is not None
    return f"epoch {row.history.kept} kept" if row.history.kept else "the weights from before the training kept"


def _stages(course: _Course, x: Spec) -> list[Spec]:
    border = {"mark": {"type": "rule", "color": "var(--line-strong)"}, "encoding": {"x": x}}
    words = {"type": "text", "align": "left", "baseline": "bottom", "dx": 4, "dy": -3, "color": "var(--muted)"}
    names = {"mark": words, "encoding": {"x": x, "y": {"value": 0}, "text": {"field": "stage"}}}
    return [{**data(course.stages[1:]), **border}, {**data(course.stages), **names}]


def _lines(course: _Course, x: Spec, y: Spec, shown: list[Spec]) -> Spec:
    color = parts("part", list(COLORS), list(COLORS.values()))
    color["legend"]["symbolType"] = "stroke"
    dash = {**color, "scale": {"domain": list(COLORS), "range": [DASHED, [1, 0]]}}
    encoding = {"x": x, "y": y, "color": color, "strokeDash": dash, "detail": {"field": "place"}, "tooltip": shown}
    return {
        **data(course.points),
        "mark": {"type": "line", "point": {"filled": True, "size": 36}},
        "encoding": encoding,
    }


def _kept(points: list[dict[str, Any]], x: Spec, y: Spec, shown: list[Spec]) -> Spec:
    mark = {"type": "point", "filled": False, "size": 200, "strokeWidth": 2.5, "color": "var(--good)"}
    return {**data(points), "mark": mark, "encoding": {"x": x, "y": y, "tooltip": shown}}
