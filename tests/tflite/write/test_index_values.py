"""Numbers of words or categories that a model computes before it looks them up stay exact in integer files."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import Export
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.tflite.read.flatbuffer import has_operator

L, ops = keras.layers, keras.ops
ROWS, OFFSETS = 2000, np.array([0, 1000], "float32")  # two fields that share a table, as in a factorization machine
INT16, INT4 = Export(activations="int16"), Export(weights="int4")


class Table(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = L.Embedding(ROWS, 4)

    def build(self, shape):
        self.table.build(shape)

    def call(self, numbers):
        return self.table(numbers)


FORMS = {
    "an offset": lambda numbers: L.Embedding(ROWS, 4, name="table")(numbers + OFFSETS),
    "a Lambda": lambda numbers: L.Embedding(ROWS, 4, name="table")(L.Lambda(lambda values: values + OFFSETS)(numbers)),
    "an own layer": lambda numbers: Table(name="table")(numbers),
}
OFFSET_OF = {"an offset": OFFSETS, "a Lambda": OFFSETS, "an own layer": 0 * OFFSETS}


def model_of(form, one_input=False):
    """Return a model whose output is mostly a number, and its rows, which tell the words apart."""
    numbers, value = keras.Input((3 if one_input else 2,), name="numbers"), keras.Input((1,), name="value")
    words = ops.cast(numbers[:, :2], "int32") if one_input else numbers
    found = L.Flatten()(FORMS[form](words) if not one_input else L.Embedding(ROWS, 4, name="table")(words))
    scaled = L.Dense(8, use_bias=False, kernel_initializer=keras.initializers.Constant(0.12))(
        numbers[:, 2:] if one_input else value
    )
    outputs = L.Dense(1, kernel_initializer="ones")(L.concatenate([found, scaled]))
    model = keras.Model(numbers if one_input else [numbers, value], outputs)
    rows = np.random.default_rng(1).normal(size=(ROWS, 4)) * 0.05
    model.get_layer("table").set_weights([rows])
    return model, rows


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1000, (count, 2)).astype("float32"), rng.normal(size=(count, 1)).astype("float32")


def correlation(lite, rows, offsets, one_input=False):
    """Return how the output follows the rows of the words where the number, which hides errors, is 0."""
    numbers, value = drawn(300, 5)
    wanted = rows[(numbers + offsets).astype(int)].sum(axis=(1, 2))
    x = np.concatenate([numbers, 0 * value], axis=1) if one_input else {"numbers": numbers, "value": 0 * value}
    return np.corrcoef(wanted, lite.predict(x)[:, 0])[0, 1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("export", [Export(), INT16, INT4], ids=["int8", "int16", "int4"])
def test_they_find_their_rows(form, export):
    model, rows = model_of(form)
    lite = tfopt.export_tflite(model, None, export, representative_data=list(drawn(400, 0)))
    assert correlation(lite, rows, OFFSET_OF[form]) > 0.99  # 0.1 to 0.5 as int8 or int16
    assert any("become indices" in note or "CAST" in note for note in lite.notes)


@pytest.mark.parametrize("export", [Export(), INT16], ids=["int8", "int16"])
def test_an_input_may_hold_indices_and_numbers(export):
    model, rows = model_of("an offset", one_input=True)
    lite = tfopt.export_tflite(model, None, export, representative_data=np.concatenate(drawn(400, 0), axis=1))
    assert correlation(lite, rows, 0, one_input=True) > 0.99


@pytest.mark.parametrize("form", FORMS)
def test_trained_for_int8_they_find_their_rows(form):
    model, rows = model_of(form)
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, list(drawn(400, 0)))
    lite = tfopt.export_tflite(wrapped, None, Export())
    assert correlation(lite, rows, OFFSET_OF[form]) > 0.99


def test_an_integer_input_would_round_them():
    model, _ = model_of("an offset")
    with pytest.raises(ModelError, match=r"values of numbers become indices .* int8 would round them.*dtype=\"int32\""):
        tfopt.export_tflite(model, None, Export(io="int8"), representative_data=list(drawn(400, 0)))


def test_a_sum_of_integers_with_a_vector():
    numbers = keras.Input((2,), dtype="int32")
    model = keras.Model(numbers, L.Embedding(ROWS, 4)(numbers + OFFSETS.astype("int32")))
    lite = tfopt.export_tflite(model, None, Export(weights="float32", activations="float32"))
    x = drawn(20, 0)[0].astype("int32")
    np.testing.assert_allclose(lite.predict(x), model.get_weights()[0][x + OFFSETS.astype(int)], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_made_up_inputs_stay_inside_the_table(dtype):
    """Fields with 50 and 30 categories, and categories that begin at 1: most random numbers have no row."""
    numbers = keras.Input((2,), dtype=dtype)
    first = L.Embedding(80, 4)(numbers + np.array([0, 50], dtype))
    second = L.Embedding(30, 4)(L.Lambda(lambda values: values - 1)(numbers))
    model = keras.Model(numbers, L.Dense(2)(L.Flatten()(first + second)))
    tfopt.export_tflite(model, None, Export(weights="float32", activations="float32"))


class Masking(L.Layer):
    """The embedding of TensorFlow's tutorials, which gives the mask itself."""

    def __init__(self):
        super().__init__()
        self.table = L.Embedding(80, 16, mask_zero=True)

    def compute_mask(self, inputs, previous=None):
        return self.table.compute_mask(inputs)

    def call(self, numbers):
        return self.table(numbers)


class Attending(L.Layer):
    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 8)

    def call(self, values):
        return values + self.attention(query=values, key=values, value=values)


def test_a_mask_of_an_own_layer():
    numbers = keras.Input((12,))
    model = keras.Model(numbers, L.Dense(3)(Attending()(Masking()(numbers))))
    x = np.random.default_rng(0).integers(0, 80, (200, 12)).astype("float32")
    lite = tfopt.export_tflite(model, None, Export(), representative_data=x)
    wanted = model.predict(x, verbose=0)
    assert np.mean((lite.predict(x) - wanted) ** 2) < 5e-3 * wanted.var()


def test_a_cut_off_float_that_is_no_index_stays_int8():
    """No CAST to integers: nothing is kept in float."""
    layers = tf_keras().layers
    inputs = tf_keras().Input((6,))
    model = tf_keras().Model(inputs, layers.Dense(3)(tf_keras().layers.ReLU()(inputs + 2.0)))
    x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    assert not tfopt.export_tflite(model, None, Export(), representative_data=x).float_tensors()


def test_operators_are_known_without_unpacking():
    model = keras.Sequential([keras.Input((4,)), L.Dense(2), L.ReLU(negative_slope=0.1)])
    data = tfopt.export_tflite(model, None, Export(weights="float32", activations="float32")).data
    found = {name for name in ("FULLY_CONNECTED", "LEAKY_RELU", "CAST", "ADD") if has_operator(data, name)}
    assert found == {op.name for op in tfopt.LiteModel(data).ops()} == {"FULLY_CONNECTED", "LEAKY_RELU"}
    with pytest.raises(ModelError, match="damaged"):
        has_operator(data[:40], "CAST")
