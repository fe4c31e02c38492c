"""Recipes that bring data and a model, and tables on the command line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tfopt import cli

RECIPE = """
import keras, numpy as np, tfopt

recipe = tfopt.Recipe(name="words", stages=(tfopt.FineTune(epochs=1, min_steps=1),), max_drop=None)

def example_data():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    return x, (x[:, 0] > 0).astype(int)

def example_model(data):
    integers = data.preprocessing.kind == "text"
    first = keras.layers.Embedding(len(data.preprocessing.vocabulary), 4) if integers else keras.layers.Reshape((3, 1))
    rest = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, activation="softmax")]
    return keras.Sequential([keras.Input(data.input_shape, dtype="int32" if integers else "float32"), first, *rest])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    rows = [f"so {word} {number},{word}" for number in range(40) for word in ("good", "bad")]
    (tmp_path / "reviews.csv").write_text("review,stars\n" + "\n".join(rows))
    return tmp_path


def tfopt_command(*arguments):
    return CliRunner().invoke(cli.main, [str(each) for each in arguments])


def test_a_recipe_runs_on_its_own_data_and_model(folder):
    done = tfopt_command("run", "recipe.py", "--quiet", "--out", "own")
    assert done.exit_code in (0, 1), done.output  # one epoch may leave it at chance
    assert json.loads((folder / "own" / "data.json").read_text())["input_shape"] == [3]


def test_a_table_goes_through_all_commands(folder):
    columns = ["--text", "review", "--labels", "stars"]
    done = tfopt_command("run", "recipe.py", "--data", "reviews.csv", *columns, "--quiet", "--out", "out")
    assert done.exit_code in (0, 1), done.output
    assert (folder / "out" / "vocabulary.txt").is_file()
    assert (folder / "out" / "labels.txt").read_text() == "bad\ngood\n"
    settings = json.loads((folder / "out" / "data.json").read_text())["preprocessing"]
    assert (settings["kind"], settings["column"], settings["labels"]) == ("text", "review", "stars")
    done = tfopt_command("export", "out/model.keras", "--data", "reviews.csv", "--out", "again.tflite")
    assert done.exit_code == 0, done.output
    assert "texts as int32 ids of 3 tokens" in done.output
    done = tfopt_command("compare", "out/model.keras", "again.tflite", "--data", "reviews.csv")
    assert done.exit_code == 0, done.output
    assert "16 test samples, texts as int32 ids" in done.output


def test_columns_are_named_in_errors(folder):
    done = tfopt_command("run", "recipe.py", "--data", "reviews.csv", "--text", "reviews", "--labels", "stars")
    assert done.exit_code == 2 and "Expected a column 'reviews' in reviews.csv, got review, stars" in done.output
    assert not (folder / "saved_models").exists()
    np.savez("a.npz", x=np.zeros((9, 3)), y=np.arange(9) % 2)
    done = tfopt_command("run", "recipe.py", "--data", "a.npz", "--labels", "y", "--out", "out")
    assert done.exit_code == 2 and "for text= and labels=" in done.output


def test_a_recipe_file_of_a_result_holds_no_data(folder):
    assert tfopt_command("run", "recipe.py", "--quiet", "--out", "own").exit_code in (0, 1)
    done = tfopt_command("run", "own/recipe.json", "--out", "again")
    assert done.exit_code == 2 and not (folder / "again").exists()
    assert "neither the model nor the data that it ran on, with samples of shape [3]" in " ".join(done.output.split())


def test_a_network_that_does_not_fit_the_data_is_an_error(folder):
    np.savez("wide.npz", x=np.zeros((90, 5)), y=np.arange(90) % 2)
    done = tfopt_command("run", "recipe.py", "--data", "wide.npz", "--out", "out")
    assert done.exit_code == 2
    assert "builds no network for samples of shape (5,) and the task 'classification'" in " ".join(done.output.split())


def test_settings_of_texts_are_those_of_the_input(folder):
    columns = ["--text", "review", "--labels", "stars", "--quiet"]
    run = ["run", "recipe.py", "--data", "reviews.csv", *columns]
    done = tfopt_command(*run, "--input", "ngrams=2", "--input", "length=6", "--out", "out")
    assert done.exit_code in (0, 1), done.output
    about = json.loads((folder / "out" / "data.json").read_text())
    assert about["input_shape"] == [6] and about["preprocessing"]["ngrams"] == 2
    words = (folder / "out" / "vocabulary.txt").read_text().splitlines()
    assert "so good" in words
    for more, said in (
        (["--input", "size=6"], "as SETTING=VALUE"),
        (["--input", "length=6", "--preprocessing", "unit"], "Give one of them"),
        (["--input", "length=6", "--window", "3"], "Expected no --text and --labels and --input beside --window"),
        (["--input", "length=6", "--model", "out/model.keras"], "was trained on texts as int32 ids of 6 tokens"),
    ):
        done = tfopt_command(*run, *more, "--out", "none")
        assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output
    done = tfopt_command("run", "recipe.py", "--input", "length=6", "--out", "none")
    assert done.exit_code == 2 and "give them with --data" in done.output
