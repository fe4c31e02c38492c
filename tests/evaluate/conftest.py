"""A report made by hand with every part of its page, and names that would run if a page did not escape them."""

import base64
import io

import pytest
from PIL import Image

from tfopt.evaluate.findings.types import (
    Answers,
    Calibration,
    Classes,
    Findings,
    Histogram,
    LayerFinding,
    Sample,
)
from tfopt.evaluate.report import Report, Row
from tfopt.training.history import History

EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>\"'&{{7*7}}\u2028"


def picture():
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(content, "WEBP")
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def a_row(step, accuracy, size, **more):
    settings = {"latency_ms": 0.2, "seconds": 3.0, "macs": 1_000_000, "speedup": 1.5, **more}
    return Row(
        step=step,
        metrics={"accuracy": accuracy},
        parameters=1000,
        nonzero_parameters=size // 4,
        max_unique_weights=16,
        bytes=size,
        deflated_bytes=size // 2,
        **settings,
    )


def history(kept):
    logs = {"loss": [1.0, 0.5, float("nan")], "accuracy": [0.5, 0.7, 0.8]}
    return History.of(
        {**logs, "val_loss": [1.1, 0.6, 0.7], "val_accuracy": [0.4, 0.8, 0.7]}, metric="accuracy", kept=kept
    )


@pytest.fixture
def full_report():
    """Return a function that makes a report whose names are `name`."""

    def make(name=EVIL, **more):
        layer = {"shape": "8 x 8 x 4", "parameters": 100, "bytes": 100}
        weighted = {"sparsity": 0.5, "unique": 16, "weights": "int8"}
        bare = {"sparsity": None, "unique": None, "weights": ""}
        classes = Classes(
            names=[name, "dog", "dog"], unit="samples", support=[20, 10, 10], predicted=[18, 12, 10], right=[15, 9, 9],
            wrong=[(0, 1, 3), (0, 2, 2), (1, 0, 1), (2, 0, 1)],
        )  # fmt: skip
        calibration = Calibration(
            error=0.03, count=[0, 10, 30], confidence=[None, 0.5, 0.9], accuracy=[None, 0.6, 0.85]
        )
        answers = Answers(
            output="",
            classes=classes,
            calibration=calibration,
            worst=[Sample(number=7, image=picture(), label=name, predicted="dog", score=0.01)],
            scored="probability of the label's class",
        )
        findings = Findings(
            samples=40,
            layers=[
                LayerFinding(layer=name, operator="CONV_2D", computes="int8", sqnr=40.0, **weighted, **layer),
                LayerFinding(layer=name, operator="SIN", computes="float32", sqnr=3.0, **bare, **layer),
            ],
            histograms=[Histogram(layer=name, low=-1.0, high=1.0, before=[5, 0, 5], after=[1, 8, 1], unique=(10, 3))],
            answers=[answers],
            fed=[f"source: {name}"],
            versions={"tfopt": name},
            notes=[f"the report has no tails: {name}"],
        )  # fmt: skip
        rows = [
            a_row("original", 0.9, 40_000, speedup=None),
            a_row("Prune", 0.89, 40_000, history=history(2), notes=[name]),
            a_row("exported int8", 0.895, 10_000, history=history(0), notes=[f"left in float: {name}"]),
        ]
        recipe = {"name": name, "stages": [{"stage": "Prune", "layers": [{"name": name}]}], "training": {"seed": 3}}
        return Report(**{"recipe": recipe, "rows": rows, "findings": findings, **more})

    return make
