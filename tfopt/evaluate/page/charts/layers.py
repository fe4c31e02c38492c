"""The noise of each layer of a file, and its weights before and after."""

from collections.abc import Sequence
from typing import Any

from tfopt.evaluate.findings.types import Histogram, LayerFinding
from tfopt.evaluate.page.charts.spec import Chart, data, level, parts, quantity, tips, warned
from tfopt.tflite.prove.signals import LEAST_DB


def noise(layers: Sequence[LayerFinding]) -> Chart:
    """Return the signal-to-noise ratio of each operator, from input to output."""
    points = [
        {"place": place, "layer": layer.layer or layer.operator, "operator": layer.operator, "sqnr": layer.sqnr}
        for place, layer in enumerate(layers, 1)
        if layer.sqnr is not None
    ]
    low = [layer.layer or layer.operator for layer in layers if layer.sqnr is not None and layer.sqnr < LEAST_DB]
    hidden = {"labels": False, "ticks": False}
    x = {"field": "place", "type": "ordinal", "title": "operators, from input to output", "axis": hidden}
    shown = tips(layer=("layer", None), operator=("operator", None), sqnr=("signal to noise, dB", ".1f"))
    bars = {
        **data(points),
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "x": x,
            "y": quantity("sqnr", "signal to noise, dB"),
            "color": warned(f"datum.sqnr < {LEAST_DB:g}"),
            "tooltip": shown,
        },
    }
    text = (
        f"Signal-to-quantization-noise ratio of {len(points)} operators. Below {LEAST_DB:g} dB: "
        f"{', '.join(low) or 'none'}"
    )
    return Chart("Signal to noise by operator", text, {"layer": [bars, level(LEAST_DB)]}, 220)


def weights(found: Histogram) -> Chart:
    """Return the weights of one layer before the first stage and in the file, as shares of all."""
    points = [*_bins(found, found.before or [], "before"), *_bins(found, found.after, "after")]
    shown = tips(
        part=("weights", None),
        low=("from", ".4~g"),
        high=("to", ".4~g"),
        share=("share", ".2%"),
        count=("count", ","),
    )
    encoding = {
        "x": quantity("low", zero=False, nice=False, axis={"tickCount": 5}),
        "x2": {"field": "high"},
        "y": quantity("share", percent=True, axis={"tickCount": 4}, type="sqrt"),
        "y2": {"datum": 0},
        "color": parts("part", ["before", "after"], ["var(--before)", "var(--after)"]),
        "tooltip": shown,
    }
    mark = {"type": "rect", "opacity": 0.65}
    before, after = found.unique
    old = "the layer is new" if before is None else f"{before:,} distinct values before"
    text = f"Weights of {found.layer}: {old}, {after:,} in the file"
    return Chart(found.layer, text, {**data(points), "mark": mark, "encoding": encoding}, 150)


def _bins(found: Histogram, counts: Sequence[int], part: str) -> list[dict[str, Any]]:
    total, width = sum(counts) or 1, (found.high - found.low) / max(len(counts), 1)
    return [
        {
            "part": part,
            "low": found.low + at * width,
            "high": found.low + (at + 1) * width,
            "share": count / total,
            "count": count,
        }
        for at, count in enumerate(counts)
        if count
    ]
