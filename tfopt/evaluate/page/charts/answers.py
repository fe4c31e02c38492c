"""The answers of a file by class, and how sure it is."""

from collections.abc import Sequence

from tfopt.evaluate.findings.classes import SHOWN_CLASSES
from tfopt.evaluate.findings.types import Calibration, Classes
from tfopt.evaluate.page.charts.spec import DASHED, Chart, Spec, classes, data, quantity, tips, warned
from tfopt.evaluate.page.classes import ClassRow, distinct_names, most_confused

MOST_NUMBERS = 12
"""Classes up to which the cells of a matrix have room for counts."""
MOST_LABELS = 30
"""Classes up to which the sides of a matrix have room for names."""


def confusion(found: Classes) -> Chart:
    """Return the matrix of labels and answers; of many classes, those with most errors."""
    few = len(found.names) <= SHOWN_CLASSES
    shown = list(range(len(found.names))) if few else most_confused(found, SHOWN_CLASSES)
    names, counts = distinct_names(found.names), {(label, answer): count for label, answer, count in found.wrong}
    counts |= {(number, number): count for number, count in enumerate(found.right)}
    points = [
        {
            "label": names[label],
            "answer": names[answer],
            "count": counts.get((label, answer), 0),
            "share": counts.get((label, answer), 0) / max(found.support[label], 1),
        }
        for label in shown
        for answer in shown
    ]
    sides = {"labels": False, "ticks": False} if len(shown) > MOST_LABELS else {}
    encoding = {
        "x": classes("answer", "predicted class", labelAngle=-45, **sides),
        "y": classes("label", "label", **sides),
    }
    spec = {**data(points), "encoding": encoding, "layer": _cells(found.unit, len(shown))}
    text = f"Confusion matrix of {len(shown)} classes. Rows are labels, columns are the classes that the file predicts"
    return Chart("Confusion matrix", text, spec, min(max(240, 30 * len(shown) + 80), 560))


def _cells(unit: str, number: int) -> list[Spec]:
    legend = {"format": "%", "orient": "top", "gradientLength": 140, "tickCount": 2}
    scale = {"domain": [0, 1], "range": ["var(--heat-0)", "var(--heat-1)", "var(--heat-2)"]}
    color = {"field": "share", "type": "quantitative", "title": "share of the label", "legend": legend, "scale": scale}
    shown = tips(
        label=("label", None),
        answer=("answer", None),
        count=(unit, ","),
        share=("share of the label", ".1%"),
    )
    width = 0 if number > MOST_LABELS else 1
    cells: list[Spec] = [
        {
            "mark": {"type": "rect", "stroke": "var(--card)", "strokeWidth": width},
            "encoding": {"color": color, "tooltip": shown},
        }
    ]
    if number <= MOST_NUMBERS:
        ink = {"condition": {"test": "datum.share > 0.5", "value": "var(--heat-ink)"}, "value": "var(--ink)"}
        text = {"text": {"field": "count", "format": ","}, "color": ink}
        cells.append({"transform": [{"filter": "datum.count > 0"}], "mark": {"type": "text"}, "encoding": text})
    return cells


def recall(rows: Sequence[ClassRow], unit: str) -> Chart:
    """Return the recall of each class, the lowest first; of many classes, the lowest."""
    points = sorted(rows, key=lambda row: row.recall)[:SHOWN_CLASSES]
    shown = tips(
        name=("class", None),
        recall=("recall", ".1%"),
        precision=("precision", ".1%"),
        support=(unit, ","),
    )
    encoding = {
        "y": classes("name"),
        "x": quantity("recall", "recall", percent=True, domain=[0, 1]),
        "color": warned("datum.recall < 0.5"),
        "tooltip": shown,
    }
    spec = {**data(map(vars, points)), "mark": {"type": "bar", "cornerRadiusEnd": 3}, "encoding": encoding}
    words = ", ".join(f"{row.name} {row.recall:.1%}" for row in points[:5])
    return Chart("Recall", f"Recall by class, lowest first: {words}", spec, max(140, 24 * len(points) + 40))


def reliability(found: Calibration) -> Chart:
    """Return the accuracy in each bin of confidence against the confidence; on the diagonal, they agree."""
    bins, total = len(found.count), sum(found.count) or 1
    points = [
        {
            "low": at / bins,
            "high": (at + 1) / bins,
            "confidence": sure,
            "accuracy": right,
            "count": count,
            "share": count / total,
        }
        for at, (count, sure, right) in enumerate(zip(found.count, found.confidence, found.accuracy, strict=True))
        if count
    ]
    shown = tips(confidence=("mean confidence", ".1%"), accuracy=("accuracy", ".1%"), count=("count", ","))
    x = quantity("low", "confidence", percent=True, domain=[0, 1])
    y = quantity("accuracy", "accuracy", percent=True, domain=[0, 1])
    bars = {
        "mark": {"type": "rect", "color": "var(--after)", "opacity": 0.75, "stroke": "var(--card)"},
        "encoding": {"x": x, "x2": {"field": "high"}, "y": y, "y2": {"datum": 0}, "tooltip": shown},
    }
    ideal = {
        **data([{"low": at, "accuracy": at} for at in (0, 1)]),
        "mark": {"type": "line", "strokeDash": DASHED, "color": "var(--ink)"},
        "encoding": {"x": x, "y": y},
    }
    size = {"field": "share", "type": "quantitative", "legend": None, "scale": {"domain": [0, 1], "range": [30, 320]}}
    dots = {
        "mark": {"type": "point", "filled": True, "color": "var(--accent)", "opacity": 1, "stroke": "var(--card)"},
        "encoding": {"x": {**x, "field": "confidence"}, "y": y, "size": size, "tooltip": shown},
    }
    text = f"Reliability diagram. The expected calibration error is {found.error:.4f}"
    return Chart("Accuracy by confidence", text, {**data(points), "layer": [bars, ideal, dots]}, 320)


def confidence(found: Calibration) -> Chart:
    """Return how many answers have which confidence."""
    bins, total = len(found.count), sum(found.count) or 1
    points = [
        {"low": at / bins, "high": (at + 1) / bins, "share": count / total, "count": count}
        for at, count in enumerate(found.count)
    ]
    encoding = {
        "x": quantity("low", "confidence", percent=True, domain=[0, 1]),
        "x2": {"field": "high"},
        "y": quantity("share", "share of the predictions", percent=True),
        "y2": {"datum": 0},
        "tooltip": tips(low=("from", ".1%"), high=("to", ".1%"), share=("share", ".1%"), count=("count", ",")),
    }
    mark = {"type": "rect", "color": "var(--before)", "stroke": "var(--card)"}
    sure = sum(count for at, count in enumerate(found.count) if at >= 0.9 * bins) / total
    text = (
        f"Distribution of confidence. {sure:.1%} of the predictions are in the highest bins, from {1 - 1 / bins:.0%} on"
    )
    return Chart("Distribution of confidence", text, {**data(points), "mark": mark, "encoding": encoding}, 320)
