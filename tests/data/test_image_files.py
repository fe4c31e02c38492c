"""Images that are decoded whenever they are read: the same samples as decoded once."""

from collections import namedtuple

import numpy as np
import pytest
import tf_keras
from PIL import Image

from tfopt import optimize
from tfopt.data import image_files, load_data
from tfopt.data.batches import naming_samples
from tfopt.data.image_files import ImageFiles
from tfopt.data.stored import StoredArray
from tfopt.errors import DataError
from tfopt.stages import Quantize

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def photos(tmp_path, write_photos):
    write_photos(tmp_path / "photos", 10)
    return tmp_path / "photos"


@pytest.fixture
def large(monkeypatch):
    """Any image is too large for memory; call this with the free bytes of the disk."""
    monkeypatch.setattr(image_files, "LARGEST_IN_MEMORY", 1)
    monkeypatch.setattr("tfopt.data.stored.LARGEST_IN_MEMORY", 1)

    def disk(free):
        monkeypatch.setattr(image_files.shutil, "disk_usage", lambda folder: Disk(10_000, 10_000 - free, free))

    return disk


def values(data):
    return [part.inputs[:] for part in (data.train, data.validation, data.test)]


@pytest.mark.parametrize("batch", [1, 64])
def test_samples_are_those_that_are_decoded_once(photos, batch, monkeypatch):
    """With and without threads."""
    monkeypatch.setattr(image_files, "_BATCH", batch)
    once, again = load_data(photos), load_data(photos, cache=False)
    assert isinstance(again.train.inputs, ImageFiles) and isinstance(once.train.inputs, np.ndarray)
    for ours, theirs in zip(values(again), values(once), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    inputs, expected = again.train.inputs, once.train.inputs
    assert (inputs.shape, inputs.ndim, inputs.nbytes) == (expected.shape, expected.ndim, expected.nbytes)
    for key in (3, -1, [2, 0, 2], np.array([[0, 1], [2, 3]]), slice(1, 5), expected[:, 0, 0, 0] > 90, []):
        found = inputs[key]
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected[key])
    np.testing.assert_array_equal(np.stack(list(inputs)), expected)
    np.testing.assert_array_equal(again.train.at([4, 1]).x(), once.train.at([4, 1]).x())
    batches = (data.batches("train", 4, shuffle=True, seed=7) for data in (again, once))
    for (x, y), (x_expected, y_expected) in zip(*batches, strict=True):
        np.testing.assert_array_equal(x, x_expected)
        np.testing.assert_array_equal(y, y_expected)


def test_the_folder_of_the_process_may_change(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    data, expected = load_data(photos.name, cache=False), load_data(photos.name)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(data.train.x(), expected.train.x())


def test_pixels_decide_the_fingerprint(photos, large):
    large(10_000)
    lazy, stored = load_data(photos, cache=False), load_data(photos)
    assert isinstance(stored.train.inputs, StoredArray) and lazy.fingerprint == stored.fingerprint
    file = photos / "dark" / "0.png"
    with Image.open(file) as image:
        changed = 255 - np.asarray(image)
    Image.fromarray(changed).save(file)
    assert load_data(photos, cache=False).fingerprint != lazy.fingerprint


@pytest.mark.parametrize("free", [10_000, 4_300, 4_200, 900])
def test_the_disk_decides_where_nothing_is_said(photos, large, free):
    """20 images of 8 x 8 x 3 take 3,840 bytes; a tenth of what is free stays so."""
    large(free)
    data = load_data(photos)
    decoded = free in (4_200, 900)
    assert isinstance(data.train.inputs, ImageFiles if decoded else StoredArray)
    assert any("decoded whenever they are read, since they take" in note for note in data.notes) == decoded


def test_a_damaged_image_is_found_before_the_work(photos):
    file = sorted(photos.rglob("*.png"))[-1]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=file.name):
        load_data(photos, cache=False)


def test_an_image_that_disappears_is_named(photos):
    data = load_data(photos, cache=False)
    model = tf_keras.Sequential([tf_keras.Input(data.input_shape), tf_keras.layers.Flatten(), tf_keras.layers.Dense(2)])
    batches = data.batches("train", 4)
    inputs = data.train.inputs
    gone = inputs.files[inputs.places[-1]]
    gone.unlink()
    message = rf"^Expected a readable image, got a corrupt file: .*{gone.name} "
    with pytest.raises(DataError, match=message):
        data.train.x()
    with pytest.raises(DataError, match=message), naming_samples():
        list(batches)
    with pytest.raises(DataError, match=message):
        optimize(model, Quantize(epochs=1), data, quiet=True)


def test_an_image_of_another_size_by_now_is_named(photos):
    data, resized = load_data(photos, cache=False), load_data(photos, size=(8, 8), cache=False)
    file = data.train.inputs.files[data.train.inputs.places[-1]]
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
    with pytest.raises(DataError, match=rf"images of one size, got 8x8 in .* and 16x16 in .*{file.name}"):
        data.train.x()
    assert resized.train.x().shape[1:] == (8, 8, 3)


def test_other_errors_pass_unchanged():
    with pytest.raises(ValueError, match=r"^other$"), naming_samples():
        raise ValueError("other")


def test_what_the_setting_may_be(photos):
    with pytest.raises(DataError, match="Expected cache as a folder, or False"):
        load_data(photos, cache=True)
    arrays = np.ones((20, 4, 4, 1), np.uint8), np.arange(20) % 2
    with pytest.raises(DataError, match="Expected a folder of images for cache="):
        load_data(arrays, cache=False)
