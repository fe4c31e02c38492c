"""The networks that recipes bring, against those of keras.applications."""

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest

import tfopt

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def names():
    return runpy.run_path(str(RECIPES / "resnet_to_mobilenet.py"))


@pytest.fixture(scope="module")
def data():
    return tfopt.load_data((np.zeros((40, 32, 32, 3), "uint8"), np.arange(40) % 10))


@pytest.mark.parametrize("alpha", [0.35, 1.0])
def test_the_mobilenet_v2_has_the_weights_of_the_published_one(names, data, alpha):
    """Strides differ, weights do not."""
    published = keras.applications.MobileNetV2((32, 32, 3), alpha=alpha, weights=None, classes=10)
    student = names["mobilenet_v2"](data, alpha=alpha)
    assert [w.shape for w in student.weights] == [w.shape for w in published.weights]
    (reduced,) = {layer.output.shape[1] for layer in student.layers if layer.output.shape[-1] == 1280} - {1280}
    assert reduced == 4


def test_the_resnet_50_has_the_kernels_of_the_published_one(names, data):
    published = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    teacher = names["resnet50"](data, filters=64)

    def kernels(model):
        return sorted(tuple(w.shape) for w in model.weights if w.name == "kernel")

    expected = kernels(published)
    expected.remove((7, 7, 3, 64))  # the stem
    assert kernels(teacher) == sorted([*expected, (3, 3, 3, 64)])
    assert len(expected) == 53


def test_the_example_of_a_resnet_and_a_mobilenet_is_ready_to_run(names):
    data = names["example_data"]()
    assert data.input_shape == (32, 32, 3) and data.num_classes == 10
    sevens = np.flatnonzero(data.train.labels == 7)
    assert np.ptp(data.train.x(sevens), axis=-1).max() == 0  # gray
    assert names["example_model"](data).output_shape == (None, 10)
    assert names["recipe"].distillation is not None
