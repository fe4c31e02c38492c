"""Folders of images and masks."""

import json

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps

from tfopt.data import load_data
from tfopt.data.check import check_labels
from tfopt.data.for_model import data_for
from tfopt.data.stored import StoredArray
from tfopt.errors import DataError
from tfopt.run.result import described
from tfopt.tasks import Segmentation, task_of
from tfopt.training.class_weights import class_weights
from tfopt.training.settings import Training

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
    write(tmp_path, values=(0, 7, 254), names=names)
    data = load_data(tmp_path)
    assert task_of(data) == Segmentation("sparse", 3, (6, 8))
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(part.inputs[..., 0], part.labels * 40)
    assert "the mask values 0, 7, 254 are the classes 0 to 2" in data.notes


def test_masks_below_train_and_test(tmp_path):
    write(tmp_path / "train", values=(0, 1))
    write(tmp_path / "test", 3, values=(0, 1), first=50)
    data = load_data(tmp_path)
    assert len(data.test) == 3 and set(data.test.inputs[:, 0, 0, 1]) == {50, 51, 52}
    np.testing.assert_array_equal(data.test.inputs[..., 0], data.test.labels * 40)
    assert not any("mask values" in note for note in data.notes)


def test_masks_are_resized_by_the_nearest_pixel(tmp_path):
    write(tmp_path, values=(0, 100, 200))
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


def write_masks(folder, masks):
    """Gray images of nothing, and these masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(np.full(mask.shape, number, "uint8")).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03}.png")


def classes_by_image(data):
    """The labels in the order of the files, of which each image has its number."""
    parts = (data.train, data.validation, data.test)
    by_number = {int(x[0, 0, 0]): y for part in parts for x, y in zip(part.inputs, part.y(), strict=True)}
    return np.stack([by_number[number] for number in sorted(by_number)])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("most", [2**30, 100])
def test_labels_are_compact_and_in_a_file_if_they_are_many(tmp_path, monkeypatch, dtype, most):
    monkeypatch.setattr("tfopt.data.stored.LARGEST_IN_MEMORY", most)
    masks = RNG.choice([3, 90, 250], (12, 5, 4)).astype(dtype)
    write_masks(tmp_path, masks)
    data = load_data(tmp_path)
    assert data.train.labels.dtype == np.uint8 and data.train.y().dtype == np.int32
    assert isinstance(data.train.labels, StoredArray) == (most == 100)
    np.testing.assert_array_equal(classes_by_image(data), np.select([masks == 3, masks == 90], [0, 1], 2))
    assert data.mask_values == (3, 90, 250) and data.num_classes == 3
    np.testing.assert_array_equal(next(iter(data.batches("test", 2)))[1], data.test.labels[:2].astype("int32"))
    counts = np.bincount(np.concatenate([mask.ravel() for mask in data.train.labels]), minlength=3)
    found = class_weights(Training(class_weight="balanced"), data)[""]
    np.testing.assert_allclose(found, counts.sum() / (3 * counts), rtol=1e-6)
    check_labels(data, 3, (5, 4))
    with pytest.raises(DataError, match=r"within 0\.\.1"):
        check_labels(data, 2, (5, 4))


def test_the_values_of_all_masks_are_the_classes_whatever_is_left_out(tmp_path):
    masks = np.zeros((12, 4, 4), "uint8")
    masks[5, 0, 0], masks[6] = 9, 4
    write_masks(tmp_path / "train", masks[:, :, :])
    write_masks(tmp_path / "test", np.full((2, 4, 4), 5, "uint8"))
    for options in ({}, {"limit": 1}, {"size": (2, 2)}):
        data = load_data(tmp_path, **options)
        assert data.mask_values == (0, 4, 5, 9) and data.num_classes == 4
        assert (data.test.labels == 2).all() and len(data.train.labels) == options.get("limit", 10)


def test_masks_mean_what_they_mean_to_the_model(tmp_path):
    values = np.array([0, 2, 7], "uint8")
    write_masks(tmp_path / "all", values[RNG.integers(0, 3, (12, 4, 4))])
    others = np.array([0, 7], "uint8")[RNG.integers(0, 2, (12, 4, 4))]
    write_masks(tmp_path / "some", others)
    (tmp_path / "result").mkdir()
    known = described(load_data(tmp_path / "all"))
    (tmp_path / "result" / "data.json").write_text(json.dumps(known))
    model = keras.Sequential([keras.Input((4, 4, 1), name="x"), keras.layers.Dense(3, name="y")])
    data = data_for(model, tmp_path / "some", beside=[tmp_path / "result" / "model.tflite"], quiet=True)
    np.testing.assert_array_equal(classes_by_image(data), np.where(others == 7, 2, 0))
    assert data.mask_values == (0, 2, 7) and data.num_classes == 3
    named = data_for(model, tmp_path / "some", mask_values=(7, 0), beside=[tmp_path / "result"], quiet=True)
    np.testing.assert_array_equal(classes_by_image(named), np.where(others == 7, 0, 1))
    write_masks(tmp_path / "other", others + 1)
    with pytest.raises(DataError, match=r"values 0, 2, 7 alone.*got 1 in .*other.masks.0"):
        data_for(model, tmp_path / "other", beside=[tmp_path / "result"], quiet=True)
    (tmp_path / "result" / "data.json").write_text(json.dumps({**known, "mask_values": [0, "x"]}))
    with pytest.raises(DataError, match=r"data\.json states no mask_values that can be read"):
        data_for(model, tmp_path / "some", beside=[tmp_path / "result"], quiet=True)


def test_values_by_class(tmp_path):
    masks = np.array([0, 1, 255], "uint8")[RNG.integers(0, 3, (12, 4, 4))]
    write_masks(tmp_path, masks)
    expected = np.select([masks == 255, masks == 1], [0, 3], 1)
    data = load_data(tmp_path, mask_values=(255, 0, 4, 1))
    np.testing.assert_array_equal(classes_by_image(data), expected)
    assert data.num_classes == 4
    data = load_data((np.arange(12, dtype="uint8")[:, None, None, None] * np.ones((1, 4, 4, 1), "uint8"), masks),
                     mask_values=(255, 0, 4, 1))  # fmt: skip
    np.testing.assert_array_equal(classes_by_image(data), expected)
    assert data.mask_values == (255, 0, 4, 1)
    with pytest.raises(DataError, match=r"values 0, 1 alone.*got 255"):
        load_data((masks[..., None], masks), mask_values=(0, 1))
    with pytest.raises(DataError, match="distinct integers"):
        load_data(tmp_path, mask_values=(0, 0))
    with pytest.raises(DataError, match="Expected masks for mask_values="):
        load_data("digits", mask_values=(0, 1))


def from_folder(folder, masks):
    write_masks(folder, masks)
    return load_data(folder)


def from_arrays(folder, masks):
    return load_data((np.zeros((*masks.shape, 1), "uint8"), masks.astype("int64")))


@pytest.mark.parametrize("load", [from_folder, from_arrays])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1, 2, 255], r"values 0, 1, 2 and 255 in .*not labeled.*such as 0 or 3.*mask_values=\(0, 1, 2, 255\)"),
        ([0, 1, 255], "not labeled"),
        ([0, 1, 254, 255], r"values 0, 1, 254 and 255 in .*such as 0 or 2; if 255"),
        ([0, 1, 5, 255], r"values 0, 1, 5 and 255 in .*not labeled.*such as 0 or 6.*mask_values=\(0, 1, 5, 255\)"),
        (list(range(0, 256, 3)), "got 86 values in .*smoothed"),
        (list(range(256)), "got 256 values in .*smoothed"),
    ],
)
def test_values_that_are_no_classes(tmp_path, values, words, load):
    masks = np.resize(np.array(values, "uint8"), (12, 6, 6))
    with pytest.raises(DataError, match=words):
        load(tmp_path, masks)


@pytest.mark.parametrize("load", [from_folder, from_arrays])
@pytest.mark.parametrize(
    ("values", "classes"), [([0, 255], 2), ([0], 2), ([255], None), (list(range(150)), 150), ([0, 1, 254], None)]
)
def test_values_that_are_classes(tmp_path, values, classes, load):
    masks = np.resize(np.array(values, "uint8"), (12, 6, 6))
    data = load(tmp_path, masks)
    if classes:
        assert data.num_classes == classes
    assert data.train.y().max() < data.num_classes
    if values == [0, 255]:
        assert data.mask_values == (0, 255) and "the mask values 0, 255 are the classes 0 and 1" in data.notes


def test_hidden_folders_beside_masks_change_nothing(tmp_path):
    """The values of a data.json count as they do without them."""
    masks = np.array([0, 2], "uint8")[RNG.integers(0, 2, (12, 4, 4))]
    write_masks(tmp_path / "cells", masks)
    (tmp_path / "data.json").write_text(json.dumps({"mask_values": [0, 1, 2]}))
    (tmp_path / "cells" / ".ipynb_checkpoints").mkdir()
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Dense(3)])
    data = data_for(model, tmp_path / "cells", beside=[tmp_path / "model.tflite"], quiet=True)
    assert data.mask_values == (0, 1, 2)
    np.testing.assert_array_equal(classes_by_image(data), masks)
    assert "1 of 3 classes have no training sample: 1" in data.notes


@pytest.mark.parametrize(
    ("given", "expected"), [(np.array([7, 0], "uint8"), (7, 0)), ([0, 7], (0, 7)), (range(0, 8, 7), (0, 7))]
)
def test_mask_values_of_any_sequence(tmp_path, given, expected):
    write_masks(tmp_path, np.array([0, 7], "uint8")[RNG.integers(0, 2, (12, 4, 4))])
    assert load_data(tmp_path, mask_values=given).mask_values == expected


@pytest.mark.parametrize("given", [5, "05", [True, 0], [0.0, 1.0], [-1, 0], [1, 1], []])
def test_mask_values_are_distinct_integers(tmp_path, given):
    with pytest.raises(DataError, match="Expected mask_values as distinct integers of 0 or above"):
        load_data(tmp_path, mask_values=given)


def test_a_folder_of_masks_has_one_task(tmp_path):
    write(tmp_path)
    assert load_data(tmp_path, task="segmentation").num_classes == 2
    for task in ("regression", "reconstruction", "classification"):
        with pytest.raises(DataError, match=f"Expected the task 'segmentation' .*, got '{task}'"):
            load_data(tmp_path, task=task)


BLACK, RED, WHITE = (0, 0, 0), (255, 0, 0), (255, 255, 255)


def write_colors(folder, kinds):
    """Masks of two halves, by their palettes and the values of the halves; a palette of None makes a gray mask."""
    write(folder, len(kinds))
    for number, (palette, values) in enumerate(kinds):
        classes = np.zeros((6, 8), np.uint8)
        classes[:, :4], classes[:, 4:] = values
        mask = Image.fromarray(classes)
        if palette:
            mask = Image.frombytes("P", (8, 6), classes.tobytes())
            mask.putpalette([part for color in palette for part in color])
        mask.save(folder / "masks" / f"{number}.png")


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        (
            ((BLACK, RED), (0, 1)),
            ((RED, BLACK), (1, 0)),
            "#000000 with the value 0 in .*, and #ff0000 with the value 0",
        ),
        (
            ((BLACK, RED), (0, 1)),
            ((BLACK, WHITE, RED), (0, 2)),
            "#ff0000 with the value [12] in .*, and #ff0000 with the value [12]",
        ),
        (
            ((BLACK, WHITE), (0, 1)),
            (None, (0, 1)),
            "#ffffff with the value 1 in .*, and #010101 .*, which has no palette",
        ),
        (((BLACK, WHITE), (0, 1)), (None, (0, 255)), "#ffffff with the value 1 in .*, and #ffffff with the value 255"),
    ],
)
def test_palettes_that_contradict_each_other(tmp_path, one, other, problem):
    write_colors(tmp_path, [one, other] * 5)
    with pytest.raises(DataError, match=problem):
        load_data(tmp_path, mask_values=(0, 1, 2, 255))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((BLACK, RED), (0, 1)), ((BLACK, RED, WHITE), (0, 1))),
        (((BLACK, RED, WHITE), (0, 1)), ((BLACK, RED, RED), (1, 0))),  # the other color is not used
        (((BLACK, RED), (0, 1)), (None, (0, 0))),
        (((BLACK, BLACK), (0, 1)), ((BLACK, BLACK), (1, 0))),  # a palette without colors
        ((((0, 0, 0), (1, 1, 1)), (0, 1)), (None, (0, 1))),
    ],
)
def test_palettes_that_agree(tmp_path, one, other):
    write_colors(tmp_path, [one, other] * 5)
    assert load_data(tmp_path).mask_values == (0, 1)


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (("imgs", "masks"), ""),
        (("JPEGImages", "SegmentationClass"), ""),
        (("images", "labels"), "_label"),
        (("images", "masks", "depth"), ""),
        (("Images", "ground_truth"), "_gt"),
        (("train", "train_masks"), "_mask"),
        (("train/imgs", "train/masks", "test/imgs", "test/masks"), ""),
    ],
)
def test_folders_that_look_like_images_and_masks(tmp_path, names, ending):
    write(tmp_path, 4, names=names[:2])
    for name in names[2:]:
        write(tmp_path, 4, names=(name, name))
    for path in (tmp_path / names[1]).iterdir():
        path.rename(path.with_stem(path.stem + ending))
    with pytest.raises(
        DataError, match=r"which look like images and their masks\. .* call the two folders images and masks"
    ):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("names", "apart"),
    [
        (("cat", "dog"), 0),
        (("mask", "no_mask"), 0),
        (("face", "face_mask"), 0),
        (("images", "labels"), 6),
        (("images", "labels"), 1),
    ],
)
def test_classes_may_number_their_files_alike(tmp_path, names, apart):
    write(tmp_path, 6, names=names)
    for number, path in enumerate(sorted((tmp_path / names[1]).iterdir())):
        Image.open(path).convert("RGB").save(path)
        if number < apart:
            path.rename(path.with_stem(f"{path.stem}_of_another"))
    assert load_data(tmp_path).class_names == names
