"""Signals in the parts of a run that are no training: each ends soon, says how to go on, and leaves nothing behind."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tfopt

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="/proc")]

# Run in the process that is interrupted: it says when it is in a function, which then takes a minute longer.
PAUSE = """
import importlib, os, sys, time
from tfopt.__main__ import main

module, _, name = sys.argv.pop(1).partition(":")
owner, place = importlib.import_module(module), name.split(".")
for part in place[:-1]:
    owner = getattr(owner, part)
original = getattr(owner, place[-1])

def slow(*args, **kwargs):
    print("AT THE MOMENT", file=sys.stderr, flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:  # as code that is busy, not one call that a signal ends
        sum(range(10000))
    return original(*args, **kwargs)

setattr(owner, place[-1], slow)
main()
"""
MOMENTS = {
    "dry run": "tfopt.run.prepare:dry_run",
    "calibration": "tfopt.stages.quantize.quantize:Quantize.calibrate",
    "evaluation": "tfopt.run.guard:Guard.evaluate",
    "measuring a file": "tfopt.run.rows:measured_row",
    "export": "tfopt.run.optimize:_Run._export",
    "teacher": "tfopt.teachers.cache:Answers._written",
    "writing the result": "tfopt.run.result:Result.save",
}

BEFORE_TRAINING = {"dry run", "calibration", "evaluation", "measuring a file", "teacher"}  # nothing to keep


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    import keras

    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype("float32")
    np.savez(folder / "data.npz", x=x, y=(x[:, 0] > 0).astype("int64"))
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    keras.Sequential([keras.Input((6,)), *layers]).save(folder / "model.keras")
    stages = (tfopt.FineTune(epochs=1), tfopt.Quantize(epochs=1, min_steps=0))
    (folder / "recipe.json").write_text(tfopt.Recipe(stages=stages, max_drop=None).to_json())
    transfer = tfopt.transfer.FeatureTransfer()
    (folder / "transfer.json").write_text(tfopt.Recipe(transfer=transfer, stages=(), max_drop=None).to_json())
    return folder


def command(given, moment, out, recipe="recipe.json", *more):
    data = ["--model", given / "model.keras", "--data", given / "data.npz", "--out", out, *more]
    return [sys.executable, "-c", PAUSE, moment, "run", given / recipe, *map(str, data)]


def interrupted(command, tmp_path, number, at="AT THE MOMENT"):
    """Send the signal at the moment; return the exit code, the last line, and what is left behind."""
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "TFOPT_MARK": str(tmp_path)}
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listening) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if at in line:
                break
        else:
            pytest.fail(f"the run ended before: {''.join(said)}")
        process.send_signal(number)
        started = time.monotonic()
        last = process.stderr.read().splitlines()[-1]
        code = process.wait(30)
    assert time.monotonic() - started < 10
    end = time.monotonic() + 5  # a child that was killed is gone a moment later
    while (orphans := processes_with(f"TFOPT_MARK={tmp_path}")) and time.monotonic() < end:
        time.sleep(0.1)
    left = {path.name for path in (tmp_path / "tmp").iterdir()} - {"__pycache__"}  # of TensorFlow's AutoGraph
    return code, last, orphans, sorted(left)


def processes_with(variable):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_a_moment(given, tmp_path, moment):
    number = (signal.SIGTERM, signal.SIGINT)[list(MOMENTS).index(moment) % 2]
    teacher = ["--teacher", given / "model.keras", "--teacher-cache", tmp_path / "cache"] if moment == "teacher" else []
    found = interrupted(command(given, MOMENTS[moment], tmp_path / "out", "recipe.json", *teacher), tmp_path, number)
    code, last, orphans, left = found
    assert code == 128 + number
    kept = (tmp_path / "out" / ".tfopt" / "checkpoint").exists()
    assert last == f"error: interrupted; no result was written{'. Run the command again to go on' if kept else ''}"
    assert kept == (moment not in BEFORE_TRAINING)
    assert orphans == [] and left == []
    assert not list(tmp_path.rglob("*.tflite"))


def test_a_signal_while_features_are_extracted(given, tmp_path):
    moment = "tfopt.teachers.cache:Answers._written"
    code, last, orphans, left = interrupted(
        command(given, moment, tmp_path / "out", "transfer.json"), tmp_path, signal.SIGTERM
    )
    assert code == 143 and last.startswith("error: interrupted; no result was written") and orphans == left == []


CONVERTS = """
import sys
from tfopt.__main__ import main
from tfopt.tflite.write import isolated

original = isolated.Converter._called

def called(self, *args, **kwargs):
    isolated._DOORS = "busy_doors:"
    print("AT THE MOMENT", file=sys.stderr, flush=True)
    return original(self, *args, **kwargs)

isolated.Converter._called = called
main()
"""


@pytest.mark.parametrize("name", ["run", "export"])
def test_a_signal_while_the_child_converts(given, tmp_path, monkeypatch, name):
    (tmp_path / "busy_doors.py").write_text("import time\ndef convert(**arguments): time.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    arguments = command(given, "", tmp_path / "out")[4:]
    if name == "export":
        arguments = ["export", str(given / "model.keras"), "--out", str(tmp_path / "out.tflite"), "--data"]
        arguments.append(str(given / "data.npz"))
    code, last, orphans, left = interrupted([sys.executable, "-c", CONVERTS, *arguments], tmp_path, signal.SIGTERM)
    assert code == 143 and last.startswith("error: interrupted; no result was written")
    assert last.endswith("to go on") == (name == "run" and (tmp_path / "out" / ".tfopt").exists())
    assert orphans == left == [] and not (tmp_path / "out.tflite").exists()
