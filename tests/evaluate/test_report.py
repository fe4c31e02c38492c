"""The report as text and as JSON, from rows made by hand."""

import dataclasses
import json

import numpy as np
import pytest

import tfopt
from tfopt.evaluate.page.single import report_page
from tfopt.evaluate.report import Report, Resources, Row, measured_row
from tfopt.evaluate.timing import speedup
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

ROWS = [
    Row(
        step="original",
        metrics={"accuracy": 0.98765},
        parameters=25706,
        nonzero_parameters=25701,
        max_unique_weights=18430,
        bytes=105344,
        deflated_bytes=96462,
        latency_ms=0.01527,
        seconds=1.4,
        notes=["not pruned: [bold]head[/bold]", "x" * 200],
        macs=12_501_632,
        speedup=2.345,
    ),
    Row(
        step="exported int8",
        metrics={"accuracy": 0.5},
        parameters=10,
        nonzero_parameters=0,
        max_unique_weights=1,
        bytes=999,
        deflated_bytes=1000,
        latency_ms=None,
        seconds=3599.6,
    ),
]


def cells(line):
    return [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]


def test_table():
    lines = str(Report({"name": "mine"}, ROWS)).splitlines()
    assert lines[0].strip() == "mine"
    header = ["step", "accuracy", "nonzero", "unique", "bytes", "deflated", "MACs", "ms", "speed", "seconds"]
    assert cells(lines[2]) == header
    assert cells(lines[4]) == [
        "original", "0.9877", "25,701 / 25,706", "18,430", "105,344", "96,462", "12.5M", "0.015", "2.35x", "1",
    ]  # fmt: skip
    assert cells(lines[5]) == ["exported int8", "0.5000", "0 / 10", "1", "999", "1,000", "-", "-", "-", "3600"]
    assert len({len(line) for line in lines[1:7]}) == 1


def test_notes_stand_below_as_they_are():
    text = str(Report({"name": "mine"}, ROWS))
    assert "original: not pruned: [bold]head[/bold]" in text
    assert text.replace("\n", "").count("x") >= 200
    assert "\x1b" not in text


def test_json():
    report = Report({"name": "mine", "stages": []}, ROWS)
    again = json.loads(report.to_json())
    assert set(again) == {"recipe", "rows", "verdict", "ok", "findings", "resources"}
    assert again["recipe"] == {"name": "mine", "stages": []}
    assert again["rows"][0] == {
        "step": "original",
        "metrics": {"accuracy": 0.98765},
        "parameters": 25706,
        "nonzero_parameters": 25701,
        "max_unique_weights": 18430,
        "bytes": 105344,
        "deflated_bytes": 96462,
        "latency_ms": 0.01527,
        "seconds": 1.4,
        "notes": ["not pruned: [bold]head[/bold]", "x" * 200],
        "macs": 12_501_632,
        "speedup": 2.345,
        "history": None,
    }
    assert again["rows"][1]["latency_ms"] is None
    assert again["rows"][1]["notes"] == []


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), np.float64("-inf")])
def test_metrics_that_are_no_numbers(value):
    rows = [dataclasses.replace(ROWS[0], metrics={"accuracy": 0.5, "auc": value}), *ROWS[1:]]
    rows[1] = dataclasses.replace(rows[1], metrics={"accuracy": 0.5, "auc": 0.75})
    report = Report({"name": "mine"}, rows)
    text = report.to_json()
    assert json.loads(text, parse_constant=pytest.fail)["rows"][0]["metrics"] == {"accuracy": 0.5, "auc": None}
    assert Report.from_json(text) == report
    assert cells(str(report).splitlines()[4])[:3] == ["original", "0.5000", "-"]
    first = dataclasses.replace(ROWS[0], metrics={"auc": value})
    page = report_page(Report({"name": "mine"}, [first, dataclasses.replace(ROWS[1], metrics={"auc": 0.75})]))
    assert "0.75" in page and "against cost" not in page
    assert "against cost" in report_page(report)


def test_a_score_that_is_no_number(full_report):
    report = full_report()
    worst = dataclasses.replace(report.findings.answers[0].worst[0], score=float("nan"))
    answers = dataclasses.replace(report.findings.answers[0], worst=[worst])
    report = dataclasses.replace(report, findings=dataclasses.replace(report.findings, answers=[answers]))
    again = Report.from_json(report.to_json())
    assert again.findings.answers[0].worst[0].score is None


def test_empty_report_is_not_an_error():
    assert "step" in str(Report({}))
    empty = {"recipe": {}, "rows": [], "verdict": "", "ok": True, "findings": None, "resources": None}
    assert json.loads(Report({}).to_json()) == empty


def test_a_report_states_device_precision_and_memory():
    used = Resources("2 CPU cores", "bfloat16", 3 * 2**29, 2**29)
    report = Report({"name": "mine"}, ROWS, resources=used)
    line = "2 CPU cores, bfloat16; at most 1,536 MiB of memory and 512 MiB in a child process"
    assert str(report).splitlines()[-1] == line and line in report._repr_html_()
    assert Report.from_json(report.to_json()) == report
    assert str(Resources("1 GPU (X)", "float16", None, 0)) == "1 GPU (X), float16"


def test_a_report_of_an_earlier_version_can_be_read():
    row = json.dumps({name: value for name, value in dataclasses.asdict(ROWS[0]).items() if name != "history"})
    report = Report.from_json(f'{{"recipe": {{}}, "rows": [{row}], "verdict": "too few"}}')
    assert report == Report({}, ROWS[:1], "too few")


def test_everything_comes_back(full_report):
    report = full_report(ok=False)
    assert Report.from_json(report.to_json()) == report


def test_measured_row_counts_kernels_and_biases_once():
    """Weights by hand: 6 x 4 of three values with 9 zeros, bias with 1 zero, then 4 x 2 without zeros and no bias."""
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2, use_bias=False)])
    first = np.array([0.0] * 9 + [0.5] * 10 + [-1.0] * 5, "float32")
    second = np.arange(1, 9, dtype="float32").reshape(4, 2) / 8
    np.random.default_rng(0).shuffle(first)
    model.set_weights([first.reshape(6, 4), np.array([0.0, 1.0, 2.0, 3.0]), second])
    x = np.random.default_rng(1).normal(size=(50, 6)).astype("float32")
    hidden = np.maximum(x @ first.reshape(6, 4) + np.array([0.0, 1.0, 2.0, 3.0]), 0)
    labels = (hidden @ second).argmax(axis=1)
    labels[:10] = 1 - labels[:10]
    lite = build_file(model, Export(weights="float32", activations="float32"))
    data = tfopt.load_data(((x, labels), (x, labels)))
    row = measured_row("hand", lite, data, seconds=2.5, notes=["n"], latency=False)
    assert row.metrics == {"accuracy": pytest.approx(0.8)}
    assert row.parameters == 24 + 4 + 8
    assert row.nonzero_parameters == 15 + 3 + 8
    assert row.max_unique_weights == 8
    assert row.latency_ms is None and row.speedup is None
    assert row.macs == 6 * 4 + 4 * 2
    assert (row.seconds, row.notes, row.step) == (2.5, ["n"], "hand")


def test_a_row_is_compared_with_the_speed_of_another_file():
    import keras

    def file(width):
        wide = keras.Sequential([keras.Input((64,)), keras.layers.Dense(width), keras.layers.Dense(2)])
        return build_file(wide, Export(weights="float32", activations="float32"), proven=False)

    x = np.random.default_rng(0).normal(size=(20, 64)).astype("float32")
    data = tfopt.load_data((x, np.arange(20) % 2))
    row = measured_row("small", file(8), data, seconds=1.0, notes=[], original=file(20_000))
    assert row.macs == 64 * 8 + 8 * 2 and row.speedup > 2  # 2,500 times fewer multiplications
    row = measured_row("small", file(8), data, seconds=1.0, notes=[], original=file(20_000), original_ms=12.0)
    assert row.latency_ms * row.speedup == pytest.approx(12.0)  # the table does not contradict itself


def test_ratios_are_medians_over_rounds():
    """Rounds of 2, 4 and 50 ms against 1, 1 and 100 ms: ratios 2, 4 and 0.5."""
    before, after = np.array([[2.0, 2, 9], [4, 4, 4], [50, 50, 50]]), np.array([[1.0, 1, 1], [1, 0, 1], [100, 100, 1]])
    assert speedup(before, after) == 2


def test_a_file_for_images_of_any_size_is_timed_on_one_of_the_data():
    import keras

    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
    x = np.random.default_rng(0).random((40, 5, 5, 1)).astype("float32")
    data = tfopt.load_data((x, np.arange(40) % 2))
    lite = build_file(model, Export(weights="float32", activations="float32"), data)
    assert lite.inputs[0].shape[1:] == (None, None, 1)
    assert measured_row("float", lite, data, seconds=1.0, notes=[]).latency_ms > 0


def test_no_column_is_cut_however_many_metrics_there_are():
    names = [f"{output}_{metric}" for output in ("kind", "age", "place") for metric in ("mean_iou", "rmse", "mae")]
    row = dataclasses.replace(ROWS[0], metrics=dict.fromkeys(names, 123456.5), notes=["n" * 150])
    lines = str(Report({"name": "mine"}, [row])).splitlines()
    (heads,) = (line for line in lines if " step " in line)
    assert "kind mean IoU" in heads and "place MAE" in heads and "…" not in heads
    assert sum(line.count("123456.5000") for line in lines) == 9
    assert max(len(line) for line in lines if "n" * 20 in line) <= 120
