"""Stages work on the kernels of Keras 3 layers that run inside the flat model."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.errors import ModelError
from tfopt.stages.kernels.table import kernels

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


@keras.saving.register_keras_serializable("carried kernels")
class Mixing(keras.layers.Layer):
    """tanh(x kernel) w, and a Dense inside: three matrices, of which `w` is not called a kernel."""

    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units, self.inner = units, keras.layers.Dense(units, name="inner")

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units))
        self.w = self.add_weight(name="w", shape=(self.units, self.units))
        self.inner.build((None, self.units))
        self.built = True

    def call(self, x):
        return self.inner(keras.ops.tanh(x @ self.kernel) @ self.w)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("carried kernels")
class Chosen(Mixing):
    def get_prunable_weights(self):
        return [self.w]


def model_with(layer):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(layer(inputs)))


@pytest.mark.parametrize(
    "layer, found", [(Mixing(), {"kernel": (6, 5), "inner_kernel": (5, 5)}), (Chosen(), {"w": (5, 5)})]
)
def test_the_kernels_are_those_that_the_class_names_else_those_called_so(layer, found):
    flat_model = bridge.to_tf_keras(model_with(layer))
    assert {kernel.name: kernel.shape for kernel in kernels(flat_model.layers[1])} == found


@pytest.mark.parametrize(
    "returned", [None, 3, ["kernel"], [np.zeros((2, 2))], "raise"], ids=["None", "number", "name", "array", "raise"]
)
def test_a_method_that_returns_no_weights_of_the_layer_is_named(returned):
    @keras.saving.register_keras_serializable("carried kernels")
    class Wrong(Mixing):
        def get_prunable_weights(self):
            if returned == "raise":
                raise ZeroDivisionError
            return returned

    with pytest.raises(ModelError, match=r"Wrong\.get_prunable_weights\(\) of layer 'odd' to return a list of weights"):
        tfopt.Prune().apply(model_with(Wrong(name="odd")), steps=4)


@pytest.mark.parametrize("stage", [tfopt.Prune(), tfopt.Cluster(), tfopt.Quantize()], ids=lambda s: type(s).__name__)
def test_kernels_of_half_precision_are_left_alone(stage):
    @keras.saving.register_keras_serializable("carried kernels")
    class Half(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 5), dtype="bfloat16")

        def call(self, x):
            return x @ keras.ops.cast(self.kernel, "float32")

    _, stripped = trained(stage, model_with(Half()))
    assert len(np.unique(np.asarray(stripped.layers[1].kernel, np.float32))) > 20


def trained(stage, model):
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, X)
    wrapped.compile("sgd", "mse")
    wrapped.fit(X, np.zeros((64, 2), "float32"), epochs=2, batch_size=32, verbose=0, callbacks=stage.callbacks())
    return wrapped, stage.strip(wrapped)


def weights_of(model):
    layer = model.layers[1]
    return [np.asarray(weight) for weight in (layer.kernel, layer.w, layer.inner.kernel)]


@pytest.mark.parametrize(
    "stage, holds",
    [
        (tfopt.Prune(final_sparsity=0.5, schedule="one-shot"), lambda w: np.mean(w == 0) >= 0.5),
        (tfopt.Cluster(number_of_clusters=4), lambda w: len(np.unique(w)) <= 4),
        (tfopt.Quantize(), lambda w: np.allclose(np.rint(steps(w)), steps(w), atol=1e-3)),
    ],
    ids=["Prune", "Cluster", "Quantize"],
)
def test_a_stage_reaches_them_through_training(stage, holds):
    model = model_with(Mixing())
    before = weights_of(model)
    wrapped, stripped = trained(stage, model)
    kernel, other, inner = weights_of(stripped)
    assert holds(kernel) and holds(inner) and not holds(other)
    assert not np.array_equal(kernel, before[0]) and not np.array_equal(other, before[1]), "both are trained"
    for weight, untouched in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(weight, untouched)
    if not isinstance(stage, tfopt.Quantize):  # which also rounds activations
        np.testing.assert_allclose(stripped.predict(X, verbose=0), wrapped.predict(X, verbose=0), atol=1e-6)


def steps(weight):
    """In int8 steps of the whole weight: what a product of tensors has in the file."""
    return weight / (np.abs(weight).max() / 127)
