"""Weights of samples and of classes against losses of places: expected values in float64 NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.bridge.carried_settings import as_loss
from tfopt.data import load_data
from tfopt.tasks import task_of
from tfopt.training.class_weights import class_weighted, class_weights
from tfopt.training.fit import train
from tfopt.training.loss import choose_loss
from tfopt.training.sample_weights import fitted_to_losses

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(4, 4, 4, 2)).astype("float32")  # as many samples as columns: wrong weights would fit
OWN = np.array([1.0, 2.0, 0.0, 5.0])
MASKS = (RNG.uniform(size=(4, 4, 4)) > 0.7).astype(int)
LABELS = RNG.integers(0, 2, (4, 4, 4, 2)).astype("float32")


def surprise(p, truth):
    return -np.log(np.where(truth, p, 1 - p))


def by_sample(y_true, y_pred):
    """A loss of one value for each sample."""
    return tf.reduce_max(tf.abs(tf.cast(y_true, tf.float32) - y_pred), axis=(1, 2, 3))


P = X[..., 0].astype(float)
CASES = {
    "one output": (MASKS, 1, None, surprise(P, MASKS)),
    "one compiled output": (MASKS, 1, "binary_crossentropy", surprise(P, MASKS)),
    "one output of Keras 3": (MASKS, 1, as_loss(keras.losses.BinaryCrossentropy()), surprise(P, MASKS)),
    "labels": (LABELS, 2, "binary_crossentropy", surprise(X.astype(float), LABELS).mean(axis=-1)),
    "values": (LABELS * 1.5, 2, "mse", ((X.astype(float) - LABELS * 1.5) ** 2).mean(axis=-1)),
    "of samples": (MASKS[..., None] * 1.5, 1, by_sample, np.abs(P - MASKS * 1.5).max(axis=(1, 2))),
}


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_each_place_has_the_weight_of_its_sample_and_class(case, balanced):
    y, outputs, compiled, losses = CASES[case]
    own = OWN.reshape(4, *[1] * (losses.ndim - 1))
    if balanced:
        if y is not MASKS:
            pytest.skip("has no classes")
        own = own * np.where(MASKS, 64 / 2 / MASKS.sum(), 64 / 2 / (64 - MASKS.sum()))
    data = load_data(dict.fromkeys(("train", "validation", "test"), (X, y, OWN)))
    package = tf_keras()
    model = package.Sequential([package.Input((4, 4, 2)), package.layers.Lambda(lambda x: x[..., :outputs])])
    training = tfopt.Training(class_weight="balanced" if balanced else None)
    if compiled is not None:
        model.compile("sgd", compiled)
    loss = choose_loss(model, training, data)
    batches = class_weighted(data.batches("train", 4), class_weights(training, data))
    fitted = fitted_to_losses(batches, loss, task_of(data), model)
    model.compile("sgd", loss)
    assert model.evaluate(fitted, verbose=0) == pytest.approx((losses * own).mean(), rel=1e-4)


def test_validation_counts_all_samples_alike():
    """Train weights that stay 0 leave the model as it is; its loss on validation is -mean(log p), without weights."""
    y = (np.arange(40) % 4 > 0).astype(int)
    x, own = np.ones((40, 1), "float32"), np.where(y, 1.0, 50.0)
    data = load_data(dict.fromkeys(("train", "validation", "test"), (x, y, own)))
    package = tf_keras()
    model = package.Sequential([package.Input((1,)), package.layers.Dense(1, "sigmoid", use_bias=False)])
    model.set_weights([np.array([[np.log(3.0)]])])  # 3 / 4, the share of class 1
    trained = train(
        model,
        data.batches("train", 40),
        data,
        loss="binary_crossentropy",
        training=tfopt.Training(learning_rate=1e-9),
        epochs=1,
        progress=Progress(quiet=True),
        label="test",
    )
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert trained.history["val_loss"] == pytest.approx([entropy], rel=1e-4)
    assert trained.history["loss"] == pytest.approx([-(0.75 * np.log(0.75) + 50 * 0.25 * np.log(0.25))], rel=1e-4)


@pytest.mark.parametrize("bytes_in_memory", [0, 2**30])
def test_the_head_of_a_transfer_is_chosen_by_samples_that_count_alike(monkeypatch, bytes_in_memory):
    monkeypatch.setattr("tfopt.transfer.feature_transfer.BYTES_IN_MEMORY", bytes_in_memory)
    x, y, own = np.ones((40, 3), "float32"), np.arange(40) % 2, np.linspace(1, 2, 40)
    data = load_data(dict.fromkeys(("train", "validation", "test"), (x, y, own)))
    arguments = tfopt.transfer.FeatureTransfer()._fit_arguments(data)
    validation = arguments["validation_data"]
    assert len(validation if isinstance(validation, tuple) else validation.element_spec) == 2
    assert len(next(iter(arguments["x"]))) == 3 if bytes_in_memory == 0 else arguments["sample_weight"] is not None
