"""The Python of the README runs as is."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_every_snippet_is_run_below():
    assert len(snippets()) == 2


@pytest.fixture
def folder(tmp_path, monkeypatch, write_photos):
    """A folder with what the README uses: model.keras and photos/, which the model can classify."""
    write_photos(tmp_path / "photos", 400)  # with fewer, stages train for many more epochs to have enough steps
    monkeypatch.chdir(tmp_path)
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Rescaling(1 / 127.5, -1),
        keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save("model.keras")
    return tmp_path


def test_the_five_lines(folder):
    exec(compile(snippets()[0], "README.md", "exec"), {})
    written = {file.name for file in (folder / "saved_models" / "photos").iterdir()}
    kept = {"model.tflite", "model.keras", "recipe.json", "data.json", "labels.txt"}
    assert written == kept | {"report.json", "report.html", "epochs.csv"}


def test_the_fit_workflow(folder):
    import tfopt

    model = keras.models.load_model("model.keras")
    train = tfopt.load_data("photos").batches("train", 8, shuffle=True)
    names = {"tfopt": tfopt, "model": model, "train": train}
    exec(compile(snippets()[1], "README.md", "exec"), names)
    kernel = names["sparse"].layers[1].kernel.numpy()
    assert isinstance(names["sparse"], keras.Sequential)
    assert np.mean(kernel == 0) == pytest.approx(0.8, abs=0.5 / kernel.size)
    assert (folder / "model.tflite").read_bytes()[4:8] == b"TFL3"
