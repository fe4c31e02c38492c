"""Images are fed as a `data.json` beside the model says."""

import json

import numpy as np
import pytest

from tfopt.base.terminal import rendered
from tfopt.data import Preprocessing, load_data
from tfopt.data.beside import fed_as_beside, stated_beside
from tfopt.data.for_model import data_for, representative_for
from tfopt.errors import DataError
from tfopt.evaluate.bench import benchmark_files
from tfopt.evaluate.compare import compare_files
from tfopt.evaluate.verify import verify_file
from tfopt.tflite.write.export import export_tflite


@pytest.fixture
def data():
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3)).astype("uint8")
    return load_data((x, np.arange(40) % 2))


def beside(folder, preprocessing="symmetric"):
    folder.mkdir(exist_ok=True)
    (folder / "data.json").write_text(json.dumps({"preprocessing": Preprocessing.named(preprocessing).to_dict()}))
    return folder / "model.tflite"


def test_it_is_read_beside_a_file_or_in_a_folder(tmp_path):
    assert stated_beside(tmp_path / "model.tflite") is None
    file = beside(tmp_path)
    for place in (file, str(file), tmp_path):
        assert stated_beside(place) == Preprocessing.named("symmetric")
    assert stated_beside(None) is None and stated_beside(b"bytes of a file") is None
    (tmp_path / "data.json").write_text('{"preprocessing": {"scale": "x"}}')
    with pytest.raises(DataError, match=r"data\.json states no preprocessing"):
        stated_beside(file)


@pytest.mark.parametrize("text", ['{"preprocessing": "unit"}', '{"a": 1}\n{"a": 2}\n', "[]", "nothing"])
def test_a_data_json_of_somebody_else_states_nothing(text, tmp_path):
    (tmp_path / "data.json").write_text(text)
    assert stated_beside(tmp_path / "model.keras") is None


def test_a_name_that_no_folder_holds():
    with pytest.raises(DataError, match="too long"):
        stated_beside("x" * 300)


def test_the_first_statement_counts_and_others_are_told(data, tmp_path):
    places = [beside(tmp_path / name, kind) for name, kind in (("a", "symmetric"), ("b", "unit"))]
    fed, note = fed_as_beside(data, places, asked=False)
    assert fed.preprocessing.scale == Preprocessing.named("symmetric").scale
    assert f"beside {places[0]} says; data.json beside {places[1]} says otherwise: " in note and "/255" in note


def test_images_are_fed_so(data, tmp_path):
    file = beside(tmp_path)
    fed, note = fed_as_beside(data, [tmp_path / "none" / "a.keras", file], asked=False)
    pixels = data.test.x().astype(np.float64)
    np.testing.assert_allclose(fed.test.x(), pixels / 127.5 - 1, atol=1e-6)
    assert note.endswith(f"as data.json beside {file} says")
    assert fed_as_beside(fed, [file], asked=False) == (fed, "")


def test_what_was_asked_for_stays_and_is_told(data, tmp_path):
    fed, note = fed_as_beside(data, [beside(tmp_path)], asked=True)
    assert fed is data and "as asked; data.json beside" in note and "127.5" in note


def test_other_data_than_images_is_unchanged(tmp_path):
    numbers = load_data((np.random.default_rng(0).normal(size=(40, 3)).astype("float32"), np.arange(40) % 2))
    assert fed_as_beside(numbers, [beside(tmp_path)], asked=False) == (numbers, "")


def test_it_is_printed_and_kept_in_the_notes(tmp_path, write_photos, capsys):
    import keras

    write_photos(tmp_path / "photos", 5)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    data = data_for(model, tmp_path / "photos", beside=[beside(tmp_path)])
    assert data.preprocessing.scale == pytest.approx(1 / 127.5) and data.train.x().min() < 0
    printed = capsys.readouterr().err
    assert "note: RGB images" in printed and printed.strip().removeprefix("note: ").split()[0] in data.notes[-1]
    data_for(model, tmp_path / "photos", beside=[tmp_path / "model.tflite"], quiet=True)
    assert "note" not in capsys.readouterr().err
    assert data_for(model, tmp_path / "photos", preprocessing="unit", beside=[tmp_path]).preprocessing.offset == 0


def test_images_without_labels_are_fed_so(tmp_path, capsys):
    import keras

    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3)).astype("uint8")
    np.savez(tmp_path / "x.npz", x=images)
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    data, fed = representative_for(model, tmp_path / "x.npz", beside=[beside(tmp_path)])
    assert data.train.x().min() < -0.9 and data.train.x().max() <= 1 and "127.5" in fed
    assert (len(data.train), len(data.test), data.labels) == (32, 8, "none")
    assert "as data.json beside" in capsys.readouterr().err
    data, fed = representative_for(model, tmp_path / "x.npz", beside=[beside(tmp_path)], preprocessing="raw")
    assert data.train.x().max() > 200 and "127.5" not in fed
    assert "as asked; data.json beside" in capsys.readouterr().err


def test_a_folder_of_images_without_classes(tmp_path, write_photos):
    """Sizes and colors are those of the model; the order is drawn, and a limit takes some of them."""
    import keras

    write_photos(tmp_path / "photos", 6)
    (tmp_path / "loose").mkdir()
    for number, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        file.rename(tmp_path / "loose" / f"{number}.png")
    model = keras.Sequential([keras.Input((5, 7, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    data, fed = representative_for(model, tmp_path / "loose", preprocessing="unit", limit=10)
    samples = np.concatenate([data.train.x(), data.test.x()])
    assert samples.shape == (10, 5, 7, 1) and samples.dtype == np.float32 and 0 <= samples.min() <= samples.max() <= 1
    assert fed == "grayscale images resized to 5x7, fed as float32 pixel/255"


def test_files_are_compared_without_labels(tmp_path, write_photos):
    """A file of loose photos is one of bytes, as of photos in class folders, and measured without an accuracy."""
    import keras

    write_photos(tmp_path / "photos", 20)
    (tmp_path / "loose").mkdir()
    for number, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        file.rename(tmp_path / "loose" / f"{number}.png")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    data, _ = representative_for(model, tmp_path / "loose", preprocessing="symmetric")
    lite = export_tflite(model, tmp_path / "a.tflite", representative_data=data)
    assert lite.inputs[0].dtype == "uint8" and lite.preprocessing.scale == pytest.approx(1 / 127.5)
    found = verify_file(model, tmp_path / "a.tflite", tmp_path / "loose")
    count = len(list((tmp_path / "loose").iterdir()))
    assert (
        found.samples == count
        and found.outputs[0].metrics == {}
        and found.outputs[0].interval is None
        and not found.problems
    )
    assert f"{count} test samples, RGB images" in rendered(
        compare_files(tmp_path / "a.tflite", tmp_path / "a.tflite", tmp_path / "loose"), 120
    )
    (row,) = benchmark_files([tmp_path / "a.tflite"], tmp_path / "loose", rounds=1)
    assert row.metrics == {}


def test_files_that_are_compared_are_fed_as_each_says(tmp_path):
    """The same function of pixels 0..255: w x / 255, and w (x / 127.5 - 1) / 2 + w / 2."""
    import keras

    rng = np.random.default_rng(0)
    x, kernel = rng.integers(0, 256, (40, 4, 4, 3)).astype("uint8"), rng.normal(size=(48, 2)).astype("float32")
    labels = (x.reshape(40, 48) @ kernel).argmax(axis=1)
    weights = {"unit": [kernel, np.zeros(2)], "symmetric": [kernel / 2, kernel.sum(axis=0) / 2]}
    files = []
    for kind, values in weights.items():
        model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        model.set_weights(values)
        files.append(beside(tmp_path / kind, kind).with_suffix(".keras"))
        model.save(files[-1])
    shown = rendered(compare_files(*files, {"train": (x, labels), "test": (x, labels)}), 300)
    assert "fed as float32 pixel/255 and" in shown and "pixel/127.5" in shown
    table = {row[0]: row[1:] for line in shown.splitlines() if len(row := line.replace("│", " ").split()) > 1}
    assert table["accuracy"] == ["1.0000", "1.0000"] and table["agreement"] == ["1.0000"]
