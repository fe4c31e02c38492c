"""Batches of other forms than arrays of one shape: clear errors; weights beside the samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt.data import load_data, long_read
from tfopt.data.collected import collected
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


SPEC = (tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.int64))


def endless():
    for number in range(10**9):
        yield np.float32([number, 1]), number % 2


class Endless(Batches):
    """Gives batches of 3 without an end."""

    def __init__(self):
        super().__init__([])

    num_batches = None

    def __getitem__(self, index):
        return np.full((3, 2), index, "float32"), np.arange(3) % 2


def generated():
    return tf.data.Dataset.from_generator(endless, output_signature=SPEC)


def first_values(*parts):
    return sorted(value for part in parts for value in part.inputs[:, 0].tolist())


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (generated, range(12)),  # samples
        (lambda: generated().batch(5), range(60)),
        (lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(1).repeat(), range(0, 24, 2)),
        (lambda: tf.data.Dataset.from_tensor_slices((X, Y)), range(0, 24, 2)),
        (Endless, np.repeat(range(12), 3)),
        (lambda: Batches([(X[n : n + 1], Y[n : n + 1]) for n in range(40)]), range(0, 24, 2)),
    ],
    ids=["samples", "batches", "infinite", "known", "endless PyDataset", "PyDataset"],
)
def test_steps_say_how_much_to_take(stream, expected):
    data = load_data(stream(), steps=np.int64(12))
    assert first_values(data.train, data.validation, data.test) == list(expected)


def test_steps_by_part():
    data = load_data({"train": generated().batch(10), "test": Endless()}, steps={"train": 4, "test": 2}, validation=0.5)
    assert first_values(data.train, data.validation) == list(range(40)) and len(data.test) == 6
    data = load_data({"train": (X, Y), "test": Endless()}, steps=3)
    assert len(data.test) == 9 and len(data.train) + len(data.validation) == 40


@pytest.mark.parametrize(
    ("source", "steps", "problem"),
    [
        ((X, Y), 3, "tf.data or a PyDataset for steps=, got .*; limit= takes some samples"),
        ({"train": generated(), "test": (X, Y)}, {"train": 5, "test": 5}, "steps for train, got some for 'test'"),
        (Endless(), 0, "steps of train as an integer of at least 1, got 0"),
        (Endless(), {"train": 2.5}, "of at least 1, got 2.5"),
        (Batches(pieces(X, Y)), 5, "Expected 5 steps of train, got 4, where it ends"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), 41, "Expected 41 steps of train, got 40"),
        (generated().take(7), 9, "Expected 9 steps of train, got 7"),
        (generated().batch(3).take(7), 9, "Expected 9 steps of train, got 7"),
        (Endless(), None, "a PyDataset without; say how many to take, .*steps=N.*num_batches"),
        (generated().repeat(), None, "got an infinite one; say how many batches to take, .*steps=N"),
    ],
)
def test_bad_steps(source, steps, problem):
    with pytest.raises(DataError, match=problem):
        load_data(source, steps=steps)


def test_a_stream_that_may_have_no_end_is_read_up_to_a_limit(monkeypatch, capsys):
    monkeypatch.setattr(long_read, "MOST_SAMPLES", 1000)
    monkeypatch.setattr(long_read, "_LONG", 0)
    unknown = generated().take(1000)
    assert len(load_data(unknown).train) > 0
    with pytest.raises(DataError, match=r"with an end, got 1,024 samples \(.*may give 1,000 samples or .*steps=N"):
        load_data(generated())
    assert "Reading train: 256 samples (" in capsys.readouterr().err
    load_data(generated(), steps=1200)  # what is said to be meant is read
    load_data(tf.data.Dataset.from_tensor_slices((np.ones((1200, 2), "float32"), np.arange(1200) % 2)))
    monkeypatch.setattr(long_read, "MOST_SAMPLES", 10**9)
    monkeypatch.setattr(long_read, "LARGEST_IN_MEMORY", 3000)
    monkeypatch.setattr(long_read.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 10_000})())
    with pytest.raises(DataError, match="got 512 samples"):  # 16 bytes each, above 5,000
        load_data(generated())


def raising(bad, at):
    """Samples of which number `bad` raises, or which end before it or have another shape from there on."""

    def samples():
        for number in range(600):
            if number == bad and at == "raise":
                raise RuntimeError("lost")
            yield np.ones(3 if number == bad and at == "shape" else 2, "float32"), number % 2

    spec = (tf.TensorSpec((None,), tf.float32), SPEC[1])
    return tf.data.Dataset.from_generator(samples, output_signature=spec)


@pytest.mark.parametrize(("bad", "ahead"), [(0, False), (30, True), (300, True)])
def test_the_sample_of_an_error_is_named(bad, ahead):
    def check(x, number):
        with tf.control_dependencies([tf.debugging.assert_none_equal(number, tf.constant(bad, number.dtype))]):
            return tf.identity(x), number % 2

    mapped = tf.data.Dataset.from_tensor_slices((np.ones((600, 2), "float32"), np.arange(600)))
    mapped = mapped.map(check, num_parallel_calls=tf.data.AUTOTUNE)
    shorter = tf.data.Dataset.from_tensor_slices((np.ones((bad, 2), "float32"), np.arange(bad)))
    for stream in (mapped, raising(bad, "raise"), shorter.apply(tf.data.experimental.assert_cardinality(601))):
        with pytest.raises(DataError, match=f"an error after {bad} samples: "):
            load_data(stream.prefetch(64) if ahead else stream)


@pytest.mark.parametrize("bad", [30, 300])
def test_a_sample_of_another_shape_is_named(bad):
    with pytest.raises(DataError, match=f"an error after {bad} samples: Cannot batch"):
        load_data(raising(bad, "shape"))


def of_shapes(x, y, count=12):
    """A stream of elements of these shapes that states none of their sizes but that of the last axis of x."""
    shapes = (
        (*(None,) * (len(x) - 1), x[-1]),
        (None,) * len(y) if len(x) > len(y) else (*(None,) * (len(y) - 1), y[-1]),
    )
    specs = tuple(tf.TensorSpec(shape, kind) for shape, kind in zip(shapes, (tf.float32, tf.int32), strict=True))
    return tf.data.Dataset.from_generator(
        lambda: ((np.ones(x), np.arange(np.prod(y)).reshape(y) % 2) for _ in range(count)), output_signature=specs
    )


@pytest.mark.parametrize("y", [(8, 8, 1), (8, 8)])
def test_streams_that_do_not_tell_whether_they_are_batched(y):
    with pytest.raises(DataError, match=r"Cannot tell whether train is batched, as x \(None, None, 3\) and y .* masks"):
        load_data(of_shapes((8, 8, 3), y))
    data = load_data(of_shapes((8, 8, 3), y).batch(4))
    assert sum(map(len, (data.train, data.validation, data.test))) == 12 and data.input_shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("x", "y"), [((5, 2), (5,)), ((5, 4, 4, 3), (5,)), ((5, 4, 4, 3), (5, 4, 4, 1)), ((5, 7, 2), (5,))]
)
def test_streams_of_batches_whose_size_is_unknown(x, y):
    data = load_data(of_shapes(x, y))
    assert sum(map(len, (data.train, data.validation, data.test))) == 60 and data.input_shape == x[1:]
