"""The command line from the outside: exit codes, one-line errors, help, and the files that it writes."""

import ast
import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.base.keras_compat import tf_keras
from tfopt.cli.running import load_recipe
from tfopt.errors import ModelError
from tfopt.tflite.settings import Export
from tfopt.tflite.write import export

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = ["data.json", "epochs.csv", "model.keras", "model.tflite", "recipe.json", "report.html", "report.json"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run each test in a separate folder, and restore the variable that the command sets."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def tfopt_command(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def failed(done, code, *words):
    """Check for one line on stderr, nothing on stdout and no traceback."""
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    for part in words:
        assert part in line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small Keras 3 model, the same as a tf_keras .h5, its int8 .tflite, data, and a quick recipe."""
    import keras

    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 6)) * 3
    y = np.arange(150) % 3
    x = (centers[y] + rng.normal(size=(150, 6))).astype("float32")
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    kernel = np.zeros((6, 3), "float32")
    kernel[:] = centers.T
    bias = -(centers**2).sum(axis=1) / 2  # the nearest center
    for package, name in ((keras, "model.keras"), (tf_keras(), "model.h5")):
        model = package.Sequential(
            [package.Input((6,), name="in"), package.layers.Dense(3, "softmax", name="nearest")], name="small"
        )
        model.set_weights([kernel, bias])
        model.save(folder / name)
    model.set_weights([np.where(np.abs(kernel) < 1, 0, kernel), bias])
    tfopt.export_tflite(model, folder / "sparse.tflite", representative_data=x)
    recipe = tfopt.Recipe(stages=(tfopt.Cluster(number_of_clusters=4, epochs=2, min_steps=0),), name="quick")
    (folder / "recipe.json").write_text(recipe.to_json())
    (folder / "recipe.py").write_text(
        "import tfopt\nstages = (tfopt.Cluster(number_of_clusters=4, epochs=2, min_steps=0),)\n"
        "recipe = tfopt.Recipe(name='quick', stages=stages)\n"
    )
    return {path.name: path for path in folder.iterdir()} | {"x": x, "y": y, "kernel": kernel, "bias": bias}


def small_run(files, *more, recipe="recipe.json"):
    return tfopt_command("run", files[recipe], "--model", files["model.keras"], "--data", files["data.npz"], *more)


# Help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command(flag):
    done = tfopt_command(flag)
    assert done.exit_code == 0
    for part in ("run", "inspect", "compare", "--debug", "--version", "verified .tflite"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("run", ["RECIPE", "--model", "--data", "--out", "--overwrite", "--epochs-factor", "--seed", "--quiet"]),
        ("inspect", ["FILE", "sparsity"]),
        ("compare", ["A B", "--data", "--threads", "--preprocessing", "--limit", "agreement"]),
    ],
)
def test_help_of_commands(command, parts):
    done = tfopt_command(command, "--help")
    assert done.exit_code == 0
    for part in parts:
        assert part in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_version():
    done = tfopt_command("--version")
    assert (done.exit_code, tfopt.__version__ in done.stdout) == (0, True)


@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error_of_tfopt(tmp_path):
    """As in `tfopt inspect FILE | head`, where rich raises SystemExit."""
    read, write = os.pipe()
    os.close(read)
    model, program = small_model_file(tmp_path), "from tfopt.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(model)], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert "should not happen" not in done.stderr


def small_model_file(folder):
    import keras

    path = folder / "m.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    return path


# run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["recipe.json", "recipe.py"])
def test_run_writes_all_files_and_prints_the_report(files, recipe, tmp_path):
    done = small_run(files, "--out", tmp_path / "out", "--epochs-factor", 0.5, "--seed", 7, recipe=recipe)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    written = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (written["stages"][0]["epochs"], written["training"]["seed"]) == (1, 7)
    for part in ("quick", "original", "exported int8", "accuracy", f"wrote {tmp_path}/out/: {', '.join(FILES)}"):
        assert part in done.stdout
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    first, last = (row["metrics"]["accuracy"] for row in (rows[0], rows[-1]))
    said = f"passed: accuracy {last:.4f} on the test samples, original {first:.4f}"
    assert done.stdout.splitlines()[-1] == said or "\nuncertain: " in done.stdout
    assert "1/1 Cluster epoch 1/1" in done.stderr
    assert "epoch 2" not in done.stderr


@pytest.mark.slow
def test_a_saved_recipe_runs_again_to_the_same_file(files, tmp_path):
    first = small_run(files, "--out", tmp_path / "a", "--quiet", "--epochs-factor", 0.5)
    assert (first.exit_code, first.stderr) == (0, "")
    second = tfopt_command(
        "run", tmp_path / "a" / "recipe.json", "--model", files["model.keras"], "--data", files["data.npz"],
        "--out", tmp_path / "b", "--quiet",
    )  # fmt: skip
    assert second.exit_code == 0, second.output
    assert (tmp_path / "a" / "model.tflite").read_bytes() == (tmp_path / "b" / "model.tflite").read_bytes()


@pytest.mark.slow
def test_run_goes_to_saved_models_by_default_and_keeps_what_is_there(files):
    assert small_run(files, "--quiet").exit_code == 0
    assert sorted(path.name for path in Path("saved_models/quick").iterdir()) == FILES
    stamp = Path("saved_models/quick/model.tflite").stat().st_mtime_ns
    failed(small_run(files, "--quiet"), 2, "saved_models/quick", "not empty", "--overwrite")
    assert Path("saved_models/quick/model.tflite").stat().st_mtime_ns == stamp
    assert small_run(files, "--quiet", "--overwrite").exit_code == 0
    assert [path.name for path in Path("saved_models").iterdir()] == ["quick"]


def forbid_training(monkeypatch, error):
    def fit(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(tf_keras().Model, "fit", fit)


def test_interrupted(files, tmp_path, monkeypatch):
    forbid_training(monkeypatch, KeyboardInterrupt())
    done = small_run(files, "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_broken_promise_is_exit_code_1(files, tmp_path, monkeypatch):
    convert = export.convert
    float_only = Export(weights="float32", activations="float32")
    monkeypatch.setattr(export, "convert", lambda model, settings, *_, **_more: convert(model, float_only))
    monkeypatch.setattr(Export, "may_mix", False)  # leaving more in float would not help
    done = small_run(files, "--out", tmp_path / "out", "--quiet", "--epochs-factor", 0.1)
    failed(done, 1, "int8", "float")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_bug_is_exit_code_3(files, tmp_path, monkeypatch):
    forbid_training(monkeypatch, ZeroDivisionError("first\nsecond"))
    done = small_run(files, "--out", tmp_path / "out", "--quiet")
    failed(done, 3, "ZeroDivisionError: first second", "--debug")


def test_debug_shows_the_traceback():
    outside = subprocess.run(
        [sys.executable, "-m", "tfopt.cli", "--debug", "run", "none.json"], capture_output=True, text=True
    )
    assert outside.returncode == 2
    assert "Traceback" in outside.stderr
    assert "RecipeError" in outside.stderr


def bad_recipes(folder):
    (folder / "nothing.py").write_text("x = 1\n")
    (folder / "typo.py").write_text("import tfopt\nrecipe = tfopt.Recip(stages=())\n")
    (folder / "syntax.py").write_text("recipe = (\n")
    (folder / "value.py").write_text("import tfopt\nrecipe = tfopt.Recipe(stages=(tfopt.Prune(final_sparsity=2),))\n")
    (folder / "order.py").write_text("from tfopt import *\nrecipe = Recipe(stages=(Quantize(), Prune()))\n")
    (folder / "broken.json").write_text('{"stages": [')
    (folder / "unknown.json").write_text('{"stages": [{"stage": "Shrink"}]}')
    (folder / "recipe.yaml").write_text("stages: []\n")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.py", ["must define `recipe", "NoneType"]),
        ("typo.py", ["does not run", "Recip"]),
        ("syntax.py", ["does not run", "SyntaxError", "line 1"]),
        ("value.py", ["Prune.final_sparsity = 2", "below 1.0"]),
        ("order.py", ["Quantize must be the last stage"]),
        ("broken.json", ["not valid JSON"]),
        ("unknown.json", ["'Shrink'"]),
        ("recipe.yaml", [".py or .json"]),
        ("absent.py", ["does not exist"]),
        ("absent.json", ["Cannot read the recipe"]),
        (".", [".py or .json"]),
    ],
)
def test_bad_recipes(tmp_path, name, words):
    failed(tfopt_command("run", bad_recipes(tmp_path) / name), 2, *words)


def test_bad_models_and_data(files, tmp_path, monkeypatch):
    forbid_training(monkeypatch, AssertionError("fit was called"))
    recipe, out = files["recipe.json"], ("--out", tmp_path / "out", "--quiet")
    run = ("run", recipe, *out)
    (tmp_path / "bad.keras").write_bytes(b"PK\x03\x04 half a file")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 half a file")
    wide = files["x"][:, :5]
    np.savez(tmp_path / "wide.npz", x=wide, y=files["y"])
    np.savez(tmp_path / "nan.npz", x=np.full((30, 6), np.nan), y=files["y"][:30])
    model, data = ("--model", files["model.keras"]), ("--data", files["data.npz"])
    failed(tfopt_command(*run, "--model", tmp_path / "absent.keras", *data), 2, "absent.keras")
    failed(tfopt_command(*run, "--model", tmp_path / "bad.keras", *data), 2, "bad.keras", "damaged")
    failed(tfopt_command(*run, "--model", files["sparse.tflite"], *data), 2, "sparse.tflite")
    failed(tfopt_command(*run, *model, "--data", tmp_path / "absent"), 2, "absent")
    failed(tfopt_command(*run, *model, "--data", tmp_path / "bad.npz"), 2, "bad.npz")
    failed(tfopt_command(*run, *model, "--data", tmp_path / "wide.npz"), 2, "(6,)", "(5,)")
    failed(tfopt_command(*run, *model, "--data", tmp_path / "nan.npz"), 2, "NaN")
    failed(tfopt_command(*run, *model), 2, "(8, 8, 1)")  # the digits
    failed(tfopt_command(*run, *data), 2, "--data needs --model")
    failed(tfopt_command(*run, "--preprocessing", "unit"), 2, "'unit'", "digits")


def test_out_that_cannot_be_written(files, tmp_path, monkeypatch):
    forbid_training(monkeypatch, AssertionError("fit was called"))
    (tmp_path / "file").write_text("a file")
    failed(small_run(files, "--out", tmp_path / "file"), 2, "is a file")
    failed(small_run(files, "--out", tmp_path / "file" / "deeper"), 2, "Cannot make the folder")
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize(
    "arguments",
    [
        ["shrink"],
        ["run"],
        ["run", "r.json", "--bogus"],
        ["run", "r.json", "--epochs-factor", "0"],
        ["run", "r.json", "--seed", "-1"],
        ["run", "r.json", "--limit", "0"],
        ["compare", "a.tflite", "b.tflite"],
        ["compare", "a.tflite", "b.tflite", "--data", "digits", "--threads", "0"],
        ["inspect"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    done = tfopt_command(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


# inspect and compare ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("model.keras", "keras3"), ("model.h5", "tf_keras")])
def test_inspect_keras_files(files, name, kind):
    done = tfopt_command("inspect", files[name])
    assert done.exit_code == 0, done.output
    for part in (f": {kind}, 21 parameters", "nearest", "Dense", "(None, 3)", "0.000", "18", "float32"):
        assert part in done.stdout.replace("\n", "")


def test_inspect_tflite(files):
    done = tfopt_command("inspect", files["sparse.tflite"])
    assert done.exit_code == 0, done.output
    zeros = np.mean(np.abs(files["kernel"]) < 1)
    assert zeros > 0.1
    for part in (": tflite, 21 parameters", "FULLY_CONNECTED", f"{zeros:.3f}", "int8", "SOFTMAX"):
        assert part in done.stdout.replace("\n", "")


def test_inspect_errors(files, tmp_path):
    failed(tfopt_command("inspect", tmp_path / "absent.keras"), 2, "absent.keras", "no such file")
    failed(tfopt_command("inspect", files["data.npz"]), 2, "data.npz")
    failed(tfopt_command("inspect", files["recipe.py"]), 2, "recipe.py", "not a model file")


def accuracy(kernel, files):
    return np.mean((files["x"] @ kernel + files["bias"]).argmax(axis=1) == files["y"])


def numbers(output, row):
    (line,) = [line for line in output.splitlines() if f"│ {row} " in line]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_compare(files):
    done = tfopt_command("compare", files["model.keras"], files["sparse.tflite"], "--data", files["data.npz"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("(as a float .tflite)") == 1
    kernel = files["kernel"]
    sparse = np.where(np.abs(kernel) < 1, 0, kernel)
    first, second = (float(value) for value in numbers(done.stdout, "accuracy"))
    assert first == pytest.approx(accuracy(kernel, files), abs=1e-4)
    assert second == pytest.approx(accuracy(sparse, files), abs=2 / 150)  # int8
    size = int(numbers(done.stdout, "bytes")[1].replace(",", ""))
    assert size == files["sparse.tflite"].stat().st_size
    same = tfopt_command("compare", files["sparse.tflite"], files["sparse.tflite"], "--data", files["data.npz"])
    assert numbers(same.stdout, "agreement") == ["", "1.0000"]
    assert len(set(numbers(same.stdout, "deflated bytes"))) == 1


def test_compare_errors(files, tmp_path):
    import keras

    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    other.save(tmp_path / "other.keras")
    model, data = files["model.keras"], files["data.npz"]
    failed(tfopt_command("compare", model, tmp_path / "other.keras", "--data", data), 2, "(6,)", "(5,)")
    failed(tfopt_command("compare", model, tmp_path / "absent", "--data", data), 2, "absent")
    failed(tfopt_command("compare", model, model, "--data", tmp_path / "absent"), 2, "absent")


# Recipe scripts -----------------------------------------------------------------------------------


def script(path, *arguments):
    return subprocess.run(
        [sys.executable, str(path), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_every_recipe_is_a_script_and_a_file(path, monkeypatch, capsys):
    """In this process; the next test starts a script as a user does."""
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    help_text = capsys.readouterr().out
    assert ended.value.code == 0
    assert help_text.startswith(f"Usage: {path.name} [OPTIONS]\n")
    assert "--epochs-factor" in help_text
    first_word = ast.get_docstring(ast.parse(path.read_text())).split()[0]
    assert first_word in help_text
    recipe, _ = load_recipe(path)
    assert recipe.name == path.stem
    assert tfopt.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.slow
def test_a_recipe_script_runs_for_real(files, tmp_path):
    arguments = ("--model", files["model.keras"], "--data", files["data.npz"], "--out", tmp_path / "out")
    done = script(RECIPES / "quantize_aware.py", *arguments, "--epochs-factor", 0.01, "--limit", 60)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert "exported int8" in done.stdout
    assert "1/1 Quantize epoch 1/1  loss " in done.stderr
    for noise in ("tensorflow", "TensorFlow", "WARNING", "INFO", "I0000", "W0000", "Traceback"):
        assert noise not in done.stderr
    again = script(RECIPES / "quantize_aware.py", *arguments)
    assert again.returncode == 2
    assert again.stderr.startswith("error: The folder")
    assert not list((tmp_path / "here").iterdir())


def test_a_failed_guard_is_exit_code_1_and_results_are_there(files, tmp_path):
    ruinous = tfopt.Recipe(stages=(tfopt.Prune(final_sparsity=0.9, schedule="one-shot", epochs=0),), name="ruinous")
    (tmp_path / "ruinous.json").write_text(ruinous.to_json())
    arguments = ("--model", files["model.keras"], "--data", files["data.npz"], "--out", tmp_path / "out")
    done = tfopt_command("run", tmp_path / "ruinous.json", *arguments, "--quiet")
    assert done.exit_code == 1, done.output
    assert "Prune (not kept)" in done.stdout
    assert "error: Prune ended the run: accuracy " in done.stderr
    untrained = {*FILES, "Prune_not_kept.keras"} - {"epochs.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == untrained


# Teachers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A student, two teachers that each know two classes (one as a file, one as a result folder of tfopt), and data."""
    import keras

    folder = tmp_path_factory.mktemp("taught")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 6)) * 2
    y = np.arange(160) % 4
    x = (centers[y] + rng.normal(size=(160, 6))).astype("float32")
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y, class_names=["a", "b", "c", "d"])

    def nearest(classes, name):
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(len(classes), "softmax")], name=name)
        model.set_weights([centers[classes].T, -(centers[classes] ** 2).sum(axis=1) / 2])
        return model

    nearest([1, 0], "ba").save(folder / "ba.keras")
    (folder / "ba.txt").write_text("b\na\n")
    nearest([2, 3], "cd").save(folder / "cd.keras")
    (folder / "cd.txt").write_text("c\nd\n")
    nearest([0, 1, 2, 3], "all").save(folder / "all.keras")
    layers = [keras.Input((6,)), keras.layers.Dense(4, "softmax", name="head")]
    keras.Sequential(layers, name="student").save(folder / "student.keras")
    return folder


def teach(taught, recipe, *more):
    return tfopt_command(
        "run", RECIPES / recipe, "--model", taught / "student.keras", "--data", taught / "data.npz", "--quiet", *more
    )


@pytest.mark.slow
def test_a_teacher_on_the_command_line(taught, tmp_path):
    done = teach(taught, "distill.py", "--teacher", taught / "all.keras", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert "distilled from 'all'" in " ".join(rows[1]["notes"])
    assert rows[-1]["metrics"]["accuracy"] > rows[0]["metrics"]["accuracy"]
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["distillation"]["losses"][0]["loss"] == "Hinton"


@pytest.mark.slow
def test_teachers_of_different_classes_are_fused(taught, tmp_path):
    teachers = ("--teacher", taught / "ba.keras", "--teacher", taught / "cd.keras")
    names = ("--teacher-classes", taught / "ba.txt", "--teacher-classes", taught / "cd.txt")
    recipe, _ = load_recipe(RECIPES / "fuse_teachers.py")
    quick = dataclasses.replace(recipe, training=tfopt.Training(learning_rate=0.1, batch_size=16))
    (tmp_path / "quick.json").write_text(quick.to_json())
    done = teach(taught, tmp_path / "quick.json", *teachers, *names, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert rows[-1]["metrics"]["accuracy"] > 0.8  # without a loss on labels; each teacher knows two of four classes


def test_bad_teachers(taught, tmp_path):
    failed(teach(taught, "distill.py"), 2, "needs a teacher", "--teacher")
    failed(teach(taught, "distill.py", "--teacher", taught / "none.keras"), 2, "none.keras", "no such file")
    two = ("--teacher", taught / "ba.keras", "--teacher", taught / "cd.keras")
    failed(teach(taught, "distill.py", *two, "--teacher-classes", taught / "ba.txt"), 2, "got 1 for 2")
    failed(
        teach(taught, "distill.py", "--teacher", taught / "ba.keras", "--teacher-classes", taught / "none.txt"),
        2,
        "none.txt",
    )
    one = ("--teacher", taught / "ba.keras", "--teacher-classes", taught / "ba.txt")
    failed(teach(taught, "distill.py", *one), 2, "not know the class 'c'")


def test_sensitivity_is_a_table_a_picture_and_numbers(files, tmp_path):
    picture, numbers = tmp_path / "bits.png", tmp_path / "bits.json"
    done = tfopt_command(
        "sensitivity", files["model.keras"], "--data", files["data.npz"], "--bits", 8, "--bits", 2,
        "--plot", picture, "--json", numbers,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 bits: loss" in done.stdout and str(picture) in done.stdout
    assert picture.read_bytes()[1:4] == b"PNG"
    trials = json.loads(numbers.read_text())["trials"]
    assert [trial["bits"] for trial in trials] == [8, 2] * (len(trials) // 2)
    assert trials[0]["sqnr"] > trials[1]["sqnr"] + 20
    failed(tfopt_command("sensitivity", files["model.keras"], "--data", "missing.npz"), 2, "missing.npz")


# files as people have them --------------------------------------------------------------------------


def test_a_saved_model_without_keras_layers_in_every_command(tmp_path):
    """Each rebuilds its layers from its graph, as `run` does."""
    import keras

    layers, rng = keras.layers, np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(3, 3, activation="relu"), layers.Flatten(), layers.Dense(2, "softmax")]
    )
    folder, data, file = tmp_path / "saved", tmp_path / "d.npz", tmp_path / "m.tflite"
    model.export(folder, verbose=False)
    np.savez(data, x=rng.uniform(0, 1, (40, 6, 6, 1)).astype("float32"), y=np.arange(40) % 2)
    for command in (
        ("export", folder, "--out", file, "--data", data),
        ("check", folder, "--no-convert"),
        ("inspect", folder),
        ("verify", folder, file, "--data", data),
        ("compare", folder, file, "--data", data),
        ("bench", folder, file, "--data", data, "--rounds", 1),
        ("sensitivity", folder, "--data", data, "--bits", 8),
    ):
        done = tfopt_command(*command)
        assert done.exit_code == 0, (command, done.output)
    assert "Conv2D" in tfopt_command("inspect", folder).stdout


def test_npz_images_get_the_size_and_colors_of_the_model(tmp_path):
    """As those of folders do. The model gives the mean brightness: gray 100 and 200 are 0.39 and 0.78."""
    import keras

    layers = keras.layers
    model = keras.Sequential([
        keras.Input((6, 8, 3)), layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), layers.Dense(2)
    ])  # fmt: skip
    model.layers[-1].set_weights([np.tile([[-1.0, 1.0]], (3, 1)), np.array([1.8, -1.8])])  # brighter than 0.6?
    model.save(tmp_path / "m.keras")
    y = np.arange(40) % 2
    x = np.where(y[:, None, None, None] == 1, 200, 100).astype(np.uint8) * np.ones((1, 9, 5, 1), np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    np.savez(tmp_path / "floats.npz", x=x.astype("float32"), y=y)
    float32 = ("--activations", "float32", "--weights", "float32")
    done = tfopt_command("export", tmp_path / "m.keras", "--out", tmp_path / "m.tflite", *float32)
    assert done.exit_code == 0, done.output
    done = tfopt_command("bench", tmp_path / "m.tflite", "--data", tmp_path / "d.npz", "--json", tmp_path / "b.json")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "b.json").read_text())[0]["metrics"]["accuracy"] == 1.0


def test_a_failed_run_leaves_no_folder(files, tmp_path):
    run = ("run", files["recipe.json"], "--data", files["data.npz"], "--out", tmp_path / "new" / "out")
    failed(tfopt_command(*run, "--model", tmp_path / "absent.keras"), 2, "absent.keras: no such file or folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    failed(tfopt_command(*run[:-1], tmp_path / "mine", "--model", tmp_path / "absent.keras"), 2)
    assert (tmp_path / "mine").is_dir()


def test_pack_and_export_do_not_overwrite_or_rename(files, tmp_path):
    packed = tmp_path / "p.zst"
    packed.write_bytes(b"mine")
    failed(tfopt_command("pack", files["sparse.tflite"], "--out", packed), 2, "exists", "--overwrite")
    assert packed.read_bytes() == b"mine"
    assert tfopt_command("pack", files["sparse.tflite"], "--out", packed, "--overwrite").exit_code == 0
    assert packed.read_bytes() != b"mine"
    failed(tfopt_command("export", files["model.keras"], "--out", tmp_path / "m.keras"), 2, "ends in .tflite")
    failed(tfopt_command("export", tmp_path / "none.keras", "--out", tmp_path / "m.tflite"), 2, "none.keras")


def test_the_epochs_factor_reaches_the_head_of_a_transfer():
    recipe = tfopt.Recipe(stages=(tfopt.Prune(epochs=4),), transfer=tfopt.transfer.FeatureTransfer(epochs=30))
    scaled = recipe.scaled(0.1)
    assert (scaled.stages[0].epochs, scaled.transfer.epochs) == (1, 3)


@pytest.mark.slow
def test_old_names_in_a_recipe_are_said(files, tmp_path):
    values = json.loads(files["recipe.json"].read_text())
    values["export"]["ranges"] = values["export"].pop("activation_ranges")
    (tmp_path / "old.json").write_text(json.dumps(values))
    program = "from tfopt.cli import main; main()"
    arguments = ["check", str(files["model.keras"]), "--recipe", str(tmp_path / "old.json"), "--no-convert"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "activation_ranges" in done.stderr


def test_a_full_disk_is_no_fault_of_the_model(files, monkeypatch):
    """The error that names the model is one with the cause; the cause is said."""
    import errno

    from tfopt.evaluate import inspect

    def full(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ModelError("The model cannot be loaded.") from error

    monkeypatch.setattr(inspect, "inspect_file", full)
    failed(tfopt_command("inspect", files["model.keras"]), 2, "No space is left", "TMPDIR")
