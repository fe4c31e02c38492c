"""What a source was trained with: stated beside it, inside it, known from its structure, or measured."""

import json

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.data import Preprocessing, load_data
from tfopt.errors import DataError
from tfopt.graph.walk import walk
from tfopt.models.sources import model_from
from tfopt.transfer.architectures import known_architecture
from tfopt.transfer.preprocessing import choose_preprocessing

APIS = pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])


def images_of(count=80, channels=3, seed=0, contrast=20):
    """Images (count, 8, 8, channels) of two classes that differ in brightness, within the range of photos."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.integers(0, 200, (count, 8, 8, channels)) + contrast * y[:, None, None, None]
    return load_data((x.astype("uint8"), y))


def small(api, *first, outputs=3):
    layers = api.layers
    inputs = x = api.Input((8, 8, 3))
    for layer in (*first, layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D()):
        x = layer(x)
    return api.Model(inputs, layers.Dense(outputs, activation="softmax")(x), name="small")


@APIS
@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (lambda layers: [layers.Rescaling(1 / 127.5, offset=-1)], "raw"),
        (lambda layers: [layers.Rescaling(1 / 255)], "raw"),
        (lambda layers: [layers.Rescaling(2.0, offset=-1)], "unit"),
        (lambda layers: [layers.Normalization(mean=[120.0] * 3, variance=[3600.0] * 3)], "raw"),
        (lambda layers: [layers.Normalization(mean=[0.45] * 3, variance=[0.06] * 3)], "unit"),
        (lambda layers: [layers.ZeroPadding2D(1), layers.Rescaling(1 / 255), layers.RandomContrast(0.9)], "raw"),
    ],
)
def test_a_model_that_scales_its_inputs_says_what_it_takes(api, inside, expected):
    data, (note,) = choose_preprocessing(small(api, *inside(api.layers)), images_of(), None)
    assert data.preprocessing == images_of().with_preprocessing(expected).preprocessing
    assert note.startswith(f"preprocessing '{expected}': the model scales its inputs itself")


def test_what_stands_beside_the_model_wins(tmp_path):
    own = Preprocessing(scale=(0.1, 0.2, 0.3), offset=-1.0, order="bgr", size=(99, 99))
    small(keras, keras.layers.Rescaling(1 / 255)).save(tmp_path / "model.keras")
    (tmp_path / "data.json").write_text(json.dumps({"preprocessing": own.to_dict(), "class_names": None}))
    data, (note,) = choose_preprocessing(model_from(tmp_path / "model.keras"), images_of(), None)
    assert (data.preprocessing.scale, data.preprocessing.offset) == ((0.1, 0.2, 0.3), -1.0)
    assert (data.preprocessing.order, data.preprocessing.size) == ("bgr", (8, 8))
    assert "preprocessing of data.json beside the model: " in note
    (tmp_path / "data.json").write_text('{"preprocessing": {"factor": 3}}')
    with pytest.raises(DataError, match=r"data\.json"):
        choose_preprocessing(model_from(tmp_path / "model.keras"), images_of(), None)
    (tmp_path / "data.json").write_text('{"of": "something else"}')
    assert "scales its inputs itself" in choose_preprocessing(tmp_path / "model.keras", images_of(), None)[1][0]


@pytest.mark.slow
@APIS
@pytest.mark.parametrize(
    ("name", "settings", "mode"),
    [
        ("MobileNet", {"alpha": 0.25, "include_top": False}, "symmetric"),
        ("MobileNet", {"alpha": 0.25, "classes": 1000}, "symmetric"),
        ("VGG16", {"include_top": False}, "caffe"),
        ("ResNet50", {"include_top": False, "pooling": "avg"}, "caffe"),
    ],
)
def test_architectures_are_known_by_their_structure(api, name, settings, mode):
    model = getattr(api.applications, name)(weights=None, input_shape=(64, 64, 3), **settings)
    renamed = api.Sequential([api.Input((64, 64, 3)), model], name="renamed")
    assert known_architecture(walk(renamed)) == (name, mode)


def mobilenet(classes):
    return keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(32, 32, 3), classes=classes)


def test_a_pretrained_architecture_is_fed_as_it_was_trained():
    x = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype("uint8")
    data, (note,) = choose_preprocessing(mobilenet(1000), load_data((x, np.arange(30) % 2)), None)
    assert data.preprocessing.scale == pytest.approx(1 / 127.5) and data.preprocessing.offset == -1
    assert "'symmetric': the MobileNet of keras.applications was trained with it" in note


@pytest.mark.slow
def test_the_same_architecture_for_other_classes_is_measured():
    """Somebody trained it on something, fed in some way: here noise tells nothing, so its structure decides."""
    x = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype("uint8")
    data, notes = choose_preprocessing(mobilenet(2), load_data((x, np.arange(60) % 2)), None)
    assert data.preprocessing.scale == pytest.approx(1 / 127.5)
    assert "as for the MobileNet of keras.applications, whose structure the model has" in notes[0]
    assert "'symmetric' is a guess" in notes[1] and "--preprocessing" in notes[1]


def clipping(order=None):
    """A model whose features live where caffe's blue is: a window of the third or first channel around 0."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1, name="pick")(inputs)
    x = layers.Activation("tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x), name="clipping")
    kernel = np.zeros((1, 1, 3, 2), "float32")
    kernel[0, 0, order] = [1.0, -1.0]
    model.get_layer("pick").set_weights([kernel, np.array([3.0, 5.0])])
    return model


def test_a_clear_winner_is_measured_with_its_margin():
    """Red pixels of 123 and 124 in caffe's order are -0.7 and 0.3: a tanh tells them apart, and in no other scale."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.integers(0, 256, (120, 8, 8, 3))
    x[..., 0] = 119 + rng.integers(0, 3, (120, 8, 8)) + y[:, None, None]
    data, notes = choose_preprocessing(clipping(2), load_data((x.astype("uint8"), y)), None)
    assert data.preprocessing.order == "bgr"
    assert data.preprocessing.offset == (-103.939, -116.779, -123.68)
    assert len(notes) == 1 and "caffe: LogME" in notes[0] and "with loss" in notes[0]


def test_a_tie_is_said_and_the_user_asked():
    """Features that are relative to their own size do not depend on the scale at all."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.UnitNormalization()(layers.Flatten()(inputs))
    source = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dense(8, name="same")(x)))
    _, notes = choose_preprocessing(source, images_of(channels=1), None)
    assert "raw: LogME" in notes[0] and "caffe" not in notes[0]  # gray images have no order of colors
    assert "nearly tied with" in notes[1] and "if it is wrong, state it: --preprocessing" in notes[1]


def test_data_that_states_its_preprocessing_is_left_alone():
    for given in (images_of().with_preprocessing("caffe"), images_of().with_preprocessing("unit")):
        assert choose_preprocessing(small(keras), given, None) == (given, [])
    floats = load_data((np.zeros((20, 8, 8, 3), "float32"), np.arange(20) % 2))
    assert choose_preprocessing(small(keras), floats, None) == (floats, [])


def test_mobilenet_with_its_weights(shared):
    path = shared / "models" / "mobilenet_025_224_imagenet.keras"
    x = np.zeros((10, 224, 224, 3), np.uint8)
    data, (note,) = choose_preprocessing(path, tfopt.load_data((x, np.arange(10) % 2)), None)
    assert data.preprocessing.offset == -1 and "MobileNet" in note
