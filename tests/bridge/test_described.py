"""Two losses have the same description if and only if they compute the same."""

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras

APIS = [keras, tf_keras()]


def scaled(factor):
    def loss(y, p):
        return factor * (y - p) ** 2

    return loss


def halved(loss):
    return lambda y, p: loss(y, p) / 2


def first(y, p):
    return abs(y - p)


def second(y, p):
    return abs(y - 2 * p)


class Own(keras.losses.Loss):
    """Has no get_config, like most custom losses."""

    def __init__(self, gamma, **more):
        super().__init__(**more)
        self.gamma = gamma

    def call(self, y, p):
        return self.gamma * (y - p)


class Plain:
    """A callable without a Keras."""

    def __init__(self, gamma):
        self.gamma = gamma

    def __call__(self, y, p):
        return self.gamma * (y - p)


def of_itself(gamma):
    loss = Plain(gamma)
    loss.parts = [{"whole": loss}]
    return loss


def unfinished(factor):
    """A function with a variable that is not defined yet."""

    def loss(y, p):
        return factor * later(y, p)

    if not factor:
        later = first
    return loss


@pytest.mark.parametrize("api", APIS)
def test_a_built_in_loss_is_its_class_and_settings(api):
    found = bridge.described(api.losses.Huber(delta=0.5))
    assert found["class"].endswith(".Huber") and found["config"]["delta"] == 0.5 and "name" not in found["config"]
    assert bridge.described({"a": ["mse", None]}) == {"a": ["mse", None]}
    assert bridge.described(api.losses.mean_absolute_error)["function"].endswith(".mean_absolute_error")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: keras.losses.CategoricalCrossentropy(), lambda: keras.losses.CategoricalCrossentropy(True)),
        (
            lambda: keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
            lambda: keras.losses.CategoricalCrossentropy(label_smoothing=0.2),
        ),
        (lambda: scaled(1.0), lambda: scaled(2.0)),
        (lambda: scaled(np.ones(3)), lambda: scaled(np.zeros(3))),
        (lambda: halved(scaled(1.0)), lambda: halved(scaled(3.0))),
        (lambda: first, lambda: second),
        (lambda: Own(1.0), lambda: Own(2.0)),
        (lambda: Own(1.0).call, lambda: Own(2.0).call),
        (lambda: Plain(1.0), lambda: Plain(2.0)),
        (lambda: functools.partial(first, p=1), lambda: functools.partial(first, p=2)),
        (lambda: tf.function(first), lambda: tf.function(second)),
        (lambda: scaled(tf.constant([1.0, 5.0])), lambda: scaled(tf.constant([1.0, 9.0]))),
        (lambda: scaled(tf.Variable([1.0, 5.0])), lambda: scaled(tf.Variable([1.0, 9.0]))),
        (lambda: Own(tf.constant(1.0)), lambda: Own(tf.constant(2.0))),
        (lambda: Plain(np.add), lambda: Plain(np.subtract)),
        (lambda: Plain(max), lambda: Plain(min)),
        (lambda: Plain({"a", "b", "c"}), lambda: Plain({"a", "b", "d"})),
        (lambda: Plain(b"a"), lambda: Plain(b"b")),
        (lambda: Plain(tf.constant(["a", "b"])), lambda: Plain(tf.constant(["a", "c"]))),
        (lambda: of_itself(1.0), lambda: of_itself(2.0)),
        (lambda: unfinished(1.0), lambda: unfinished(2.0)),
        (lambda: "mse", lambda: "mae"),
    ],
)
def test_what_computes_otherwise_is_described_otherwise(one, other):
    def as_text(setting):
        return json.dumps(bridge.described(setting), sort_keys=True)

    assert as_text(one()) == as_text(one()) != as_text(other())


def test_the_description_is_the_same_in_another_process(tmp_path):
    """Constants of code include sets of texts, whose order changes from process to process."""
    (tmp_path / "own.py").write_text(
        "import json\nfrom tfopt import bridge\n"
        "def loss(y, p):\n    return 1.0 if 'a' in {'a', 'b', 'c', 'd', 'e'} else 2.0\n"
        "print(json.dumps(bridge.described(loss)))"
    )
    runs = [
        subprocess.run([sys.executable, tmp_path / "own.py"], capture_output=True, text=True, check=True, env=env)
        for env in ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2"))
    ]
    assert runs[0].stdout == runs[1].stdout != ""
