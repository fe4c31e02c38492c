"""Samples without labels, for export, verify, compare and bench."""

import json

import keras
import numpy as np
import pytest
import soundfile

from tfopt.base import limits
from tfopt.data import load_data, stored
from tfopt.data.for_model import data_for, measurable, representative_for
from tfopt.errors import DataError
from tfopt.evaluate.bench import benchmark_files
from tfopt.evaluate.verify import verify_file
from tfopt.inputs import Sound, Table
from tfopt.tasks import task_of
from tfopt.tflite.write.export import export_tflite

RNG = np.random.default_rng(0)


def two_by_two():
    """A model with the inputs "a" and "b" and the outputs "sum" and "kind"."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    total = keras.layers.Add()([a, b])
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(total)
    return keras.Model([a, b], [keras.layers.Dense(1, name="sum")(total), kind])


def result_folder(path):
    path.mkdir()
    for name in ("model.keras", "recipe.json", "report.json", "labels.txt"):
        (path / name).write_text("zero\none\n")


def test_the_digits_are_the_digits_beside_a_folder_of_that_name(tmp_path, monkeypatch, capsys):
    """Such as the result of `tfopt run --out digits`; the pixels, 0 to 16, are fed as pixel / 16."""
    monkeypatch.chdir(tmp_path)
    result_folder(tmp_path / "digits")
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    for read in (measurable, data_for):
        data = read(model, "digits")
        assert data.source == "scikit-learn's handwritten digits" and data.train.x().max() == 1
        assert "note: digits are scikit-learn's handwritten digits, not what is" in capsys.readouterr().err
    for path in ("./digits", tmp_path / "digits"):
        for read in (measurable, data_for, lambda _, source: load_data(source)):
            with pytest.raises(DataError, match=r'holds the result of a run, not data; .* write "digits" alone'):
                read(model, path)
    result_folder(tmp_path / "pruned")
    with pytest.raises(DataError, match=r"got pruned, which holds the result of a run, not data\. Give the folder"):
        load_data("pruned")


@pytest.mark.parametrize("prefix", ["x", "x_train"])
def test_several_inputs_alone_are_enough(tmp_path, prefix):
    """The rows of the inputs stay together, and the files are compared on all of them."""
    x = {"a": RNG.normal(size=(40, 4)).astype("float32")}
    x["b"] = x["a"] + 1
    np.savez(tmp_path / "x.npz", **{f"{prefix}/{name}": x[name] for name in ("b", "a")})
    model = two_by_two()
    data, _ = representative_for(model, tmp_path / "x.npz")
    assert list(data.train.inputs) == ["a", "b"] and (len(data.train), len(data.test)) == (32, 8)
    np.testing.assert_allclose(data.train.x()["b"], data.train.x()["a"] + 1, rtol=1e-6)
    assert (
        list(data.outputs) == ["sum", "kind"] and task_of(data).labels == "none" and data.describe()[2] == "no labels"
    )
    assert len(measurable(model, tmp_path / "x.npz").test) == 40
    lite = export_tflite(model, tmp_path / "m.tflite", representative_data=data)
    verified = verify_file(model, lite, tmp_path / "x.npz")
    assert verified.samples == 40 and [output.name for output in verified.outputs] == ["sum", "kind"]
    assert not verified.outputs[1].metrics
    (row,) = benchmark_files([tmp_path / "m.tflite"], data=tmp_path / "x.npz", rounds=1)
    assert row.metrics == {}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x/a": np.zeros((4, 4)), "x/c": np.zeros((4, 4))}, "takes the inputs a, b; the data have a, c"),
        ({"x/a": np.zeros((4, 4)), "x/b": np.zeros((5, 4))}, "equally many samples"),
        ({"x/a": np.full((4, 4), np.nan), "x/b": np.zeros((4, 4))}, "finite .* a inputs"),
    ],
)
def test_bad_inputs_alone(tmp_path, arrays, problem):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=problem):
        measurable(two_by_two(), tmp_path / "x.npz")


@pytest.mark.parametrize("labels", [{}, {"y": np.arange(60) % 3}])
def test_inputs_of_another_width_than_the_model_takes(tmp_path, labels):
    np.savez(tmp_path / "x.npz", x=RNG.normal(size=(60, 5)), **labels)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(DataError, match=r"expects inputs of shape \(4,\), the data has \(5,\)"):
        measurable(model, tmp_path / "x.npz")


def state(front_end, folder):
    """Write the data.json of a result."""
    folder.mkdir()
    (folder / "data.json").write_text(json.dumps({"preprocessing": front_end.to_dict()}))
    return folder / "model.keras"


def test_a_table_without_labels(tmp_path, capsys):
    """It is fed with the statistics of the training, which only a data.json can say."""
    rows = [f"{number},{'ab'[number % 2]},{number % 2}" for number in range(60)]
    (tmp_path / "a.csv").write_text("age,kind,target\n" + "\n".join(rows))
    data = load_data(tmp_path / "a.csv", labels="target")
    model = keras.Sequential([keras.Input(data.input_shape), keras.layers.Dense(2)])
    (tmp_path / "b.csv").write_text("kind,age\n" + "a,1000\n" * 10)
    place = state(data.preprocessing, tmp_path / "result")
    fed = measurable(model, tmp_path / "b.csv", beside=[place])
    column = data.preprocessing.columns[0]
    assert fed.labels == "none" and len(fed.test) == 10 and isinstance(fed.preprocessing, Table)
    assert fed.test.x()[0, 0] == pytest.approx((1000 - column.mean) / column.deviation)
    assert "as data.json beside" in capsys.readouterr().err
    with pytest.raises(DataError, match="a column 'label'"):
        measurable(model, tmp_path / "b.csv")
    (tmp_path / "b.csv").write_text("kind\na\n")
    with pytest.raises(DataError, match="the column 'age', on which the model was trained"):
        measurable(model, tmp_path / "b.csv", beside=[place])


def test_recordings_without_labels(tmp_path):
    (tmp_path / "sounds").mkdir()
    for number in range(10):
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", RNG.normal(0, 0.1, 2000), 8000)
    sound = Sound(rate=8000, seconds=0.2)
    place = state(sound, tmp_path / "result")
    model = keras.Sequential(
        [keras.Input(sound.apply(np.zeros((1, 1600), np.int16)).shape[1:]), keras.layers.Flatten()]
    )
    fed = measurable(model, tmp_path / "sounds", beside=[place])
    assert fed.preprocessing == sound and len(fed.test) == 10 and fed.labels == "none"
    assert any("longer than 0.2 s" in note for note in fed.notes)
    data, _ = representative_for(model, tmp_path / "sounds", limit=5)
    assert (len(data.train), len(data.test)) == (4, 1) and data.preprocessing.seconds == pytest.approx(0.256)


def test_images_on_disk_stay_there(tmp_path, write_photos, monkeypatch):
    """All parts of samples that are not divided are the same."""
    for module in (limits, stored):
        monkeypatch.setattr(module, "LARGEST_IN_MEMORY", 1000)
    write_photos(tmp_path / "photos", 10)
    (tmp_path / "loose").mkdir()
    for number, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        file.rename(tmp_path / "loose" / f"{number}.png")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    data, _ = representative_for(model, tmp_path / "loose")
    whole = measurable(model, tmp_path / "loose")
    assert whole.train is whole.validation is whole.test and len(whole.test) == 20
    parts = (data.train, data.test, whole.test)
    assert all(isinstance(part.inputs, stored.StoredArray) for part in parts)
    np.testing.assert_array_equal(np.concatenate([data.test.x(), data.train.x()]), whole.test.x())
