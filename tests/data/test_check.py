"""Checks of data. Expected errors: read off arrays of known contents."""

from types import SimpleNamespace

import numpy as np
import pytest

import tfopt
from tfopt.data import check
from tfopt.data.check import check_bytes, check_pair, check_same_inputs, fit_to_model
from tfopt.errors import DataError

X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize("kind", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_numbers_of_every_kind_are_inputs(kind):
    check_pair("train", np.ones((4, 2), kind), np.arange(4))
    check_pair("train", np.ones((4, 2, 2, 3), kind), np.arange(4))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (X.astype("complex64"), np.arange(4), "train inputs as numbers, got dtype complex64; encode"),
        (X.astype("U"), np.arange(4), "train inputs as numbers, got dtype <U"),
        (X[:, 0], np.arange(4), r"at least two axes, got \(4,\); reshape single values to \(n, 1\)"),
        (X, np.arange(3), "as many train labels as inputs, got 4 inputs and 3 labels"),
        (X, np.zeros((5, 4)), "got 4 inputs and 5 labels"),
        (X[:0], np.arange(0), r"samples in train, got inputs of shape \(0, 2\)"),
        (np.zeros((4, 0), np.uint8), np.arange(4), r"samples in train, got inputs of shape \(4, 0\)"),
    ],
)
def test_bad_pairs(inputs, labels, message):
    with pytest.raises(DataError, match=message):
        check_pair("train", inputs, labels)


def test_a_single_label_is_judged_elsewhere():
    check_pair("train", X, np.array(3))


@pytest.mark.parametrize("rows", [1, 4096, 4097, 10_000])
def test_all_numbers_finite(rows):
    check_pair("train", np.ones((rows, 2), np.float32), np.zeros(rows))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(0, 0)], "in 1 of 10,000 samples, the first at index 0;"),
        ([(4095, 1)], "in 1 of 10,000 samples, the first at index 4095;"),
        ([(4096, 0)], "in 1 of 10,000 samples, the first at index 4096;"),
        ([(9999, 0)], "in 1 of 10,000 samples, the first at index 9999;"),
        ([(5000, 0), (5000, 1), (9000, 1)], "in 2 of 10,000 samples, the first at index 5000;"),
        ([(5, 0), (9000, 1)], "in 2 of 10,000 samples, the first at index 5;"),
    ],
)
def test_numbers_that_are_not_finite_are_counted_by_sample(places, message):
    inputs = np.zeros((10_000, 2), np.float32)
    for number, place in enumerate(places):
        inputs[place] = (np.nan, np.inf, -np.inf)[number]
    with pytest.raises(DataError, match=f"Expected finite test inputs, got NaN or infinity {message}"):
        check_pair("test", inputs, np.zeros(10_000))


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        (1e39, "float64", "NaN or infinity, or numbers beyond float32 (3.4e38), in 1 of 4"),
        (np.nan, "float64", "NaN or infinity, or numbers beyond float32 (3.4e38), in 1 of 4"),
        (np.nan, "float32", "NaN or infinity in 1 of 4"),
        (np.nan, "float16", "NaN or infinity in 1 of 4"),
    ],
)
def test_numbers_must_be_finite_as_models_receive_them(value, dtype, words):
    inputs = np.zeros((4, 2), dtype)
    inputs[2, 1] = value
    with pytest.raises(DataError) as caught:
        check_pair("train", inputs, np.arange(4))
    assert words in str(caught.value) and "the first at index 2;" in str(caught.value)
    check_pair("train", np.full((4, 2), 1e38, "float64"), np.arange(4))


def test_parts_have_one_shape_and_scale():
    images = np.zeros((4, 2, 2), np.uint8)
    check_same_inputs({"train": images, "test": images[:2]})
    check_same_inputs({"train": X, "test": X.astype(np.float64)})
    for other, words in (
        (images[:, :1], r"train has uint8 of shape \(2, 2\); test has uint8 of shape \(1, 2\)"),
        (images.astype(np.float32), r"train has uint8 of shape \(2, 2\); test has floats of shape \(2, 2\)"),
        (images.astype(np.int32), "test has int32"),
        (images.astype(bool), "test has bool"),
    ):
        with pytest.raises(DataError, match=words):
            check_same_inputs({"train": images, "test": other})


def test_data_must_fit_into_memory(monkeypatch):
    monkeypatch.setattr(check, "LARGEST_BYTES", 11 * 2**28)
    with pytest.raises(DataError, match="at most 3 GiB of data"):  # 2.75
        check_bytes(2**32, "a folder")
    monkeypatch.setattr(check, "LARGEST_BYTES", 3 * 2**30)
    check_bytes(3 * 2**30, "a folder")
    check_bytes(1, "a folder")
    with pytest.raises(DataError, match=r"at most 3 GiB of data.*got about 3\.0 GiB from a folder;"):
        check_bytes(3 * 2**30 + 1, "a folder")
    with pytest.raises(DataError, match=r"at most 3 GiB of data.*got about 4\.5 GiB from a folder;"):
        check_bytes(9 * 2**29, "a folder")


def data_of(shape, labels, names=None, form="sparse"):
    """A stand-in for a `Dataset` of inputs of `shape`, with the same labels in all parts."""
    part = SimpleNamespace(labels=np.asarray(labels), target_shape=np.shape(labels)[1:])
    return SimpleNamespace(
        input_shape=shape, labels=form, class_names=names, task="a task", train=part, split=lambda name: part
    )


@pytest.mark.parametrize(
    ("given", "expected"), [((4, 4, 3), (4, 4, 3)), ((4, 4, 3), (None, 4, None)), ((7,), (None,)), ((7,), [7])]
)
def test_inputs_that_fit(given, expected):
    fit_to_model(data_of(given, [0, 1]), expected, 2)


@pytest.mark.parametrize(
    ("given", "expected", "advice"),
    [
        ((4, 6), (4, 6, 1), r"add a channel axis: x\[..., None\]"),
        ((4,), (4, 6, 1), "reshape the data, or use a model for this shape"),
        ((4, 6, 3), (4, 6), "reshape the data, or use a model for this shape"),
        ((4, 6, 3, 1), (4, 6, 3), "reshape the data, or use a model for this shape"),
        ((4, 6), (4, 6, 1, 1), "reshape the data, or use a model for this shape"),
        ((4, 6), (4, 5), "reshape the data, or use a model for this shape"),
        ((4, 6, 3), (4, 6, 3, 1), "reshape the data, or use a model for this shape"),
        ((4, 6, 3), (None, 6, 1), 'in Python pass color="grayscale" to load_data'),
        ((4, 6, 3), (4, None, 1), 'in Python pass color="grayscale" to load_data'),
        ((4, 6, 3), (8, 9, 3), r"pass size=\(8, 9\) to load_data"),
        ((4, 6, 3), (2, 3, 3), r"pass size=\(2, 3\) to load_data"),
        ((4, 6, 3), (8, None, 3), r"pass size=\(8, 6\) to load_data"),
        ((4, 6, 3), (None, 9, 3), r"pass size=\(4, 9\) to load_data"),
        ((4, 6, 3), (8, 6, None), r"pass size=\(8, 6\) to load_data"),
        ((4, 6, 3), (4, 6, 1), 'pass color="grayscale" to load_data'),
        ((4, 6, 1), (4, 6, 3), 'pass color="rgb" to load_data'),
        ((4, 6, 1), (8, 8, 3), r'pass size=\(8, 8\) and color="rgb" to load_data'),
        ((4, 6, 3), (4, 6, 4), "give the data 4 channels, or use a model with 3"),
        ((4, 6, 2), (4, 6, 3), "give the data 3 channels, or use a model with 2"),
    ],
)
def test_inputs_that_do_not_fit(given, expected, advice):
    with pytest.raises(DataError) as caught:
        fit_to_model(data_of(given, [0, 1]), expected, 2)
    assert str(caught.value).startswith(f"The model expects inputs of shape {expected}, the data has {given}; ")
    caught.match(f"{advice}[.]?$")


def test_class_numbers_fit_the_outputs():
    fit_to_model(data_of((7,), [0, 3]), (7,), 4)
    fit_to_model(data_of((7,), [0, 1]), (7,), 1)  # one output tells two classes apart
    for top, outputs in ((4, 4), (2, 1), (2, 2)):
        with pytest.raises(DataError, match=rf"train labels within 0\.\.{max(outputs, 2) - 1} "):
            fit_to_model(data_of((7,), [0, top]), (7,), outputs)


@pytest.mark.parametrize(
    ("labels", "form", "outputs", "places"),
    [
        (np.zeros((4, 2, 3), int), "sparse", 5, (2, 3)),
        (np.zeros((4, 2, 3), int), "sparse", 1, (None, 3)),
        (np.zeros((4, 2, 3, 5)), "one-hot", 5, (2, None)),
        ([0, 1], "sparse", 2, (1, 1)),
    ],
)
def test_places_that_fit(labels, form, outputs, places):
    fit_to_model(data_of((7,), labels, form=form), (7,), outputs, places)
    with pytest.raises(DataError, match="gives classes for places of shape"):
        fit_to_model(data_of((7,), labels, form=form), (7,), outputs, (*places, 2))


def test_places_that_do_not_fit():
    with pytest.raises(DataError, match=r"places of shape \(4, 4\), the labels have \(2, 3\)"):
        fit_to_model(data_of((7,), np.zeros((4, 2, 3), int)), (7,), 5, (4, 4))
    with pytest.raises(DataError, match=r"places of shape \(\), the labels have \(2, 3\)"):
        fit_to_model(data_of((7,), np.zeros((4, 2, 3), int)), (7,), 5)
    with pytest.raises(DataError, match=r"places of shape \(4, 4\), the labels have \(\)"):
        fit_to_model(data_of((7,), [0, 1]), (7,), 5, (4, 4))


def test_every_part_has_class_numbers_for_the_outputs():
    data = data_of((7,), [0, 1])
    data.split = lambda name: SimpleNamespace(labels=np.array([0, 1 + (name == "test")]))
    with pytest.raises(DataError, match=r"test labels within 0\.\.1 .* at index 1: 2"):
        fit_to_model(data, (7,), 2)


@pytest.mark.parametrize(("names", "outputs"), [(("a", "b", "c"), 3), (("a", "b"), 1), (("a", "b"), 2), (None, 5)])
def test_named_classes_that_fit(names, outputs):
    fit_to_model(data_of((7,), [0, 1], names), (7,), outputs)


@pytest.mark.parametrize(
    ("names", "outputs", "words"),
    [
        (("a", "b", "c"), 4, r"has 4 outputs, the data has 3 classes \(a, b, c\)\."),
        (("a", "b", "c", "d"), 1000, r"has 1,000 outputs, the data has 4 classes \(a, b, c, \.\.\.\)\."),
        (("a", "b", "c"), 1, r"has 1 outputs, the data has 3 classes"),
        (("a", "b"), 3, r"has 3 outputs, the data has 2 classes \(a, b\)\."),
        (("a",), 2, r"has 2 outputs, the data has 1 classes \(a\)\."),
    ],
)
def test_named_classes_without_an_output(names, outputs, words):
    with pytest.raises(DataError, match=words):
        fit_to_model(data_of((7,), [0, 0], names), (7,), outputs)


def test_other_labels_have_as_many_values_as_outputs():
    fit_to_model(data_of((7,), np.zeros((4, 3)), form="one-hot"), (7,), 3)
    with pytest.raises(DataError, match=r"has 5 outputs, the labels \(a task\) have 3 values per sample"):
        fit_to_model(data_of((7,), np.zeros((4, 3)), form="one-hot"), (7,), 5)


@pytest.mark.parametrize(
    ("labels", "outputs", "places"),
    [
        ((4,), 1, ()),
        ((4,), 1, (1, 1)),
        ((4, 3), 3, ()),
        ((4, 2, 3), 3, (2,)),
        ((4, 5, 6, 1), 1, (None, None)),
        ((4, 5, 6, 2), 2, (5, None)),
    ],
)
def test_values_have_the_shape_of_the_outputs(labels, outputs, places):
    fit_to_model(data_of((7,), np.zeros(labels), form="values"), (7,), outputs, places)


@pytest.mark.parametrize(
    ("labels", "outputs", "places", "words"),
    [
        ((4, 2, 3), 6, (), r"of shape \(6,\) for a sample, .* have \(2, 3\); reshape the labels to \(n, 6\)"),
        ((4, 6), 3, (2,), r"of shape \(2, 3\) for a sample, .* have \(6,\); reshape the labels to \(n, 2, 3\)"),
        ((4, 2, 3), 5, (2,), r"of shape \(2, 5\) .* have \(2, 3\); give the model such outputs"),
        ((4,), 1, (5,), r"of shape \(5, 1\) .* have \(\); give the model such outputs"),
        ((4, 5, 5, 1), 1, (None, 6), r"of shape \(None, 6, 1\) .* have \(5, 5, 1\); give the model"),
        ((4, 3), 4, (), r"of shape \(4,\) .* have \(3,\); give"),
    ],
)
def test_values_of_another_shape_than_the_outputs(labels, outputs, places, words):
    with pytest.raises(DataError, match=words):
        fit_to_model(data_of((7,), np.zeros(labels), form="values"), (7,), outputs, places)


@pytest.mark.parametrize(
    ("inputs", "front_end"),
    [
        (np.array(["a b"] * 10, object), tfopt.inputs.Text(length=4)),
        (np.array(["a b"] * 10), tfopt.inputs.Text(length=4)),
        (np.zeros((10, 16000), np.float32), tfopt.inputs.Sound()),
        (np.rec.fromarrays([np.arange(10.0)], names=["v"]), tfopt.inputs.Table()),
    ],
    ids=["objects", "texts", "sound", "table"],
)
@pytest.mark.parametrize("count", [9, 11])
def test_samples_of_a_front_end_match_their_labels_in_number(inputs, front_end, count):
    said = f"Expected as many train labels as inputs, got 10 inputs and {count} labels; pair them up"
    with pytest.raises(DataError, match=said):
        tfopt.load_data((inputs, np.arange(count) % 2), preprocessing=front_end)


def test_classes_without_a_training_sample_are_said_after_the_split():
    labels = np.repeat(np.arange(10), 20)
    data = tfopt.load_data((np.random.default_rng(0).normal(size=(200, 3)), labels), limit=6)
    lost = sorted(set(range(10)) - set(data.train.labels.tolist()))
    first = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
    assert f"{len(lost)} of 10 classes are left without a training sample: {first}" in data.notes
