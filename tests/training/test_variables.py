"""Variables that exist before `fit`: TensorFlow traces the training step once, and nothing else changes."""

import numpy as np
import pytest
import tensorflow as tf

from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.data import load_data
from tfopt.training.fit import train
from tfopt.training.settings import Training
from tfopt.training.variables import build_metric, build_optimizer

SHAPES = {  # outputs of the model, labels of a batch of 6, name of the metric
    "classes": (3, np.array([0, 1, 2, 0, 1, 1]), "accuracy"),
    "classes in a column": (3, np.array([[0], [1], [2], [0], [1], [1]]), "accuracy"),
    "one-hot": (3, np.eye(3)[[0, 1, 2, 0, 1, 1]], "accuracy"),
    "yes or no": (1, np.array([0, 1, 0, 0, 1, 1]), "accuracy"),
    "numbers": (2, np.arange(12.0).reshape(6, 2), "mae"),
}


def model_of(outputs):
    tf_keras().utils.set_random_seed(0)
    layers = tf_keras().layers
    kind = "softmax" if outputs == 3 else "sigmoid"
    return tf_keras().Sequential([layers.Input((4,)), layers.Dense(outputs, kind, name="head")])


def fitted(outputs, labels, metric, prepared):
    """The history of two steps, the weights after them, and how often the step was traced."""
    model, x = model_of(outputs), np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    traced = []
    step = model.train_step
    model.train_step = lambda data: traced.append(1) or step(data)
    optimizer = tf_keras().optimizers.Adam(0.1, jit_compile=False)
    if prepared:
        metric = build_metric(metric, labels.shape, model.output_shape)
        optimizer = build_optimizer(optimizer, model)
    loss = "sparse_categorical_crossentropy" if outputs == 3 and labels.shape[-1] != 3 else "mse"
    model.compile(optimizer, loss, metrics=[metric])
    batches = tf.data.Dataset.from_tensor_slices((x, labels.astype("float32"))).batch(3)
    history = model.fit(batches, validation_data=batches, verbose=0).history
    return history, model.get_weights(), len(traced)


@pytest.mark.slow
@pytest.mark.parametrize("case", SHAPES)
def test_the_step_is_traced_once_and_nothing_else_changes(case):
    (before, weights, twice), (after, same, once) = (fitted(*SHAPES[case], prepared) for prepared in (False, True))
    assert (twice, once) == (2, 1)
    assert after == before
    assert SHAPES[case][2] in after
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stage_traces_its_step_once():
    rng = np.random.default_rng(0)
    data = load_data((rng.normal(size=(60, 4)).astype("float32"), np.arange(60) % 3))
    model, traced = model_of(3), []
    step = model.train_step
    model.train_step = lambda batch: traced.append(1) or step(batch)
    settings = {"loss": "sparse_categorical_crossentropy", "training": Training(), "epochs": 2, "label": "stage"}
    train(model, data.batches("train", 8, shuffle=True), data, **settings, progress=Progress(quiet=True))
    assert traced == [1]


def test_a_binary_accuracy_of_logits_has_the_threshold_zero():
    metric = build_metric("accuracy", (None, 1), (None, 1), logits=True)
    metric.update_state([[1.0], [0.0], [1.0], [0.0]], [[0.2], [-0.2], [0.4], [0.1]])
    assert float(metric.result()) == 0.75
