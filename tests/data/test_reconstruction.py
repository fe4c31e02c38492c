"""Data whose inputs are the targets, with and without anomalies."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.io import wavfile

from tfopt.data import load_data
from tfopt.errors import DataError
from tfopt.tasks import Reconstruction, anomaly_scores, task_of

X = np.random.default_rng(0).normal(size=(50, 4, 3)).astype("float32")
FLAGS = (np.arange(50) % 5 == 0).astype(int)


@pytest.mark.parametrize(
    "source",
    [
        X,
        (X, X),
        (X, np.zeros(50)),
        {"train": X},
        tf.data.Dataset.from_tensor_slices(X).batch(8),
        tf.data.Dataset.from_tensor_slices((X, X)).batch(8),
    ],
    ids=["array", "itself", "flags", "dict", "tf.data", "tf.data of itself"],
)
def test_inputs_are_the_targets(source):
    data = load_data(source, task="reconstruction")
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(part.y(), part.x())
        assert part.x().shape[1:] == (4, 3) and not part.labels.any()
    assert task_of(data) == Reconstruction("values", None, (4, 3))


def test_pixels_are_scaled_on_both_sides():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1)).astype("uint8")
    data = load_data(pixels, task="reconstruction", preprocessing="unit")
    np.testing.assert_allclose(data.train.y() * 255, data.train.inputs, rtol=1e-5)
    (x, y), *_ = data.batches("train", 8, shuffle=True)
    np.testing.assert_array_equal(x, y)


def test_anomalies_are_for_the_test():
    data = load_data((X, FLAGS), task="reconstruction")
    assert not data.train.labels.any() and not data.validation.labels.any()
    assert data.test.labels.sum() == FLAGS.sum() == 10
    assert sum(map(len, (data.train, data.validation, data.test))) == 50
    assert any("moved to test" in note for note in data.notes)


@pytest.mark.parametrize(
    ("anomalies", "limit", "counts"),
    [
        # Of 40 normal samples 8 are for the test, a fifth; the 10 anomalies join them.
        (10, None, [8, 10]),
        (10, 18, [8, 10]),
        (10, 17, [8, 9]),
        (10, 3, [2, 1]),
        (10, 1, [1, 0]),
        # Of 10 normal samples 2 are for the test, and of 48 normal ones 10.
        (40, 10, [2, 8]),
        (40, 3, [2, 1]),
        (2, 10, [8, 2]),
    ],
)
def test_a_limit_is_shared_by_both_kinds(anomalies, limit, counts):
    flags = (np.arange(50) < anomalies).astype(int)
    data = load_data((X, flags), task="reconstruction", limit=limit)
    assert np.bincount(data.test.labels, minlength=2).tolist() == counts
    assert max(map(len, (data.train, data.validation, data.test))) <= (limit or 50)
    assert f"{anomalies} anomalies of train moved to test: models learn from normal samples" in data.notes
    said = [note for note in data.notes if note.startswith("test limited")]
    normal = round(0.2 * (50 - anomalies))
    cut = limit is not None and normal + anomalies > limit
    assert said == ([f"test limited to {limit} of {normal + anomalies} samples, seed 0"] if cut else [])


def test_a_limit_takes_anomalies_of_all_kinds():
    kinds = np.repeat([0, 1, 2], [30, 10, 10])  # two kinds of anomalies, one behind the other
    x = np.stack([kinds, kinds], axis=1).astype("float32")
    data = load_data((x, (kinds > 0).astype(int)), task="reconstruction", limit=4)
    assert set(data.test.inputs[data.test.labels == 1][:, 0]) == {1, 2} and len(data.test) == 4


def test_all_anomalies_that_are_left_out_are_told():
    data = load_data({"train": (X, FLAGS), "test": X[:7]}, task="reconstruction", limit=4)
    assert "10 anomalies of train left out: models learn from normal samples" in data.notes


def test_a_test_part_of_anomalies_alone_is_refused():
    """The error of a model is that on normal samples, so there would be none."""
    with pytest.raises(DataError, match="Expected normal samples in test, got 7 anomalies; add some"):
        load_data({"train": X, "test": (X[:7], np.ones(7, int))}, task="reconstruction")
    data = load_data((X, FLAGS), task="reconstruction")
    anomalies = data.test.at(np.flatnonzero(data.test.labels))
    with pytest.raises(DataError, match=r"Expected normal samples to measure .*, got 10 anomalies alone"):
        task_of(data).measured(anomalies.x(), anomalies)


def test_a_limit_leaves_both_kinds_in_a_given_test_part():
    flags = (np.arange(50) < 5).astype(int)
    data = load_data({"train": X, "test": (X, flags)}, task="reconstruction", limit=10)
    assert data.test.labels.tolist().count(1) == 1 and len(data.test) == 10


def test_anomalies_in_training_data_are_left_out_if_there_is_a_test_part():
    data = load_data({"train": (X, FLAGS), "test": (X[:7], FLAGS[:7])}, task="reconstruction")
    assert not data.train.labels.any() and data.test.labels.tolist() == FLAGS[:7].tolist()
    assert any("left out" in note for note in data.notes)


def test_a_folder_of_normal_samples_and_others(tmp_path):
    for name, count in (("good", 12), ("scratched", 4), ("bent", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = np.full((6, 6, 3), number + 10 * len(name), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path, task="reconstruction")
    assert data.test.labels.sum() == 7 and data.class_names is None
    assert len(data.train) + len(data.validation) + (data.test.labels == 0).sum() == 12
    (tmp_path / "good").rename(tmp_path / "fine")
    with pytest.raises(DataError, match="a class called normal, good, ok, healthy among bent, fine, scratched"):
        load_data(tmp_path, task="reconstruction")


def write_images(root, counts):
    """Images of one value each, with the number of the folder in `counts` as their blue channel."""
    for kind, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.stack([np.full((4, 4), each, np.uint8) for each in (number, 0, kind)], axis=-1)
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")


def kinds_of(split):
    return np.unique(split.inputs[:, 0, 0, 2]).tolist()


@pytest.mark.parametrize("train", ["train/good", "train"])
def test_the_folders_of_mvtec(tmp_path, train):
    write_images(tmp_path, {train: 10, "test/crack": 3, "test/good": 4, "test/hole": 2, "ground_truth/crack": 3})
    data = load_data(tmp_path, task="reconstruction")
    assert (len(data.train) + len(data.validation), kinds_of(data.train), kinds_of(data.validation)) == (10, [0], [0])
    flags = data.test.inputs[:, 0, 0, 2] != 2
    assert data.test.labels.tolist() == flags.tolist() and data.test.labels.sum() == 5 and len(data.test) == 9
    assert "left out: ground_truth" in data.notes
    assert any("images of train are taken as normal samples" in note for note in data.notes) == (train == "train")


@pytest.mark.parametrize("folder", ["", "good", "train"])
def test_folders_of_normal_samples_alone(tmp_path, folder):
    write_images(tmp_path, {folder: 20})
    data = load_data(tmp_path, task="reconstruction")
    assert sum(map(len, (data.train, data.validation, data.test))) == 20 and not data.test.labels.any()
    assert any("taken as normal samples" in note for note in data.notes) == (folder != "good")
    with pytest.raises(DataError):
        load_data(tmp_path)


def test_a_single_anomaly_of_a_kind_is_for_the_test(tmp_path):
    write_images(tmp_path, {"good": 20, "bad": 1, "worse": 1})
    data = load_data(tmp_path, task="reconstruction")
    assert data.test.labels.sum() == 2 and kinds_of(data.train) == kinds_of(data.validation) == [0]
    with pytest.raises(DataError, match=r"at least 2 images in each class folder, .*; got one in bad, worse"):
        load_data(tmp_path)
    write_images(tmp_path, {"Normal": 1})
    with pytest.raises(DataError, match=r"at least 2 images in each class folder, .*; got one in Normal"):
        load_data(tmp_path, task="reconstruction")


def test_all_names_of_normal_samples_count(tmp_path):
    write_images(tmp_path, {"good": 6, "OK": 6, "bad": 4})
    data = load_data(tmp_path, task="reconstruction")
    assert data.test.labels.sum() == 4 and kinds_of(data.train) == [0, 1]


def test_recordings_of_normal_samples_alone(tmp_path):
    (tmp_path / "train" / "normal").mkdir(parents=True)
    (tmp_path / "test" / "odd").mkdir(parents=True)
    (tmp_path / "test" / "normal").mkdir()
    wave = (8000 * np.sin(np.arange(4000) / 3)).astype(np.int16)
    for number, name in enumerate(["train/normal"] * 6 + ["test/normal"] * 2 + ["test/odd"] * 3):
        wavfile.write(tmp_path / name / f"{number}.wav", 8000, wave)
    data = load_data(tmp_path, task="reconstruction")
    assert len(data.train) + len(data.validation) == 6 and sorted(data.test.labels) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("names", [("x",), ("x_train", "x_test"), ("x_train", "x_validation", "x_test")])
def test_an_npz_of_normal_samples_needs_no_labels(tmp_path, names):
    np.savez(tmp_path / "normal.npz", **dict.fromkeys(names, X))
    data = load_data(tmp_path / "normal.npz", task="reconstruction")
    parts = (data.train, data.validation, data.test)
    assert sum(map(len, parts)) == len(X) * len(names)
    for part in parts:
        np.testing.assert_array_equal(part.y(), part.x())
        assert not part.labels.any()


def test_an_npz_may_have_labels_for_its_test_part_alone(tmp_path):
    np.savez(tmp_path / "parts.npz", x_train=X, x_test=X, y_test=FLAGS)
    data = load_data(tmp_path / "parts.npz", task="reconstruction")
    np.testing.assert_array_equal(data.test.labels, FLAGS)
    assert not data.train.labels.any()


def test_anomalies_in_validation_data_are_left_out():
    whole = {"train": (X, FLAGS), "validation": (X[:20], FLAGS[:20]), "test": (X[:7], FLAGS[:7])}
    data = load_data(whole, task="reconstruction")
    assert not data.validation.labels.any() and len(data.validation) == 16  # of 20, every fifth is an anomaly
    assert "4 anomalies of validation left out: models learn from normal samples" in data.notes


def test_scores_and_their_area():
    data = load_data({"train": X, "test": (X[:4], [0, 0, 1, 1])}, task="reconstruction")
    outputs = X[:4] + np.array([1, 3, 2, 4], np.float32)[:, None, None]
    np.testing.assert_allclose(anomaly_scores(X[:4], outputs), [1, 9, 4, 16], rtol=1e-5)
    # Of the four pairs (normal, anomaly) three are in order: 1 < 4, 1 < 16, 9 < 16. Normal errors: (1 + 9) / 2.
    found = task_of(data).measured(outputs, data.test)
    assert found == pytest.approx({"mse": 5, "auc": 0.75}, rel=1e-5)
    normal = load_data(X, task="reconstruction")
    assert task_of(normal).measured(normal.test.x() + 2, normal.test) == pytest.approx({"mse": 4}, rel=1e-5)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ((X, np.arange(50)), r"labels of 0 \(normal\) and 1 \(anomaly\)"),
        ((X, np.ones(50)), "normal samples in train, got 50 anomalies; add some"),
        (({"a": X, "b": X}, FLAGS), "one input that is also the target"),
        ((X, X + 1), r"got float32 of shape \(50, 4, 3\)"),
    ],
)
def test_wrong_labels(source, words):
    with pytest.raises(DataError, match=words):
        load_data(source, task="reconstruction")


@pytest.mark.parametrize(
    ("task", "labels", "form"),
    [("classification", np.arange(50) % 3 * 1.0, "sparse"), ("regression", np.arange(50), "values")],
)
def test_the_task_decides_where_labels_leave_it_open(task, labels, form):
    data = load_data((X, labels), task=task)
    assert (data.task, data.labels) == (task, form)


def test_rows_with_a_single_1_may_be_several_classes_at_once():
    rows = np.eye(3)[np.arange(50) % 3]
    assert load_data((X, rows)).task == "classification"
    data = load_data((X, rows), task="multilabel")
    assert (data.task, data.num_classes, data.train.labels.shape[1:]) == ("multilabel", 3, (3,))


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        ("classification", np.linspace(0, 1, 50), "for the task 'classification', got float64 .* for 'regression'"),
        ("segmentation", np.arange(50) % 3, "for the task 'segmentation', .* for 'classification'"),
        ("clustering", np.arange(50) % 3, "Unknown task 'clustering'"),
    ],
)
def test_labels_of_another_task(task, labels, words):
    with pytest.raises(DataError, match=words):
        load_data((X, labels), task=task)
