"""`tfopt run` ends soon after a signal, and the same command goes on; no result is thrown away."""

import errno
import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tfopt
from tfopt.cli.outcome import save
from tfopt.errors import ModelError, OutputError


class Stubborn:
    """A result that cannot be written to some folders."""

    def __init__(self, error, *folders):
        self.error, self.folders = error, folders

    def save(self, folder, *, overwrite=False):
        if folder in self.folders:
            raise self.error
        folder.mkdir(exist_ok=True)
        (folder / "model.tflite").write_text("the result")


def test_a_result_that_finds_no_space_is_written_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(
        OutputError, match=r"cannot be written \(.*No space left.*\)\. The results are in .*\.$"
    ) as caught:
        save(Stubborn(full, tmp_path / "out"), tmp_path / "out", overwrite=False)
    place = Path(str(caught.value).rpartition(" are in ")[2].rstrip("."))
    assert (place / "model.tflite").read_text() == "the result"


def test_a_result_that_cannot_be_saved_as_it_is_meant_is_written_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OutputError, match=r"out cannot be written \(No config\)\. The results are in "):
        save(Stubborn(ModelError("No config."), tmp_path / "out"), tmp_path / "out", overwrite=False)


def test_other_errors_say_where_the_result_is_themselves(tmp_path):
    error = OutputError("The folder out is not empty. The results are in out-2.")
    with pytest.raises(OutputError) as caught:
        save(Stubborn(error, tmp_path / "out"), tmp_path / "out", overwrite=False)
    assert caught.value is error


def test_a_result_whose_folder_was_filled_meanwhile_is_written_next_to_it(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "of another.txt").touch()
    (tmp_path / "out-2").mkdir()
    with pytest.raises(OutputError, match=r"not empty\. Pass --overwrite .*\. The results are in .*out-3\.$"):
        save(Stubborn(AssertionError("must not be written")), out, overwrite=False)
    assert (tmp_path / "out-3" / "model.tflite").read_text() == "the result"
    assert [each.name for each in out.iterdir()] == ["of another.txt"]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The start of a command that trains for some seconds."""
    import keras

    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype("float32")
    np.savez(folder / "data.npz", x=x, y=(x[:, 0] > 0).astype("int64"))
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    keras.Sequential([keras.Input((6,)), *layers]).save(folder / "model.keras")
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=20), tfopt.Quantize(epochs=2)), max_drop=None)
    (folder / "recipe.json").write_text(recipe.to_json())
    given = ["--model", folder / "model.keras", "--data", folder / "data.npz", "--batch-size", 4]
    return [sys.executable, "-m", "tfopt", "run", folder / "recipe.json", *map(str, given), "--out"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tfopt.run.run_folder:RunFolder.remove_finished", "tfopt.cli.running:say_written"])
def test_a_signal_after_the_result_is_written_changes_nothing(command, tmp_path, moment):
    owner, _, name = moment.partition(":")
    script = (
        "import importlib, os, signal, sys\n"
        f"owner = importlib.import_module({owner!r})\n"
        f"*path, name = {name.split('.')!r}\n"
        "for part in path: owner = getattr(owner, part)\n"
        "original = getattr(owner, name)\n"
        "def late(*given):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return original(*given)\n"
        "setattr(owner, name, late)\n"
        "from tfopt.__main__ import main\n"
        "main()\n"
    )
    out = tmp_path / "out"
    given = [*map(str, command[3:]), str(out), "--epochs-factor", "0.05"]
    done = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out}/: " in done.stdout
    assert (out / "model.tflite").exists() and not (out / ".tfopt").exists()


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_signal(command, tmp_path):
    out = tmp_path / "out"
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs ignore it
    with subprocess.Popen([*command, out], stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:
        for line in process.stderr:
            if " epoch 3/20 " in line:
                break
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        last = process.stderr.read().splitlines()[-1]
        assert process.wait(10) == 130 and time.monotonic() - started < 10
    assert last.startswith("error: interrupted (1/2 FineTune after ")
    assert last.endswith("; no result was written. Run the command again to go on")
    assert json.loads((out / ".tfopt" / "checkpoint" / "run.json").read_text())["recipe"]["training"]["seed"] == 0
    other = subprocess.run([*command, out, "--seed", "1"], capture_output=True, text=True)
    assert other.returncode == 2 and "recipe.training.seed was 0, is 1" in other.stderr
    again = subprocess.run([*command, out], check=True, capture_output=True, text=True)
    assert "1/2 FineTune: going on after" in again.stderr
    assert (out / "model.tflite").read_bytes() == (tmp_path / "whole" / "model.tflite").read_bytes()
    assert not (out / ".tfopt").exists()
