"""Folders of images and masks."""

import numpy as np
import pytest
from PIL import Image

from tfopt.data import load_data
from tfopt.errors import DataError
from tfopt.tasks import Segmentation, task_of

RNG = np.random.default_rng(0)


def write(folder, count=12, values=(0, 255), names=("images", "masks"), first=0):
    """Images whose red channel is the number of the class times 40."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        classes = RNG.integers(0, len(values), (6, 8))
        pixels = np.stack([classes * 40, *[np.full((6, 8), number)] * 2], axis=-1).astype("uint8")
        Image.fromarray(pixels).save(folder / names[0] / f"{number}.png")
        Image.fromarray(np.array(values, "uint8")[classes]).save(folder / names[1] / f"{number}.png")


@pytest.mark.parametrize("names", [("images", "masks"), ("image", "annotations"), ("Images", "Masks")])
def test_masks_stay_with_their_images(tmp_path, names):
    write(tmp_path, values=(0, 7, 255), names=names)
    data = load_data(tmp_path)
    assert task_of(data) == Segmentation("sparse", 3, (6, 8))
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(part.inputs[..., 0], part.labels * 40)
    assert "the mask values 0, 7, 255 are the classes 0 to 2" in data.notes


def test_masks_below_train_and_test(tmp_path):
    write(tmp_path / "train", values=(0, 1))
    write(tmp_path / "test", 3, values=(0, 1), first=50)
    data = load_data(tmp_path)
    assert len(data.test) == 3 and set(data.test.inputs[:, 0, 0, 1]) == {50, 51, 52}
    np.testing.assert_array_equal(data.test.inputs[..., 0], data.test.labels * 40)
    assert not any("mask values" in note for note in data.notes)


def test_masks_are_resized_by_the_nearest_pixel(tmp_path):
    write(tmp_path, values=(0, 100, 255))
    data = load_data(tmp_path, size=(3, 4))
    assert data.train.labels.shape[1:] == (3, 4) and data.train.inputs.shape[1:] == (3, 4, 3)
    assert set(np.unique(data.train.labels)) == {0, 1, 2}


def test_palettes_are_classes(tmp_path):
    write(tmp_path, values=(0, 1))
    for path in (tmp_path / "masks").iterdir():
        with Image.open(path) as mask:
            classes = np.asarray(mask)
        image = Image.fromarray(classes, "P")
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.save(path)
    data = load_data(tmp_path)
    np.testing.assert_array_equal(data.train.inputs[..., 0], data.train.labels * 40)


def damage(folder, how):
    mask = folder / "masks" / "3.png"
    if how == "missing":
        mask.unlink()
    elif how == "corrupt":
        mask.write_bytes(b"\x89PNG broken")
    elif how == "size":
        Image.fromarray(np.zeros((6, 7), "uint8")).save(mask)
    elif how == "color":
        Image.fromarray(np.zeros((6, 8, 3), "uint8")).save(mask)
    else:
        mask.unlink()
        Image.fromarray(np.zeros((6, 8), "uint8")).save(mask.with_suffix(".jpg"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "only one of them for 3; pair them up"),
        ("corrupt", "a readable mask, got a corrupt file: .*3.png"),
        ("size", "in the size of their images, got 7x6 in .* and 8x6 in"),
        ("color", "one value for each pixel, got mode RGB"),
        ("lossy", "masks without loss, such as PNG, got 3.jpg"),
    ],
)
def test_masks_that_cannot_be_used(tmp_path, how, words):
    write(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(DataError, match=words):
        load_data(tmp_path)


def test_masks_with_both_classes_are_not_of_one_class():
    images, masks = np.zeros((20, 4, 4, 1), np.uint8), np.arange(20 * 4 * 4).reshape(20, 4, 4) % 2
    assert not any("class 0" in note for note in load_data((images, masks)).notes)
