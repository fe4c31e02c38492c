"""The metric against what it costs: bytes, milliseconds, multiplications."""

from collections.abc import Sequence
from dataclasses import dataclass

from tfopt.evaluate.page.charts.spec import DASHED, Chart, Spec, data, number_format, quantity, tips


@dataclass(frozen=True)
class Point:
    """A file in the plane.

    Attributes:
        name: shown beside it.
        cost: smaller is better.
        metric: larger or smaller is better.
        place: among the points that a line connects; -1 for none.
        strong: whether it is one of those that the chart is about.
    """

    name: str
    cost: float
    metric: float
    place: int = -1
    strong: bool = True


def tradeoff(title: str, unit: str, points: Sequence[Point], metric: str, *, percent: bool) -> Chart:
    """Return the metric against a cost.

    Args:
        title: of the chart, which is the name of the cost.
        unit: of the cost; "" for none.
        points: at least one.
        metric: its name.
        percent: whether to show it in percent.
    """
    name = title.lower() if unit in ("", title.lower()) else f"{title.lower()}, {unit}"
    points = _merged(points)
    x = quantity("cost", name, axis=_ticks(points), domain=_domain([point.cost for point in points], 0.01), nice=True)
    least = 0.01 if percent else 0.001
    y = quantity(
        "metric",
        metric,
        percent=percent,
        axis={"tickCount": 6},
        domain=_domain([point.metric for point in points], least),
    )
    shown = tips(name=("file", None), cost=(name, ",.6~r"), metric=(metric, number_format(percent=percent)))
    line: Spec = {
        "transform": [{"filter": "datum.place >= 0"}],
        "mark": {"type": "line", "strokeDash": DASHED, "color": "var(--line-strong)"},
        "encoding": {"order": {"field": "place"}},
    }
    color = {"condition": {"test": "datum.strong", "value": "var(--after)"}, "value": "var(--before)"}
    dots: Spec = {
        "mark": {"type": "point", "filled": True, "size": 130, "opacity": 1},
        "encoding": {"color": color, "tooltip": shown},
    }
    words = "; ".join(f"{point.name}: {point.cost:,g} {unit}, {point.metric:.4g}" for point in points)
    spec = {**data(map(vars, points)), "encoding": {"x": x, "y": y}, "layer": [line, dots, *_labels(points)]}
    return Chart(title, f"{metric} against {name}. {words}", spec, 300)


def _ticks(points: Sequence[Point]) -> Spec:
    large = max(point.cost for point in points) >= 10_000
    return {"tickCount": 6, **({"format": "~s"} if large else {})}


def _labels(points: Sequence[Point]) -> list[Spec]:
    """Return the names beside the points, on the side where there is room."""
    middle = (min(point.cost for point in points) + max(point.cost for point in points)) / 2
    return [
        {
            "transform": [{"filter": f"datum.cost {test} {middle!r}"}],
            "mark": {"type": "text", "align": align, "dy": -14, "dx": dx, "color": "var(--ink)", "limit": 170},
            "encoding": {"text": {"field": "name"}},
        }
        for test, align, dx in (("<=", "left", -6), (">", "right", 6))
    ]


def _merged(points: Sequence[Point]) -> list[Point]:
    """Return one point with all names for points at the same place; it is strong if one of them is."""
    found: dict[tuple[float, float], Point] = {}
    for point in points:
        where = point.cost, round(point.metric, 6)
        other = found.get(where)
        name = f"{other.name}, {point.name}" if other else point.name
        place = max(point.place, other.place) if other else point.place
        found[where] = Point(name, *where, place, point.strong or bool(other and other.strong))
    return list(found.values())


def _domain(values: Sequence[float], least: float) -> list[float]:
    """Return a range around `values`, at least `least` (of their size, or 1) wide, so that equal values look equal."""
    low, high = min(values), max(values)
    width = max(high - low, least * max(abs(low), abs(high), 1e-9))
    return [low - 0.18 * width, high + 0.18 * width] if high > low else [low - width / 2, high + width / 2]


def front(points: Sequence[Point], *, smaller_is_better: bool) -> list[Point]:
    """Return the points with those that no other one beats connected, from the cheapest on, and the others weak.

    A point is beaten if another costs no more and is better, or costs less and is as good.
    """
    sign = 1 if smaller_is_better else -1
    best, order = float("inf"), list[int]()
    for at in sorted(range(len(points)), key=lambda at: (points[at].cost, sign * points[at].metric)):
        if sign * points[at].metric < best:
            best = sign * points[at].metric
            order.append(at)
    return [
        Point(point.name, point.cost, point.metric, order.index(at) if at in order else -1, at in order)
        for at, point in enumerate(points)
    ]
