"""The scores of normal samples and of anomalies."""

from itertools import pairwise

from tfopt.evaluate.findings.types import AnomalyScores
from tfopt.evaluate.page.charts.spec import DASHED, Chart, data, parts, quantity, tips


def scores(found: AnomalyScores) -> Chart:
    """Return how many normal samples and how many anomalies have which score, and the threshold between them."""
    counts = {"normal": found.normal, "anomalies": found.anomalous}
    points = [
        {"part": part, "low": low, "high": high, "share": count / (sum(each) or 1), "count": count}
        for part, each in counts.items()
        for (low, high), count in zip(pairwise(found.edges), each, strict=True)
        if count
    ]
    scale = "log" if found.edges[0] > 0 else "linear"
    x = quantity("low", "mean squared error of the reconstruction", zero=False, nice=False, type=scale)
    shown = tips(part=("samples", None), low=("from", ".4~g"), high=("to", ".4~g"), count=("count", ","))
    bars = {
        "mark": {"type": "rect", "opacity": 0.65},
        "encoding": {
            "x": x,
            "x2": {"field": "high"},
            "y": quantity("share", "share of the samples", percent=True),
            "y2": {"datum": 0},
            "color": parts("part", list(counts), ["var(--after)", "var(--bad)"]),
            "tooltip": shown,
        },
    }
    line = {
        **data([{"low": found.threshold}]),
        "mark": {"type": "rule", "strokeDash": DASHED, "color": "var(--ink)"},
        "encoding": {"x": x},
    }
    text = f"Scores of {sum(found.normal):,} normal samples and {sum(found.anomalous):,} anomalies. The threshold is "
    return Chart("Anomaly scores", f"{text}{found.threshold:.4g}", {**data(points), "layer": [bars, line]}, 280)
