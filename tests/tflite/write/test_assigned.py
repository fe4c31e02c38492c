"""Layers that assign variables in inference: they are refused, and the caller's model stays as it is."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import check, to_tf_keras
from tfopt.errors import ModelError
from tfopt.graph.variables import unchanged
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.proof import prove

X = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")


class Counter(keras.layers.Layer):
    """Multiply by the number of the call."""

    def build(self, shape):
        self.number = self.add_weight(shape=(), initializer="zeros", trainable=False, name="number")

    def call(self, x):
        self.number.assign(self.number + 1.0)
        return x * self.number


class Mean(keras.layers.Layer):
    """Subtract a running mean, in training only if `in_training`."""

    def __init__(self, in_training=False, **kwargs):
        super().__init__(**kwargs)
        self.in_training = in_training

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", name="mean")

    def call(self, x, training=False):
        if training or not self.in_training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(x, axis=0))
        return x - self.mean


class Own(tf_keras().layers.Layer):
    def build(self, shape):
        self.number = self.add_weight(shape=(), initializer="zeros", trainable=False, name="number")

    def call(self, x):
        self.number.assign_add(1.0)
        return x * self.number


class Whole(keras.Model):
    """A subclassed model with a state beside its layers."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)
        self.number = self.add_weight(shape=(), initializer="zeros", trainable=False, name="number")

    def call(self, x):
        self.number.assign(self.number + 1.0)
        return self.dense(x) * self.number


def model_with(layer, api=keras):
    return api.Sequential([api.Input((3,)), layer, api.layers.Dense(2)])


def values(model):
    return [weight.numpy().tolist() for weight in model.weights]


@pytest.mark.parametrize("export", [FLOAT, tfopt.Export()], ids=["float", "int8"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: model_with(Counter(name="state")),
        lambda: model_with(Mean(name="state")),
        lambda: model_with(Own(name="state"), tf_keras()),
    ],
    ids=["counter", "mean", "tf_keras"],
)
def test_a_layer_that_assigns_in_inference_is_refused_and_left_as_it_is(make, export):
    model = make()
    before = values(model)
    with pytest.raises(ModelError, match=r"The layer 'state' \(\w+\) assigns a variable in inference.*an input and an"):
        tfopt.export_tflite(model, None, export, representative_data=X)
    assert values(model) == before


def test_check_refuses_it_too():
    model = model_with(Counter(name="state"))
    before = values(model)
    problems = tfopt.check(model, tfopt.Recipe(stages=(tfopt.Prune(final_sparsity=0.5),))).problems
    assert "'state' (Counter) assigns a variable" in " ".join(problems)
    assert values(model) == before


def test_a_state_beside_the_layers_is_left_as_it_is():
    model = Whole()
    model(X[:2])
    assert model.number.numpy() == 1
    with pytest.raises(ModelError, match="a variable that belongs to no layer"):
        to_tf_keras(model)
    assert model.number.numpy() == 1


def test_a_layer_that_assigns_in_training_only_is_exported():
    model = model_with(Mean(in_training=True))
    lite = tfopt.export_tflite(model, None, FLOAT, representative_data=X)
    np.testing.assert_allclose(lite.predict(X), model.predict(X, verbose=0), atol=1e-5)


def test_each_run_begins_with_the_same_state():
    """Twice 1 * x; the second run would give 2 * x."""
    model = keras.Sequential([keras.Input((3,)), Counter()])
    for _ in range(2):
        np.testing.assert_allclose(check.run(model, [X])[0], X)


def test_a_file_of_another_state_is_not_excused_as_random():
    """The file computes 2 * x, the model x in its first call and 2 * x in its second: it is no random model."""
    model, other = (
        keras.Sequential([keras.Input((3,), name="x"), layer])
        for layer in (Counter(name="y"), keras.layers.Rescaling(2.0, name="y"))
    )
    lite, flat = tfopt.export_tflite(other, None, FLOAT), to_tf_keras(model)
    with pytest.raises(tfopt.PromiseError, match="does not compute what the model"):
        prove(model, flat, lite, lite, FLOAT, X)


def test_a_layer_behind_a_batch_normalization_in_training_is_not_blamed():
    layers = tf_keras().layers
    source = tf_keras().Input((6, 6, 3))
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3)(source), training=True)
    model = tf_keras().Model(source, layers.Lambda(lambda v: v * 2.0, name="harmless")(x))
    with pytest.raises(ModelError, match="bn is called with training=True"):
        tfopt.export_tflite(model, None, FLOAT)


def test_assignments_inside_branches_may_be_of_any_layer():
    import tensorflow as tf

    number = tf.Variable(0.0)

    def counting(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x + number.assign_add(1.0), lambda: x)

    layers = tf_keras().layers
    ends = [layers.Lambda(counting, name="counting"), layers.Lambda(lambda v: v * 2.0, name="harmless")]
    model = tf_keras().Sequential([tf_keras().Input((3,)), *ends])
    with pytest.raises(ModelError, match=r"in one of the layers 'counting' \(Lambda\), 'harmless' \(Lambda\) assigns"):
        tfopt.export_tflite(model, None, FLOAT)


def test_only_changed_variables_are_assigned():
    layer = Counter()
    layer.build((3,))
    assigned = []
    number, layer.number.assign = layer.number, lambda value: assigned.append(float(value))
    for value in (0.0, np.nan, 2.0):
        type(number).assign(number, value)
        with unchanged(layer):
            pass
        with unchanged(layer):
            type(number).assign(number, 5.0)
    np.testing.assert_equal(assigned, [0.0, np.nan, 2.0])
