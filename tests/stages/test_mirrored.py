"""Stages under tf.distribute.MirroredStrategy: two replicas train as one does on the same batches."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import contextlib
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

import tfopt
from tfopt.base.keras_compat import tf_keras

keras = tf_keras()
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 64)


def network(values):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    stack = [layers.Conv2D(4, 3, activation="swish"), layers.Conv2D(4, 3, activation="relu"), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack, layers.Dense(3, activation="softmax")])
    for layer in model.layers[:2]:
        kernel, bias = layer.get_weights()
        layer.set_weights([values(kernel), bias])
    return model


def trained(model, stage, keep, scope):
    with scope:
        keras.utils.set_random_seed(0)
        wrapped = stage.apply(model, steps=8, keep=keep)
        stage.calibrate(wrapped, x)
        wrapped.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    own = [layer.layer.kernel for layer in wrapped.layers if hasattr(getattr(layer, "layer", None), "kernel")]
    history = wrapped.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=stage.callbacks())
    assert own and all(hasattr(kernel, "assign") for kernel in own)
    after = [layer.layer.kernel for layer in wrapped.layers if hasattr(getattr(layer, "layer", None), "kernel")]
    assert all(one is other for one, other in zip(own, after))
    return history.history["loss"], stage.strip(wrapped)


def compare(stage, keep=(), values=lambda kernel: kernel, tolerance=1e-6):
    model = network(values)
    scopes = contextlib.nullcontext(), strategy.scope()
    (one, _), (two, _) = (trained(model, stage, keep, scope) for scope in scopes)
    print(type(stage).__name__, keep, one, two)
    assert np.allclose(one, two, atol=tolerance) and one[1] < one[0] + 0.01


compare(tfopt.Prune(final_sparsity=0.5, min_steps=0))
compare(tfopt.Cluster())
# Ranges differ: their moving averages follow the mean of the extremes of both halves of a batch.
for stage in (tfopt.Quantize(), tfopt.Quantize(weight_bits=4, weight_steps="learned")):
    compare(stage, tolerance=1e-2)
tenths = lambda kernel: np.round(kernel * 10) / 10
compare(tfopt.Quantize(), {"clusters", "sparsity"}, tenths, tolerance=1e-2)
"""


def test_two_replicas_train_as_one():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
