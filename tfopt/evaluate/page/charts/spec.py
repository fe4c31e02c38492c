"""Parts of Vega-Lite specifications.

Colors are CSS variables of `style.css`, such as "var(--after)". The page replaces them when it draws a chart, so that
charts follow the light or dark mode. Names from files are in the data only, never in an expression.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]
Records = Iterable[Mapping[str, Any]]
DASHED = [5, 4]


@dataclass(frozen=True)
class Chart:
    """A chart and its words.

    Attributes:
        title: above it, or on its tab.
        text: what it shows, for those who do not see it.
        spec: of Vega-Lite, without a size.
        height: in pixels.
    """

    title: str
    text: str
    spec: Spec
    height: int = 280


def data(records: Records) -> Spec:
    """Return the data of a chart or of one of its layers."""
    return {"data": {"values": list(records)}}


def quantity(field: str, title: str | None = None, *, percent: bool = False, axis: Any = None, **scale: Any) -> Spec:
    """Return an axis for numbers; `scale` holds settings of its scale."""
    axes = {**({"format": ".3~%", "tickCount": 5} if percent else {}), **(axis or {})}
    parts = {"scale": scale, "axis": axes}
    given = {name: part for name, part in parts.items() if part}
    return {"field": field, "type": "quantitative", "title": title, **given}


def classes(field: str, title: str | None = None, **axis: Any) -> Spec:
    """Return an axis for names, in the order of the data; `axis` holds its settings."""
    # Another order would put the names into an expression, which some characters break.
    return {"field": field, "type": "nominal", "sort": None, "title": title, "axis": {"labelLimit": 120, **axis}}


def parts(field: str, names: list[str], colors: list[str]) -> Spec:
    """Return a color for each of the `names`, with a legend above the chart."""
    scale = {"domain": names, "range": colors}
    return {"field": field, "type": "nominal", "title": None, "legend": {"orient": "top"}, "scale": scale}


def tips(**fields: tuple[str, str | None]) -> list[Spec]:
    """Return what appears under the pointer: (title, format) by field; None for text."""
    return [
        {"field": field, "title": title, **({"format": form} if form else {})}
        for field, (title, form) in fields.items()
    ]


def number_format(*, percent: bool) -> str:
    """Return the format of a metric."""
    return ".2%" if percent else ".4~g"


def warned(test: str) -> Spec:
    """Return the color of what is bad where `test` holds."""
    return {"condition": {"test": test, "value": "var(--bad)"}, "value": "var(--after)"}


def level(value: float) -> Spec:
    """Return a dashed horizontal line at `value`."""
    mark = {"type": "rule", "strokeDash": DASHED, "color": "var(--bad)"}
    return {**data([{}]), "mark": mark, "encoding": {"y": {"datum": value}}}
