"""The tables of docs/coming_from.md: what they call the other tools' names exists, and what to write instead runs."""

import importlib
import re
from pathlib import Path

import keras
import pytest

import tfopt

PAGE = (Path(__file__).parent.parent / "docs" / "coming_from.md").read_text(encoding="utf-8")
TABLES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
# Where the names of the other tools are; Model Maker is not installed.
PACKAGES = {"tfmot": "tensorflow_model_optimization", "keras": "keras", "tf": "tensorflow"}


def rows(table):
    """(left, right) cells of a table, without its head."""
    return re.findall(r"^\| (.*?) \| (.*) \|$", TABLES[table], re.MULTILINE)[1:]


def code(cell):
    return re.findall(r"`(.+?)`", cell)


def network(width):
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(width, 3, activation="relu", name="stem"),
        keras.layers.Conv2D(width, 3, activation="relu", name="second"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, "softmax", name="head"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def names(tmp_path, monkeypatch, write_photos):
    """What the right-hand sides assume, and photos/."""
    write_photos(tmp_path / "photos", 30)
    monkeypatch.chdir(tmp_path)
    data = tfopt.load_data("photos", preprocessing="symmetric")
    one_shot = tfopt.Prune(final_sparsity=0.5, schedule="one-shot")
    sparse = one_shot.strip(one_shot.apply(network(8), steps=1))
    return {
        "tfopt": tfopt,
        "model": network(8),
        "student": network(8),
        "teacher": network(12),
        "source": network(12),
        "sparse": sparse,
        "x": data.train.x(),
        "y": data.train.y(),
        "steps": 2,
    }


@pytest.mark.parametrize("table", TABLES)
def test_the_right_hand_sides_run(table, names):
    ran = [text for _, right in rows(table) for text in code(right) if re.match(r"[\w.]+(\(| = )", text)]
    assert len(ran) >= len(rows(table)) - 1
    for text in ran:
        exec(compile(text, f"coming_from.md, {table}: {text}", "exec"), names)


def test_the_left_hand_sides_exist():
    left = "\n".join(cell for table in TABLES for cell, _ in rows(table))
    dotted = re.findall(r"`(?:with )?((?:tfmot|keras|tf)(?:\.\w+)+)", left)
    assert len(dotted) > 15
    for name in dotted:
        package, *parts = name.split(".")
        found = importlib.import_module(PACKAGES[package])
        for part in parts:
            found = getattr(found, part)


def test_no_row_is_missed():
    assert len(TABLES) == 4
    for table, text in TABLES.items():
        assert len(rows(table)) == text.count("\n| ") - 1 > 5
