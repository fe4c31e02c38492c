"""Shared fixtures. TensorFlow stays quiet unless the environment says otherwise."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from PIL import Image


def pytest_addoption(parser):
    parser.addoption("--all-cases", action="store_true", help="run each case of slow tests, and tests of minutes")


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
    """Leave out tests that take minutes, and all cases but the first of slow ones, unless `--all-cases` is given."""
    if config.getoption("--all-cases"):
        return
    seen, left_out = set(), []
    for item in items:
        test = (item.parent, getattr(item, "originalname", item.name))
        if item.get_closest_marker("minutes") or (item.get_closest_marker("slow") and test in seen):
            left_out.append(item)
        elif item.get_closest_marker("slow"):
            seen.add(test)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(autouse=True)
def _seeded():
    """Seed Python, NumPy and both Kerases, so that a test draws the same weights alone and in any order."""
    import keras
    import tf_keras

    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)  # once seeded, it keeps its own generator


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of models and data that are too large for the repository."""
    if "TFOPT_SHARED" not in os.environ:
        pytest.skip("TFOPT_SHARED does not say where the shared models and data are")
    return Path(os.environ["TFOPT_SHARED"])


@pytest.fixture(scope="module")
def native_child(tmp_path_factory):
    """Start the child for native code so that it can import one more module; call this with its name and source."""
    from tfopt.base import native, worker

    started = []
    with pytest.MonkeyPatch.context() as patch:

        def start(module, source):
            folder = tmp_path_factory.mktemp("doors")
            (folder / f"{module}.py").write_text(source)
            patch.setenv("PYTHONPATH", str(folder))
            started.append(native.child())
            patch.setitem(worker._WORKERS, (native.child, os.getpid()), started[-1])
            return started[-1]

        yield start
        for child in started:
            child.stop()


def _small_model(api):
    """One kernel of each kind that the stages treat differently; a submodel; weights as after training.

    `api` is `keras` or `tf_keras`. Kernels: `stem` (before BatchNorm), `inline` (with a ReLU activation), `apart`
    (before a ReLU layer), `conv` and the depthwise `depth` in the submodel, and the Dense `head`.
    """
    layers = api.layers
    inner = [
        layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
        layers.BatchNormalization(momentum=0.5, name="conv_norm"),
        layers.ReLU(name="conv_relu"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depth"),
        layers.BatchNormalization(momentum=0.5, name="depth_norm"),
        layers.ReLU(name="depth_relu"),
    ]
    outer = [
        layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem"),
        layers.BatchNormalization(momentum=0.5, name="stem_norm"),
        layers.ReLU(name="stem_relu"),
        layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="inline"),
        layers.Conv2D(8, 3, padding="same", name="apart"),
        layers.ReLU(name="apart_relu"),
        _chained(api, (4, 4, 8), inner, "inner"),
        layers.Dropout(0.1, name="drop"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(4, activation="softmax", name="head"),
    ]
    model = _chained(api, (8, 8, 3), outer, "small")
    rng = np.random.default_rng(7)
    weights = []
    for weight in model.get_weights():
        fan_in = np.prod(weight.shape[:-1]) if weight.ndim > 1 else None
        drawn = rng.normal(0, 1.4 / np.sqrt(fan_in), weight.shape) if fan_in else rng.uniform(0.5, 1.5, weight.shape)
        weights.append(drawn.astype("float32"))
    model.set_weights(weights)
    images = rng.normal(size=(64, 8, 8, 3)).astype("float32")
    for _ in range(10):  # as after training: BatchNorm's moving statistics are those of its inputs
        model(images, training=True)
    return model


def _chained(api, shape, layers, name):
    inputs = outputs = api.Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    return api.Model(inputs, outputs, name=name)


@pytest.fixture(scope="session")
def small_model():
    """A function that makes the model with the given package, `keras` or `tf_keras`."""
    return _small_model


@pytest.fixture(scope="session")
def samples():
    """256 images (8, 8, 3) and their classes, 0 to 3, given by which of two channels are bright on average."""
    x = np.random.default_rng(1).normal(size=(256, 8, 8, 3)).astype("float32")
    return x, (x.mean(axis=(1, 2))[:, :2] > 0) @ np.array([1, 2])


@pytest.fixture
def write_photos():
    """A function that writes two classes of 8x8 photos, dark and light, each in a folder inside the given one."""

    def write(folder, count):
        rng = np.random.default_rng(0)
        for name, level in (("dark", 60), ("light", 190)):
            (folder / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i}.png")

    return write
