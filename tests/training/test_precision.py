"""Training in half precision: what is rounded, what stays float32, and what is refused."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base import devices
from tfopt.base.devices import computing_in, has_precision
from tfopt.base.keras_compat import tf_keras
from tfopt.data.position import Position
from tfopt.errors import RecipeError
from tfopt.run import requirements
from tfopt.training import fit
from tfopt.training.backup import Backup

FLOAT = tfopt.Export(weights="float32", activations="float32")
bfloat16 = pytest.mark.skipif(not has_precision("bfloat16"), reason="TensorFlow computes no bfloat16 on this machine")
gpu = pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="no GPU on this machine")


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(240, 8, 8, 3)).astype("float32")
    return tfopt.load_data((x, (x.mean((1, 2))[:, 0] > 0).astype("int64")))


def network():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    stack = [layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()]
    rest = [layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 3)), *stack, layers.Conv2D(8, 3, activation="relu"), *rest])


def trained(data, stage, precision, **more):
    export = tfopt.Export() if stage.last else FLOAT
    training = tfopt.Training(batch_size=32, precision=precision, batchnorm="train")
    recipe = tfopt.Recipe(stages=(stage,), training=training, export=export, max_drop=None)
    return tfopt.optimize(network(), recipe, data, quiet=True, **more)


def test_products_are_rounded_within_the_block_and_nowhere_else():
    product = tf.function(tf.matmul)
    given = tf.fill((8, 1), 1 + 2**-9), tf.ones((1, 8))  # bfloat16 has 7 bits after the point
    if has_precision("bfloat16"):
        with computing_in("bfloat16"):
            assert float(product(*given)[0, 0]) == 1
    with computing_in("float32"):
        assert float(product(*given)[0, 0]) == 1 + 2**-9
    assert float(product(*given)[0, 0]) == 1 + 2**-9


STAGES = [
    tfopt.FineTune(epochs=2),
    tfopt.Prune(epochs=2, min_steps=0),
    tfopt.Cluster(number_of_clusters=4, epochs=2, min_steps=0),
    tfopt.Quantize(epochs=2, min_steps=0),
    tfopt.PruneChannels(epochs=2, min_steps=0, round_to=1),
    tfopt.LowRank(epochs=2, rank=2, min_steps=0),
]


@bfloat16
@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
@pytest.mark.parametrize("taught", [False, True])
def test_each_stage_trains_in_bfloat16_and_gives_a_float32_model(data, stage, taught):
    more = {"teacher": network()} if taught else {}
    half, full = (trained(data, stage, precision, **more) for precision in ("bfloat16", "float32"))
    assert half.report.resources.precision == "bfloat16"
    assert {weight.dtype for weight in half.model.weights} == {"float32"}
    assert {layer.compute_dtype for layer in half.model.layers} == {"float32"}
    found, expected = (np.concatenate([w.ravel() for w in each.model.get_weights()]) for each in (half, full))
    assert found.shape == expected.shape and np.abs(found - expected).max() < 0.2
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    losses, others = (each.report.rows[-1 if stage.last else 1].history.values["loss"] for each in (half, full))
    assert 0 < np.abs(np.subtract(losses, others)).max() < 0.05
    accuracy, other = (each.report.rows[-1].metrics["accuracy"] for each in (half, full))
    assert abs(accuracy - other) < 0.15
    used = {tensor.dtype for tensor in half.lite.tensors()}
    assert not {"float16", "bfloat16"} & set(map(str, used))


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True])
def test_a_scaled_loss_gives_the_same_steps(data, monkeypatch, taught):
    """A power of two changes no bit of the gradients. On a CPU without float16 only the scale is left of it."""
    monkeypatch.setattr(requirements, "has_precision", lambda name: True)
    monkeypatch.setattr(fit, "computing_in", lambda precision: contextlib.nullcontext())
    more = {"teacher": network()} if taught else {}
    stage = tfopt.Prune(epochs=2, min_steps=0)
    scaled, plain = (trained(data, stage, precision, **more) for precision in ("float16", "float32"))
    for weight, other in zip(scaled.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)


@bfloat16
def test_losses_softmax_and_statistics_stay_float32():
    """A mean of 1,000 values of 1 + 2**-9, and a probability of 1 - 2**-9: bfloat16 holds neither."""
    norm = tf_keras().layers.BatchNormalization(momentum=0.0)
    inputs = tf.fill((1000, 2, 2, 4), 1 + 2**-9)
    run = tf.function(lambda x: norm(x, training=True))
    softmax = tf.function(tf.nn.softmax)
    with computing_in("bfloat16"):
        run(inputs)
        high = float(softmax(tf.constant([[0.0, float(np.log(511))]]))[0, 1])
    assert norm.moving_mean.numpy() == pytest.approx(1 + 2**-9, abs=1e-6)
    assert high == pytest.approx(511 / 512, abs=1e-6)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_precision_that_the_machine_lacks_is_refused_by_name(data, monkeypatch, precision):
    monkeypatch.setattr(requirements, "has_precision", lambda name: name == "float32")
    with pytest.raises(RecipeError, match=rf'^Training\(precision="{precision}"\) has no effect on .* "float32"\.$'):
        trained(data, tfopt.FineTune(), precision)


def test_a_cpu_without_instructions_is_noted(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_flags", lambda: {"avx512f"})
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: [])
    assert devices.is_slow("bfloat16") and not devices.is_slow("float32")
    monkeypatch.setattr(devices, "_cpu_flags", lambda: {"avx512f", "avx512_bf16"})
    assert not devices.is_slow("bfloat16")
    monkeypatch.setattr(devices, "_cpu_flags", set)
    assert not devices.is_slow("bfloat16")


def test_the_scale_of_the_loss_is_backed_up(tmp_path):
    """The scale halves at gradients that are not finite; a training that goes on has the scale it had."""

    def learner():
        model = tf_keras().Sequential([tf_keras().Input((2,)), tf_keras().layers.Dense(1)])
        optimizer = tf_keras().mixed_precision.LossScaleOptimizer(tf_keras().optimizers.Adam())
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, "mse")
        return model

    x = np.array([[1.0, np.inf], [1.0, 1.0]], "float32")
    batches = tf.data.Dataset.from_tensor_slices((x, np.ones((2, 1), "float32"))).batch(1)
    scales = []
    for _ in range(2):
        model = learner()
        Backup(tmp_path, position=Position()).fit(model, batches, epochs=1, callbacks=[], label="x", verbose=0)
        scales.append(float(model.optimizer.loss_scale))
    assert scales == [2**14, 2**14]  # it begins with 2**15, and the second training is over


@gpu
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_gpu_gives_what_a_cpu_gives_within_noise(data, precision):
    on_gpu = trained(data, tfopt.FineTune(epochs=3), precision)
    with tf.device("/CPU:0"):
        on_cpu = trained(data, tfopt.FineTune(epochs=3), "float32")
    assert "GPU" in on_gpu.report.resources.device
    found, expected = (np.concatenate([w.ravel() for w in each.model.get_weights()]) for each in (on_gpu, on_cpu))
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    rows = [dataclasses.asdict(each.report.rows[-1])["metrics"]["accuracy"] for each in (on_gpu, on_cpu)]
    assert abs(rows[0] - rows[1]) < 0.1
