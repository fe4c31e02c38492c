"""What a trained layer computes inside is float in Keras; int8 files keep it in float where int8 loses too much."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfopt
from tfopt.tflite.prove.types import float_operators

RNG = np.random.default_rng(0)
GRID = np.linspace(0, 1, 256).astype("float32")


@keras.saving.register_keras_serializable("test_float_insides")
class TwoConstants(L.Layer):
    """x A B for constants A and B: the converter hands integers to the first product, whose weights are float."""

    A, B = (RNG.normal(size=size).astype("float32") for size in ((10, 12), (12, 6)))

    def call(self, x):
        return x @ ops.convert_to_tensor(self.A) @ ops.convert_to_tensor(self.B)


@keras.saving.register_keras_serializable("test_float_insides")
class SoftArgmax(L.Layer):
    """The mean place of a heat map over 256 places: most of its probabilities are below half a step of 1/256."""

    def call(self, x):
        return ops.sum(ops.softmax(x, axis=-1) * GRID, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("test_float_insides")
class Nearest(L.Layer):
    """The nearest of 16 codes, by squared distances, which int8 mixes up."""

    CODES = RNG.normal(size=(16, 4)).astype("float32")

    def call(self, x):
        distances = ops.sum(x * x, -1, keepdims=True) - 2 * ops.matmul(x, self.CODES.T) + (self.CODES**2).sum(-1)
        return ops.take(self.CODES, ops.argmin(distances, axis=-1), axis=0)


@keras.saving.register_keras_serializable("test_float_insides")
class OneOfTwo(L.Layer):
    """A mixture of experts: the better two of four by their gates."""

    KERNEL = RNG.normal(size=(8, 4)).astype("float32")

    def call(self, x):
        gates, which = ops.top_k(ops.matmul(x, self.KERNEL), 2)
        return ops.sum(ops.one_hot(which, 4) * ops.softmax(gates)[..., None], axis=-2)


def trained(model, x):
    """Return the model with the ranges of x, as before its first step of training."""
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, x)
    return wrapped


def noise(wanted, got):
    return np.mean((wanted - got) ** 2) / np.var(wanted)


def exported(model, x, limit=0.01):
    wrapped = trained(model, x)
    lite = tfopt.export_tflite(wrapped, representative_data=x)
    assert noise(np.asarray(wrapped(x, training=False)), lite.predict(x)) < limit
    return lite


def in_float(lite):
    return {op.name for op in float_operators(lite)}


def two_products():
    inputs = keras.Input((5, 16))
    products = TwoConstants(name="two")(L.Dense(10, activation="relu")(inputs))
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling1D()(products)))


STEPS = RNG.normal(size=(96, 5, 16)).astype("float32")


def test_two_products_with_constants():
    lite = exported(two_products(), STEPS)
    assert any("left in float: two (" in note for note in lite.notes), lite.notes
    assert in_float(lite) == {"FULLY_CONNECTED"}


def test_two_products_in_a_check():
    found = tfopt.check(two_products(), tfopt.Quantize())
    assert found.ok, found.problems


def test_a_softmax_over_many_places():
    inputs = keras.Input((16,))
    kernel = keras.initializers.RandomNormal(stddev=0.5, seed=0)
    model = keras.Model(inputs, SoftArgmax(name="mean")(L.Dense(256, kernel_initializer=kernel)(inputs)))
    lite = exported(model, RNG.normal(size=(96, 16)).astype("float32"))
    assert any("left in float: mean (" in note for note in lite.notes), lite.notes
    assert "SOFTMAX" in in_float(lite)
    assert "FULLY_CONNECTED" not in in_float(lite)


@pytest.mark.parametrize("io", [None, "float32"])
def test_an_output_of_many_classes(io):
    """Each of 600 probabilities is about 1/600: with steps of 1/256 all are 0."""
    kernel = keras.initializers.RandomNormal(stddev=0.05, seed=0)
    model = keras.Sequential([keras.Input((16,)), L.Dense(600, activation="softmax", kernel_initializer=kernel)])
    x = RNG.normal(size=(96, 16)).astype("float32")
    wrapped = trained(model, x)
    lite = tfopt.export_tflite(wrapped, None, tfopt.Export(io=io), representative_data=x)
    assert noise(np.asarray(wrapped(x, training=False)), lite.predict(x)) < 0.01
    assert in_float(lite) == {"SOFTMAX"}
    assert [op.name for op in lite.ops()].count("CAST") == 0


def test_the_nearest_code():
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, Nearest(name="codes")(L.Conv2D(4, 1)(inputs)))
    x = RNG.normal(size=(96, 6, 6, 3)).astype("float32")
    wrapped = trained(model, x)
    lite = tfopt.export_tflite(wrapped, representative_data=x)
    wanted, got = np.asarray(wrapped(x, training=False)), lite.predict(x)
    assert np.mean(np.abs(wanted - got).max(-1) < 0.05) > 0.99
    assert "ARG_MIN" in in_float(lite)


def test_a_mixture_of_experts():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(OneOfTwo(name="gates")(L.Dense(8, activation="relu")(inputs))))
    lite = exported(model, RNG.normal(size=(96, 8)).astype("float32"))
    # 0 and 1 as integers of its scale: the converter's 0 would be 0.5.
    assert "ONE_HOT" in {op.name for op in lite.ops()}


def test_only_the_layer_that_needs_it():
    inputs = keras.Input((16,))
    gate = L.Dense(16, activation="sigmoid", name="gate")(inputs)
    kernel = keras.initializers.RandomNormal(stddev=0.5, seed=0)
    heat = L.Dense(256, kernel_initializer=kernel)(L.Multiply(name="product")([gate, inputs]))
    lite = exported(keras.Model(inputs, SoftArgmax(name="mean")(heat)), RNG.normal(size=(96, 16)).astype("float32"))
    assert any("left in float: mean (" in note for note in lite.notes), lite.notes
    assert not any("gate" in note or "product" in note for note in lite.notes)


def test_without_mixed_it_is_an_error():
    with pytest.raises(tfopt.TfoptError):
        tfopt.export_tflite(trained(two_products(), STEPS), None, tfopt.Export(mixed=False), representative_data=STEPS)


@keras.saving.register_keras_serializable("test_float_insides")
class Local(L.Layer):
    """A kernel for each of 4 places, (place, in, out): the file has it as it is, output channels last."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 3, 5), name="kernel")
        self.built = True

    def call(self, x):
        return ops.einsum("bpi,pio->bpo", x, self.kernel)


def test_a_kernel_for_each_place_keeps_its_clusters():
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, L.ReLU()(Local(name="local")(inputs)))
    x = RNG.normal(size=(96, 4, 3)).astype("float32")
    cluster = tfopt.Cluster(number_of_clusters=6)
    clustered = cluster.strip(cluster.apply(model, steps=4))
    stage = tfopt.Quantize()
    wrapped = stage.apply(clustered, steps=4, keep=frozenset({"clusters"}))
    stage.calibrate(wrapped, x)
    lite = tfopt.export_tflite(wrapped, representative_data=x)
    (kernel,) = (weight for weight in lite.weights() if weight.values.size == 60)
    assert len(np.unique(kernel.values)) <= 6
    assert noise(np.asarray(wrapped(x, training=False)), lite.predict(x)) < 0.01


def test_numbers_that_are_sorted_into_bins():
    """Years as floats stay floats: as indices, 39.7 would become 39, and so another bin."""
    years, kind = keras.Input((1,), name="years"), keras.Input((1,), dtype="int32", name="kind")
    bins = L.CategoryEncoding(3, output_mode="one_hot")(L.Discretization([20.0, 39.5])(years))
    kinds = L.IntegerLookup(vocabulary=[3, 5], output_mode="one_hot")(kind)
    scaled = L.Normalization(mean=[40.0], variance=[400.0])(years)
    model = keras.Model([years, kind], L.Dense(3)(L.Concatenate()([bins, kinds, scaled])))
    x = {
        "years": np.append(RNG.uniform(5, 80, 94), [39.4, 39.7]).astype("float32")[:, None],
        "kind": RNG.choice([3, 5, 7], (96, 1)).astype("int32"),
    }
    wanted = np.asarray(model(x))  # by Keras 3, not rounded
    wrapped = trained(model, x)
    assert noise(wanted, np.asarray(wrapped(x, training=False))) < 0.001
    assert noise(wanted, tfopt.export_tflite(wrapped, representative_data=x).predict(x)) < 0.01
    lite = tfopt.export_tflite(model, None, tfopt.Export(activations="int16"), representative_data=x)
    assert noise(wanted, lite.predict(x)) < 0.001
