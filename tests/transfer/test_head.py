"""A new head on a trained body."""

import keras
import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError, RecipeError
from tfopt.transfer import Head, new_head


def model_of(api, *, nested=False, apart=False):
    layers = api.layers
    body = [layers.Conv2D(5, 3, activation="relu", name="conv"), layers.GlobalAveragePooling2D(name="pool")]
    inputs = x = api.Input((6, 6, 2))
    if nested:
        x = api.Sequential([api.Input((6, 6, 2)), *body], name="body")(x)
    else:
        for layer in body:
            x = layer(x)
    x = layers.Dense(3, activation=None if apart else "softmax", name="head")(x)
    return api.Model(inputs, layers.Softmax(name="last")(x) if apart else x, name="source")


@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("kind", [{}, {"nested": True}, {"apart": True}], ids=["flat", "nested", "softmax apart"])
def test_body_is_copied_and_head_is_fresh(api, kind):
    source = model_of(api, **kind)
    before = source.get_weights()
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")
    target = new_head(source, 7)
    assert isinstance(target, api.Model)
    kernel, bias = before[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).astype(np.float64)
    pooled = np.maximum(np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias, 0).mean(axis=(1, 2))
    scores = np.exp(pooled @ target.layers[-1].get_weights()[0])
    np.testing.assert_allclose(target.predict(x, verbose=0), scores / scores.sum(1, keepdims=True), atol=1e-5)
    assert target.output_shape == (None, 7)
    target.layers[1].set_weights([np.zeros_like(weight) for weight in target.layers[1].get_weights()])
    for old, now in zip(before, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)  # nothing is shared with the caller's model


def test_same_seed_same_head():
    source = model_of(keras)
    heads = [new_head(source, 4, seed=seed).layers[-1].get_weights()[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert (heads[0] != heads[2]).any()


def test_a_model_without_a_classifier_keeps_all_it_has():
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, name="conv")(inputs), name="segments")
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    target = new_head(model, 4, activation=None)
    kernel, bias = target.get_layer("head").get_weights()
    assert kernel.shape == (3, 4)
    expected = model.predict(x, verbose=0).mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(target.predict(x, verbose=0), expected, atol=1e-5)


def test_hidden_layers_and_dropout():
    target = new_head(model_of(keras), 4, head=Head(hidden=(8, 6), dropout=0.5))
    assert [layer.units for layer in target.layers if hasattr(layer, "units")] == [8, 6, 4]
    assert [layer.rate for layer in target.layers if hasattr(layer, "rate")] == [0.5] * 3
    kernels = [layer.get_weights()[0] for layer in target.layers if hasattr(layer, "units")]
    assert [kernel.shape for kernel in kernels] == [(5, 8), (8, 6), (6, 4)]


def test_bad_heads():
    with pytest.raises(ModelError, match="at least one output"):
        new_head(model_of(keras), 0)
    inputs = keras.Input((3,))
    with pytest.raises(ModelError, match="no layers before its classifier"):
        new_head(keras.Model(inputs, keras.layers.Dense(2)(inputs)), 4)
    with pytest.raises(ModelError, match="Keras model, the path"):
        new_head(3, 4)
    with pytest.raises(RecipeError, match="dropout"):
        Head(dropout=1.0)
