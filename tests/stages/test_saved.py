"""What `apply` returned is saved by Keras, and goes on after `load_model` where it was."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.stages.quantize.trained import layers_left_in_float

RNG = np.random.default_rng(2)
X = RNG.normal(size=(32, 6, 6, 3)).astype("float32")
Y = RNG.integers(0, 3, 32)
STEPS = 4
ENDINGS = ("keras", "h5")


def build(api):
    layers = api.layers
    api.utils.set_random_seed(1)
    inputs = api.Input((6, 6, 3))
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, name="conv")(inputs)))
    left, right = layers.Conv2D(4, 1, name="left")(hidden), layers.DepthwiseConv2D(3, padding="same")(hidden)
    hidden = layers.Flatten()(layers.Concatenate()([left, layers.SeparableConv2D(4, 1)(right)]))
    return api.Model(inputs, layers.Dense(3, "softmax", name="head")(hidden))


def stripped(model, *stages):
    keep = set()
    for stage in stages:
        model = stage.strip(stage.apply(model, steps=0, keep=keep))
        keep.add(stage.establishes)
    return model, keep


SPARSE = tfopt.Prune(final_sparsity=0.5, schedule="one-shot")
BEFORE = {"": (), "sparse": (SPARSE,), "clustered": (SPARSE, tfopt.Cluster(number_of_clusters=6))}
CASES = {
    "prune": (tfopt.Prune(final_sparsity=0.5), "", "h5"),
    "prune again": (tfopt.Prune(final_sparsity=0.7, schedule="constant"), "sparse", "keras"),
    "prune at random": (tfopt.Prune(final_sparsity=0.5, importance="random", seed=3), "", "keras"),
    "prune 2:4": (tfopt.Prune(sparsity_m_by_n=(2, 4), layers=(("head", True), ("*", False))), "", "h5"),
    "cluster": (tfopt.Cluster(number_of_clusters=5), "", "keras"),
    "cluster what is sparse": (tfopt.Cluster(number_of_clusters=5), "sparse", "h5"),
    "cluster channels": (tfopt.Cluster(number_of_clusters=4, cluster_per_channel=True), "sparse", "keras"),
    "quantize": (tfopt.Quantize(), "", "keras"),
    "quantize clusters": (tfopt.Quantize(), "clustered", "h5"),
    "4 bits": (tfopt.Quantize(weight_bits=4, weight_steps="mse"), "sparse", "keras"),
    "learned steps": (tfopt.Quantize(weight_bits=4, weight_steps="learned"), "", "h5"),
    "in float": (tfopt.Quantize(layers=(("left", False), ("conv", "weights"))), "clustered", "keras"),
    "binarize": (tfopt.Binarize(scheme="binary_connect"), "", "h5"),
}


def applied(stage, model, keep):
    wrapped = stage.apply(model, steps=STEPS, keep=keep)
    stage.calibrate(wrapped, X)
    compile_and_fit(wrapped, stage, 1)
    return wrapped


def compile_and_fit(wrapped, stage, epochs):
    wrapped.compile(tf_keras().optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    wrapped.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=stage.callbacks())


def outputs(model, x=X):
    return np.asarray(model(x, training=False))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_where_it_was(case, tmp_path):
    stage, before, ending = CASES[case]
    model, keep = stripped(build(tf_keras() if ending == "h5" else keras), *BEFORE[before])
    wrapped = applied(stage, model, keep)
    wrapped.save(tmp_path / f"wrapped.{ending}")
    again = tfopt.load_model(tmp_path / f"wrapped.{ending}")
    np.testing.assert_array_equal(outputs(again), outputs(wrapped))
    for each in (wrapped, again):
        compile_and_fit(each, stage, 1)
    np.testing.assert_array_equal(outputs(again), outputs(wrapped))
    want, got = bridge.to_tf_keras(stage.strip(wrapped)), stage.strip(again)
    for one, other in zip(want.get_weights(), got.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_file_is_the_same(ending, tmp_path):
    stage = CASES["in float"][0]
    model, keep = stripped(build(keras), *BEFORE["clustered"])
    wrapped = applied(stage, model, keep)
    wrapped.save(tmp_path / f"wrapped.{ending}")
    again = tfopt.load_model(tmp_path / f"wrapped.{ending}")
    files = [tfopt.export_tflite(each) for each in (wrapped, again)]
    np.testing.assert_array_equal(*(file.predict(X) for file in files))
    assert files[0].notes == files[1].notes
    assert layers_left_in_float(again) == {"left": "by rule"}


def test_values_left_in_float_stay_so(tmp_path):
    raw = (RNG.normal(size=(64, 2)) * [100, 0.1]).astype("float32")
    inputs = keras.Input((2,), name="raw")
    model = keras.Model(
        inputs, keras.layers.Dense(2)(keras.layers.Normalization(mean=[0, 0], variance=[1e4, 0.01])(inputs))
    )
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, raw)
    assert stage.summary(wrapped)
    wrapped.save(tmp_path / "wrapped.keras")
    again = tfopt.load_model(tmp_path / "wrapped.keras")
    assert stage.summary(again) == stage.summary(wrapped)
    np.testing.assert_array_equal(outputs(again, raw), outputs(wrapped, raw))
    np.testing.assert_array_equal(*(tfopt.export_tflite(each).predict(raw) for each in (wrapped, again)))


def sequences(api):
    layers = api.layers
    api.utils.set_random_seed(1)
    inputs = api.Input((6, 18))
    hidden = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(inputs)
    hidden = layers.MultiHeadAttention(2, 4)(hidden, hidden)
    hidden = layers.GRU(4)(layers.Conv1D(4, 3)(hidden))
    return api.Model(inputs, layers.Dense(3, "softmax")(hidden))


def operations(api):
    del api
    inputs = keras.Input((6, 18))
    hidden = keras.ops.transpose(inputs[:, ::2], (0, 2, 1)) * 2.0
    hidden = keras.layers.Dense(4, "gelu")(hidden / (1.0 + keras.ops.abs(hidden)))
    return keras.Model(inputs, keras.layers.Dense(3, "softmax")(keras.ops.mean(hidden, axis=1)))


def tensorflow_operations(api):
    """Arguments that are no tensors: arrays, types, and numbers without a batch."""
    del api
    import tensorflow as tf

    inputs = tf_keras().Input((6, 18))
    hidden = tf.cast(inputs * np.linspace(1, 2, 18, dtype="float32"), dtype=tf.float32)
    hidden = tf.reduce_sum(hidden, axis=1) / tf.cast(tf.shape(hidden)[1], tf.float32) + tf.constant([0.5])
    return tf_keras().Model(inputs, tf_keras().layers.Dense(3)(tf.where(hidden > 0, hidden, 0.1 * hidden)))


STAGES = [CASES[name][0] for name in ("prune", "cluster", "quantize")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "model", "ending"),
    [
        *[(stage, sequences, ending) for stage, ending in zip(STAGES, ("h5", "keras", "h5"), strict=True)],
        (STAGES[2], sequences, "keras"),
        *[(STAGES[2], model, ending) for model in (operations, tensorflow_operations) for ending in ENDINGS],
    ],
)
def test_other_layers(stage, model, ending, tmp_path):
    x = X.reshape(32, 6, 18)
    wrapped = stage.apply(model(keras if ending == "keras" else tf_keras()), steps=STEPS)
    stage.calibrate(wrapped, x)
    wrapped.save(tmp_path / f"wrapped.{ending}")
    again = tfopt.load_model(tmp_path / f"wrapped.{ending}")
    np.testing.assert_array_equal(outputs(again, x), outputs(wrapped, x))


@pytest.mark.slow
def test_another_process_needs_nothing_but_tfopt(tmp_path):
    stage = tfopt.Quantize()
    wrapped = applied(stage, build(keras), set())
    wrapped.save(tmp_path / "wrapped.keras")
    np.save(tmp_path / "x.npy", X)
    source = (
        "import sys, numpy as np, tfopt; folder = sys.argv[1]; model = tfopt.load_model(folder + '/wrapped.keras'); "
        "np.save(folder + '/out.npy', model.predict(np.load(folder + '/x.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wrapped.predict(X, verbose=0), atol=1e-6)
