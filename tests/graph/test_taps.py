"""Outputs of inner layers next to a model's own: in one pass, with shared layers, at any nesting."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.graph.taps import shapes, tapped

X = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")


@pytest.fixture(params=[keras, tf_keras()], ids=["keras", "tf_keras"])
def api(request):
    return request.param


def network(api, *, nested=False, twice=False):
    layers = api.layers
    inputs = api.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    body = [layers.Conv2D(5, 3, name="deep"), layers.BatchNormalization(name="norm")]
    if nested:
        x = api.Sequential([api.Input((4, 4, 4)), *body], name="body")(x)
    else:
        for layer in body:
            x = layer(x)
    act = layers.ReLU(name="act")
    x = act(x)
    x = act(x) if twice else x
    return api.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)), name="net")


def conv(x, kernel, bias):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).astype(np.float64)
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_values_shapes_and_shared_weights(api, nested):
    model = network(api, nested=nested)
    output, first, deep = tapped(model, ("conv", "deep"))(X)
    np.testing.assert_allclose(output, model(X), atol=1e-6)
    expected = conv(X, *model.get_layer("conv").get_weights())
    np.testing.assert_allclose(first, expected, atol=1e-5)
    inside = model.get_layer("body") if nested else model
    np.testing.assert_allclose(deep, conv(expected, *inside.get_layer("deep").get_weights()), atol=1e-4)
    assert shapes(model, ("deep", "conv")) == {"deep": (2, 2, 5), "conv": (4, 4, 4)}
    assert {id(w) for w in tapped(model, ("conv",)).weights} == {id(w) for w in model.weights}


def test_no_layers_no_change(api):
    model = network(api)
    assert tapped(model, ()) is model
    assert shapes(model, ()) == {}


def test_a_layer_in_a_submodel_has_a_path(api):
    model = network(api, nested=True)
    assert shapes(model, ("body/deep",)) == {"body/deep": (2, 2, 5)}
    with pytest.raises(ModelError, match=r"no layer 'body/dep' \(nearest: body/deep"):
        shapes(model, ("body/dep",))


@pytest.mark.parametrize(
    "stage", [tfopt.Prune(), tfopt.Cluster(number_of_clusters=3), tfopt.Quantize()], ids=lambda s: type(s).__name__
)
def test_wrapped_layers_keep_their_names(api, stage):
    applied = stage.apply(network(api, nested=True), steps=4)
    found = shapes(applied, ("conv", "deep", "norm"))
    assert found == {"conv": (4, 4, 4), "deep": (2, 2, 5), "norm": (2, 2, 5)}


def test_subclassed_models_are_traced():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.first = keras.layers.Dense(4, name="first")
            self.last = keras.layers.Dense(3, name="last")

        def call(self, x):
            return self.last(keras.ops.relu(self.first(x)))

    model = Own()
    x = X.reshape(2, -1)
    expected = model(x)
    output, first = tapped(model, ("first",))(x)
    np.testing.assert_allclose(output, expected, atol=1e-6)
    np.testing.assert_allclose(first, x @ model.first.get_weights()[0], atol=1e-5)


def test_what_is_no_single_tensor_is_refused(api):
    with pytest.raises(ModelError, match="'act' is called 2 times"):
        tapped(network(api, twice=True), ("act",))
    with pytest.raises(ModelError, match=r"'net' has no layer 'head_1' \(nearest: head"):
        tapped(network(api), ("head_1",))
    model = network(api)
    two = api.Model(model.input, [model.output, model.get_layer("conv").output], name="two")
    with pytest.raises(ModelError, match="'two' has 2 outputs"):
        tapped(two, ("conv",))
