"""Indices are recognized by the tables that read them, in both kinds of Keras, whatever is between."""

import keras
import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import to_tf_keras
from tfopt.bridge.samples import sample_batch
from tfopt.graph.indices import index_inputs
from tfopt.graph.walk import walk

TABLE = np.arange(27, dtype="float32").reshape(9, 3)
OPS = keras.ops


def tensorflow():
    import tensorflow as tf

    return tf


def found(api, *parts, count=1):
    inputs = [api.Input((6,)) for _ in range(count)]
    outputs = inputs[0] if count == 1 else inputs
    for part in parts:
        outputs = part(outputs)
    graph = walk(api.Model(inputs, outputs))
    indices = index_inputs(graph)
    return graph, [indices.get(spec.ref) for spec in graph.inputs]


def embedding(api, rows=50):
    return api.layers.Embedding(rows, 4)


IN_KERAS = {
    "at once": lambda x: x,
    "cast": lambda x: OPS.cast(x, "int32"),
    "sliced": lambda x: x[:, ::-1],
    "reshaped": lambda x: OPS.squeeze(OPS.expand_dims(x, 1), 1),
    "layer": lambda x: keras.layers.Reshape((3, 2))(x),
    "chosen": lambda x: OPS.take(x, [1, 2], axis=1),
}
IN_TENSORFLOW = {
    "at once": lambda x: x,
    "cast": lambda x: tensorflow().cast(x, "int32"),
    "sliced": lambda x: x[:, ::-1],
    "reshaped": lambda x: tensorflow().squeeze(tensorflow().expand_dims(x, 1), 1),
    "joined": lambda x: tensorflow().concat([x, x], 1),
}
COMPUTED = {"more": lambda x: x + 1, "less than": lambda x: x % 50, "twice": lambda x: 2 * x}


@pytest.mark.parametrize(
    ("api", "way"),
    [(keras, way) for way in IN_KERAS.values()] + [(tf_keras(), way) for way in IN_TENSORFLOW.values()],
)
def test_indices_that_reach_an_embedding_become_integers(api, way):
    layer = embedding(api)
    graph, (indices,) = found(api, way, layer)
    assert (indices.entries, indices.unchanged, indices.only) == (50, True, True)
    (sample,) = sample_batch(graph)
    assert set(np.unique(sample)) <= set(range(50))


@pytest.mark.parametrize("api", [keras, tf_keras()])
@pytest.mark.parametrize("way", COMPUTED.values())
def test_computed_indices_get_samples_within_the_table(api, way):
    graph, (indices,) = found(api, way, embedding(api))
    assert (indices.entries, indices.unchanged, indices.only) == (50, False, False)
    (sample,) = sample_batch(graph)
    rows = np.asarray(way(sample))
    assert rows.min() >= 0
    assert rows.max() < 50
    assert len(np.unique(sample)) > 3


@pytest.mark.parametrize(
    "part",
    [
        lambda x: OPS.one_hot(OPS.cast(x, "int32"), 9),
        lambda x: OPS.take(TABLE, OPS.cast(x, "int32"), axis=0),
        lambda x: keras.layers.CategoryEncoding(9, output_mode="count")(x),
    ],
)
def test_other_tables_have_their_own_size(part):
    assert found(keras, part)[1][0].entries == 9


def test_tables_of_tensorflow():
    tf = tensorflow()
    for part in (lambda x: tf.gather(TABLE, tf.cast(x, "int32")), lambda x: tf.one_hot(tf.cast(x, "int32"), 9)):
        assert found(tf_keras(), part)[1][0].entries == 9


def test_the_smallest_of_several_tables_counts_and_each_input_has_its_own():
    def part(inputs):
        words, numbers = inputs
        return [embedding(keras)(words), keras.layers.Embedding(7, 2)(words), keras.layers.Dense(2)(numbers)]

    _, (words, numbers) = found(keras, part, count=2)
    assert (words.entries, words.only, numbers) == (7, True, None)


@pytest.mark.parametrize(
    ("part", "only"),
    [
        (lambda x: [embedding(keras)(x), OPS.not_equal(x, 0)], True),
        (lambda x: [embedding(keras)(x), keras.layers.Dense(2)(x)], False),
        (lambda x: [embedding(keras)(x), x], False),
    ],
)
def test_what_reads_numbers_keeps_them(part, only):
    _, (indices,) = found(keras, part)
    assert indices.only == only
    model = keras.Sequential([keras.Input((6,)), embedding(keras)])
    assert to_tf_keras(model).inputs[0].dtype == "int32"


def test_the_flat_model_takes_both_dtypes_and_computes_the_same():
    for api in (keras, tf_keras()):
        inputs = api.Input((6,))
        model = api.Model(inputs, api.layers.Dense(2)(embedding(api)(inputs)))
        flat = to_tf_keras(model)
        x = np.random.default_rng(0).integers(0, 50, (4, 6))
        table, kernel, bias = model.get_weights()
        wanted = table[x] @ kernel + bias
        for dtype in ("float32", "int32", "int64"):
            np.testing.assert_allclose(flat(x.astype(dtype)), wanted, atol=1e-6)
        assert flat.inputs[0].dtype == "int32"
        assert model.inputs[0].dtype == "float32"  # the caller's stays
