"""Batches of other forms than arrays of one shape: clear errors; weights beside the samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt.data import load_data
from tfopt.data.streams import collected
from tfopt.errors import DataError

X, Y = np.arange(80, dtype="float32").reshape(40, 2), np.arange(40) % 2
W = np.linspace(0.5, 2, 40)


class Batches(keras.utils.PyDataset):
    """Gives the batches of a list."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def pieces(*sides):
    return list(zip(*(np.array_split(side, 4) for side in sides), strict=True))


@pytest.mark.parametrize(
    ("batches", "problem"),
    [
        ([*pieces(X, Y), None], r"batches of \(x, y\) or .*, got a NoneType after 40 samples"),
        ([(X, None)], "train labels as an array, .* got NoneType"),
        ([(X, Y), (X, Y, W)], "all of one form, got 3 parts after 40 samples"),
        ([({"a": X, "b": X}, Y), ({"a": X}, Y)], "train inputs in every batch as in the first, a, b; got a"),
        ([({"a": X}, Y), (X, Y)], "as in the first, a; got one array"),
        ([({"a": {"b": X}}, Y)], "an array for each name, got dict for 'a'"),
        # as many labels as inputs in all, but not in each batch
        ([(X[:7], Y[:7]), (X[7:11], Y[7:14]), (X[11:18], Y[14:18])], "got 4 inputs, 7 labels in batch 1 "),
        ([({"a": X[:3], "b": X[:4]}, Y[:3])], "got 3 inputs a, 4 inputs b, 3 labels in batch 0 "),
        ([(X, Y, W), (X, Y, W[:5])], "got 40 inputs, 40 labels, 5 weights in batch 1 "),
        ([(X, Y, W[0])], "got one value as weights in batch 0 "),
    ],
)
def test_batches_of_other_forms(batches, problem):
    with pytest.raises(DataError, match=problem):
        load_data(Batches(batches))


def test_nested_dicts_are_refused():
    with pytest.raises(DataError, match="one dict with an array for each name, got another dict for 'a'"):
        load_data(({"a": {"b": X}}, Y))


def test_several_inputs_in_lists_of_a_batch():
    x, y, weights = collected("train", [([X[:3], X[:3] + 1], Y[:3]), ([X[3:5], X[3:5] + 1], Y[3:5])])
    np.testing.assert_array_equal(x["1"], X[:5] + 1)
    assert list(x) == ["0", "1"] and y.tolist() == Y[:5].tolist() and weights is None


@pytest.mark.parametrize(
    "source",
    [
        (X, Y, W),
        (X, Y, W[:, None]),
        {"train": (X, Y, W)},
        ((X, Y, W), (X, Y)),
        tf.data.Dataset.from_tensor_slices((X, Y, W)),
        tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(7),
        Batches(pieces(X, Y, W)),
    ],
    ids=["arrays", "columns", "dict", "two parts", "tf.data", "batches", "PyDataset"],
)
def test_weights_stay_with_their_samples(source):
    data = load_data(source)
    for x, y, weights in data.batches("train", 8, shuffle=True):
        rows = x.numpy()[:, 0].astype(int) // 2
        np.testing.assert_allclose(weights, W[rows], rtol=1e-6)
        np.testing.assert_array_equal(y, Y[rows])
    assert any("sample weights of 0.5 to 2 count in the training loss" in note for note in data.notes)
    assert data.fingerprint != load_data((X, Y)).fingerprint
    np.testing.assert_allclose(data.train.some(3).weights, data.train.weights[data.train.spread(3)])


def test_three_inputs_and_outputs_in_tuples_are_no_weights():
    data = load_data(((X, X + 1, X + 2), (Y[:, None] * 1.0, X, X)))
    assert list(data.train.inputs) == ["0", "1", "2"] and data.train.weights is None


def test_weights_by_output():
    labels = {"kind": Y, "age": X[:, 0]}
    data = load_data((X, labels, {"age": W}))
    assert (data.train.weights["kind"] == 1).all()
    np.testing.assert_allclose(data.of_output("age").train.weights, data.train.weights["age"])
    np.testing.assert_allclose(data.train.weights["age"], W[data.train.inputs[:, 0].astype(int) // 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (W[:5], "one number for each of 40 samples, got float64 of shape \\(5,\\)"),
        (-W, "finite train weights of at least 0, not all 0, got -0.5 for sample 0"),
        (np.where(W > 1, np.nan, W), "got nan for sample 14"),
        (0 * W, "not all 0"),
        ({"age": W}, "weights for the outputs of one array, got some for 'age'"),
    ],
)
def test_bad_weights(weights, problem):
    with pytest.raises(DataError, match=problem):
        load_data((X, Y, weights))
