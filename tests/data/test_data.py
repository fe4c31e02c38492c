"""The data room: reading, feeding, splitting and errors; expected values from hand-made pixels and NumPy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from tfopt.data import Augmentation, Dataset, Preprocessing, Split, fit_to_model, folder, load_data
from tfopt.data.for_model import data_for, with_or_without_labels
from tfopt.data.split import choose
from tfopt.errors import DataError


def save(path: Path, pixels: Any) -> None:
    """Write pixels (height, width[, channels]) as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def image_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5, side: int = 4) -> Path:
    """Class c's image i is filled with the RGB color (40 * c, i, 200)."""
    for number, name in enumerate(classes):
        for index in range(count):
            save(root / name / f"{index}.png", np.full((side, side, 3), (40 * number, index, 200)))
    return root


def arrays(count: int = 100, classes: int = 4, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 3) whose first value is the index of the sample, to tell them apart; labels i % classes."""
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    x[:, 0] = np.arange(count)
    return x, np.arange(count) % classes


def ids(split: Any) -> set[int]:
    return {int(value) for value in split.x()[:, 0]}


# Preprocessing


@pytest.mark.parametrize(
    ("name", "expected", "words"),
    [
        ("raw", [0, 51, 255], "inputs, fed as float32 values as they are"),
        ("unit", [0, 0.2, 1], "inputs, fed as float32 value/255"),
        ("symmetric", [-1, -0.6, 1], "inputs, fed as float32 value/127.5 - 1"),
    ],
)
def test_named_preprocessing_feeds_what_it_says(name: str, expected: list[float], words: str) -> None:
    preprocessing = Preprocessing.named(name)
    fed = preprocessing.apply(np.array([0, 51, 255], np.uint8))
    assert fed.dtype == np.float32
    np.testing.assert_allclose(fed, expected, atol=1e-6)
    assert preprocessing.describe() == words


def test_preprocessing_in_words_and_as_a_dict() -> None:
    preprocessing = Preprocessing(size=(32, 48), color="rgb", scale=1 / 127.5, offset=-1.0)
    assert preprocessing.describe() == "RGB images resized to 32x48, fed as float32 pixel/127.5 - 1"
    assert Preprocessing(color="grayscale", scale=0.3, offset=2).describe() == (
        "grayscale images, fed as float32 pixel * 0.3 + 2"
    )
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    with pytest.raises(DataError, match="mean"):
        Preprocessing.from_dict({"mean": 0})


@pytest.mark.parametrize(
    "fields", [{"size": (0, 3)}, {"size": 32}, {"color": "bgr"}, {"scale": 0.0}, {"offset": float("nan")}]
)
def test_preprocessing_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="Expected"):
        Preprocessing(**fields)
    with pytest.raises(DataError, match="named"):
        Preprocessing.named("imagenet")


def test_preprocessing_of_each_channel() -> None:
    """The values that Keras documents for its modes "caffe" and "torch", for one pixel of red, green and blue."""
    pixel = np.array([[[[255, 128, 0]]]], np.uint8)
    caffe, torch = Preprocessing.named("caffe"), Preprocessing.named("torch")
    np.testing.assert_allclose(caffe.apply(pixel).ravel(), [0 - 103.939, 128 - 116.779, 255 - 123.68], rtol=1e-6)
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    np.testing.assert_allclose(torch.apply(pixel).ravel(), expected, rtol=1e-5)
    assert caffe.describe() == "inputs, fed as float32 value * (1) + (-103.939, -116.779, -123.68), blue first"
    for each in (caffe, torch):
        assert Preprocessing.from_dict(json.loads(json.dumps(each.to_dict()))) == each
        with pytest.raises(DataError, match="3 channels"):
            each.apply(pixel[..., :1])
    fed = load_data((np.repeat(pixel, 20, 0), np.arange(20) % 2), size=(1, 1)).with_preprocessing("caffe")
    assert fed.preprocessing.size == (1, 1) and fed.preprocessing.order == "bgr"
    assert fed.with_preprocessing("unit").preprocessing.order == "rgb"
    with pytest.raises(DataError, match="as many scales as offsets"):
        Preprocessing(scale=(1.0, 2.0), offset=(1.0, 2.0, 3.0))
    with pytest.raises(DataError, match="order"):
        Preprocessing(order="gbr")  # type: ignore[arg-type]


# Sources


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits")
    assert data.input_shape == (8, 8, 1)
    assert (data.task, data.labels, data.num_classes) == ("classification", "sparse", 10)
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    truth = {image.tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    for split in (data.train, data.validation, data.test):
        for image, label in zip(split.x(), split.y(), strict=True):
            assert truth[(image * 16).astype(np.float64).tobytes()] == label
    assert data.preprocessing.describe() == "grayscale images resized to 8x8, fed as float32 pixel/16"
    assert any("no test data: 20 %" in note for note in data.notes)
    with pytest.raises(DataError, match=r"0\.\.16"):
        load_data("digits", preprocessing="unit")


def test_folder_gives_the_pixels_of_its_files(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", count=6)
    image_folder(tmp_path / "val", count=2)
    image_folder(tmp_path / "test", count=3)
    save(tmp_path / "train" / "dog" / ".hidden.png", np.zeros((9, 9, 3)))
    (tmp_path / "train" / "LICENSE.txt").write_text("free")
    data = load_data(tmp_path, preprocessing="symmetric")
    assert data.class_names == ("cat", "dog")
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [12, 4, 6]
    assert data.train.inputs.dtype == np.uint8
    assert data.train.y().tolist() == [0] * 6 + [1] * 6
    np.testing.assert_allclose(data.train.x([8])[0, 1, 2], np.array([40, 2, 200]) / 127.5 - 1, atol=1e-6)
    assert data.preprocessing.describe() == "RGB images resized to 4x4, fed as float32 pixel/127.5 - 1"
    assert any("LICENSE.txt" in note for note in data.notes)


def test_folder_without_parts_is_split(tmp_path: Path) -> None:
    data = load_data(str(image_folder(tmp_path, classes=("a", "b", "train"), count=20)))
    assert data.class_names == ("a", "b", "train")
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [38, 10, 12]
    assert np.bincount(data.test.y()).tolist() == [4, 4, 4]
    for split in (data.train, data.validation, data.test):
        assert (split.x()[:, 0, 0, 0] == 40 * split.y()).all()


def test_images_are_resized_and_recolored(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "gray.png", np.full((8, 6), 100))
        save(tmp_path / name / "color.bmp", np.full((5, 7, 3), (250, 0, 0)))
        save(tmp_path / name / "clear.png", np.full((4, 4, 4), (1, 2, 3, 0)))
        save(tmp_path / name / "gray2.webp", np.full((8, 6, 3), 7))
        save(tmp_path / name / "gray3.gif", np.full((8, 6), 9))
    data = load_data(tmp_path, size=(2, 3), validation=0.2, test=0.2)
    assert data.input_shape == (2, 3, 3)
    seen = {tuple(pixel) for part in (data.train, data.validation, data.test) for pixel in part.x()[:, 1, 1].tolist()}
    assert seen == {(100,) * 3, (250, 0, 0), (1, 2, 3), (7,) * 3, (9,) * 3}
    assert "2 of 10 images are RGBA: converted to rgb, transparency dropped" in data.notes
    assert "images of several sizes, from 4x4 to 8x6 (height x width), resized to 2x3" in data.notes
    gray = load_data(tmp_path, size=(2, 3), color="grayscale")
    assert gray.input_shape == (2, 3, 1)
    seen = {int(pixel) for part in (gray.train, gray.validation, gray.test) for pixel in part.inputs[:, 1, 1, 0]}
    assert seen == {100, 75, 2, 7, 9}  # ITU-R 601-2: 0.299 * 250 and 0.299 * 1 + 0.587 * 2 + 0.114 * 3


def test_resizing_averages_down(tmp_path: Path) -> None:
    board = np.indices((8, 8)).sum(axis=0) % 2 * 200
    x = np.stack([np.repeat(board[..., None], 3, -1)] * 10).astype(np.uint8)
    data = load_data((x, np.arange(10) % 2), size=(2, 2))
    assert not any("several sizes" in note for note in data.notes)
    assert abs(data.train.x() - 100).max() <= 15  # without antialiasing it would be 0 or 200
    assert data.preprocessing.size == (2, 2)


def test_npz(tmp_path: Path) -> None:
    x, y = arrays(20)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4], extra=y)
    data = load_data(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.test.x(), x[:4])
    assert any("extra" in note for note in data.notes)
    np.savez(tmp_path / "b.npz", x=x, y=y)
    assert len(load_data(tmp_path / "b.npz").test) == 4


@pytest.mark.parametrize("batch", [None, 7])
def test_tf_data_is_the_same_batched_or_not(batch: int | None) -> None:
    import tensorflow as tf

    x, y = arrays(50)
    stream = tf.data.Dataset.from_tensor_slices((x, y))
    stream = stream if batch is None else stream.batch(batch)
    data, expected = load_data(stream), load_data((x, y))
    np.testing.assert_array_equal(data.train.x(), expected.train.x())
    assert data.fingerprint == expected.fingerprint
    parts = load_data({"train": stream, "validation": (x[:5], y[:5]), "test": stream})
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [50, 5, 50]


def test_tf_data_images_with_whole_batches_or_one_hot_labels() -> None:
    import tensorflow as tf

    x, y = np.zeros((12, 6, 6, 3), np.uint8), np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    for stream in (
        tf.data.Dataset.from_tensor_slices((x, y)),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(4, drop_remainder=True),
    ):
        data = load_data(stream)
        assert (data.input_shape, data.labels, data.num_classes) == ((6, 6, 3), "one-hot", 3)


def test_pairs_keep_their_order() -> None:
    x, y = arrays(30)
    data = load_data(((x, y), (x[:2], y[:2]), (x[:3], y[:3])))
    assert [len(data.train), len(data.validation), len(data.test)] == [30, 2, 3]
    assert len(load_data(((x, y), (x[:3], y[:3]))).test) == 3
    assert load_data(data) is data
    with pytest.raises(DataError, match="returned unchanged"):
        load_data(data, preprocessing="unit")


# Labels


@pytest.mark.parametrize(
    ("labels", "task", "form", "classes"),
    [
        (np.arange(40) % 4, "classification", "sparse", 4),
        ((np.arange(40) % 4)[:, None], "classification", "sparse", 4),
        (np.arange(40) % 2 == 0, "classification", "sparse", 2),
        (np.eye(4)[np.arange(40) % 4], "classification", "one-hot", 4),
        (np.indices((40, 3)).sum(axis=0) % 2, "multilabel", "values", 3),
        (np.linspace(0, 1, 40), "regression", "values", None),
        (np.linspace(0, 1, 40)[:, None], "regression", "values", None),
    ],
)
def test_labels_are_understood(labels: np.ndarray, task: str, form: str, classes: int | None) -> None:
    data = load_data((arrays(40)[0], labels))
    assert (data.task, data.labels, data.num_classes) == (task, form, classes)
    expected = labels.ravel() if form == "sparse" else labels
    for split in (data.train, data.validation, data.test):
        np.testing.assert_allclose(split.y(), expected[split.x()[:, 0].astype(int)], rtol=1e-6)


# Splits


def test_split_is_seeded_disjoint_and_stratified() -> None:
    x = arrays(1000)[0]
    y = np.repeat([0, 1, 2], [700, 250, 50])
    one, same, other = load_data((x, y)), load_data((x, y)), load_data((x, y), seed=1)
    parts = [ids(one.train), ids(one.validation), ids(one.test)]
    assert set.union(*parts) == set(range(1000))
    assert sum(map(len, parts)) == 1000
    assert ids(same.test) == ids(one.test)
    assert ids(other.test) != ids(one.test)
    assert np.bincount(one.test.y()).tolist() == [140, 50, 10]
    assert np.bincount(one.validation.y()).tolist() == [112, 40, 8]  # a fifth of 800
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_the_part_for_validation_is_larger_with_few_samples() -> None:
    for samples, expected in ((10, 2), (999, 200), (1000, 100), (30_000, 2000)):
        x = np.zeros((samples, 1), np.float32)
        y = np.arange(samples) % 2
        assert len(load_data(((x, y), (x[:2], y[:2]))).validation) == expected
    assert len(load_data(((x[:50], y[:50]), (x[:2], y[:2])), validation=0.1).validation) == 5


def test_validation_is_capped_and_limit_is_stated() -> None:
    x, y = arrays(30_000)
    data = load_data((x, y), limit=1000)
    full = load_data((x, y))
    assert len(full.validation) == 2000
    assert len(full.test) == 6000
    assert [len(data.train), len(data.validation), len(data.test)] == [1000] * 3
    assert np.bincount(data.train.y()).tolist() == [250] * 4
    assert ids(data.test) <= ids(full.test)
    assert any("train limited to 1,000 of 22,000" in note for note in data.notes)


def test_representative_covers_rare_classes() -> None:
    x, y = arrays(500)[0], np.repeat([0, 1, 2], [480, 10, 10])
    data = load_data((x, y))
    found = y[data.representative(15)[:, 0].astype(int)]
    assert np.bincount(found).tolist() == [5, 5, 5]
    assert len(data.representative(10_000)) == len(data.train)
    groups = np.repeat([3, 9], [60, 40])
    assert np.bincount(groups[choose(10, groups, np.random.default_rng(0))])[[3, 9]].tolist() == [6, 4]


def test_fingerprint_follows_content_and_preprocessing() -> None:
    x, y = np.arange(400, dtype=np.uint8).reshape(100, 4), np.arange(100) % 2
    changed = x.copy()
    changed[50, 1] += 1
    prints = [
        load_data((x, y)).fingerprint,
        load_data((changed, y)).fingerprint,
        load_data((x, 1 - y)).fingerprint,
        load_data((x, y), preprocessing="unit").fingerprint,
    ]
    assert len(set(prints)) == 4
    assert all(len(each) == 64 for each in prints)
    assert load_data((x.copy(), y)).fingerprint == prints[0]


# Batches


def collect(batches: Any) -> list[np.ndarray]:
    return [x.numpy() for x, _ in batches]


def test_batches_cover_every_sample_once_per_epoch() -> None:
    x, y = arrays(100)
    data = load_data(((x, y), (x[:9], y[:9])), validation=0.1)
    batches = data.batches("train", 16, shuffle=True, seed=3)
    assert int(batches.cardinality()) == data.steps(16) == 6
    epochs = []
    for _ in range(2):
        seen = []
        for inputs, labels in batches:
            assert inputs.dtype.name == "float32"
            np.testing.assert_array_equal(labels, y[inputs.numpy()[:, 0].astype(int)])
            seen += inputs.numpy()[:, 0].astype(int).tolist()
        assert sorted(seen) == sorted(ids(data.train))
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    again = data.batches("train", 16, shuffle=True, seed=3)
    assert [np.concatenate(collect(again))[:, 0].astype(int).tolist() for _ in range(2)] == epochs
    repeated = np.concatenate(collect(data.batches("train", 16, shuffle=True, seed=3).repeat(2)))[:, 0]
    assert repeated.astype(int).tolist() == epochs[0] + epochs[1]
    np.testing.assert_array_equal(np.concatenate(collect(data.batches("test", 4))), x[:9])
    assert [len(part) for part in collect(data.batches("test", 4, drop_remainder=True))] == [4, 4]


def test_keras_trains_on_the_batches() -> None:
    import keras

    x, y = arrays(64)
    data = load_data((x / np.float32(100), y))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(
        data.batches("train", 8, shuffle=True), validation_data=data.batches("validation", 8), epochs=2, verbose=0
    )
    assert np.isfinite(history.history["val_loss"]).all()


def ramps(count: int = 40) -> np.ndarray:
    """Images (n, 8, 10, 1) in which every pixel differs, so that a shift can be found."""
    return (np.arange(80).reshape(1, 8, 10, 1) + np.arange(count).reshape(-1, 1, 1, 1)).astype(np.uint8)


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = ramps().astype(np.float32)
    import tensorflow as tf

    augment = Augmentation(horizontal_flip=True)
    out = augment.apply(tf.constant(images), augment.draw(len(images), images.shape[1:], 1)).numpy()
    flipped = (out == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (out == images).all(axis=(1, 2, 3))
    assert (flipped ^ kept).all()
    assert 8 <= flipped.sum() <= 32


def test_shift_moves_within_its_range_and_repeats_the_edge() -> None:
    import tensorflow as tf

    images = ramps(60).astype(np.float32)
    augment = Augmentation(shift=0.25)
    out = augment.apply(tf.constant(images), augment.draw(len(images), images.shape[1:], 5)).numpy()
    shifts = set()
    for before, after in zip(images, out, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="edge")  # 0.25 of 8 and of 10, whole pixels
        found = [
            (2 - top, 2 - left)
            for top in range(5)
            for left in range(5)
            if (padded[top : top + 8, left : left + 10] == after).all()
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert {row for row, _ in shifts} == {column for _, column in shifts} == {-2, -1, 0, 1, 2}


def test_augmentation_repeats_with_the_seed_and_changes_with_the_epoch() -> None:
    images = ramps()
    data = load_data(((images, np.arange(40) % 2), (images[:2], [0, 1]), (images[:2], [0, 1])))
    augment = Augmentation(horizontal_flip=True, shift=0.2)

    def epochs(seed: int) -> list[np.ndarray]:
        batches = data.batches("train", 16, seed=seed, augment=augment)
        return [np.concatenate(collect(batches)) for _ in range(2)]

    first, second = epochs(0)
    np.testing.assert_array_equal(epochs(0), [first, second])
    assert (first != second).any()
    assert (first != epochs(1)[0]).any()
    assert first.shape == images.shape


def test_an_npz_may_name_its_classes(tmp_path: Path) -> None:
    x, y = arrays(20)
    np.savez(tmp_path / "named.npz", x=x, y=y, class_names=["ash", "beech", "cedar", "date", "elm"])
    data = load_data(tmp_path / "named.npz")
    assert data.class_names == ("ash", "beech", "cedar", "date", "elm")
    assert data.num_classes == 5  # the last class has no sample
    np.savez(tmp_path / "numbered.npz", x=x, y=y, class_names=[1, 2, 3, 4])
    with pytest.raises(DataError, match=r"class_names .* as strings"):
        load_data(tmp_path / "numbered.npz")


# Bad input: one clear DataError for each


def bad_value(value: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays(20)
    x[7, 2] = value
    return x, y


X, Y = arrays(20)
IMAGES = np.zeros((20, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (bad_value(np.nan), {}, "NaN or infinity in 1 of 20 samples, the first at index 7"),
        (bad_value(np.inf), {}, "NaN or infinity"),
        ((X, np.where(np.arange(20) == 3, np.nan, 0.5)), {}, "finite train labels.*first at index 3"),
        ((X, Y[:-1]), {}, "20 inputs and 19 labels"),
        ((X[:0], Y[:0]), {}, "Expected samples in train"),
        ((X[:2], Y[:2]), {}, "enough samples"),
        ((X, Y - 1), {}, r"within 0\.\.2 .* got 5 outside, the first at index 0: -1"),
        (((X, Y), (X, Y + 1)), {}, r"test labels within 0\.\.3 .* got 5 outside, the first at index 3: 4"),
        (((X, Y), (X[:, :2], Y)), {}, r"test has floats of shape \(2,\)"),
        (((IMAGES, Y), (IMAGES / 255, Y)), {}, "one shape and scale"),
        (((X, Y), (X, np.eye(4)[Y])), {}, "labels of one kind"),
        ((X, Y.astype(str)), {}, "labels as numbers"),
        ((X, np.stack([Y, Y], 1)), {}, "for regression pass floats"),
        ((X.astype(str), Y), {}, "inputs as numbers"),
        ((X[:, 0], Y), {}, r"reshape single"),
        (([[1, 2], [3]], [0, 1]), {}, "rows of differing shapes"),
        (X, {}, "got ndarray"),
        ((X,), {}, "got tuple of length 1"),
        ((X, Y, Y, Y), {}, "got tuple of length 4"),
        ((X, Y, X), {}, "train weights as one number for each"),
        ({"training": (X, Y)}, {}, r"keys \['training'\]"),
        ({"train": X}, {}, r"train as \(x, y\) or \(x, y, weights\), got ndarray"),
        ("no/such/folder", {}, "does not exist: no/such/folder"),
        ((X, Y), {"size": (8, 8)}, "uint8 images"),
        ((X / 100, Y), {"preprocessing": "unit"}, "already scaled"),
        ((X, Y), {"preprocessing": "imagenet"}, "imagenet"),
        ((IMAGES, Y), {"size": (8, 8), "preprocessing": Preprocessing(size=(9, 9))}, "pass it once"),
        ((X, Y), {"validation": 1.5}, "validation as a fraction"),
        ((X, Y), {"limit": 0}, "limit"),
        ((X, Y), {"seed": -1}, "seed"),
    ],
)
def test_bad_arrays(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(source, **options)


def test_bad_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "keys.npz", images=X)
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object), y=Y)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "data.dat").write_text("1,2")
    for name, message in (
        ("keys.npz", "got images"),
        ("pickled.npz", "plain arrays"),
        ("broken.npz", "plain arrays"),
        ("data.dat", "a folder, a table .* or a .npz file"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(tmp_path / name)


def test_bad_tf_data() -> None:
    import tensorflow as tf

    pairs = tf.data.Dataset.from_tensor_slices((X, Y))
    images = tf.data.Dataset.from_tensor_slices((IMAGES[0], IMAGES[0, :, 0]))
    above = int((Y > 0).sum())
    for stream, message in (
        (pairs.repeat(), "infinite"),
        (pairs.map(lambda x, y: x), r"as tf.data of \(x, y\) or .* got elements TensorSpec"),
        (pairs.take(0), "empty"),
        (
            pairs.filter(lambda x, y: y > 0).apply(tf.data.experimental.assert_cardinality(20)),
            f"error after {above} samples",
        ),
        (images.batch(4, drop_remainder=True), "Cannot tell whether train is batched"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(stream)


def test_bad_folders(tmp_path: Path) -> None:
    def expect(message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            load_data(tmp_path, **options)

    expect("class folders in .*, got none")
    save(tmp_path / "loose.png", np.zeros((4, 4, 3)))
    expect("loose images: loose.png")
    (tmp_path / "loose.png").unlink()
    image_folder(tmp_path, ("cat",))
    expect("got only cat")
    (tmp_path / "dog").mkdir()
    expect("in the class folder .*dog, got none")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    expect("only images .*dog, got notes.txt")
    (tmp_path / "dog" / "notes.txt").unlink()
    save(tmp_path / "dog" / "short.png", np.zeros((4, 4, 3)))
    save(tmp_path / "dog" / "tall.png", np.zeros((9, 4, 3)))
    expect(r"one size, got 4x4 in .*0\.png and 9x4 in .*tall\.png; pass size=")
    assert load_data(tmp_path, size=(4, 4)).input_shape == (4, 4, 3)
    (tmp_path / "dog" / "tall.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "dog" / "tall.tif")
    expect("8 or 16 bits, got mode F in .*tall.tif")


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_a_viewer_shows_them(tmp_path: Path, orientation: int, ending: str) -> None:
    """The eight cases of the EXIF standard (JEITA CP-3451, 4.6.4): which pixel of the file is at the top left."""
    shown = np.arange(0, 240, 5, np.uint8).reshape(4, 4, 3)[:, :3]  # 4 high, 3 wide
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: np.rot90(shown.transpose(1, 0, 2), 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / kind / f"{number}.{ending}", exif=exif)
    data = load_data(tmp_path)
    np.testing.assert_array_equal(data.train.x()[0], shown)
    assert any("turned" in note for note in data.notes) == (orientation > 1)


def test_16_bits_become_8(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 32896], [65535, 257, 25700, 65406]], np.uint16)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number, suffix in enumerate((".png", ".tif", ".png")):
            Image.fromarray(values).save(tmp_path / kind / f"{number}{suffix}")
    data = load_data(tmp_path)
    expected = np.round(values / 257)  # 65535 / 255
    for image in data.train.x():
        np.testing.assert_array_equal(image[..., 0], expected)
    assert data.preprocessing.color == "grayscale"
    assert "6 of 6 images have 16 bits: reduced to 8" in data.notes


@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (
            4095,
            "; no value is above 4,095 (bits: 12), so they are dark: multiply the values by 16 in the files",
        ),
        (
            1,
            "; no value is above 1 (bits: 1), so they are dark: multiply the values by 32,768 in the files",
        ),
        (16384, ""),
        (0, ""),
    ],
)
def test_unused_bits_are_told(tmp_path: Path, largest: int, said: str) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            Image.fromarray(np.full((4, 4), largest if number else 0, np.uint16)).save(
                tmp_path / kind / f"{number}.png"
            )
    assert f"6 of 6 images have 16 bits: reduced to 8{said}" in load_data(tmp_path).notes


def test_other_modes_and_formats_are_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.full((4, 4, 3), (200, 100, 50), np.uint8))
    made = {"a.jpg": rgb.convert("CMYK"), "b.gif": rgb.convert("P"), "c.png": rgb.convert("RGBA"), "d.tiff": rgb}
    made |= {"e.webp": rgb, "f.jfif": rgb}
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for name, image in made.items():
            image.save(tmp_path / kind / name, **({"format": "JPEG"} if name.endswith("jfif") else {}))
    data = load_data(tmp_path)
    pixels = np.concatenate([data.train.x(), data.validation.x(), data.test.x()]).astype(int)
    assert len(pixels) == 12 and np.abs(pixels - (200, 100, 50)).max() < 8  # JPEG and palettes are not exact


@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "testing"), ("train", "valid", "test")])
def test_parts_have_the_names_that_people_use(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        image_folder(tmp_path / name, ("cat", "dog"))
    data = load_data(tmp_path)
    assert data.class_names == ("cat", "dog") and len(data.test)


def test_what_systems_leave_in_folders_is_left_out(tmp_path: Path) -> None:
    image_folder(tmp_path, ("cat", "dog"))
    for name in ("desktop.ini", "cat/Thumbs.db"):
        (tmp_path / name).write_text("x")
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    notes = " ".join(load_data(tmp_path).notes)
    assert all(name in notes for name in ("desktop.ini", "Thumbs.db", "__MACOSX"))


def test_the_kind_of_a_folder_is_that_of_its_samples(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b", "a/.thumbs", ".cache/a"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("train/a/1.wav", "train/b/2.wav", "val/a/3.WAV", "val/b/4.wav"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "x.wav").write_bytes(b"")
    for name in ("a/.thumbs/x.png", ".cache/a/y.png", "train/a/._1.png", "spectrogram.png", "train/plot.PNG"):
        (tmp_path / name).write_bytes(b"")
    assert folder.kind_of(tmp_path) is folder.RECORDINGS  # hidden ones, and those beside folders, do not count
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"")
    assert folder.kind_of(tmp_path) is folder.IMAGES
    alone = tmp_path / "alone"
    (alone / "a").mkdir(parents=True)
    (alone / "1.txt").write_bytes(b"")
    assert folder.kind_of(alone) is folder.TEXTS  # there are no others


def test_a_class_called_train_may_have_hidden_folders(tmp_path: Path) -> None:
    image_folder(tmp_path, ("train", "bus"))
    (tmp_path / "train" / ".thumbs").mkdir()
    assert load_data(tmp_path).class_names == ("bus", "train")


@pytest.mark.parametrize("name", ["a.npz", "A.NPZ"])
def test_a_npz_in_any_case(tmp_path: Path, name: str) -> None:
    """With labels and without, images are in the size that the model takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3)).astype(np.uint8)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    for arrays in ({"x": pixels, "y": np.arange(20) % 2}, {"x": pixels}):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **arrays)
        data = with_or_without_labels(model, tmp_path / name, quiet=True)
        assert data.input_shape == (4, 4, 1) and (data.labels == "none") == ("y" not in arrays)


@pytest.mark.parametrize("keep", [0, 4, 40, 300])
@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "webp", "tif"])
def test_a_corrupt_image_is_named(tmp_path: Path, kind: str, keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    for name in ("a", "b"):
        for index in range(3):
            save(tmp_path / name / f"{index}.{kind}", noise)
    broken = tmp_path / "b" / f"1.{kind}"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"corrupt file: .*b.1\.{kind}"):
        load_data(tmp_path)


def test_bad_part_folders(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", ("cat", "dog"))
    with pytest.raises(DataError, match="Expected a train folder"):
        load_data(tmp_path)
    image_folder(tmp_path / "train", ("cat", "cow", "dog"))
    with pytest.raises(DataError, match="only in train: cow; only in test: none"):
        load_data(tmp_path)
    image_folder(tmp_path / "test", ("cow",))
    image_folder(tmp_path / "extra", ("cow",))
    with pytest.raises(DataError, match="also got extra"):
        load_data(tmp_path)
    (tmp_path / "extra").rename(tmp_path / "val")
    image_folder(tmp_path / "validation", ("cow",))
    with pytest.raises(DataError, match="got test, train, val, validation"):
        load_data(tmp_path)


def test_fit_to_model() -> None:
    images = load_data((IMAGES, Y))
    for shape, outputs in (((4, 4, 3), 4), ((None, None, 3), 10)):
        fit_to_model(images, shape, outputs)
    for shape, outputs, message in (
        ((8, 8, 1), 4, r"\(8, 8, 1\), the data has \(4, 4, 3\); .*pass size=\(8, 8\) and color=\"grayscale\""),
        ((None, None, 1), 4, 'pass color="grayscale" to'),
        ((4, 4, 7), 4, "7 channels"),
        ((48,), 4, "reshape"),
        ((4, 4, 3), 3, r"within 0\.\.2 .*outside, the first at index"),
        ((4, 4, 3), 1, r"within 0\.\.1"),
    ):
        with pytest.raises(DataError, match=message):
            fit_to_model(images, shape, outputs)
    fit_to_model(load_data((X, Y % 2)), (3,), 1)
    one_hot = load_data((X, np.eye(4)[Y]))
    fit_to_model(one_hot, (3,), 4)
    with pytest.raises(DataError, match=r"5 outputs.*4 values"):
        fit_to_model(one_hot, (3,), 5)
    with pytest.raises(DataError, match="channel axis"):
        fit_to_model(load_data((IMAGES[..., 0], Y)), (4, 4, 1), 4)


def test_bad_batches() -> None:
    data = load_data((X, Y))
    with pytest.raises(DataError, match="Augmentation expects images"):
        data.batches("train", 4, augment=Augmentation(horizontal_flip=True))
    with pytest.raises(DataError, match="full batch of 64"):
        data.batches("train", 64, drop_remainder=True)
    with pytest.raises(DataError, match="batch_size"):
        data.batches("train", 0)
    with pytest.raises(DataError, match="'training'"):
        data.batches("training", 4)
    with pytest.raises(DataError, match="shift"):
        Augmentation(shift=1.0)


# A whole data set


def test_describe_names_everything() -> None:
    lines = "\n".join(load_data((IMAGES, Y), preprocessing="unit", color="rgb").describe())
    for words in ("13 train, 3 validation, 4 test", "4 classes", "pixel/255", "RGB", "no test data", "arrays"):
        assert words in lines


def test_reading_does_not_import_tensorflow() -> None:
    code = "import sys, tfopt.data as d; d.load_data('digits').describe(); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(("name", "side"), [("cifar10", 32), ("flowers", 128)])
def test_real_images(tmp_path: Path, name: str, side: int) -> None:
    archive = Path(os.environ.get("TFOPT_SHARED", "")) / "data" / f"{name}.zip"
    if not os.environ.get("TFOPT_SHARED") or not archive.is_file():
        pytest.skip(f"{name}.zip not found: set TFOPT_SHARED to the folder that holds data/{name}.zip")
    with zipfile.ZipFile(archive) as bundle:
        members = [each for each in bundle.namelist() if each.endswith((".png", ".jpg"))]
        bundle.extractall(tmp_path, members[:: len(members) // 300])
    root = tmp_path
    while len(folders := list(root.iterdir())) == 1:
        root = folders[0]
    data: Dataset = load_data(root, preprocessing="unit")
    assert data.input_shape == (side, side, 3)
    assert data.num_classes == {"cifar10": 10, "flowers": 5}[name]
    assert 0.2 < float(data.train.x().mean()) < 0.7


def test_names_that_are_one_name_to_a_person(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'Cat' and 'cat'"):
        load_data(image_folder(tmp_path, classes=("Cat", "cat", "dog")))
    x, y = np.zeros((30, 2), np.float32), np.arange(30) % 3
    for names, words in (
        (["a", "b", "a"], "'a' and 'a'"),
        (["caf\u00e9", "b", "cafe\u0301"], "'caf\u00e9' and 'cafe\u0301'"),  # composed and decomposed
        (["a\0b", "b", "c"], "fit on one line"),
    ):
        np.savez(tmp_path / "twice.npz", x=x, y=y, class_names=np.array(names))
        with pytest.raises(DataError, match=words):
            load_data(tmp_path / "twice.npz")


@pytest.mark.parametrize("ending", ["val", "valid", "validation"])
def test_an_npz_names_its_validation_part_as_folders_do(tmp_path: Path, ending: str) -> None:
    x, y = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, **{f"x_{ending}": x[:6], f"y_{ending}": y[:6]})
    np.testing.assert_array_equal(load_data(tmp_path / "a.npz").validation.x(), x[:6])


def test_a_class_of_one_image_cannot_be_measured(tmp_path: Path) -> None:
    image_folder(tmp_path, classes=("cat", "dog"))
    image_folder(tmp_path, classes=("emu",), count=1)
    with pytest.raises(DataError, match="got one in emu"):
        load_data(tmp_path)


def test_a_few_samples_are_spread_over_a_split_that_is_sorted_by_class():
    sorted_split = Split(np.arange(100.0)[:, None], np.repeat(np.arange(5), 20), Preprocessing())
    assert (sorted_split.spread(10) // 10).tolist() == list(range(10))  # one of each tenth
    assert sorted_split.spread(10).tolist() == sorted_split.spread(10).tolist()
    assert sorted_split.y(sorted_split.spread(5)).tolist() == [0, 1, 2, 3, 4]
    assert sorted_split.spread(1000).tolist() == sorted_split.spread(100).tolist() == list(range(100))
    assert len(sorted_split.spread(0)) == len(sorted_split.at(slice(0, 0)).spread(5)) == 0


@pytest.mark.parametrize("period", [2, 3, 5, 10])
def test_a_few_samples_have_all_classes_where_labels_come_in_turns(period):
    """At equal distances, 100 of 1,000 samples all have the class 0. Drawn, a class has 50, 33, 20 or 10 of them."""
    in_turns = Split(np.zeros((1000, 1)), np.arange(1000) % period, Preprocessing())
    counts = np.bincount(in_turns.y(in_turns.spread(100)), minlength=period)
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_a_dataset_is_scaled_under_the_old_name_too() -> None:
    data = load_data("digits", limit=20)
    with pytest.warns(DeprecationWarning, match="Dataset.fed_as is now Dataset.with_preprocessing"):
        old = data.fed_as("unit")  # type: ignore[attr-defined]
    np.testing.assert_array_equal(old.train.x(), data.with_preprocessing("unit").train.x())


@pytest.mark.parametrize(
    "setting",
    [
        {"preprocessing": "unit"},
        {"limit": 3},
        {"task": "regression"},
        {"text": "a"},
        {"labels": "b"},
        {"validation": 0.1},
        {"test": 0.5},
        {"seed": 0},
        {"features": {}},
        {"cache": "kept"},
    ],
)
def test_settings_for_data_that_are_loaded_already_are_refused(setting):
    data = load_data((np.zeros((20, 2)), np.arange(20) % 2))
    with pytest.raises(DataError, match=f"Expected a Dataset alone, .* also got {next(iter(setting))};"):
        load_data(data, **setting)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    if next(iter(setting)) not in ("validation", "test", "seed", "features", "cache"):
        with pytest.raises(DataError, match="Expected a Dataset alone"):
            data_for(model, data, **setting)
    assert load_data(data) is data and data_for(model, data) is data


def test_folders_of_classes_are_values_only_if_their_names_are(tmp_path):
    for names in (("cat", "dog"), ("2.5", "10")):
        for name in names:
            folder = tmp_path / names[0] / "all" / name
            folder.mkdir(parents=True)
            for number in range(10):
                Image.fromarray(np.full((4, 4), number, np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(DataError, match="values for the task 'regression', got classes with names, such as 'cat'"):
        load_data(tmp_path / "cat" / "all", task="regression")
    data = load_data(tmp_path / "2.5" / "all", task="regression")
    assert (data.task, data.class_names, set(data.train.y())) == ("regression", None, {2.5, 10})
    assert "the names of the classes are taken as their values: 10, 2.5" in data.notes


def test_soft_labels_are_values_with_a_note() -> None:
    labels = np.random.default_rng(0).dirichlet((1, 1, 1), 100).astype("float32")
    data = load_data((X[:1].repeat(100, axis=0), labels))
    assert data.task == "regression" and any("fractions that sum to 1" in note for note in data.notes)
    notes = load_data((X[:1].repeat(100, axis=0), labels * 0.9)).notes
    assert not any("fractions" in note for note in notes)


def test_masked_values_are_refused() -> None:
    masked = np.ma.masked_array(X, np.arange(X.size).reshape(X.shape) == 5)
    with pytest.raises(DataError, match="train inputs without masked values, got 1 in a masked array"):
        load_data((masked, Y))
    with pytest.raises(DataError, match="train labels without masked values"):
        load_data((X, np.ma.masked_equal(Y, 1)))
    assert load_data((np.ma.masked_array(X), Y)).fingerprint == load_data((X, Y)).fingerprint
