"""Keras 3 layers without a twin, run inside tf_keras: weights, training, losses, random numbers, masks, files."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError


@pytest.fixture(scope="module")
def custom():
    """Custom Keras 3 layers, by name."""
    import keras

    @keras.saving.register_keras_serializable("carried")
    class Statistics(keras.layers.Layer):
        """Count training calls, add a loss, contain a layer: y = (x + shift) * Dense(x)."""

        def __init__(self, units=3, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.inner = keras.layers.Dense(units, name="inner", kernel_regularizer=keras.regularizers.L2(0.1))
            self.drop = keras.layers.Dropout(0.5)

        def build(self, shape):
            self.shift = self.add_weight(shape=(self.units,), name="shift", constraint="non_neg")
            self.calls = self.add_weight(shape=(), name="calls", trainable=False, initializer="zeros")
            self.inner.build(shape)
            super().build(shape)

        def call(self, x, training=False):
            if training:
                self.calls.assign(self.calls + 1)
            self.add_loss(keras.ops.mean(x))
            return self.inner(x) + self.shift

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    class Noise(keras.layers.Layer):
        """Dropout inside a layer whose own call has no training argument."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.drop = keras.layers.Dropout(0.5)

        def call(self, x):
            return self.drop(x)

    class Sampled(keras.layers.Layer):
        """Random in inference as well, from Keras's global seed."""

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x))

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return x * 2

    return {cls.__name__: cls for cls in (Statistics, Noise, Sampled, Doubled)}


def sequential(*layers, shape=(3,)):
    import keras

    return keras.Sequential([keras.Input(shape), *layers])


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_weights_there_and_back(custom):
    model = sequential(custom["Statistics"](name="own"))
    model.set_weights([values(*w.shape, seed=5) for w in model.get_weights()])
    flat = bridge.to_tf_keras(model)
    twin = flat.get_layer("own")
    assert [tuple(w.shape) for w in twin.carried_weights] == [tuple(w.shape) for w in model.layers[0].weights]
    names = [w.name.partition(":")[0] for w in twin.trainable_weights]
    assert names == ["own/shift", "own/inner/kernel", "own/inner/bias"]
    flat.set_weights([w + 1 for w in flat.get_weights()])
    back = bridge.to_keras(flat, model)
    for ours, theirs in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs + 1)


def test_training_updates_state_and_leaves_the_callers_layer_alone(custom):
    model = sequential(custom["Statistics"](name="own"))
    before = [w.copy() for w in model.get_weights()]
    flat = bridge.to_tf_keras(model)
    flat.compile("sgd", "mse")
    flat.fit(values(8, 3), values(8, 3), batch_size=4, epochs=2, verbose=0)
    calls = next(w for w in flat.get_layer("own").weights if "calls" in w.name)
    assert float(calls) == 4
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    shift = next(w for w in flat.get_layer("own").weights if "shift" in w.name)
    assert float(shift.numpy().min()) >= 0  # the Keras 3 constraint holds


def test_losses_are_neither_lost_nor_doubled(custom):
    model = sequential(custom["Statistics"](activity_regularizer="l2", name="own"))
    kernel = np.arange(9, dtype="float32").reshape(3, 3) / 10
    model.get_layer("own").inner.set_weights([kernel, np.zeros(3, "float32")])
    x = values(4, 3)
    flat = bridge.to_tf_keras(model)
    output = flat(x, training=True).numpy()
    expected = sorted([0.1 * (kernel**2).sum(), x.mean(), 0.01 * (output**2).sum() / 4])
    np.testing.assert_allclose(sorted(float(loss) for loss in flat.losses), expected, rtol=1e-5)
    model(x, training=True)
    np.testing.assert_allclose(sorted(float(loss) for loss in model.losses), expected, rtol=1e-5)


def test_dropout_inside_is_new_in_every_call_and_silent_in_inference(custom):
    import tensorflow as tf

    flat = bridge.to_tf_keras(sequential(custom["Noise"](), shape=(400,)))
    ones = np.ones((1, 400), "float32")
    np.testing.assert_array_equal(flat(ones), ones)
    step = tf.function(lambda x: flat(x, training=True))
    first, second = step(ones).numpy(), step(ones).numpy()
    assert 100 < np.count_nonzero(first == 0) < 300
    assert (first != second).any()


def test_a_layer_that_is_random_in_inference_passes_the_check(custom):
    import keras

    model = sequential(custom["Sampled"](), keras.layers.Dense(2))
    flat = bridge.to_tf_keras(model)
    x = np.zeros((1, 3), "float32")
    assert (flat.predict(x, verbose=0) != flat.predict(x, verbose=0)).any()
    bridge.to_keras(flat, model)


def test_masks_go_through(custom):
    import keras

    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
    own = custom["Doubled"]()
    own.supports_masking = True
    drops = custom["Doubled"]()
    model = keras.Model(inputs, [keras.layers.LSTM(3)(own(x)), keras.layers.LSTM(3)(drops(x))])
    flat = bridge.to_tf_keras(model)
    words = np.array([[1, 2, 0, 0, 0, 0], [4, 3, 2, 1, 4, 3]], "int32")
    for ours, theirs in zip(flat(words), model(words), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    kept, dropped = (np.asarray(a)[0] - np.asarray(b)[0] for a, b in zip(flat(words), flat(words[:, :2]), strict=True))
    np.testing.assert_allclose(kept, 0, atol=1e-6)  # the padding is ignored
    assert np.abs(dropped).max() > 1e-4


def test_several_inputs_outputs_and_ways_to_call():
    import keras

    a, b = keras.Input((5, 8), name="a"), keras.Input((7, 8), name="b")
    attend = keras.layers.GroupQueryAttention(4, 4, 2)
    model = keras.Model([a, b], [attend(a, b), attend(a, b, use_causal_mask=True), attend(b, value=a)])
    flat = bridge.to_tf_keras(model)
    assert len([layer for layer in flat.layers if bridge.plans.is_carried(layer)]) == 1
    x = [values(2, 5, 8), values(2, 7, 8, seed=1)]
    for twin in (flat, bridge.clone(flat)):
        for ours, theirs in zip(twin(x), model(x), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(flat(x)[0] - flat(x)[1]).max() > 1e-3


def test_copies_of_configs_find_the_same_object(custom):
    flat = bridge.to_tf_keras(sequential(custom["Doubled"](name="own")))
    layer = flat.get_layer("own")
    for config in (copy.deepcopy(layer.get_config()), json.loads(json.dumps(layer.get_config()))):
        assert type(layer).from_config(config).operation is layer.operation
    again = keras_compat.tf_keras().models.clone_model(flat)
    np.testing.assert_array_equal(again(values(2, 3)), 2 * values(2, 3))


def test_inside_wrappers_of_tfmot(custom):
    tfmot, tf_keras = keras_compat.tfmot(), keras_compat.tf_keras()
    quantization = tfmot.quantization.keras
    wrapper = keras_compat.tfmot_module("quantization.keras.quantize_wrapper").QuantizeWrapperV2
    config = keras_compat.tfmot_module("quantization.keras.default_8bit.default_8bit_quantize_configs")
    flat = bridge.to_tf_keras(sequential(custom["Statistics"](name="own")))
    x = values(2, 3)
    expected = flat(x).numpy()
    with quantization.quantize_scope():
        wrapped = tf_keras.models.clone_model(
            flat,
            clone_function=lambda layer: wrapper(
                type(layer).from_config(layer.get_config()), config.NoOpQuantizeConfig()
            )
            if layer.name == "own"
            else layer,
        )
        again = tf_keras.models.clone_model(wrapped)
    for model in (wrapped, again):
        inside = model.layers[-1].layer
        for target, source in zip(inside.carried_weights, flat.get_layer("own").carried_weights, strict=True):
            target.assign(source)
        np.testing.assert_allclose(model(x), expected, atol=1e-6)


def test_converts_to_tflite(custom):
    import keras
    import tensorflow as tf

    from tfopt.tflite.read import LiteModel

    inputs = keras.Input((6, 6, 3))
    x = custom["Statistics"]()(keras.layers.RMSNormalization()(inputs))
    model = keras.Model(inputs, keras.ops.mean(keras.ops.abs(x)[:, ::2], (1, 2)))
    content = tf.lite.TFLiteConverter.from_keras_model(bridge.to_tf_keras(model)).convert()
    x = values(1, 6, 6, 3)
    np.testing.assert_allclose(LiteModel(content).predict(x), model(x), atol=1e-5)


@pytest.mark.slow
def test_saved_and_loaded_in_another_process(custom, tmp_path):
    import keras

    layers = [keras.layers.RMSNormalization(), keras.layers.Dense(2)]
    inputs = keras.Input((4,))
    x = layers[1](layers[0](inputs))
    x = keras.ops.where(x > 0.1, x, np.array([3.0, 5.0], "float32"))
    flat = bridge.to_tf_keras(keras.Model(inputs, x[:, ::-1]))
    flat.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", values(5, 4))
    np.save(tmp_path / "y.npy", flat(values(5, 4)))
    program = (
        "import numpy as np\nfrom tfopt import bridge\nfrom tfopt.base import keras_compat\nbridge.register_classes()\n"
        f"model = keras_compat.tf_keras().models.load_model(r'{tmp_path}/m.keras')\n"
        f"np.testing.assert_allclose(model(np.load(r'{tmp_path}/x.npy')), np.load(r'{tmp_path}/y.npy'), atol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_layer_that_no_config_can_rebuild_says_so():
    import keras

    class Local(keras.layers.Layer):
        def __init__(self, function):
            super().__init__(name="local")
            self.function = function

        def call(self, x):
            return self.function(x)

        def get_config(self):
            raise NotImplementedError("not this one")

    model = sequential(Local(lambda x: x + 1))
    flat = bridge.to_tf_keras(model)
    np.testing.assert_array_equal(bridge.clone(flat)(values(2, 3)), values(2, 3) + 1)
    config = flat.get_layer("local").get_config()
    del model, flat
    config["held"]["key"] = "of another process"
    with pytest.raises(ModelError, match="'local' is a Keras 3 layer that cannot be rebuilt"):
        bridge.carried.carried_class().from_config(config)


def test_lambdas_of_a_live_model_are_carried_and_come_back():
    import keras

    model = sequential(keras.layers.Lambda(lambda x: x**2, name="square"), keras.layers.Dense(2))
    flat = bridge.to_tf_keras(model)
    back = bridge.to_keras(flat, model)
    np.testing.assert_allclose(back(values(2, 3)), model(values(2, 3)), atol=1e-6)


def test_arguments_without_an_equal_are_carried():
    import keras

    for layer, shape in (
        (keras.layers.BatchNormalization(renorm=True, name="x"), (3,)),
        (keras.layers.Resizing(4, 4, antialias=True, name="x"), (9, 9, 3)),
        (keras.layers.Dense(2, activation=lambda t: t * 3, name="x"), (3,)),
        (keras.layers.Dense(2, kernel_regularizer=lambda w: keras.ops.sum(w**4), name="x"), (3,)),
    ):
        flat = bridge.to_tf_keras(sequential(layer, shape=shape))
        assert bridge.plans.is_carried(flat.get_layer("x"))


def test_frozen_layers_stay_frozen_and_can_be_thawed(custom):
    model = sequential(custom["Statistics"](name="own"))
    model.layers[0].trainable = False
    flat = bridge.to_tf_keras(model)
    assert flat.trainable_weights == []
    flat.get_layer("own").trainable = True
    assert len(flat.trainable_weights) == 3  # all but the counter


def test_hidden_state_is_refused():
    import keras
    import tensorflow as tf

    class Hidden(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.factor = tf.Variable(2.0)

        def call(self, x):
            return x * self.factor

    with pytest.raises(ModelError, match=r"layer 'hidden' \(Hidden\).*'factor' is a tf.Variable.*add_weight"):
        bridge.to_tf_keras(sequential(Hidden(name="hidden")))


def test_other_backends_are_refused(custom, monkeypatch):
    import keras

    model = sequential(custom["Doubled"](name="own"))
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"'own' \(Doubled\).*backend is jax.*register_twin"):
        bridge.to_tf_keras(model)


def test_half_precision_is_carried_as_float32(custom):
    import keras

    inputs = keras.Input((3,))
    x = custom["Doubled"](dtype="mixed_float16")(inputs)
    x = keras.layers.Dense(2, dtype="mixed_float16")(keras.ops.cast(keras.ops.abs(x), "float16"))
    flat = bridge.to_tf_keras(keras.Model(inputs, x))
    assert {str(layer.output.dtype.name) for layer in flat.layers} == {"float32"}


def test_every_layer_of_keras_crosses_in_a_known_way():
    """A new Keras brings new layers: each must be assigned a way to cross."""
    import keras

    from tfopt.bridge import plans, twins

    carried = {
        "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D",
        "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D", "GroupedQueryAttention",
        "ReversibleEmbedding", "SpectralNormalization", "MelSpectrogram", "STFTSpectrogram", "Lambda", "Pipeline",
        "AugMix", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization",
        "MaxNumBoundingBoxes", "MixUp", "RandAugment", "RandomColorDegeneration", "RandomColorJitter", "RandomCrop",
        "RandomElasticTransform", "RandomErasing", "RandomGaussianBlur", "RandomGrayscale", "RandomHue",
        "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomSaturation", "RandomSharpness",
        "RandomShear", "Solarization",
    }  # fmt: skip
    abstract = {"Layer", "Wrapper", "InputLayer"}
    exported = [getattr(keras.layers, name) for name in dir(keras.layers)]
    names = {each.__name__ for each in exported if isinstance(each, type) and issubclass(each, keras.layers.Layer)}
    native = set(twins.SAME_NAME) | set(twins.BUILDERS)
    assert not carried & native
    assert names - abstract <= native | carried | set(plans.REFUSED)
    assert carried | set(plans.REFUSED) <= names


SPECTRUM = {"num_mel_bins": 8, "fft_length": 64, "sequence_stride": 32, "sampling_rate": 800, "max_freq": 400}


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("AdaptiveAveragePooling2D", {"output_size": 2}, (6, 6, 3)),
        ("RMSNormalization", {"epsilon": 0.1}, (5,)),
        ("RMSNormalization", {"axis": (1, 2)}, (4, 5)),
        ("MelSpectrogram", SPECTRUM, (256,)),
        ("RandomHue", {"factor": 0.2}, (6, 6, 3)),
        ("RandomCrop", {"height": 4, "width": 4}, (6, 6, 3)),
        ("Solarization", {"value_range": (0, 1)}, (6, 6, 3)),
    ],
)
def test_layers_that_tf_keras_lacks(name, arguments, shape):
    import keras

    model = sequential(getattr(keras.layers, name)(**arguments), shape=shape)
    flat = bridge.to_tf_keras(model)
    x = np.random.default_rng(0).uniform(0, 1, (3, *shape)).astype("float32")
    expected = model(x, training=False)
    np.testing.assert_allclose(flat(x), expected, atol=1e-5)
    np.testing.assert_allclose(bridge.to_keras(flat, model)(x, training=False), expected, atol=1e-5)


def test_wrappers_of_other_frameworks_are_refused():
    import keras

    class TFSMLayer(keras.layers.Layer):
        def call(self, x):
            return x

    TFSMLayer.__module__ = "keras.src.export.tfsm_layer"
    with pytest.raises(ModelError, match=r"'x' \(TFSMLayer\).*SavedModel's own graph"):
        bridge.to_tf_keras(sequential(TFSMLayer(name="x")))


def test_registered_twin_as_a_class(custom):
    import keras

    tf_keras = keras_compat.tf_keras()

    class Scaled(keras.layers.Layer):
        def __init__(self, factor, kernel_regularizer=None, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor
            self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(shape[-1],), name="kernel", initializer="ones", regularizer=self.kernel_regularizer
            )

        def call(self, x):
            return x * self.kernel * self.factor

        def get_config(self):
            regularizer = keras.regularizers.serialize(self.kernel_regularizer)
            return {**super().get_config(), "factor": self.factor, "kernel_regularizer": regularizer}

    class ScaledTwin(tf_keras.layers.Layer):
        def __init__(self, factor, kernel_regularizer=None, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor
            self.kernel_regularizer = kernel_regularizer

        def build(self, shape):
            self.kernel = self.add_weight("kernel", (shape[-1],), regularizer=self.kernel_regularizer)

        def call(self, x):
            return x * self.kernel * self.factor

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    model = sequential(Scaled(3.0, keras.regularizers.L1(0.5), name="own"))
    assert bridge.crossings(model)[0].twin == "Carried"
    bridge.register_twin(Scaled, ScaledTwin)
    row = bridge.crossings(model)[0]
    assert (row.name, row.kind, row.path, row.twin, row.how) == (
        "own", "Scaled", "own", "ScaledTwin", "registered twin",
    )  # fmt: skip
    flat = bridge.to_tf_keras(model)
    np.testing.assert_allclose(flat(values(2, 3)), 3 * values(2, 3), rtol=1e-6)
    assert float(flat.losses[0]) == pytest.approx(0.5 * 3)
    bridge.to_keras(flat, model)


def test_registered_twin_as_a_function_and_bad_ones():
    import keras

    class Half(keras.layers.Layer):
        def call(self, x):
            return x / 2

    model = sequential(Half(name="own"))
    bridge.register_twin(Half, lambda layer: keras_compat.tf_keras().layers.Rescaling(0.5))
    flat = bridge.to_tf_keras(model)
    assert type(flat.get_layer("own")).__name__ == "Rescaling"
    bridge.register_twin(Half, lambda layer: keras_compat.tf_keras().layers.Rescaling(0.7))
    with pytest.raises(ModelError, match="First difference: layer 'own' \\(Half\\)"):
        bridge.to_tf_keras(model)
    with pytest.raises(ModelError, match="Keras 3 layer class first"):
        bridge.register_twin(keras_compat.tf_keras().layers.Dense, lambda layer: layer)
    with pytest.raises(ModelError, match="function second"):
        bridge.register_twin(Half, "Rescaling")


def test_a_call_that_is_a_tf_function_computes_with_the_weights_of_the_twin():
    """A tf.function goes on with the weights that it was traced with, those of the caller."""
    import keras
    import tensorflow as tf

    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")

        @tf.function
        def call(self, x):
            return x * self.scale

    x = np.float32([[1, 2, 3]])
    model = keras.Sequential([keras.Input((3,)), Scaled()])
    assert np.array_equal(model(x), x)
    flat = bridge.to_tf_keras(model)
    flat.layers[-1].set_weights([np.float32([2, 3, 4])])
    assert np.array_equal(flat(x), [[2, 6, 12]])
    assert np.array_equal(tf.function(flat)(x), [[2, 6, 12]])
    assert "call" not in vars(model.layers[0])
    assert np.array_equal(model(x), x)
