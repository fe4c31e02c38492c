"""Masks reach exactly the layers that apply them in the caller's Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.bridge.samples import sample_batch
from tfopt.graph.walk import walk

UNITS, STEPS = 3, 5


def with_states(api, kind):
    """An RNN with initial states behind Masking: Keras 3 passes it no mask, tf_keras does."""
    api.utils.set_random_seed(1)
    layers = api.layers
    steps = api.Input((STEPS, 2), name="steps")
    states = [api.Input((UNITS,), name=f"state_{number}") for number in range(2 if kind == "LSTM" else 1)]
    outputs = getattr(layers, kind)(UNITS, name="rnn")(layers.Masking(name="masking")(steps), initial_state=states)
    return api.Model([steps, *states], outputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_an_rnn_with_states_is_masked_as_in_its_own_keras(api, kind):
    model = with_states(api, kind)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, STEPS, 2)).astype("float32")
    x[:, 3:] = 0
    given = [x, *(rng.normal(size=(4, UNITS)).astype("float32") for _ in model.inputs[1:])]
    expected = model.predict(given, verbose=0)
    steps, *states = map(tf.constant, given)
    whole, short = (model.get_layer("rnn")(part, initial_state=states) for part in (steps, steps[:, :3]))
    np.testing.assert_allclose(expected, whole if api is keras else short, atol=1e-6)
    flat_model = bridge.to_tf_keras(model)
    for copy in (flat_model, bridge.clone(flat_model), bridge.to_keras(flat_model, like=model)):
        np.testing.assert_allclose(copy.predict(given, verbose=0), expected, atol=1e-6)


def test_the_samples_of_the_check_have_a_masked_step():
    model = keras.Sequential([keras.Input((STEPS, 2)), keras.layers.Masking(-2.0), keras.layers.LSTM(UNITS)])
    (x,) = sample_batch(walk(model))
    assert (x == -2).all(axis=-1).tolist() == [[False] * 4 + [True], [False] * 5]


WORDS = np.array([[1, 2, 3, 0, 0], [0, 0, 0, 0, 0], [4, 0, 5, 6, 1]], np.int32)


def attended(x, keep, layer):
    """Attention of one head over `x` (n, steps, d) in float64; where no key is kept, all keys have probability 0."""
    kernels = {w.path.split("/")[-2] + "." + w.name: np.asarray(w, np.float64) for w in layer.weights}
    query, key, value = (
        x @ kernels[f"{part}.kernel"][:, 0] + kernels[f"{part}.bias"][0] for part in ("query", "key", "value")
    )
    powers = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])) * keep
    probabilities = powers / np.maximum(powers.sum(axis=-1, keepdims=True), 1e-300)
    out = probabilities @ value @ kernels["attention_output.kernel"][0] + kernels["attention_output.bias"]
    return out, probabilities[:, None]


@pytest.mark.parametrize("asked", ["dropout", "scores"])
def test_a_padded_query_attends_to_nothing_as_in_keras_3(asked):
    inputs = keras.Input((STEPS,), dtype="int32")
    embedding = keras.layers.Embedding(9, 4, mask_zero=True)
    attention = keras.layers.MultiHeadAttention(1, 4, dropout=0.1 if asked == "dropout" else 0.0)
    words = embedding(inputs)
    model = keras.Model(inputs, attention(words, words, return_attention_scores=asked == "scores"))
    for weight in model.weights:
        if weight.shape:
            weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    kept = WORDS != 0
    x = np.asarray(embedding.embeddings, np.float64)[WORDS]
    out, scores = attended(x, kept[:, :, None] & kept[:, None, :], attention)
    flat_model = bridge.to_tf_keras(model)
    for copy in (model, flat_model, bridge.clone(flat_model), bridge.to_keras(flat_model, like=model)):
        got = copy.predict(WORDS, verbose=0)
        got = got if isinstance(got, (list, tuple)) else [got]
        for mine, theirs in zip(got, (out, scores), strict=False):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_softmax_gives_nothing_where_all_is_masked(dtype):
    scores, mask = keras.Input((3,)), keras.Input((3,), dtype=dtype)
    model = keras.Model([scores, mask], keras.layers.Softmax()(scores, mask=mask))
    given = [np.log([[1.0, 3.0, 4.0]] * 2, dtype="float32"), np.array([[1, 1, 0], [0, 0, 0]], dtype)]
    flat_model = bridge.to_tf_keras(model)
    for copy in (model, flat_model, bridge.clone(flat_model)):
        np.testing.assert_allclose(copy.predict(given, verbose=0), [[0.25, 0.75, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_attention_over_a_list_of_masked_tensors_is_masked(api, causal):
    steps = api.Input((STEPS, 2))
    masked = api.layers.Masking()(steps)
    model = api.Model(steps, api.layers.Attention()([masked, masked], use_causal_mask=causal))
    x = np.random.default_rng(0).normal(size=(4, STEPS, 2)).astype("float32")
    x[:, 3:] = 0
    scores = np.einsum("nqd,nkd->nqk", x, x, dtype=np.float64)
    scores[:, :, 3:] = -np.inf
    if causal:
        scores[:, *np.triu_indices(STEPS, 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ x
    expected[:, 3:] = 0
    flat_model = bridge.to_tf_keras(model)
    for copy in (model, flat_model, bridge.clone(flat_model), bridge.to_keras(flat_model, like=model)):
        np.testing.assert_allclose(copy.predict(x, verbose=0), expected, atol=1e-6)
