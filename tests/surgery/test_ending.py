"""Where features end and the classifier begins."""

import keras
import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.surgery.body import body_of

APIS = pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])


def model_of(api, shape, parts, name="model"):
    inputs = x = api.Input(shape)
    for part in parts:
        x = part(x)
    return api.Model(inputs, x, name=name)


def features_from(model, **settings):
    """The path of the layer that gives the features, and the paths of what is left out."""
    body = body_of(model, **settings)
    return body.source, set(body.left_out)


def image_endings(layers):
    """Classifiers behind a feature map `body` (batch, 6, 6, 5)."""
    pool, flat = layers.GlobalAveragePooling2D, layers.Flatten
    return {
        "3x3 convolution, pooled, softmax": [layers.Conv2D(4, 3), pool(), layers.Softmax()],
        "3x3 convolution, pooled, scores": [layers.Conv2D(4, 3), pool()],
        "3x3 convolution with softmax, flattened": [layers.Conv2D(4, 6, activation="softmax"), flat()],
        "convolution, batch normalization, softmax": [
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            pool(),
            layers.Activation("softmax"),
        ],
        "separable convolution": [layers.SeparableConv2D(4, 3), pool(), layers.Softmax()],
        "a map of predictions": [layers.Conv2D(4, 1, activation="softmax")],
        "a map of scores": [layers.Conv2D(4, 3, padding="same"), layers.Softmax()],
        "dense on a map": [layers.Dense(4, activation="sigmoid"), pool()],
    }


def vector_endings(layers):
    """Classifiers behind features `body` (batch, 5)."""
    return {
        "batch normalization before softmax": [layers.Dense(4), layers.BatchNormalization(), layers.Softmax()],
        "batch normalization before sigmoid": [
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("sigmoid"),
        ],
        "reshaped": [layers.Dense(4), layers.Reshape((2, 2)), layers.Softmax(), layers.Flatten()],
        "rescaled": [layers.Dense(4, activation="tanh"), layers.Rescaling(90.0)],
        "values in their units": [layers.Dense(1), layers.Normalization(mean=50.0, variance=100.0, invert=True)],
        "dropout behind": [layers.Dense(4, activation="softmax"), layers.Dropout(0.1)],
    }


def sequence_endings(layers):
    """Classifiers behind features `body` (batch, 7, 5)."""
    return {
        "time distributed": [layers.TimeDistributed(layers.Dense(4, activation="softmax"))],
        "time distributed, softmax behind": [layers.TimeDistributed(layers.Dense(4)), layers.Softmax()],
        "time distributed scores": [layers.TimeDistributed(layers.Dense(4))],
        "one-dimensional convolution": [layers.Conv1D(4, 3), layers.GlobalAveragePooling1D(), layers.Softmax()],
    }


BODIES = {
    image_endings: ((6, 6, 2), lambda layers: layers.Conv2D(5, 3, padding="same", activation="relu", name="body")),
    vector_endings: ((6,), lambda layers: layers.Dense(5, activation="relu", name="body")),
    sequence_endings: ((7, 2), lambda layers: layers.Conv1D(5, 3, padding="same", activation="relu", name="body")),
}
CASES = [(make, case) for make in BODIES for case in make(keras.layers)]


@pytest.mark.slow
@APIS
@pytest.mark.parametrize(("make", "case"), CASES, ids=[case for _, case in CASES])
def test_features_come_from_before_the_last_kernel(api, make, case):
    shape, body = BODIES[make]
    model = model_of(api, shape, [body(api.layers), *make(api.layers)[case]])
    source, left_out = features_from(model)
    assert source == "body"
    assert left_out == {layer.name for layer in model.layers[2:]}
    assert body_of(model).width == 5


def test_einsum_dense():
    layers = keras.layers
    for activation in ("softmax", None):
        last = layers.EinsumDense("bsi,io->bso", (None, 4), activation=activation)
        model = model_of(keras, (7, 2), [layers.Conv1D(5, 3, activation="relu", name="body"), last])
        assert features_from(model)[0] == "body"


def feature_endings(layers):
    return {
        "ReLU behind a dense layer": [layers.Dense(4), layers.ReLU()],
        "batch normalization": [layers.Dense(4), layers.BatchNormalization()],
        "layer normalization": [layers.Dense(4), layers.LayerNormalization()],
        "swish": [layers.Dense(4, activation="swish")],
        "an LSTM, whose tanh is its own": [layers.Reshape((1, 5)), layers.LSTM(4)],
    }


@APIS
@pytest.mark.parametrize("case", feature_endings(keras.layers))
def test_a_model_that_ends_in_features_is_used_to_its_end(api, case):
    ending = feature_endings(api.layers)[case]
    model = model_of(api, (6,), [api.layers.Dense(5, activation="relu", name="body"), *ending])
    assert features_from(model) == (ending[-1].name, set())


@APIS
def test_several_heads_share_what_is_before_them(api):
    layers = api.layers
    inputs = api.Input((6,))
    body = layers.Dense(5, activation="relu", name="body")(layers.Dense(8, activation="relu")(inputs))
    age = layers.Dense(1, name="age")(layers.Dropout(0.2)(body))
    kind = layers.Dense(3, activation="softmax", name="kind")(layers.Dropout(0.3)(body))
    other = layers.Dense(4, activation="relu", name="hidden")(body)
    far = layers.Dense(2, activation="softmax", name="far")(other)
    assert features_from(api.Model(inputs, [age, kind]))[0] == "body"
    assert features_from(api.Model(inputs, layers.Concatenate()([age, kind])))[0] == "body"
    source, left_out = features_from(api.Model(inputs, {"age": age, "far": far}))
    assert source == "body" and {"age", "hidden", "far"} <= left_out


@APIS
def test_the_user_is_asked_where_there_is_no_one_place(api):
    layers = api.layers
    inputs = api.Input((6,))
    ways = [layers.Dense(5, activation="relu", name=f"way_{number}")(inputs) for number in (1, 2)]
    outputs = [layers.Dense(3, activation="softmax", name=f"kind_{n}")(way) for n, way in enumerate(ways, 1)]
    model = api.Model(inputs, outputs, name="forked")
    with pytest.raises(ModelError, match=r"'forked' ends in several layers \('kind_1', 'kind_2'\) .* pass layer="):
        body_of(model)
    assert features_from(model, layer="way_2")[0] == "way_2"
    # An output near the start shares too little with the other.
    early = layers.Dense(5, activation="relu", name="early")(inputs)
    late = early
    for number in range(4):
        late = layers.Dense(5, activation="relu", name=f"late_{number}")(late)
    outputs = [layers.Dense(3, name=f"end_{n}", activation="softmax")(x) for n, x in enumerate((early, late))]
    with pytest.raises(ModelError, match="no one tensor near the end"):
        body_of(api.Model(inputs, outputs, name="branched"))


@APIS
def test_gated_features_are_features(api):
    """The sigmoid of a gate is not a prediction: the other way to the product is of features."""
    layers = api.layers
    inputs = api.Input((6,))
    x = layers.Dense(5, activation="relu", name="body")(inputs)
    gate = layers.Dense(5, activation="sigmoid", name="gate")(x)
    assert features_from(api.Model(inputs, layers.Multiply(name="gated")([x, gate]))) == ("gated", set())


def test_the_values_of_the_features():
    layers = keras.layers
    ending = [layers.Conv2D(3, 2), layers.GlobalMaxPooling2D(), layers.Softmax()]
    model = model_of(keras, (4, 4, 2), [layers.Conv2D(5, 3, activation="relu"), *ending])
    kernel, bias = model.layers[1].get_weights()
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).astype(np.float64)
    expected = np.maximum(np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias, 0).mean(axis=(1, 2))
    body = body_of(model)
    np.testing.assert_allclose(body.package.Model(body.inputs, body.features)(x), expected, atol=1e-5)
