"""Samples on disk: the same as in memory, and what is said when they cannot be kept."""

import errno
import gc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfopt
from tfopt.base import limits
from tfopt.data import load_data, predicting, stored
from tfopt.data.predicting import outputs_for
from tfopt.data.stored import Collector, StoredArray
from tfopt.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def on_disk(monkeypatch):
    """Everything above 1 kB lies on disk."""
    for module in (limits, stored):
        monkeypatch.setattr(module, "LARGEST_IN_MEMORY", 1000)


def test_rows_are_those_that_were_added():
    rows = RNG.normal(size=(30, 2, 3)).astype("float32")
    collector = Collector("rows", most=100)
    for start in range(0, 30, 7):
        collector.append(rows[start : start + 7])
    found = collector.result()
    assert isinstance(found, StoredArray)
    assert (found.shape, found.ndim, found.dtype, found.nbytes) == (rows.shape, 3, rows.dtype, rows.nbytes)
    for key in (3, slice(2, 20, 3), np.array([5, 0, 29]), rows[:, 0, 0] > 0):
        np.testing.assert_array_equal(found[key], rows[key])
    np.testing.assert_array_equal(np.stack(list(found)), rows)
    taken = found.take(np.array([9, 3])).take([1])
    np.testing.assert_array_equal(taken[:], rows[[3]])
    assert taken.fingerprint() != found.take([9]).fingerprint()
    assert taken.fingerprint() == found.take([3]).fingerprint()


def test_few_rows_stay_in_memory():
    collector = Collector("rows", most=1000)
    for value in (1, 2):
        collector.append(np.full((2, 3), value, np.uint8))
    np.testing.assert_array_equal(collector.result(), [[1] * 3] * 2 + [[2] * 3] * 2)


def test_the_file_lives_as_long_as_its_rows():
    collector = Collector("rows", most=0)
    collector.append(np.ones((4, 2), np.uint8))
    rows = collector.result().take([2])
    path = rows.path
    del collector
    gc.collect()
    assert path.is_file() and rows[0].tolist() == [1, 1]
    del rows
    gc.collect()
    assert not path.exists()


def test_rows_must_be_alike():
    collector = Collector("the rows", most=0)
    collector.append(np.ones((4, 2), np.uint8))
    with pytest.raises(DataError, match=r"the rows of one shape, got uint8 \(2,\) and, from sample 4 on, uint8 \(3,\)"):
        collector.append(np.ones((4, 3), np.uint8))


def test_a_full_disk_is_said(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"Cannot write the rows.*No space left on device. Set TMPDIR to a folder"):
        Collector("the rows", most=0).append(np.ones((4, 2), np.uint8))


def write_photos(folder):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(25):
            Image.fromarray(RNG.integers(0, 256, (9, 7, 3)).astype("uint8")).save(folder / name / f"{number}.png")


def test_images_on_disk_are_those_in_memory(tmp_path, request):
    write_photos(tmp_path)
    inside = load_data(tmp_path, size=(6, 6), preprocessing="unit")
    request.getfixturevalue("on_disk")
    outside = load_data(tmp_path, size=(6, 6), preprocessing="unit")
    assert isinstance(outside.train.inputs, StoredArray) and not isinstance(inside.train.inputs, StoredArray)
    assert any("lie in a temporary file" in note for note in outside.notes)
    for name in ("train", "validation", "test"):
        one, other = inside.split(name), outside.split(name)
        np.testing.assert_array_equal(one.x(), other.x())
        np.testing.assert_array_equal(one.y(), other.y())
    batches = [list(data.batches("train", 8, shuffle=True, seed=1).as_numpy_iterator()) for data in (inside, outside)]
    for (x, y), (other_x, other_y) in zip(*batches, strict=True):
        np.testing.assert_array_equal(x, other_x)
        np.testing.assert_array_equal(y, other_y)
    assert outside.fingerprint == load_data(tmp_path, size=(6, 6), preprocessing="unit").fingerprint


@pytest.mark.parametrize("known", [True, False])
def test_streams_of_any_length_lie_on_disk(known, on_disk):
    x, y = RNG.normal(size=(50, 30)).astype("float32"), np.arange(50) % 2
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    stream = stream if known else stream.filter(lambda x, y: True)
    data = load_data(stream)
    assert isinstance(data.train.inputs, StoredArray)
    for part in (data.train, data.validation, data.test):
        for row, label in zip(part.x(), part.y(), strict=True):
            place = int(np.argmin(np.abs(x - row).sum(axis=1)))
            assert np.array_equal(x[place], row) and y[place] == label


class Batches(keras.utils.PyDataset):
    """Batches of ten samples, of which the one called `bad` fails."""

    def __init__(self, bad=None):
        super().__init__()
        self.bad = bad

    @property
    def num_batches(self):
        return 5

    def __getitem__(self, index):
        if index == self.bad:
            raise ValueError("the file is gone")
        return np.full((10, 3), index, np.float32), np.arange(10) % 2


def test_a_pydataset_is_read_once():
    data = load_data({"train": Batches(), "test": Batches()})
    assert sorted(data.test.x()[:, 0]) == sorted(np.repeat(np.arange(5.0), 10))


def test_an_error_in_the_middle_names_the_sample():
    with pytest.raises(DataError, match="an error after 20 samples: the file is gone"):
        load_data(Batches(bad=2))

    def generator():
        for number in range(30):
            if number == 25:
                raise RuntimeError("lost")
            yield np.float32([number, 1]), number % 2

    spec = (tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.int64))
    with pytest.raises(DataError, match=r"an error after 25 samples: .*lost"):
        load_data(tf.data.Dataset.from_generator(generator, output_signature=spec))


def test_a_stream_without_end_is_refused():
    stream = tf.data.Dataset.from_tensor_slices((np.ones((4, 2), "float32"), [0, 1, 0, 1])).repeat()
    with pytest.raises(DataError, match=r"with an end, got an infinite one; .*use take\(n\)"):
        load_data(stream)


def test_outputs_of_parts_are_those_of_the_whole(monkeypatch):
    data = load_data((RNG.normal(size=(50, 4)), np.arange(50) % 2))
    asked = []

    def predict(x):
        asked.append(len(x))
        return [x.sum(axis=1), {"max": x.max(axis=1, keepdims=True)}]

    whole = outputs_for(predict, data.train)
    monkeypatch.setattr(predicting, "AT_ONCE", 7 * 16)  # seven samples of four float32
    parts = outputs_for(predict, data.train)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1]["max"], parts[1]["max"])
    assert asked == [32, 7, 7, 7, 7, 4]


@pytest.mark.slow
def test_a_run_on_disk_gives_the_same_file(tmp_path, request):
    write_photos(tmp_path)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=2), tfopt.PostTraining()), max_drop=None)

    def run():
        keras.utils.set_random_seed(0)
        layers = [
            keras.Input((9, 7, 3), name="pixels"),
            keras.layers.Conv2D(4, 3, activation="relu", name="body"),
            keras.layers.GlobalAveragePooling2D(name="mean"),
            keras.layers.Dense(2, activation="softmax", name="kind"),
        ]
        model = keras.Sequential(layers, name="net")
        return tfopt.optimize(model, recipe, load_data(tmp_path, preprocessing="unit"), quiet=True).lite.data

    inside = run()
    request.getfixturevalue("on_disk")
    assert run() == inside
