"""`tfopt run --json`: stdout has JSON lines and nothing else, in every case."""

import io
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.cli.events import JsonLines


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    x = np.random.default_rng(0).normal(size=(150, 6)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    y[::4] = 1 - y[::4]  # nobody gets these right
    np.savez(folder / "data.npz", x=x, y=y)
    keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")]).save(folder / "model.keras")
    stages = (tfopt.FineTune(epochs=2, min_steps=0, learning_rate=0.1),)
    (folder / "recipe.json").write_text(tfopt.Recipe(name="e", stages=stages, max_drop=None).to_json())
    return folder


def run(folder, *more, recipe="recipe.json"):
    given = ["--model", folder / "model.keras", "--data", folder / "data.npz", "--out", "out", *more]
    done = CliRunner().invoke(cli.main, ["run", str(folder / recipe), "--json", *map(str, given)])
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def test_events_of_a_run(folder):
    done, events = run(folder)
    assert done.exit_code == 0, done.output
    names = [event["event"] for event in events]
    assert [name for name in names if name not in ("message", "note")] == [
        *("run_started", "row", "stage_started", "epoch", "epoch", "row", "export", "row"),
        *("verdict", "written", "finished"),
    ]
    by_name = {name: [event for event in events if event["event"] == name] for name in names}
    assert by_name["run_started"][0]["stages"] == ["FineTune"]
    assert [(each["stage"], each["epoch"], each["epochs"]) for each in by_name["epoch"]] == [
        ("FineTune", 1, 2), ("FineTune", 2, 2)]  # fmt: skip
    assert set(by_name["epoch"][0]["metrics"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    report = json.loads(Path("out/report.json").read_text())
    assert [row["bytes"] for row in by_name["row"]] == [row["bytes"] for row in report["rows"]]
    assert by_name["export"][0]["bytes"] == report["rows"][-1]["bytes"]
    assert by_name["written"][0]["folder"] == "out" and "epochs.csv" in by_name["written"][0]["files"]
    assert by_name["finished"][0]["code"] == 0
    assert "accuracy" in done.stderr and "FineTune epoch 1/2" in done.stderr
    times = [event["time"] for event in events]
    assert times == sorted(times)


def test_errors_are_events(folder):
    done, events = run(folder, "--task", "regression", "--min-accuracy", 0.5)
    assert done.exit_code == 2 and events[-1]["event"] == "error" and events[-1]["code"] == 2
    assert events[-1]["message"].startswith("--min-accuracy needs a classification task")
    assert "error: --min-accuracy" in done.stderr
    done, events = run(folder, "--min-accuracy", 1, "--overwrite")
    assert (done.exit_code, events[-1]["event"], events[-1]["code"]) == (1, "error", 1)
    (folder / "broken.py").write_text("print('hello')\nrecipe = 5\n")
    done, events = run(folder, "--overwrite", recipe="broken.py")
    assert done.exit_code == 2 and [event["event"] for event in events] == ["error"] and "hello" in done.stderr


def test_nobody_reads():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    lines = JsonLines(Closed())
    lines("note", {"text": "a"})
    lines("note", {"text": "b"})


def test_numbers_that_json_lacks():
    stream = io.StringIO()
    JsonLines(stream)("row", {"metrics": {"mae": float("nan"), "mse": [1.5, float("inf")]}, "step": "x"})
    found = json.loads(stream.getvalue())
    assert (found["metrics"], found["step"]) == ({"mae": None, "mse": [1.5, None]}, "x")


@pytest.mark.slow
def test_stdout_of_a_process_has_nothing_else(folder, tmp_path):
    given = ["--model", folder / "model.keras", "--data", folder / "data.npz", "--out", tmp_path / "out", "--json"]
    command = [sys.executable, "-m", "tfopt", "run", folder / "recipe.json", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "finished"
