"""Folders of images and masks."""

import numpy as np
import pytest
from PIL import Image, ImageOps

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


def turned_set(folder, orientation, drawn, *, size=(8, 12), count=10, suffix=".jpg"):
    """Photos with an EXIF orientation, a bright block off the middle, and masks for before or after the turn."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    classes = np.zeros(size, "uint8")
    classes[: size[0] // 2, : size[1] // 4] = 1
    for number in range(count):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = folder / "images" / f"{orientation}_{number}{suffix}"
        Image.fromarray(np.kron(classes, np.full((8, 8), 200, "uint8"))).save(path, exif=exif, quality=100)
        mask = Image.fromarray(np.kron(classes, np.ones((8, 8), "uint8")))
        if drawn == "after":
            mask.getexif()[0x0112] = orientation  # Pillow turns it, independently of tfopt
            mask = ImageOps.exif_transpose(mask)
        mask.save(folder / "masks" / f"{orientation}_{number}.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("drawn", ["before", "after"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_lie_on_photos_that_are_turned(tmp_path, orientation, drawn, suffix):
    turned_set(tmp_path, orientation, drawn, suffix=suffix)
    data = load_data(tmp_path)
    assert data.input_shape == (96, 64, 1) and data.train.labels.shape[1:] == (96, 64)
    np.testing.assert_array_equal(data.train.inputs[..., 0] > 100, data.train.labels == 1)
    how = "turned with them" if drawn == "before" else "not, since they have the size of the images after"
    assert sum(how in note for note in data.notes) == 1


@pytest.mark.parametrize("drawn", ["before", "after"])
@pytest.mark.parametrize("other", [2, 3, 4])
def test_one_size_tells_for_all_masks(tmp_path, drawn, other):
    turned_set(tmp_path, 6, drawn)
    turned_set(tmp_path, other, drawn, size=(12, 8), count=3)
    data = load_data(tmp_path)
    np.testing.assert_array_equal(data.train.inputs[..., 0] > 100, data.train.labels == 1)
    assert any("13 of 13 images are turned" in note and "masks" in note for note in data.notes)


@pytest.mark.parametrize(("orientation", "size"), [(3, (8, 8)), (6, (8, 8)), (3, (8, 12)), (2, (8, 12))])
def test_turned_photos_whose_masks_do_not_tell(tmp_path, orientation, size):
    turned_set(tmp_path, orientation, "before", size=size)
    with pytest.raises(DataError, match=rf"orientation of {orientation} in .*\(10 of 10 .*exif_transpose"):
        load_data(tmp_path)


def test_masks_that_contradict_each_other(tmp_path):
    turned_set(tmp_path, 6, "before")
    turned_set(tmp_path, 8, "after")
    with pytest.raises(DataError, match=r"6_0\.png in the size before and .*8_0\.png in the size after.*exif_transp"):
        load_data(tmp_path, size=(8, 8))


def test_masks_with_their_own_orientation(tmp_path):
    turned_set(tmp_path, 3, "before", size=(8, 8))
    for path in (tmp_path / "masks").iterdir():
        with Image.open(path) as mask:
            exif = Image.Exif()
            exif[0x0112] = 3
            mask.save(path, exif=exif)
    data = load_data(tmp_path)
    np.testing.assert_array_equal(data.train.inputs[..., 0] > 100, data.train.labels == 1)
    assert "10 of 10 masks are turned as their own EXIF orientation says" in data.notes


def test_an_orientation_behind_the_pixels_of_a_png(tmp_path):
    turned_set(tmp_path, 6, "before", suffix=".png")
    for path in (tmp_path / "images").iterdir():
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])  # IEND has 12 bytes
    data = load_data(tmp_path)
    assert data.train.labels.shape[1:] == (96, 64)
    np.testing.assert_array_equal(data.train.inputs[..., 0] > 100, data.train.labels == 1)


def test_images_of_several_sizes_need_a_size(tmp_path):
    write(tmp_path)
    for name in ("images", "masks"):
        Image.fromarray(np.zeros((4, 8), "uint8")).save(tmp_path / name / "9.png")
    with pytest.raises(DataError, match=r"one size, got 6x8 in .*0\.png and 4x8 in .*9\.png; pass size="):
        load_data(tmp_path)
    assert load_data(tmp_path, size=(6, 8)).train.labels.shape[1:] == (6, 8)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_name(tmp_path, folder):
    write(tmp_path)
    Image.fromarray(np.zeros((6, 8), "uint8")).save(tmp_path / folder / "0.bmp")
    with pytest.raises(DataError, match=rf"one file of each name in .*{folder}, got 0\.bmp and 0\.png"):
        load_data(tmp_path)


def test_hidden_files_are_no_masks(tmp_path):
    write(tmp_path)
    (tmp_path / "masks" / "._0.png").write_bytes(b"left by macOS")
    assert len(load_data(tmp_path).train) == 8
