"""TFRecord files, tensorflow-datasets and Hugging Face data sets as rows with named columns."""

import io
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfopt.data import load_data
from tfopt.data.for_model import data_for
from tfopt.errors import DataError
from tfopt.inputs import Text

RNG = np.random.default_rng(0)
COUNT = 40


def png(pixels):
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def images(count=COUNT, shape=(6, 5, 3)):
    return RNG.integers(0, 256, (count, *shape)).astype(np.uint8)


def feature(value):
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path, rows):
    options = tf.io.TFRecordOptions(compression_type="GZIP" if path.suffix == ".gz" else "")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in rows:
            features = tf.train.Features(feature={name: feature(value) for name, value in row.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return path


def same_images(data, pixels):
    """The label of each image is its number modulo 4."""
    for part in (data.train, data.validation, data.test):
        for own, label in zip(part.inputs, part.labels, strict=True):
            (place,) = np.flatnonzero((pixels == own).all(axis=(1, 2, 3)))
            assert label == place % 4
    assert sum(map(len, (data.train, data.validation, data.test))) == len(pixels)


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecords.gz", "a.tfrecord-00000-of-00001"])
def test_images_in_records_are_decoded(tmp_path, name):
    pixels = images()
    rows = [{"image": png(each), "label": number % 4, "height": 6} for number, each in enumerate(pixels)]
    data = load_data(write(tmp_path / name, rows))
    same_images(data, pixels)
    assert (data.task, data.num_classes, data.input_shape) == ("classification", 4, (6, 5, 3))
    assert (data.preprocessing.size, data.preprocessing.color) == ((6, 5), "rgb")
    assert any(note.startswith("features of the first records: ") for note in data.notes)
    assert "columns left out: height" in data.notes


def test_a_folder_of_records_with_parts_and_sizes(tmp_path):
    """Images of many sizes become those that the model expects; names of files say the part."""
    for part, count in (("train-00000-of-00002", 20), ("train-00001-of-00002", 10), ("test-00000-of-00001", 7)):
        shapes = [(4 + number % 3, 5, 3) for number in range(count)]
        rows = [
            {"image/encoded": png(images(1, shape)[0]), "image/class/label": n % 2} for n, shape in enumerate(shapes)
        ]
        write(tmp_path / f"flowers-{part}.tfrecord", rows)
    with pytest.raises(DataError, match=r"images of one size and color in 'image/encoded', got .* row 1,"):
        load_data(tmp_path)
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    data = data_for(model, tmp_path, quiet=True)
    assert data.input_shape == (6, 6, 1) and (len(data.train) + len(data.validation), len(data.test)) == (30, 7)


def test_arrays_and_single_values_in_records(tmp_path):
    rows = [{"x": [float(n), 1.0], "label": n % 2} for n in range(COUNT)]
    data = load_data(write(tmp_path / "a.tfrecord", rows))
    assert data.input_shape == (2,) and set(data.train.x()[:, 1]) == {1}
    rows = [{"age": float(n), "city": [b"Oslo", b"Bern"][n % 2], "income": 1.5 * n} for n in range(COUNT)]
    data = load_data(write(tmp_path / "b.tfrecord", rows), labels="income")
    assert set(data.preprocessing.features) == {"age", "city=Oslo", "city=Bern"} and data.task == "regression"
    rows = [{"text": b"so good" if n % 2 else b"so bad", "label": [b"neg", b"pos"][n % 2]} for n in range(COUNT)]
    data = load_data(write(tmp_path / "c.tfrecord", rows))
    assert isinstance(data.preprocessing, Text) and data.class_names == ("neg", "pos")


def test_texts_in_records_get_the_vocabulary_of_a_model(tmp_path):
    """The front end that a data.json states, and the columns that the caller names."""
    rows = [{"review": b"so good" if n % 2 else b"so bad", "stars": n % 2} for n in range(COUNT)]
    path = write(tmp_path / "a.tfrecord", rows)
    stated = Text(vocabulary=("", "[UNK]", "good"), length=2, column="review", labels="stars", classes=("0", "1"))
    beside = types.SimpleNamespace(preprocessing=stated)
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(3, 2), keras.layers.Flatten()])
    data = data_for(model, path, beside=[beside], text="review", labels="stars", quiet=True)
    assert (
        set(map(tuple, data.train.inputs.tolist())) == {(1, 2), (1, 1)} and "as the file itself says" in data.notes[-1]
    )
    with pytest.raises(DataError, match="The vocabulary has 5 entries"):
        data_for(model, path, text="review", labels="stars")


def test_features_may_be_given(tmp_path):
    rows = [{"x": [1.0] * (1 + n % 2), "label": n % 2} for n in range(COUNT)]
    path = write(tmp_path / "a.tfrecord", rows)
    with pytest.raises(DataError, match=r"the feature 'x' in every record .* one type and length"):
        load_data(path)
    spec = {
        "x": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    with pytest.raises(DataError, match=r"x .*of one shape"):
        load_data(path, features=spec)
    spec["x"] = tf.io.RaggedFeature(tf.float32)
    rows = [{"x": [1.0, 2.0], "label": n % 2} for n in range(COUNT)]
    spec["x"] = tf.io.VarLenFeature(tf.float32)
    assert load_data(write(path, rows), features=spec).input_shape == (2,)


def broken(path):
    write(path, [{"image": png(images(1)[0]), "label": n % 2} for n in range(30)])
    content = path.read_bytes()
    path.write_bytes(content[:-20])


def not_an_image(path):
    rows = [{"image": png(images(1)[0]), "label": n % 2} for n in range(30)]
    write(path, [*rows, {"image": b"\x89PNG broken", "label": 0}])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (broken, "got an error after 29"),
        (not_an_image, r"corrupt file: train row 30, 'image' \((?!.*_Encoded)"),
        (lambda path: path.write_bytes(b"nothing" * 9), "TFRecord files of tf.train.Examples"),
        (lambda path: path.write_bytes(b""), "records with features .* got none"),
        (lambda path: write(path, [{"image": png(images(1)[0]), "kind": 1}] * 9), r"labels in .*image \(image\), kind"),
        (lambda path: write(path, [{"label": 1, "raw": b"\xff\xfe\x00"}] * 9), "columns of inputs beside 'label'"),
    ],
)
def test_bad_records(tmp_path, make, problem):
    make(tmp_path / "a.tfrecord")
    with pytest.raises(DataError, match=problem):
        load_data(tmp_path / "a.tfrecord")


class Builder:
    """Stands for a builder of tensorflow-datasets: images and labels, with the parts train and test and another one."""

    def __init__(self, pixels):
        self.pixels, self.prepared = pixels, False
        label = types.SimpleNamespace(names=["a", "b", "c", "d"])
        self.info = types.SimpleNamespace(
            splits={"train": 30, "test": 10, "extra": 1},
            supervised_keys=("image", "label"),
            features={"image": object(), "label": label},
        )

    def download_and_prepare(self):
        self.prepared = True

    def as_dataset(self, split, shuffle_files):
        assert self.prepared and not shuffle_files
        rows = slice(30) if split == "train" else slice(30, None)
        labels = np.arange(len(self.pixels)) % 4
        return tf.data.Dataset.from_tensor_slices({"image": self.pixels[rows], "label": labels[rows]})


def test_tensorflow_datasets_by_name(monkeypatch):
    pixels = images()
    fake = types.ModuleType("tensorflow_datasets")
    fake.builder = {"small": Builder(pixels)}.__getitem__
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    data = load_data("tfds:small")
    same_images(data, pixels)
    assert data.class_names == ("a", "b", "c", "d") and len(data.test) == 10 and data.source == "tfds:small"
    assert "splits left out: extra" in data.notes
    with pytest.raises(DataError, match="Cannot load 'other' from tensorflow-datasets: 'other'"):
        load_data("tfds:other")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"tfds:small without tensorflow-datasets .*: pip install 'tfopt\[datasets\]'"):
        load_data("tfds:small")


def test_a_builder_of_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    pixels = images()

    class Squares(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=4)}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, each in enumerate(pixels):
                yield number, {"image": each, "label": number % 4}

    Squares(data_dir=tmp_path).download_and_prepare()
    from tfopt.data import libraries

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "builder", lambda name: Squares(data_dir=tmp_path))
        assert libraries.rows_of_tfds("squares").class_names == ("0", "1", "2", "3")
        same_images(load_data("tfds:squares"), pixels)


class Split(list):
    """Stands for a Hugging Face data set: a list of rows with features and the names of columns."""

    def __init__(self, rows, **features):
        super().__init__(rows)
        self.features, self.column_names = features, list(rows[0])


def test_hugging_face_images():
    pixels = images()
    rows = [{"img": Image.fromarray(each), "fine": number % 4, "id": number} for number, each in enumerate(pixels)]
    classes = types.SimpleNamespace(names=list("abcd"))
    data = load_data({"train": Split(rows[:30], img=None, fine=classes, id=None), "test": Split(rows[30:])})
    same_images(data, pixels)
    assert data.class_names == ("a", "b", "c", "d") and "columns left out: id" in data.notes
    assert load_data(Split(rows, fine=classes), size=(3, 3), color="grayscale").input_shape == (3, 3, 1)
    with pytest.raises(DataError, match=r"a column 'label' of labels in .*img \(image\), fine \(number\)"):
        load_data(Split(rows))
    assert load_data(Split(rows), labels="fine").num_classes == 4


def test_hugging_face_texts_and_columns():
    rows = [{"text": f"so {'good' if n % 2 else 'bad'}", "label": n % 2} for n in range(COUNT)]
    data = load_data(Split(rows, label=types.SimpleNamespace(names=["neg", "pos"])))
    assert data.class_names == ("neg", "pos") and data.input_shape == (2,)
    assert data.preprocessing.classes == ("neg", "pos")
    assert load_data(Split(rows)).preprocessing.classes == ("0", "1")
    rows = [{"age": n if n % 5 else None, "city": "Oslo", "label": n / 3} for n in range(COUNT)]
    data = load_data(Split(rows))
    assert data.preprocessing.features == ("age", "age?", "city=Oslo") and data.task == "regression"
    with pytest.raises(DataError, match="a split called train, got unsupervised"):
        load_data({"unsupervised": Split(rows)})
    parts = {"train": Split(rows), "val": Split(rows[:11]), "Validation": Split(rows[:7])}
    with pytest.raises(DataError, match="one split for each of train, validation and test, got train, val, Validation"):
        load_data(parts)


@pytest.mark.parametrize("names", [None, ["3", "5"]])
def test_labels_of_hugging_face_are_values_if_the_task_says_so(names):
    """Names of classes that are numbers are values too; other names are an error."""
    labels = [number % 2 if names else 3 + 2 * (number % 2) for number in range(40)]
    rows = [{"x": number / 7, "label": label} for number, label in enumerate(labels)]
    data = load_data(Split(rows, label=types.SimpleNamespace(names=names)), task="regression")
    assert (data.task, data.class_names, set(data.train.y())) == ("regression", None, {3, 5})
    words = types.SimpleNamespace(names=["bad", "good"])
    with pytest.raises(DataError, match=r"Expected values in 'label', .* got the classes bad, good"):
        load_data(Split(rows, label=words), task="regression")


def test_hugging_face_itself():
    datasets = pytest.importorskip("datasets")
    pixels = images()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])})
    rows = {"image": [Image.fromarray(each) for each in pixels], "label": [n % 4 for n in range(COUNT)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    same_images(load_data(whole), pixels)
    parts = datasets.DatasetDict({"train": whole.select(range(30)), "test": whole.select(range(30, COUNT))})
    data = load_data(parts)
    same_images(data, pixels)
    assert data.class_names == ("a", "b", "c", "d") and len(data.test) == 10


def trained(**settings):
    """The front end of a model that was trained on texts."""
    return Text(vocabulary=("", "[UNK]", "good"), length=2, **settings)


def test_labels_in_records_have_the_numbers_of_a_model(tmp_path):
    """By the names of its classes, not in alphabetical order, in the column on which it was trained."""
    rows = [
        {"text": b"so good" if n % 2 else b"so bad", "mood": [b"neg", b"pos"][n % 2], "label": 7} for n in range(COUNT)
    ]
    path = write(tmp_path / "a.tfrecord", rows)
    front_end = trained(labels="mood", classes=("pos", "neg"))
    data = load_data(path, preprocessing=front_end)
    assert data.class_names == data.preprocessing.classes == ("pos", "neg") and data.preprocessing.labels == "mood"
    np.testing.assert_array_equal(data.test.labels == 0, data.test.inputs[:, 1] == 2)
    with pytest.raises(DataError, match="Expected the labels pos, bad in 'mood', also got neg"):
        load_data(path, preprocessing=trained(labels="mood", classes=("pos", "bad")))
    with pytest.raises(DataError, match="Expected a column 'stars' of labels"):
        load_data(path, preprocessing=trained(labels="stars", classes=("pos", "neg")))


def test_named_classes_get_the_numbers_of_a_model():
    rows = [{"text": f"so {'good' if n % 2 else 'bad'}", "label": n % 2} for n in range(COUNT)]
    source = Split(rows, label=types.SimpleNamespace(names=["neg", "pos"]))
    data = load_data(source, preprocessing=trained(classes=("pos", "neg")))
    assert data.class_names == data.preprocessing.classes == ("pos", "neg")
    np.testing.assert_array_equal(data.test.labels == 0, data.test.inputs[:, 1] == 2)
    with pytest.raises(DataError, match="Expected the labels good, bad in 'label', also got neg, pos"):
        load_data(source, preprocessing=trained(classes=("good", "bad")))
    with pytest.raises(DataError, match="Expected values in 'label', as the task or the model wants, got"):
        load_data(source, preprocessing=trained(classes=None))
    values = load_data(Split(rows), preprocessing=trained(classes=None))
    assert values.task == "regression" and values.preprocessing.classes is None
    numbered = load_data(Split([*rows[:-1], {"text": "so", "label": -1}]), preprocessing=trained())
    assert numbered.class_names == ("-1", "0", "1")
    source = Split([*rows[:-1], {"text": "so", "label": -1}], label=types.SimpleNamespace(names=["neg", "pos"]))
    with pytest.raises(DataError, match="'label' = -1, which marks rows without one, in 1 of 40"):
        load_data(source, preprocessing=trained(classes=("pos", "neg")))


class Named:
    """Stands for a ClassLabel."""

    names = ("no", "yes")


def reviews(labels):
    return Split(
        [{"text": f"word {n % 7}", "label": label} for n, label in enumerate(labels)], label=Named(), text=object()
    )


def test_parts_without_labels_are_left_out_with_a_note():
    """Hugging Face marks them by the class -1; test rows are then split off the others."""
    parts = {"train": reviews([0, 1] * 30), "validation": reviews([1, 0] * 5), "test": reviews([-1] * 12)}
    data = load_data(parts)
    assert (data.class_names, len(data.validation), len(data.test)) == (("no", "yes"), 10, 12)
    assert "the test part has no labels, 'label' is -1 in all rows: left out" in data.notes
    assert set(data.test.y()) <= {0, 1} and len(data.train) == 48


@pytest.mark.parametrize(
    ("part", "labels", "count"),
    [("train", [0, 1, -1] * 20, "20 of 60"), ("validation", [0, -1], "1 of 2"), ("train", [-1] * 4, "4 of 4")],
)
def test_rows_without_labels_are_named(part, labels, count):
    parts = {"train": reviews([0, 1] * 30), "validation": reviews([1, 0] * 5), "test": reviews([1, 0] * 5)}
    with pytest.raises(
        DataError, match=rf"'label' = -1, which marks rows without one, in {count} rows of {part}; leave"
    ):
        load_data(parts | {part: reviews(labels)})


def test_booleans_of_hugging_face_are_classes():
    class Rows(list):
        features, column_names = None, ("a", "label")

    data = load_data(Rows({"a": float(number), "label": number % 4 == 0} for number in range(COUNT)))
    assert data.class_names == ("False", "True")
    assert sum(int(part.labels.sum()) for part in (data.train, data.validation, data.test)) == 10
