"""Whole models across the bridge: nesting, sharing, several inputs, names, flags, clones, origins."""

import gc
import os
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError

SHARED = os.environ.get("TFOPT_SHARED")
needs_shared = pytest.mark.skipif(SHARED is None, reason="TFOPT_SHARED does not say where the models are")


@pytest.fixture(params=["keras", "tf_keras"])
def api(request):
    """Run each test in both Keras versions."""
    import keras

    return keras if request.param == "keras" else keras_compat.tf_keras()


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(3, *shape)).astype("float32")


def base_of(api, name="base"):
    layers = [
        api.layers.Conv2D(4, 3, name="conv"),
        api.layers.BatchNormalization(name="norm"),
        api.layers.ReLU(name="relu"),
        api.layers.Dropout(0.2, name="drop"),
        api.layers.GlobalAveragePooling2D(name="pool"),
    ]
    inputs = api.Input((8, 8, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    return api.Model(inputs, x, name=name)


def nested(api):
    """Three levels; 'conv' both outside and inside; the base is shared; two inputs, two outputs."""
    base = base_of(api)
    middle = api.Sequential([api.Input((8, 8, 3)), base, api.layers.Dense(5, name="dense")], name="middle")
    left, right = api.Input((8, 8, 3), name="left"), api.Input((8, 8, 3), name="right")
    conv = api.layers.Conv2D(3, 3, padding="same", name="conv")
    a, b = middle(conv(left)), middle(right)
    joined = api.layers.Concatenate(name="join")([a, b])
    model = api.Model([left, right], [api.layers.Dense(2, name="dense")(joined), a], name="whole")
    rng = np.random.default_rng(4)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape).astype("float32") for w in model.get_weights()])
    return model


def state_of(model):
    flags = [(path, layer.trainable) for _, layer, path in bridge.flat_layers(model)]
    return [w.copy() for w in model.get_weights()], flags, model.trainable, len(model.layers)


def assert_same_state(model, before):
    weights, *rest = state_of(model)
    assert rest == list(before[1:])
    for now, then in zip(weights, before[0], strict=True):
        np.testing.assert_array_equal(now, then)


def test_nested_shared_several_inputs_and_outputs(api):
    model = nested(api)
    before, x = state_of(model), [images(8, 8, 3), images(8, 8, 3, seed=1)]
    flat = bridge.to_tf_keras(model)
    assert keras_compat.is_tf_keras_model(flat)
    assert not any(keras_compat.is_tf_keras_model(layer) for layer in flat.layers)
    names = ["left", "right", "conv", "base_conv", "norm", "relu", "drop", "pool", "middle_dense", "join", "dense"]
    assert sorted(layer.name for layer in flat.layers) == sorted(names)
    for ours, theirs in zip(flat(x), model(x), strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)
    back = bridge.to_keras(flat, model)
    assert type(back) is type(model)
    assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]
    for ours, theirs in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_same_state(model, before)


def test_nothing_is_shared_with_the_callers_model(api):
    model = nested(api)
    before = state_of(model)
    for other in (flat := bridge.to_tf_keras(model), bridge.clone(flat), bridge.to_keras(flat, model)):
        for layer in other.layers:
            layer.trainable = False
        other.set_weights([w + 1 for w in other.get_weights()])
    assert_same_state(model, before)


def test_flat_layers_gives_name_layer_and_path(api):
    model = nested(api)
    rows = {name: (layer, path) for name, layer, path in bridge.flat_layers(model)}
    assert rows["base_conv"][1] == "middle/base/conv"
    assert rows["middle_dense"] == (model.get_layer("middle").get_layer("dense"), "middle/dense")
    assert rows["dense"] == (model.get_layer("dense"), "dense")
    assert len(rows) == 9


def test_trainable_flags_are_carried(api):
    model = nested(api)
    model.get_layer("middle").get_layer("base").trainable = False
    model.get_layer("middle").get_layer("base").get_layer("norm").trainable = True
    model.get_layer("join").trainable = False
    flat = bridge.to_tf_keras(model)
    frozen = {layer.name for layer in flat.layers if not layer.trainable}
    # In tf_keras a frozen model freezes everything in it; in Keras 3 the layer's own flag decides.
    inside = {"norm"} if keras_compat.is_tf_keras_model(model) else set()
    assert frozen == {"base_conv", "relu", "drop", "pool", "join"} | inside
    assert {layer.name for layer in bridge.clone(flat).layers if not layer.trainable} == frozen
    back = bridge.to_keras(flat, model)
    shapes = [tuple(w.shape) for w in model.trainable_weights]
    assert [tuple(w.shape) for w in back.trainable_weights] == shapes
    assert sorted(tuple(w.shape) for w in flat.trainable_weights) == sorted(shapes)
    base = back.get_layer("middle").get_layer("base")
    assert (base.trainable, base.get_layer("norm").trainable, base.get_layer("conv").trainable) == (
        False,
        True,
        False,
    )


def test_dicts_of_inputs_and_outputs(api):
    a, b = api.Input((3,), name="a"), api.Input((3,), name="b")
    dense = api.layers.Dense(2, name="one")
    model = api.Model({"b": b, "a": a}, {"y": dense(a), "x": api.layers.Subtract(name="two")([dense(a), dense(b)])})
    flat = bridge.to_tf_keras(model)
    x = {"a": images(3), "b": images(3, seed=1)}
    ours, theirs = flat(x), model(x)
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(np.asarray(ours[key]), np.asarray(theirs[key]), atol=1e-6)
    bridge.to_keras(flat, model)


def test_saved_result_loads_again(api, tmp_path):
    model = nested(api)
    back = bridge.to_keras(bridge.to_tf_keras(model), model)
    back.save(tmp_path / "m.keras")
    loaded = api.models.load_model(tmp_path / "m.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_saved_twin_loads_again(tmp_path):
    import keras

    layers = [keras.Input((4,)), keras.layers.Dense(3, activation="hard_sigmoid"), keras.layers.Activation("celu")]
    flat = bridge.to_tf_keras(keras.Sequential(layers))
    flat.save(tmp_path / "m.keras")
    loaded = keras_compat.tf_keras().models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(images(4)), flat(images(4)))


def test_changed_weights_come_back(api):
    model = nested(api)
    flat = bridge.to_tf_keras(model)
    kernel, bias = flat.get_layer("middle_dense").get_weights()
    flat.get_layer("middle_dense").set_weights([kernel * 0, bias + 7])
    back = bridge.to_keras(flat, model)
    got = back.get_layer("middle").get_layer("dense").get_weights()
    np.testing.assert_array_equal(got[0], np.zeros_like(kernel))
    np.testing.assert_array_equal(got[1], bias + 7)


def test_missing_layer_and_wrong_shape_are_named(api):
    tf_keras = keras_compat.tf_keras()
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="one"), api.layers.Dense(2, name="two")])
    inputs = tf_keras.Input((4,))
    short = tf_keras.Model(inputs, tf_keras.layers.Dense(3, name="one")(inputs))
    with pytest.raises(ModelError, match="no layer 'two'"):
        bridge.to_keras(short, model)
    other = tf_keras.Sequential(
        [tf_keras.Input((4,)), tf_keras.layers.Dense(5, name="one"), tf_keras.layers.Dense(2, name="two")]
    )
    with pytest.raises(ModelError, match=r"'one'.*Expected .*\(4, 3\).*received .*\(4, 5\)"):
        bridge.to_keras(other, model)


def test_way_back_is_checked(api):
    """A different activation under the same names and shapes: the weights fit, but the model differs."""
    tf_keras = keras_compat.tf_keras()
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="one"), api.layers.Dense(2, name="two")])
    other = tf_keras.Sequential(
        [tf_keras.Input((4,)), tf_keras.layers.Dense(3, "tanh", name="one"), tf_keras.layers.Dense(2, name="two")]
    )
    with pytest.raises(ModelError, match="First difference: layer 'one'"):
        bridge.to_keras(other, model)


def test_unbuilt_and_no_model(api):
    class Mine(api.Model):
        def call(self, x):
            return x

    unbuilt = api.Sequential([api.layers.Dense(3)])
    for model, words in ((Mine(), "not built: call it once"), (unbuilt, "not built.*build"), ("text", "got str")):
        with pytest.raises(ModelError, match=words):
            bridge.to_tf_keras(model)


def subclassed(api):
    class Block(api.Model):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.dense = api.layers.Dense(units)
            self.norm = api.layers.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(self.dense(x), training=training)

        def get_config(self):
            return {"units": self.units}

    class Mine(api.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = Block(4), Block(3)
            self.drop, self.add = api.layers.Dropout(0.5), api.layers.Add()

        def call(self, x, training=None):
            y = self.drop(self.first(x), training=training)
            return self.second(self.add([y, x]))

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    model = Mine()
    model(images(4))
    rng = np.random.default_rng(4)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape).astype("float32") for w in model.get_weights()])
    return model


def test_subclassed_models_are_traced(api):
    model = subclassed(api)
    nodes = [len(layer._inbound_nodes) for layer in (model.drop, model.add, model.first)]
    before, x = [w.copy() for w in model.get_weights()], images(4)
    flat = bridge.to_tf_keras(model)
    kinds = ["InputLayer", "Dense", "BatchNormalization", "Dropout", "Add", "Dense", "BatchNormalization"]
    assert [type(layer).__name__ for layer in flat.layers] == kinds
    np.testing.assert_allclose(flat(x), model(x), atol=1e-5)
    flat(x, training=True)
    moved = [not np.array_equal(a, b) for a, b in zip(flat.layers[2].get_weights(), before[2:6], strict=True)]
    assert moved == [False, False, True, True]  # the statistics of BatchNormalization
    flat = bridge.to_tf_keras(model)
    flat.set_weights([w / 2 for w in flat.get_weights()])
    back = bridge.to_keras(flat, model)
    assert type(back) is type(model)
    for ours, theirs in zip(back.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs / 2)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [len(layer._inbound_nodes) for layer in (model.drop, model.add, model.first)] == nodes


def test_a_subclassed_model_without_config_comes_back_functional(api):
    class Plain(api.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = api.layers.Dense(3, name="dense"), api.layers.BatchNormalization(name="norm")

        def call(self, x, training=None):
            return self.norm(self.dense(x), training=training)

        def get_config(self):
            raise NotImplementedError

    model = Plain()
    model(images(4))
    model.dense.trainable = False
    flat = bridge.to_tf_keras(model)
    flat.set_weights([w + 1 for w in flat.get_weights()])
    back = bridge.to_keras(flat, model)
    assert type(back) is api.Model or type(back).__name__ == "Functional"
    assert [layer.name for layer in back.layers[1:]] == ["dense", "norm"]
    assert not back.get_layer("dense").trainable
    for name, layer in (("dense", model.dense), ("norm", model.norm)):
        for ours, theirs in zip(back.get_layer(name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs + 1)


def test_subclassed_models_inside_of_others(api):
    inner = subclassed(api)
    inputs = api.Input((4,))
    model = api.Model(inputs, api.layers.Dense(2)(inner(inputs)))
    flat = bridge.to_tf_keras(model)
    np.testing.assert_allclose(flat(images(4)), model(images(4)), atol=1e-5)


def test_subclassed_models_that_cannot_be_traced(api):
    class Branching(api.Model):
        def __init__(self):
            super().__init__()
            self.dense = api.layers.Dense(2)

        def call(self, x):
            return self.dense(x) if float(x[0, 0]) > 0 else x

    class TwoWays(api.Model):
        def __init__(self):
            super().__init__()
            self.dense = api.layers.Dense(2)

        def call(self, x, training=None):
            x = self.dense(x)
            return x if training else self.dense(x)

    for cls, words in ((Branching, "could not be traced"), (TwoWays, "behaves differently in training")):
        model = cls()
        model(np.ones((1, 2), "float32"))
        with pytest.raises(ModelError, match=rf"{words}.*two ways out.*functional model.*traceable"):
            bridge.to_tf_keras(model)


def test_sequential_built_late(api):
    model = api.Sequential([api.layers.Dense(3), api.layers.ReLU()])
    model.build((None, 5))
    flat = bridge.to_tf_keras(model)
    assert flat.input_shape == (None, 5)
    assert bridge.to_keras(flat, model).input_shape == (None, 5)


def test_explicit_inference_mode():
    """tf_keras obeys `base(x, training=False)` during fit; Keras 3 overrides it. Each twin behaves like its model."""
    import keras

    for api, frozen in ((keras, False), (keras_compat.tf_keras(), True)):
        base = api.Sequential([api.Input((4,)), api.layers.BatchNormalization()])
        inputs = api.Input((4,))
        model = api.Model(inputs, base(inputs, training=False))
        flat = bridge.to_tf_keras(model)
        flat(images(4), training=True)
        assert (np.abs(flat.get_weights()[2]).max() == 0) == frozen
        model(images(4), training=True)
        np.testing.assert_allclose(flat.get_weights()[2], model.get_weights()[2], atol=1e-6)


def test_names_stay_clear_of_those_tfmot_makes_up():
    import keras

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv2d")(inputs)
    x = keras.layers.SeparableConv2D(4, 3, name="separable_conv2d")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="conv2d_1")(x))
    flat = bridge.to_tf_keras(model)
    assert [layer.name for layer in flat.layers[1:]] == ["own_conv2d", "own_separable_conv2d", "own_conv2d_1"]
    assert [layer.name for layer in bridge.clone(flat).layers] == [layer.name for layer in flat.layers]
    keras_compat.tfmot().quantization.keras.quantize_model(flat)
    for ours, theirs in zip(bridge.to_keras(flat, model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_stripped_by_tfmot_comes_back(api):
    sparsity = keras_compat.tfmot().sparsity.keras
    tf_keras = keras_compat.tf_keras()
    model = nested(api)
    flat = bridge.to_tf_keras(model)
    wrapped = tf_keras.models.clone_model(
        bridge.clone(flat),
        clone_function=lambda layer: sparsity.prune_low_magnitude(layer) if layer.name == "dense" else layer,
    )
    stripped = sparsity.strip_pruning(wrapped)
    for ours, theirs in zip(bridge.to_keras(stripped, model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_clone_is_a_real_copy():
    flat = bridge.to_tf_keras(nested(keras_compat.tf_keras()))
    flat.compile("sgd", "mse")
    copy = bridge.clone(flat)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in flat.layers]
    assert not bridge.is_compiled(copy)
    assert not {id(v) for v in copy.variables} & {id(v) for v in flat.variables}
    for ours, theirs in zip(copy.get_weights(), flat.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_clone_wants_a_tf_keras_model():
    import keras

    with pytest.raises(ModelError, match="expects a tf_keras model"):
        bridge.clone(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


def test_origin_is_remembered_and_not_tracked():
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    flat = bridge.to_tf_keras(model)
    assert bridge.origin(flat) is None
    tracked = len(flat.layers)
    bridge.remember(flat, model)
    assert bridge.origin(flat) is model
    assert len(flat.layers) == tracked
    bridge.remember(flat, flat)
    assert bridge.origin(flat) is flat
    bridge.remember(flat, model)
    gone_flat, gone_model = weakref.ref(flat), weakref.ref(model)
    del flat, model
    gc.collect()
    assert gone_flat() is None
    assert gone_model() is None


def test_importing_the_package_imports_no_keras():
    code = "import sys, tfopt.bridge, tfopt.models; print(sorted({'keras','tf_keras','tensorflow'} & set(sys.modules)))"
    import subprocess
    import sys

    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_environment_changes():
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    bridge.to_tf_keras(nested(keras_compat.tf_keras()))
    assert os.environ.get("TF_USE_LEGACY_KERAS") == before


@pytest.mark.slow
@needs_shared
def test_mobilenet_of_imagenet():
    from tfopt.models import load_model

    model = load_model(Path(SHARED, "models", "mobilenet_025_224_imagenet.keras"))
    flat = bridge.to_tf_keras(model)
    x = images(224, 224, 3)[:1]
    np.testing.assert_allclose(np.asarray(flat(x)), np.asarray(model(x)), atol=1e-5)
    for ours, theirs in zip(bridge.to_keras(flat, model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_shared
def test_resnet8_of_keras_2():
    from tfopt.models import load_model

    model = load_model(Path(SHARED, "models", "resnet8_cifar10.h5"))
    flat = bridge.to_tf_keras(model)
    np.testing.assert_allclose(flat(images(32, 32, 3)), model(images(32, 32, 3)), atol=1e-5)
    bridge.to_keras(flat, model)


def test_error_message_is_for_users():
    import keras

    model = keras.Sequential([keras.Input((3, 4)), keras.layers.Dense(2, name="d")])
    model.quantize("int8")
    with pytest.raises(ModelError) as error:
        bridge.to_tf_keras(model)
    assert not re.search(r"Traceback|0x[0-9a-f]+|_nodes", str(error.value))


def test_loss_in_the_graph_is_not_dropped_in_silence():
    import tensorflow as tf

    tf_keras = keras_compat.tf_keras()
    inputs = tf_keras.Input((3,))
    outputs = tf_keras.layers.Dense(2)(inputs)
    model = tf_keras.Model(inputs, outputs)
    model.add_loss(tf.reduce_mean(outputs))
    with pytest.raises(ModelError, match="add_loss"):
        bridge.to_tf_keras(model)


@pytest.mark.slow
def test_mobilenet_v2_inside_a_sequential():
    import keras

    base = keras.applications.MobileNetV2(
        alpha=0.35, input_shape=(96, 96, 3), weights=None, include_top=False, pooling="avg"
    )
    base.trainable = False
    layers = [keras.layers.RandomFlip("horizontal"), keras.layers.Rescaling(1 / 127.5, -1), base, keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((96, 96, 3)), *layers])
    flat = bridge.to_tf_keras(model)
    assert [tuple(w.shape) for w in flat.trainable_weights] == [(1280, 3), (3,)]
    x = images(96, 96, 3) * 100
    np.testing.assert_allclose(np.asarray(flat(x)), np.asarray(model(x)), atol=1e-4)
    for ours, theirs in zip(bridge.to_keras(flat, model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_with_a_function_of_the_users_comes_back(api):
    """Neither Keras finds a function by its name that nobody registered."""

    def squared(values):
        return values * values

    inputs = api.Input((3,))
    hidden = api.layers.Dense(4, activation=squared, kernel_regularizer=api.regularizers.L2(0.1))(inputs)
    model = api.Model(inputs, api.layers.Activation(squared)(hidden))
    flat_model = bridge.to_tf_keras(model)
    x = np.arange(6, dtype="float32").reshape(2, 3)
    back = bridge.to_keras(flat_model, model)
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.get_weights())
    np.testing.assert_allclose(back.predict(x, verbose=0), (x @ kernel + bias) ** 4, rtol=1e-5)


def test_weights_used_outside_of_their_layer_are_refused_before_training():
    import keras

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.table, self.inner = keras.layers.Embedding(20, 8, name="table"), keras.layers.Dense(8)

        def call(self, words):
            return keras.ops.matmul(self.inner(self.table(words)), keras.ops.transpose(self.table.embeddings))

    model = Tied()
    model(np.zeros((1, 4), "int32"))
    with pytest.raises(ModelError, match=r"uses its weight 'tied/table/embeddings' outside of the layer that owns it"):
        bridge.require_rebuildable(model)


def test_sharing_that_a_config_loses_is_refused_before_training():
    import keras

    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)], name="inner")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.Sequential([inner, keras.layers.Dense(3)])(inner(inputs)))
    with pytest.raises(ModelError, match="has different layers when rebuilt from its config"):
        bridge.require_rebuildable(model)
