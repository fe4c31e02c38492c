"""Names from files reach the terminal as text: it interprets nothing in them."""

import io
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.base.progress import Progress
from tfopt.base.terminal import console, plain, rendered
from tfopt.errors import ModelError
from tfopt.evaluate.inspect import Inspection, Part
from tfopt.evaluate.report import Report, Row
from tfopt.run.check import Check, CheckedLayer
from tfopt.search.sensitivity import Sensitivity, Trial
from tfopt.tflite.read.flatbuffer import packed as as_flatbuffer
from tfopt.tflite.read.flatbuffer import unpacked as from_flatbuffer
from tfopt.tflite.read.metadata import OLD_LABELS
from tfopt.tflite.write.metadata import with_entry
from tfopt.transfer.ranking import Ranking, Score

EVIL = "a\x1b[2Jb\u202ec\nd\re\x9bf[red]g[/red]:smile:\u2066h"
SHOWN = r"a\x1b[2Jb\u202ec\nd\re\x9bf[red]g[/red]:smile:\u2066h"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ein Wörtchen, 猫, кот, 👍🏽, é", None),
        ("👩‍🔬", None),  # a joiner
        (EVIL, SHOWN),
        ("\t\x00\x7f", r"\t\x00\x7f"),
        ("\u200b\ufeff\u00ad\u200f\u2028\U000e0041", r"\u200b\ufeff\xad\u200f\u2028\U000e0041"),
        ("\udcff", r"\udcff"),  # a byte of a file name that is not UTF-8
        ("", ""),
        (3, "3"),
    ],
)
def test_plain(text, shown):
    assert plain(text) == (text if shown is None else shown)
    plain(text).encode()


def test_lines_may_stay():
    assert plain("a\nb\x1b", lines=True) == "a\nb\\x1b"


def flat(text):
    """The text without table borders and line breaks."""
    return re.sub(r"[\s│┃]", "", text)


def test_a_table_shows_all_of_its_text_as_it_is():
    from rich.table import Table

    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    text = rendered(table, 140)
    assert not OBEYED.search(text)
    assert flat(text).count(r"a\x1b[2Jb\u202ec") == 3
    assert text.count("[red]") == text.count(":smile:") == 3


def test_a_table_is_text_in_a_notebook_too(monkeypatch):
    from rich.table import Table

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "step" in rendered(Table("step"), 40)


def test_a_terminal_gets_no_escape_of_a_name():
    stream = io.StringIO()
    console(file=stream, force_terminal=True, width=100).print(EVIL)
    assert not OBEYED.search(stream.getvalue())


def test_what_results_print():
    row = Row(
        step=EVIL, metrics={}, parameters=1, nonzero_parameters=1, max_unique_weights=1, bytes=1, deflated_bytes=1,
        latency_ms=None, seconds=1, notes=[EVIL],
    )  # fmt: skip
    report = str(Report({"name": EVIL}, [row]))
    layer = CheckedLayer(EVIL, EVIL, EVIL, (EVIL,), EVIL)
    check = str(Check(EVIL, ("stage",), (layer,), (EVIL,), (EVIL,)))
    for text in (report, check):
        assert not OBEYED.search(text)
        assert SHOWN in text


def test_what_results_show_in_a_notebook():
    tag = "<script>"
    row = Row(
        step=tag, metrics={}, parameters=1, nonzero_parameters=1, max_unique_weights=1, bytes=1, deflated_bytes=1,
        latency_ms=None, seconds=1, notes=[tag],
    )  # fmt: skip
    shown = [
        Report({"name": tag}, [row], tag),
        Check(tag, ("stage",), (CheckedLayer(tag, tag, tag, (tag,), tag),), (tag,), (tag,)),
        Sensitivity(tag, 0.5, 3, (Trial(tag, "kernel", 4, 0.5, 0.1, 20.0, 8),)),
        Ranking((Score(tag, tag, 1, 1, 0.5, None),)),
        Inspection(tag, tag, [Part(tag, tag, tag, 1, 0.5, 2, "int8")], 1, 1),
    ]
    for result in shown:
        html = result._repr_html_()
        assert tag not in html and "&lt;script&gt;" in html and html.count("<table") == 1


@pytest.fixture(scope="module")
def evil_tflite(tmp_path_factory):
    """A file whose input, operator and classes have such names."""
    import keras

    keras_model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    data = tfopt.export_tflite(keras_model, export=tfopt.Export(weights="float32", activations="float32")).data
    model = from_flatbuffer(with_entry(data, OLD_LABELS, json.dumps([EVIL, "b"]).encode()))
    model.signatureDefs = None
    for tensor in model.subgraphs[0].tensors:
        tensor.name = EVIL
    path = tmp_path_factory.mktemp("evil") / f"model{EVIL.replace('/', '')}.tflite"
    path.write_bytes(as_flatbuffer(model, len(data)))
    return path


def run(*arguments):
    done = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert not OBEYED.search(done.stdout + done.stderr)
    return done


def test_on_the_command_line(evil_tflite, tmp_path):
    done = run("inspect", evil_tflite)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert SHOWN.replace("/", "") in lines[0]
    assert any(line.startswith(f"{SHOWN} float32") and f"-> {SHOWN} float32" in line for line in lines), lines
    assert any(line == f"2 classes: {SHOWN}, b" for line in lines)
    for command in (["inspect"], ["pack"], ["unpack"], ["check"]):
        done = run(*command, tmp_path / "no\x1b[31m\u202e[red]such")
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert r"no\x1b[31m\u202e[red]such" in done.stderr
    done = run("pack", evil_tflite, "--out", tmp_path / "p\x1bq")
    assert done.exit_code == 0 and r"p\x1bq" in done.stdout


def test_layer_names_on_the_command_line(tmp_path):
    import keras

    name = "a\x1b[2J[red]b\u202e"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name=name)]).save(tmp_path / "m.keras")
    done = run("inspect", tmp_path / "m.keras")
    assert done.exit_code == 0 and r"a\x1b[2J[red]b\u202e" in done.stdout
    done = run("check", tmp_path / "m.keras", "--no-convert")
    assert r"\x1b[2J[red]b\u202e" in flat(done.output)


def test_progress_lines_and_bars(capsys):
    for terminal in (False, True):
        stream = io.StringIO()
        progress = Progress(stream=stream)
        if terminal:
            progress.console._force_terminal = True
        progress.say(EVIL)
        assert stream.getvalue() == SHOWN + "\n"
        callback = progress.callback(EVIL)
        callback.set_params({"epochs": 1, "steps": 1})
        callback.on_epoch_begin(0)
        callback.on_train_batch_end(0)
        callback.on_epoch_end(0, {"loss": 1.0})
        assert f"{SHOWN} epoch 1/1" in stream.getvalue()
        assert "\x1b[2J" not in stream.getvalue() and "\u202e" not in stream.getvalue()


def test_the_line_and_the_bar_of_many_images(monkeypatch):
    from tfopt.data import images

    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for terminal in (False, True):
        stream.isatty = lambda terminal=terminal: terminal
        with images._progress(3000, EVIL) as advance:
            advance(3000)
        assert r"a\x1b[2Jb\u202ec\nd\re\x9bf[red]g[/red]:smile:" in stream.getvalue()  # the bar cuts longer names
        assert "\x1b[2Jb" not in stream.getvalue() and "\u202e" not in stream.getvalue()
        stream.truncate(0)


def test_the_bar_of_a_teacher(monkeypatch):
    from tfopt.base import progress

    monkeypatch.setattr(progress, "_LONG", -1)
    stream = io.StringIO()
    with progress.progress_bar(EVIL, 10, SimpleNamespace(console=console(file=stream)), quiet=False) as advance:
        advance(10)
    assert stream.getvalue().replace("\n", "").startswith(SHOWN)


def test_errors_keep_what_they_say(tmp_path):
    with pytest.raises(ModelError, match="x\x1b"):  # escaped only when printed
        tfopt.load_model(tmp_path / "x\x1b")
    assert np.char.str_len(np.array([SHOWN]))[0] > len(EVIL)


def test_an_old_option_works_and_names_the_new_one():
    """The same old option became different ones in different commands."""
    import click
    from click.testing import CliRunner

    from tfopt.cli.command import Group

    @click.group(cls=Group)
    def group():
        pass

    for command, option in (("export", "activation-ranges"), ("sensitivity", "weight-steps"), ("other", "ranges")):
        group.add_command(click.Command(command, params=[click.Option([f"--{option}", "found"])],
                                        callback=lambda found: click.echo(found)))  # fmt: skip
    for command, new in (("export", "--activation-ranges"), ("sensitivity", "--weight-steps")):
        for old in (["--ranges", "mse"], ["--ranges=mse"]):
            done = CliRunner().invoke(group, [command, *old])
            assert (done.exit_code, done.stdout) == (0, "mse\n")
            assert done.stderr == f"--ranges is now {new}; the old name will be removed in 0.3.0\n"
    done = CliRunner().invoke(group, ["other", "--ranges", "mse"])
    assert (done.stdout, done.stderr) == ("mse\n", "")


def test_an_old_option_of_a_recipe_script_works_and_names_the_new_one(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(cli.running, "_run", lambda recipe, example_teacher, **options: given.append(options))
    monkeypatch.setattr(sys, "argv", ["prune.py", "--preprocess", "unit", "--teacher-preprocess=raw"])
    with pytest.raises(SystemExit) as ended:
        cli.run_recipe(tfopt.Recipe(stages=()))
    assert ended.value.code == 0
    assert given[0]["preprocessing"] == "unit" and given[0]["teacher_preprocessing"] == "raw"
    assert "--preprocess is now --preprocessing; the old name will be removed in 0.3.0\n" in capsys.readouterr().err


def test_a_plot_in_no_format_is_refused_before_the_work(tmp_path):
    (tmp_path / "model.keras").write_text("never read")
    given = ["sensitivity", str(tmp_path / "model.keras"), "--data", "digits", "--plot", str(tmp_path / "bits.txt")]
    done = CliRunner().invoke(cli.main, given)
    assert done.exit_code == 2 and "Cannot draw" in done.stderr and "ends in .png, .svg or .pdf" in done.stderr


def test_a_reader_that_ends_does_not_end_a_run(tmp_path):
    """As in `tfopt run RECIPE 2>&1 | head`: the result is written all the same."""
    import keras

    layers = [keras.Input((4,)), keras.layers.Dense(3, "softmax")]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((90, 4), "float32"), y=np.arange(90) % 3)
    command = [sys.executable, "-m", "tfopt", "run", "post_training", "--model", "model.keras", "--data", "data.npz"]
    reading, writing = os.pipe()
    os.close(reading)
    command += ["--set", "max_drop=1", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "out" / "model.tflite").exists()
