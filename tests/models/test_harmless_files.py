"""Harmless model files load without permission: everything both Keras versions offer, and files written by others.

`pytest -s` prints how many were tried. `benchmarks/harmless_files.py` tries all of `keras.applications`.
"""

import itertools
import json
import warnings
import zipfile
from pathlib import Path

import harmless
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import bridge
from tfopt.base import keras_compat

KINDS = ("keras3", "tf_keras")
FORMS = (".keras", ".h5")
_NUMBERS = itertools.count(1)


def api_of(kind):
    import keras

    return keras if kind == "keras3" else keras_compat.tf_keras()


def saved(model, path, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both consider .h5 a legacy format
        model.save(path, **settings)
    return path


def check(model, path, **settings):
    """Check that the file at `path` loads as `model`."""
    loaded = tfopt.load_model(path, **settings)
    print(f"harmless file {next(_NUMBERS)}: {path.name}")
    assert [type(layer).__name__ for layer in loaded.layers] == [type(layer).__name__ for layer in model.layers]
    ours, theirs = loaded.get_weights(), model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_is_forgotten(kind):
    api = api_of(kind)
    tried = {name for layers in harmless.LAYERS.values() for name in layers} | set(harmless.MERGING)
    known = tried | {*harmless.COMPOSED, *harmless.ABSTRACT, *harmless.REFUSED}
    assert set(harmless.classes(api.layers, api.layers.Layer)) <= known


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer(tmp_path, kind, form):
    tried = 0
    for name, model in harmless.layer_models(api_of(kind), form):
        check(model, saved(model, tmp_path / f"{name}{form}"))
        tried += len(model.layers)
    print(f"{tried} layers of {kind} in {form}")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "form"), [("keras3", ".keras"), ("tf_keras", ".keras"), ("tf_keras", ".h5")])
def test_every_operation(tmp_path, kind, form):
    """Keras 3 cannot read back its operations from `.h5`."""
    model, names = harmless.operation_model(api_of(kind))
    check(model, saved(model, tmp_path / f"operations{form}"))
    print(f"{len(names)} operations of {kind} in {form}")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_initializer_regularizer_constraint_and_activation(tmp_path, kind, form):
    model = harmless.settings_model(api_of(kind))
    check(model, saved(model, tmp_path / f"settings{form}"))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_metric_optimizer_and_schedule(tmp_path, kind, form):
    api = api_of(kind)
    losses, metrics, optimizers = harmless.losses(api), harmless.metrics(api), harmless.optimizers(api)
    inputs = api.Input((4,))
    model = api.Model(inputs, [api.layers.Dense(4, name=f"o{i}")(inputs) for i in range(len(losses))])
    model.compile(optimizers[0], {f"o{i}": loss for i, loss in enumerate(losses)})
    check(model, saved(model, tmp_path / f"losses{form}"))
    model = api.Sequential([api.Input((4,)), api.layers.Dense(4)])
    model.compile("sgd", "mse", metrics=metrics)
    check(model, saved(model, tmp_path / f"metrics{form}"))
    for number, optimizer in enumerate(optimizers):
        model = api.Sequential([api.Input((4,)), api.layers.Dense(4)])
        model.compile(optimizer, "mse")
        loaded = check(model, saved(model, tmp_path / f"optimizer{number}{form}"))
        if (kind, form) != ("keras3", ".h5"):  # Keras 3 cannot read all of its optimizers from there
            assert type(loaded.optimizer).__name__ == type(optimizer).__name__
    print(f"{len(losses)} losses, {len(metrics)} metrics, {len(optimizers)} optimizers of {kind} in {form}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_dtype_policies(tmp_path, kind, policy, form):
    api = api_of(kind)
    made = api.DTypePolicy(policy) if kind == "keras3" else api.mixed_precision.Policy(policy)
    layers = api.layers
    model = api.Sequential([api.Input((4,)), layers.Dense(3, dtype=made), layers.Dense(2, dtype=made)])
    model.compile(api.mixed_precision.LossScaleOptimizer(api.optimizers.Adam()) if "16" in policy else "adam", "mse")
    check(model, saved(model, tmp_path / f"policy{form}"))


def own_loss(y_true, y_pred):
    return (y_true - y_pred) ** 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_own_losses_and_metrics_in_the_compile_settings(tmp_path, kind, form):
    """Such a file loads; compile settings that cannot be resolved are dropped."""
    api = api_of(kind)
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3)])
    model.compile("adam", own_loss, metrics=[own_loss])
    path = saved(model, tmp_path / f"own{form}")
    check(model, path)
    loaded = check(model, path, custom_objects={"own_loss": own_loss})
    assert loaded.optimizer is not None


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_small_applications(tmp_path, kind, form):
    api = api_of(kind)
    # Keras 3 cannot read its MobileNetV3 from `.h5`.
    for name, alpha in (("MobileNet", 0.25), ("MobileNetV3Small", 1.0))[: 2 if form == ".keras" else 1]:
        model = getattr(api.applications, name)(weights=None, input_shape=(32, 32, 3), classes=3, alpha=alpha)
        check(model, saved(model, tmp_path / f"{name}{form}"))


@pytest.mark.slow
def test_a_file_as_teachable_machine_writes_it(tmp_path):
    """A `.h5` of tf_keras: a Sequential of a Sequential around a Functional MobileNet, and of a Sequential head."""
    api = keras_compat.tf_keras()
    body = api.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    layers, drawn = api.layers, api.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
    features = api.Sequential([body, layers.GlobalAveragePooling2D()], name="sequential_1")
    head = api.Sequential(
        [
            layers.Dense(100, "relu", input_shape=(1280,), kernel_initializer=drawn, name="dense_Dense1"),
            layers.Dense(3, "softmax", use_bias=False, kernel_initializer=drawn, name="dense_Dense2"),
        ],
        name="sequential_3",
    )
    model = api.Sequential([features, head], name="sequential_4")
    path = saved(model, tmp_path / "keras_model.h5")
    import h5py

    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"], object_hook=with_groups)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.4.0"
    check(model, path)


def with_groups(part):
    if part.get("class_name") == "DepthwiseConv2D":
        part["config"]["groups"] = 1
    return part


# SavedModels


def folder_of_tf_keras(tmp_path, name="model"):
    api = keras_compat.tf_keras()
    layers = api.layers
    inputs = api.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x * 2.0 + 1.0)
    x = api.Sequential([layers.Dense(4, kernel_regularizer="l2"), layers.Dropout(0.5)])(x)
    model = api.Model(inputs, layers.Dense(2, "softmax")(x))
    model.compile("adam", "mse", metrics=["mae", api.metrics.AUC()])
    return model, saved(model, tmp_path / name, save_format="tf")


def test_saved_models_of_tf_keras(tmp_path):
    model, path = folder_of_tf_keras(tmp_path)
    check(model, path)
    assert tfopt.transfer.open_hub(path).native


def test_a_saved_model_with_recurrent_layers(tmp_path):
    api = keras_compat.tf_keras()
    layers = api.layers
    model = api.Sequential([api.Input((5, 4)), layers.Bidirectional(layers.RNN(layers.GRUCell(2)))])
    check(model, saved(model, tmp_path / "recurrent", save_format="tf"))


def test_a_saved_model_with_a_custom_class(tmp_path):
    """tf_keras revives such a layer from the graph, which needs no code of the class."""
    api = keras_compat.tf_keras()

    class Doubling(api.layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    model = api.Sequential([api.Input((4,)), Doubling(), api.layers.Dense(2)])
    path = saved(model, tmp_path / "own", save_format="tf")
    loaded = tfopt.load_model(path)
    x = np.ones((1, 4), "float32")
    np.testing.assert_allclose(np.asarray(loaded(x)), np.asarray(model(x)), atol=1e-6)


def test_exports_of_keras3(tmp_path):
    import keras

    layers = keras.layers
    for name, model, x in (
        ("plain", keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()]), np.ones((1, 4),
            "float32")),
        ("recurrent", keras.Sequential([keras.Input((5, 4)), layers.LSTM(3)]), np.ones((1, 5, 4), "float32")),
        ("attention", attention(keras), np.ones((1, 5, 4), "float32")),
        ("words", keras.Sequential([keras.Input((1,), dtype="string"), layers.StringLookup(vocabulary=["a", "b"])]),
            tf.constant([["b"]])),
    ):  # fmt: skip
        model.export(tmp_path / name, verbose=False)
        module = tfopt.transfer.open_hub(tmp_path / name)
        print(f"harmless SavedModel {next(_NUMBERS)}: {name}")
        np.testing.assert_allclose(np.asarray(module.model(x)), np.asarray(model(x)), atol=1e-5)


def attention(keras):
    inputs = keras.Input((5, 4))
    x = keras.layers.MultiHeadAttention(2, 2)(inputs, inputs)
    return keras.Model(inputs, keras.layers.LayerNormalization()(x + inputs))


def test_modules_with_tables(tmp_path):
    """A vocabulary from a file, which becomes an asset, and one in the graph."""
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    lookup = tf.lookup
    from_file = lookup.TextFileInitializer(
        str(tmp_path / "words.txt"), tf.string, lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            lookup.TextFileIndex.LINE_NUMBER
    )  # fmt: skip
    in_graph = lookup.KeyValueTensorInitializer(tf.constant(["cat", "dog"]), tf.constant([0, 1], tf.int64))
    tables = {
        "static": lambda: lookup.StaticHashTable(from_file, -1),
        "vocabulary": lambda: lookup.StaticVocabularyTable(from_file, 2),
        "in_graph": lambda: lookup.StaticHashTable(in_graph, -1),
    }
    for name, table in tables.items():
        module = tf.Module()
        module.table = table()
        spec = tf.TensorSpec((None, 1), tf.string)
        module.__call__ = tf.function(looking_up(module), [spec])
        tf.saved_model.save(module, str(tmp_path / name))
        model = tfopt.transfer.hub_layer(tmp_path / name, trainable=False)
        print(f"harmless SavedModel {next(_NUMBERS)}: {name}")
        np.testing.assert_array_equal(np.asarray(model(tf.constant([["dog"], ["cat"]]))), [[1.0], [0.0]])


def looking_up(module):
    return lambda x: tf.cast(module.table.lookup(x), tf.float32)


def test_modules_of_control_flow_and_random_numbers(tmp_path):
    def call(x):
        x = tf.cond(tf.reduce_sum(x) > 0.0, lambda: x * 2.0, lambda: x)
        for _ in tf.range(3):
            x = tf.nn.relu(x) + 1.0
        return x + 0.0 * tf.random.uniform(tf.shape(x)) + 0.0 * tf.random.stateless_normal(tf.shape(x), [1, 2])

    module = tf.Module()
    module.__call__ = tf.function(call, [tf.TensorSpec((None, 4))])
    tf.saved_model.save(module, str(tmp_path / "net"))
    model = tfopt.transfer.hub_layer(tmp_path / "net", trainable=False)
    np.testing.assert_array_equal(np.asarray(model(np.ones((1, 4), "float32"))), [[5.0] * 4])


# Files of others, and of tfopt itself


@pytest.mark.slow
def test_the_shared_models(shared):
    for file in sorted((shared / "models").glob("*.h5")) + sorted((shared / "models").glob("*.keras")):
        assert tfopt.load_model(file).count_params() > 0
        print(f"harmless file {next(_NUMBERS)}: {file.name}")
    for file in sorted((shared / "models").glob("*.tflite")):
        assert tfopt.LiteModel(file).size > 0
    for archive in sorted((shared / "models" / "hub").glob("*.tar.gz")):
        assert tfopt.transfer.open_hub(archive, input_shape=None if "mobilenet" in archive.name else (1,)).model
        print(f"harmless SavedModel {next(_NUMBERS)}: {archive.name}")


@pytest.mark.parametrize("form", FORMS)
def test_models_that_crossed_the_bridge(tmp_path, form):
    """They contain tfopt's classes: carried layers and operations, and its own layers."""
    import keras

    inputs = keras.Input((8, 8, 3))
    own = {".keras": ("hard_silu", "squareplus"), ".h5": ("relu", "tanh")}[
        form
    ]  # tf_keras cannot read functions from .h5
    x = keras.layers.Conv2D(4, 3, activation=own[0])(inputs)
    x = keras.layers.RMSNormalization()(x)
    x = keras.ops.einsum("bhwc->bc", x) + keras.ops.sum(x[:, 1:3], axis=(1, 2))
    flat = bridge.to_tf_keras(keras.Model(inputs, keras.layers.Dense(2, activation=own[1])(x)))
    check(flat, saved(flat, tmp_path / f"flat{form}"))


def test_models_that_tfmot_has_wrapped(tmp_path):
    """The caller provides the classes, in a scope or as custom objects."""
    import tensorflow_model_optimization as tfmot

    api, sparsity = keras_compat.tf_keras(), tfmot.sparsity.keras
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3), api.layers.Dense(2)])
    wrapped = sparsity.prune_low_magnitude(model)
    given = {"ConstantSparsity": sparsity.ConstantSparsity}  # a .keras file names the module, but no one vouches for it
    for form in FORMS:
        path = saved(wrapped, tmp_path / f"wrapped{form}")
        with sparsity.prune_scope():
            check(wrapped, path, custom_objects=given)


def test_a_hub_layer_in_a_keras3_file(tmp_path):
    module = tf.Module()
    module.__call__ = tf.function(lambda x: tf.math.floor(x), [tf.TensorSpec((None, 4))])
    tf.saved_model.save(module, str(tmp_path / "net"))
    model = tfopt.transfer.hub_layer(tmp_path / "net", trainable=False)
    path = saved(model, tmp_path / "with_module.keras")
    check(model, path)
    with zipfile.ZipFile(path) as archive:
        assert any(name.endswith("saved_model.pb") for name in archive.namelist())


def test_weights_alone(tmp_path):
    for kind in KINDS:
        api = api_of(kind)
        model = api.Sequential([api.Input((4,)), api.layers.Dense(3)])
        path = tmp_path / f"{kind}.weights.h5"
        model.save_weights(path)
        check(model, path, like=model)


def test_data_and_recipes(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=np.zeros((8, 2), "float32"), y_train=np.arange(8) % 2)
    assert len(tfopt.load_data(tmp_path / "data.npz").train) > 0
    recipe = tfopt.Recipe(stages=(tfopt.Prune(epochs=1), tfopt.Quantize(epochs=1)))
    Path(tmp_path / "recipe.json").write_text(recipe.to_json())
    assert tfopt.Recipe.load(tmp_path / "recipe.json") == recipe
