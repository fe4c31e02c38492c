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
