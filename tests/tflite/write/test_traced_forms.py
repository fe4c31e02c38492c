"""Operations without a good int8 operator. Expected values are their formulas, in float64."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import PromiseError
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.traced_forms import FORMS, LACKING, supported_forms

# From -8 to 8: exp of the largest is 2981, of whose 256 steps one is 12.
X = np.random.default_rng(0).uniform(-8, 8, (64, 12)).astype("float32")
WIDE = X.astype(np.float64)
BELOW, ABOVE = np.minimum(WIDE, 0), np.maximum(WIDE, 0)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
FORMULAS = {
    "elu": ABOVE + np.exp(BELOW) - 1,
    "selu": SELU_SCALE * (ABOVE + SELU_ALPHA * (np.exp(BELOW) - 1)),
    "softplus": np.log1p(np.exp(WIDE)),
    "celu": ABOVE + np.exp(BELOW) - 1,
    "log_sigmoid": -np.log1p(np.exp(-WIDE)),
    "soft_shrink": np.sign(WIDE) * np.maximum(np.abs(WIDE) - 0.5, 0),
    "mish": WIDE * np.tanh(np.log1p(np.exp(WIDE))),
    "gelu": WIDE * np.vectorize(math.erfc)(-WIDE / math.sqrt(2)) / 2,
}
IN_BOTH = ("elu", "selu", "softplus", "gelu")
CASES = [(keras, name) for name in FORMULAS] + [(tf_keras(), name) for name in IN_BOTH]


@pytest.mark.parametrize(("api", "name"), CASES)
def test_activations_in_int8_keep_small_values(api, name):
    inputs = api.Input((12,))
    lite = tfopt.export_tflite(api.Model(inputs, api.layers.Activation(name)(inputs)), representative_data=X)
    assert not lite.float_tensors()
    error = lite.predict(X) - FORMULAS[name]
    # Rounding three or four times in 256 steps over a range of 8 to 22; exp(x) over its own range errs by 6.
    assert np.abs(error).max() < 0.2
    assert np.mean(error**2) / np.var(FORMULAS[name]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN])
def test_cells_compute_with_the_same_forms(kind):
    data = np.random.default_rng(0).normal(size=(48, 4, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 3)), kind(4, activation="elu")])
    lite = tfopt.export_tflite(model, representative_data=data)
    wanted = model.predict(data, verbose=0)
    assert not lite.float_tensors()
    assert np.mean((lite.predict(data) - wanted) ** 2) / np.var(wanted) < 4e-3


def test_a_sign_by_hand_and_an_activation_inside_a_layer():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    hidden = keras.layers.Dense(8, activation="elu")(-inputs)
    model = keras.Model(inputs, keras.layers.ELU(alpha=0.7)(hidden))
    lite = tfopt.export_tflite(model, representative_data=X)
    kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    inner = -WIDE @ kernel + bias
    inner = np.maximum(inner, 0) + np.exp(np.minimum(inner, 0)) - 1
    wanted = np.maximum(inner, 0) + 0.7 * (np.exp(np.minimum(inner, 0)) - 1)
    assert not lite.float_tensors()
    assert np.mean((lite.predict(X) - wanted) ** 2) / np.var(wanted) < 1e-3


def test_float_files_and_integers_keep_the_operations():
    model = keras.Sequential([keras.Input((12,)), keras.layers.Activation("elu")])
    assert [op.name for op in tfopt.export_tflite(model, export=FLOAT).ops()] == ["ELU"]

    @tf.function
    def both(x, n):
        return tf.nn.elu(x), -n, tf.nn.softplus(x)

    with supported_forms(integers=True):
        graph = both.get_concrete_function(tf.TensorSpec((3,), tf.float32), tf.TensorSpec((3,), tf.int32)).graph
    kinds = [op.type for op in graph.get_operations()]
    assert kinds.count("Neg") == 1
    assert not set(kinds) & set(FORMS)
    x, n = np.array([-30.0, 0, 30], "float32"), np.array([-2, 0, 2], "int32")
    for got, wanted in zip(both(x, n), ([-1, 0, 30], -n, [0, np.log(2), 30]), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def names(lite):
    return [op.name for op in lite.ops()]


UNIT = np.random.default_rng(1).uniform(-0.95, 0.95, (64, 12)).astype("float32")
LACKED = {
    "arccos": np.arccos, "arcsin": np.arcsin, "arctan": np.arctan, "cosh": np.cosh, "sinh": np.sinh, "tan": np.tan,
    "erf": np.vectorize(math.erf),
}  # fmt: skip


@pytest.mark.parametrize("name", LACKED)
def test_what_litert_has_no_operator_for(name):
    inputs = keras.Input((12,))
    model = keras.Model(inputs, 2 * getattr(keras.ops, name)(inputs))
    want = 2 * LACKED[name](UNIT.astype(np.float64))
    np.testing.assert_allclose(tfopt.export_tflite(model, export=FLOAT).predict(UNIT), want, atol=2e-6)
    lite = tfopt.export_tflite(model, representative_data=UNIT)
    assert np.mean((lite.predict(UNIT) - want) ** 2) < 1e-2 * np.var(want)


def test_each_lacking_operation_is_tried():
    in_tensorflow = {"arccos": "Acos", "arcsin": "Asin", "arctan": "Atan"}
    tried = {in_tensorflow.get(name, name.capitalize()) for name in LACKED}
    assert tried == LACKING.keys() - {"SelectV2"}, "that one is of argmax"


def test_missing_values_of_an_input_are_not_forgotten():
    """Integers are never NaN, but a float input is; the operator has no int8 form."""
    keras.utils.set_random_seed(0)
    filled = keras.layers.Lambda(
        lambda v: tf.where(tf.math.is_nan(v), tf.fill(tf.shape(v), 2.0), v), output_shape=(12,)
    )
    model = keras.Sequential([keras.Input((12,)), filled, keras.layers.Dense(3)])
    with pytest.raises(PromiseError, match="NOT_EQUAL"):
        tfopt.export_tflite(model, None, tfopt.Export(io="float32"), representative_data=X)
    x = X[:4].copy()
    x[:, 0] = np.nan
    lite = tfopt.export_tflite(model, None, FLOAT)
    wanted = np.where(np.isnan(x), 2.0, x) @ np.asarray(model.layers[1].kernel, np.float64)
    np.testing.assert_allclose(lite.predict(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_values_that_are_compared_with_themselves(io):
    """That looks for NaN as well; the operator has an int8 form, in which nothing is NaN."""
    filled = keras.layers.Lambda(lambda v: tf.where(v == v, v, tf.fill(tf.shape(v), 2.0)), output_shape=(12,))
    model = keras.Sequential([keras.Input((12,)), filled, keras.layers.Dense(3)])
    settings = tfopt.Export(io=io)
    if io == "float32":
        with pytest.raises(PromiseError, match=r"compares values with themselves to find NaN.*Fill missing values"):
            tfopt.export_tflite(model, None, settings, representative_data=X)
    else:
        lite = tfopt.export_tflite(model, None, settings, representative_data=X)
        assert any("find NaN: integers never are" in note for note in lite.notes)


def test_values_that_are_compared_with_others():
    """No NaN is looked for."""
    compared = keras.layers.Lambda(lambda v: tf.where(v[:, :6] == v[:, 6:], v[:, :6], v[:, 6:]), output_shape=(6,))
    model = keras.Sequential([keras.Input((12,)), compared, keras.layers.Dense(3)])
    lite = tfopt.export_tflite(model, None, tfopt.Export(io="float32"), representative_data=X)
    assert not any("NaN" in note for note in lite.notes)


def test_a_mask_with_the_smallest_float_stays():
    least = -float(np.finfo(np.float32).tiny)
    masked = keras.layers.Lambda(lambda v: tf.where(v > 5.0, least, v), output_shape=(12,))
    lite = tfopt.export_tflite(keras.Sequential([keras.Input((12,)), masked]), None, FLOAT)
    np.testing.assert_allclose(lite.predict(X), np.where(X > 5, 0, X), atol=1e-30)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_places_of_extremes_in_one_operator(name):
    inputs = keras.Input((12,))
    model = keras.Model(inputs, getattr(keras.ops, name)(inputs, axis=-1))
    want = getattr(np, name)(X, axis=-1)
    lite = tfopt.export_tflite(model, export=FLOAT)
    assert names(lite) == [{"argmax": "ARG_MAX", "argmin": "ARG_MIN"}[name]]
    np.testing.assert_array_equal(lite.predict(X), want)
    assert np.mean(tfopt.export_tflite(model, representative_data=X).predict(X) == want) > 0.9


def test_a_choice_of_other_numbers_stays():
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.ops.where(inputs > 0, -1e-30, inputs))
    got = tfopt.export_tflite(model, export=FLOAT).predict(X)
    np.testing.assert_array_equal(got, np.where(X > 0, np.float32(-1e-30), X))


@pytest.mark.parametrize(("exponent", "operators"), [(3, 2), (4, 2)])
@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_small_powers_are_products(exponent, operators, activations):
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.ops.power(inputs, exponent))
    settings = tfopt.Export(activations=activations)
    lite = tfopt.export_tflite(model, None, settings, representative_data=UNIT)
    assert names(lite) == ["MUL"] * operators
    want = UNIT.astype(np.float64) ** exponent
    assert np.mean((lite.predict(UNIT) - want) ** 2) < {"int8": 5e-3, "int16": 1e-6}[activations] * np.var(want)


def test_integers_are_never_nan():
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.ops.logaddexp(inputs, 2 * inputs))
    lite = tfopt.export_tflite(model, representative_data=X)
    assert not lite.float_tensors() and not {"SELECT_V2", "NOT_EQUAL"} & set(names(lite))
    want = np.logaddexp(WIDE, 2 * WIDE)
    assert np.mean((lite.predict(X) - want) ** 2) < 1e-2 * np.var(want)


@pytest.mark.parametrize(("without", "kept"), [((), False), (("FFT",), True)])
def test_a_fourier_transform_may_stay_too(without, kept):
    def transformed(x):
        return tf.signal.fft(tf.complex(x, x))

    with supported_forms(integers=False, without=without):
        graph = tf.function(transformed).get_concrete_function(tf.TensorSpec((1, 8))).graph
    assert ("FFT" in {op.type for op in graph.get_operations()}) == kept
