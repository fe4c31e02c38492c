"""What the commands say: help in 80 columns, tracebacks with --debug, nothing twice and nothing without a subject."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.base.interruption import Interrupted
from tfopt.cli.outcome import require_success, say_passed
from tfopt.errors import PromiseError
from tfopt.evaluate.report import Report, Row
from tfopt.run.guard import Verdict
from tfopt.run.result import Result
from tfopt.tasks import Several
from tfopt.tasks.table import TASKS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tfopt_command(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that is right on its data, the data, and images with a model for them."""
    import keras

    folder = tmp_path_factory.mktemp("messages")
    rng = np.random.default_rng(0)
    centers, y = rng.normal(size=(3, 6)) * 3, np.arange(240) % 3
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax", name="nearest")], name="small")
    model.set_weights([centers.T, -(centers**2).sum(axis=1) / 2])
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=(centers[y] + 0.1 * rng.normal(size=(240, 6))).astype("float32"), y=y)
    for name in ("one", "two"):
        inner = [keras.layers.Flatten(), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")]
        keras.Sequential([keras.Input((4, 4, 3)), *inner]).save(folder / f"{name}.keras")
    np.savez(folder / "images.npz", x=rng.integers(0, 256, (240, 4, 4, 3)).astype(np.uint8), y=y)
    return folder


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict(), "passed: mean IoU 0.5000 on the test samples, original 0.7500\n"),
        (Verdict(text="The samples are too few."), ""),
        (Verdict(ok=False, text="Prune ended the run."), ""),
    ],
)
def test_a_run_that_passed_ends_with_its_metric(verdict, said, capsys):
    rows = [row_of(step, {"mean_iou": value, "accuracy": 0.9}) for step, value in (("original", 0.75), ("file", 0.5))]
    say_passed(Report({}, rows), verdict)
    assert capsys.readouterr().out == said


def test_a_metric_without_a_number_is_a_dash(capsys):
    say_passed(Report({}, [row_of("original", {"mse": None}), row_of("file", {"mse": 0.25})]), Verdict())
    say_passed(Report({}, [row_of("original", {"mse": 0.25}), row_of("file", {"mse": None})]), Verdict())
    assert capsys.readouterr().out.splitlines() == [
        "passed: MSE 0.2500 on the test samples, original -",
        "passed: MSE - on the test samples, original 0.2500",
    ]


def row_of(step, metrics):
    return Row(
        step=step,
        metrics=metrics,
        parameters=0,
        nonzero_parameters=0,
        max_unique_weights=0,
        bytes=0,
        deflated_bytes=0,
        latency_ms=None,
        seconds=0,
    )


def test_a_result_is_shown_in_one_line(folder):
    report = Report({"name": "small"}, [row_of("original", {"accuracy": 0.5}), row_of("file", {"mean_iou": 0.25})])
    assert repr(report) == "Report(small: file, mean IoU 0.2500; 2 rows)"
    lite = SimpleNamespace(size=12345)
    for verdict, word in ((Verdict(), "passed"), (Verdict(text="?"), "uncertain"), (Verdict(ok=False), "failed")):
        result = Result(None, lite, report, tfopt.Recipe(stages=()), {}, verdict=verdict)
        assert repr(result) == f"Result(small: file, mean IoU 0.2500; {word}; 12,345 bytes)"
    data = tfopt.load_data(folder / "data.npz")
    assert repr(data) == (
        "Dataset(file data.npz: 154 train, 38 validation, 48 test; task: classification, 3 classes, sparse labels)"
    )


def test_the_summaries_of_all_commands_are_whole_in_80_columns():
    done = CliRunner().invoke(cli.main, ["--help"], terminal_width=78)  # click leaves 2 of 80 free
    summaries = done.stdout.split("Commands:\n")[1].splitlines()
    assert len(summaries) == len(cli.main.commands)
    for line in summaries:
        assert line.endswith(".") and not line.endswith("..."), line
        assert len(line) <= 80


@pytest.mark.parametrize("error", ["absent.json", "wrong.json"])
def test_debug_adds_a_traceback_and_keeps_the_exit_code(error, tmp_path):
    (tmp_path / "wrong.json").write_text('{"stages": [{"stage": "Shrink"}]}')
    plain, debug = tfopt_command("run", error), tfopt_command("--debug", "run", error)
    assert plain.exit_code == debug.exit_code == 2
    assert "Traceback" not in plain.stderr
    assert debug.stderr.startswith("Traceback (most recent call last):\n") and "RecipeError: " in debug.stderr
    assert debug.stderr.endswith(plain.stderr)


def test_debug_keeps_the_exit_code_of_a_broken_promise(folder, monkeypatch):
    from tfopt.evaluate import inspect

    def broken(*_, **__):
        raise PromiseError("It is \x1b[2J broken.")

    monkeypatch.setattr(inspect, "inspect_file", broken)
    done = tfopt_command("--debug", "inspect", folder / "model.keras")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr and "\x1b" not in done.stderr


def test_what_ended_a_run_is_said_once(folder):
    ruinous = tfopt.Recipe(stages=(tfopt.Prune(final_sparsity=0.9, schedule="one-shot", epochs=0),), name="ruinous")
    (folder / "ruinous.json").write_text(ruinous.to_json())
    files = ("--model", folder / "model.keras", "--data", folder / "data.npz")
    done = tfopt_command("run", folder / "ruinous.json", *files, "--quiet")
    assert done.exit_code == 1, done.output
    assert done.output.count("Prune ended the run") == 1
    assert done.stderr.startswith("error: Prune ended the run: accuracy ")
    assert done.stderr.endswith(". All results are in saved_models/ruinous.\n")


@pytest.mark.parametrize("text", ["It fell to 0.85", "It fell to 0.85."])
def test_a_verdict_ends_with_one_full_stop(text):
    with pytest.raises(PromiseError, match=r"^It fell to 0\.85\. All results are in oc\.$"):
        require_success(Report({}), Verdict(ok=False, text=text), None, Path("oc"))


def test_sensitivity_prints_no_label_into_a_log(folder):
    done = tfopt_command("sensitivity", folder / "model.keras", "--data", folder / "data.npz", "--bits", 8)
    assert (done.exit_code, done.stderr) == (0, ""), done.output


def test_rank_names_the_source_of_each_preprocessing(folder):
    done = tfopt_command("rank", folder / "one.keras", folder / "two.keras", "--data", folder / "images.npz")
    assert done.exit_code == 0, done.output
    said = [line for line in done.stderr.splitlines() if "preprocessing '" in line]
    assert {line.split(": preprocessing")[0] for line in said} == {"one.keras", "two.keras"}


def test_missing_data_are_named_where_the_digits_do_not_fit(folder, tmp_path):
    (tmp_path / "r.json").write_text(tfopt.Recipe(stages=(tfopt.Prune(),)).to_json())
    digits = "--data is missing, so the data are the built-in digits."
    done = tfopt_command("run", "r.json", "--model", folder / "one.keras")
    assert done.exit_code == 2
    assert f"error: {digits} The model expects inputs of shape (4, 4, 3), the data has (8, 8, 1)" in done.stderr
    done = tfopt_command("run", "r.json", "--model", folder / "one.keras", "--data", folder / "data.npz")
    assert done.exit_code == 2 and "(6,)" in done.stderr and digits not in done.stderr


@pytest.mark.parametrize("data", [(), ("--data", "digits")])
@pytest.mark.parametrize("task", ["regression", "forecasting"])
def test_the_default_model_is_for_classes_only(task, data):
    done = tfopt_command("run", "prune", *data, "--task", task)
    assert done.exit_code == 2
    assert f"error: The default model classifies handwritten digits; the task of the data is {task}." in done.stderr


def test_options_of_reading_do_not_change_data_of_a_recipe():
    done = tfopt_command("run", "anomaly", "--task", "reconstruction", "--limit", 5)
    assert done.exit_code == 2
    assert "error: Expected no --limit and --task: the recipe provides a Dataset" in done.stderr
    assert "or give --data" in done.stderr


def test_help_names_every_task():
    said = " ".join(tfopt_command("run", "--help").stdout.split())
    for text in (said, tfopt.load_data.__doc__):
        assert [task.kind for task in TASKS if task is not Several and task.kind not in text] == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_command_that_kept_nothing_cannot_go_on(folder, monkeypatch, kept):
    def interrupted(*arguments, **options):
        if kept:
            (Path("out") / ".tfopt" / "stages.npz").write_bytes(b"")
        raise Interrupted(15)

    monkeypatch.setattr("tfopt.cli.running._run_into", interrupted)
    done = tfopt_command("run", "prune", "--out", "out")
    assert done.exit_code == 143 and "no result was written" in done.stderr
    assert ("Run the command again" in done.stderr) is kept
