"""Features of a pretrained model: where they are taken, how they are cached, and the head trained on them."""

import dataclasses
import io
from contextlib import contextmanager

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.base.locks import locked
from tfopt.base.progress import Progress
from tfopt.data import load_data
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.transfer import FeatureTransfer, Head, extract_features, feature_extractor, feature_transfer, features

APIS = pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])


def chained(api, shape, layers, name="source"):
    inputs = x = api.Input(shape)
    for layer in layers:
        x = layer(x)
    return api.Model(inputs, x, name=name)


def convolution(api, **kwargs):
    return api.layers.Conv2D(5, 3, name="conv", **kwargs)


def after_conv(model, x):
    """The output of the convolution `conv` of `model`, (batch, 4, 4, 5), in NumPy with float64."""
    kernel, bias = model.get_layer("conv").get_weights()
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).astype(np.float64)
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")


def ends(api):
    """Classifiers after `conv`, and the path of what comes before each."""
    layers = api.layers
    return {
        "dense": [layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")],
        "activation apart": [layers.GlobalAveragePooling2D(), layers.Dense(3), layers.Softmax()],
        "dropout": [layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(3)],
        "1x1 convolution": [
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Conv2D(3, 1),
            layers.Reshape((3,)),
            layers.Activation("softmax"),
        ],
        "convolution before pooling": [layers.Conv2D(3, 1), layers.GlobalAveragePooling2D()],
        "no classifier, pooled": [layers.GlobalAveragePooling2D()],
        "no classifier, map": [],
    }


@APIS
@pytest.mark.parametrize("end", ends(keras))
def test_features_are_what_the_classifier_is_fed(api, end, x):
    source = chained(api, (6, 6, 2), [convolution(api), *ends(api)[end]])
    before = source.get_weights()
    extractor = feature_extractor(source)
    assert isinstance(extractor, api.Model)
    assert extractor.output_shape == (None, 5)
    np.testing.assert_allclose(extractor.predict(x, verbose=0), after_conv(source, x).mean(axis=(1, 2)), atol=1e-5)
    extractor.set_weights([np.zeros_like(weight) for weight in extractor.get_weights()])
    for old, now in zip(before, source.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)  # nothing is shared


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("average", lambda values: values.mean(axis=(1, 2))),
        ("max", lambda values: values.max(axis=(1, 2))),
        ("flatten", lambda values: values.reshape(len(values), -1)),
    ],
)
def test_pooling(pooling, expected, x):
    source = chained(keras, (6, 6, 2), [convolution(keras), keras.layers.Flatten(), keras.layers.Dense(3)])
    extractor = feature_extractor(source, layer="conv", pooling=pooling)
    np.testing.assert_allclose(extractor.predict(x, verbose=0), expected(after_conv(source, x)), atol=1e-5)


@APIS
def test_layers_of_nested_models_by_path(api, x):
    inner = chained(api, (6, 6, 2), [convolution(api), api.layers.ReLU(name="relu")], name="backbone")
    inputs = api.Input((6, 6, 2))
    outputs = api.layers.Dense(3)(api.layers.GlobalAveragePooling2D()(inner(inputs)))
    source = api.Model(inputs, outputs, name="outer")
    for layer in ("backbone/conv", "conv"):
        extractor = feature_extractor(source, layer=layer)
        np.testing.assert_allclose(extractor.predict(x, verbose=0), after_conv(inner, x).mean(axis=(1, 2)), atol=1e-5)


def test_another_input_size(x):
    source = chained(keras, (6, 6, 2), [convolution(keras), *ends(keras)["dense"]])
    larger = np.concatenate([x, x], axis=1)
    extractor = feature_extractor(source, input_shape=(12, 6, 2))
    assert extractor.input_shape == (None, 12, 6, 2)
    np.testing.assert_allclose(extractor.predict(larger, verbose=0), after_conv(source, larger).mean((1, 2)), atol=1e-5)
    fixed = [convolution(keras), keras.layers.Flatten(), keras.layers.Dense(4, name="fixed"), keras.layers.Dense(3)]
    with pytest.raises(ModelError, match=r"does not take inputs of \(12, 6, 2\)"):
        feature_extractor(chained(keras, (6, 6, 2), fixed), input_shape=(12, 6, 2))


def test_layers_that_are_not_there(x):
    source = chained(keras, (6, 6, 2), [convolution(keras), *ends(keras)["dense"]])
    with pytest.raises(ModelError, match="nearest: conv"):
        feature_extractor(source, layer="conw")


@pytest.mark.slow
def test_imagenet_weights(shared):
    path = shared / "models" / "mobilenet_025_224_imagenet.keras"
    source = keras.models.load_model(path)
    photos = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    expected = keras.Model(source.inputs, source.get_layer("global_average_pooling2d").output)(photos)
    found = feature_extractor(path)(photos)
    np.testing.assert_allclose(found, np.reshape(expected, (2, 256)), atol=1e-4)
    assert feature_extractor(path, input_shape=(96, 96, 3)).output_shape == (None, 256)


@pytest.mark.slow
def test_a_hub_module_is_used_to_its_end(shared):
    archive = shared / "models" / "hub" / "mobilenet_025_224_feature_vector.tar.gz"
    photos = np.random.default_rng(0).uniform(0, 1, (2, 224, 224, 3)).astype("float32")
    expected = feature_extractor(shared / "models" / "mobilenet_025_224_imagenet.keras")(2 * photos - 1)
    np.testing.assert_allclose(feature_extractor(archive)(photos), expected, atol=1e-4)  # it takes 0..1


# Features of a data set


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    return load_data(((rng.normal(size=(120, 6, 6, 2)) + y[:, None, None, None]).astype("float32"), y))


@pytest.fixture(scope="module")
def source():
    keras.utils.set_random_seed(0)
    return chained(keras, (6, 6, 2), [convolution(keras, activation="relu"), *ends(keras)["dense"]])


def said_by(run):
    """What `run(progress)` prints, without its bars."""
    stream = io.StringIO()
    run(Progress(stream=stream))
    return stream.getvalue()


def test_features_stand_in_for_inputs(images, source):
    extractor = feature_extractor(source)
    features = extract_features(extractor, images, quiet=True)
    for name in ("train", "validation", "test"):
        expected = extractor.predict(images.split(name).x(), verbose=0)
        np.testing.assert_allclose(features.split(name).x(), expected, atol=1e-5)
        np.testing.assert_array_equal(features.split(name).y(), images.split(name).y())
    assert features.input_shape == (5,)


def test_views(images, source):
    augment = tfopt.Augmentation(shift=0.4)
    count = len(images.train)
    features = extract_features(feature_extractor(source), images, views=3, augment=augment, quiet=True)
    assert len(features.train) == 3 * count
    assert len(features.test) == len(images.test)
    np.testing.assert_array_equal(features.train.y(), np.tile(images.train.y(), 3))
    for name in ("validation", "test"):  # these are not augmented
        plain = feature_extractor(source).predict(images.split(name).x(), verbose=0)
        np.testing.assert_allclose(features.split(name).x(), plain, atol=1e-5)
    views = features.train.x().reshape(3, count, 5)
    assert (views[0] != views[1]).any(axis=1).mean() > 0.5
    again = extract_features(feature_extractor(source), images, views=3, augment=augment, quiet=True)
    np.testing.assert_array_equal(again.train.x(), features.train.x())
    other = extract_features(feature_extractor(source), images, views=3, augment=augment, seed=1, quiet=True)
    assert (other.train.x() != features.train.x()).any()
    with pytest.raises(DataError, match="several with an augmentation"):
        extract_features(feature_extractor(source), images, views=3, quiet=True)


def test_features_are_cached_and_recomputed_when_stale(images, source, tmp_path):
    extractor = feature_extractor(source)
    first = extract_features(extractor, images, cache=tmp_path / "kept", quiet=True)
    assert isinstance(first.train.inputs.base, np.memmap) or isinstance(first.train.inputs, np.memmap)
    (file,) = (tmp_path / "kept").glob("*.npy")
    written = file.stat().st_mtime_ns

    def extracted(model, data=images):
        return lambda progress: extract_features(model, data, cache=tmp_path / "kept", progress=progress, quiet=True)

    assert "stale" not in said_by(extracted(extractor))
    assert file.stat().st_mtime_ns == written
    changed = feature_extractor(source)
    changed.set_weights([2 * weight for weight in changed.get_weights()])
    assert "stale" in said_by(extracted(changed))
    kept = extract_features(changed, images, cache=tmp_path / "kept", quiet=True)
    np.testing.assert_allclose(kept.test.x(), changed.predict(images.test.x(), verbose=0), atol=1e-5)
    less = load_data((images.train.x(), images.train.y()))
    assert "data was" in said_by(extracted(changed, less))


def test_features_that_another_process_replaced_meanwhile_stay(images, source, tmp_path, monkeypatch):
    """Both find stale ones; the second gets the lock once the first has computed them again."""
    kept, extractor = tmp_path / "kept", feature_extractor(source)
    extract_features(extractor, images, cache=kept, quiet=True)
    changed = feature_extractor(source)
    changed.set_weights([2 * weight for weight in changed.get_weights()])
    written = []

    @contextmanager
    def late(*args, **given):
        monkeypatch.setattr(features, "locked", locked)
        extract_features(changed, images, cache=kept, quiet=True)
        written.extend(file.stat().st_mtime_ns for file in kept.glob("*.npy"))
        with locked(*args, **given):
            yield
            assert (kept / ".lock").exists()

    monkeypatch.setattr(features, "locked", late)
    extract_features(changed, images, cache=kept, quiet=True)
    assert [file.stat().st_mtime_ns for file in kept.glob("*.npy")] == written


# A head on features


def labels_for(task, y):
    return {
        "classification": y,
        "one-hot": np.eye(3, dtype="float32")[y],
        "multilabel": np.stack([y > 0, y > 1, y < 3], axis=1).astype("float32"),
        "regression": y.astype("float32") * 2.5,
    }[task]


@pytest.mark.slow
@APIS
@pytest.mark.parametrize("task", ["classification", "one-hot", "multilabel", "regression"])
def test_the_whole_model_is_extractor_and_head(api, task):
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = (rng.normal(size=(300, 6, 6, 2)) + y[:, None, None, None]).astype("float32")
    data = load_data((x, labels_for(task, y)))
    source = chained(api, (6, 6, 2), [convolution(api), *ends(api)["dense"]])
    settings = FeatureTransfer(epochs=60, learning_rate=0.02, head=Head(hidden=(16,)))
    made = settings.transferred(source, data, quiet=True)
    assert isinstance(made.model, api.Model)
    features = after_conv(source, data.test.x()).mean(axis=(1, 2))
    (kernel, bias), (last, offset) = (made.model.get_layer(name).get_weights() for name in ("head_hidden_1", "head"))
    outputs = np.maximum(features @ kernel + bias, 0) @ last + offset
    if task in ("classification", "one-hot"):
        outputs = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    elif task == "multilabel":
        outputs = 1 / (1 + np.exp(-outputs))
    found = made.model.predict(data.test.x(), verbose=0)
    np.testing.assert_allclose(found, outputs, atol=1e-4)
    wanted = data.test.y()
    if task == "regression":
        assert np.abs(found[:, 0] - wanted).mean() < 0.6
    elif task == "multilabel":
        assert ((found > 0.5) == wanted).mean() > 0.9
    else:
        assert (found.argmax(1) == (wanted if task == "classification" else wanted.argmax(1))).mean() > 0.9
    assert "left out" in made.notes[0]


@pytest.mark.slow
def test_same_seed_same_model(images, source):
    def kernel(seed):
        made = FeatureTransfer(epochs=2, seed=seed).transferred(source, images, quiet=True)
        return made.model.get_layer("head").get_weights()[0]

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert (kernel(1) != kernel(2)).any()


@pytest.mark.slow
def test_features_that_do_not_fit_into_memory_are_fed_in_batches(images, source, monkeypatch):
    settings = FeatureTransfer(epochs=20, learning_rate=0.05)
    in_memory = settings.transferred(source, images, quiet=True)
    monkeypatch.setattr(feature_transfer, "BYTES_IN_MEMORY", 0)
    in_batches = settings.transferred(source, images, quiet=True)
    kernels = [made.model.get_layer("head").get_weights()[0] for made in (in_memory, in_batches)]
    assert (kernels[0] != kernels[1]).any()  # shuffled differently
    same = [made.model.predict(images.test.x(), verbose=0).argmax(1) for made in (in_memory, in_batches)]
    assert (same[0] == same[1]).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "most"),
    [({}, 2**29), ({"epochs": 20, "learning_rate": 0.05}, 2**29), ({"epochs": 20, "learning_rate": 0.05}, 0)],
    ids=["fitted", "Adam on arrays", "Adam on batches"],
)
def test_weights_of_samples_count(source, monkeypatch, settings, most):
    """Two of three samples have the label of another class, and the weight 0."""
    monkeypatch.setattr(feature_transfer, "BYTES_IN_MEMORY", most)
    rng = np.random.default_rng(0)
    y, right = np.arange(240) % 3, np.arange(240) // 3 % 3 == 0
    x = (rng.normal(size=(240, 6, 6, 2)) + y[:, None, None, None]).astype("float32")
    data = load_data((x, np.where(right, y, (y + 1) % 3), right.astype("float32")))
    model = FeatureTransfer(**settings).transferred(source, data, quiet=True).model
    assert (model.predict(x, verbose=0).argmax(axis=1) == y).mean() > 0.8


def test_features_are_kept_whatever_the_weights(images, source, tmp_path):
    extractor = feature_extractor(source)
    extract_features(extractor, images, cache=tmp_path, quiet=True)
    (file,) = tmp_path.glob("*.npy")
    written = file.stat().st_mtime_ns
    train = dataclasses.replace(images.train, weights=np.arange(len(images.train), dtype="float32"))
    weighted = extract_features(extractor, dataclasses.replace(images, train=train), cache=tmp_path, quiet=True)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(weighted.train.w(), train.weights)


def test_bad_settings(images, source):
    with pytest.raises(RecipeError, match="epochs"):
        FeatureTransfer(epochs=0)
    with pytest.raises(DataError, match="augmentation"):
        FeatureTransfer(views=2).transferred(source, images, quiet=True)
    values = load_data((images.train.x(), images.train.y().astype("float32") + 0.5))
    with pytest.raises(RecipeError, match="lower FeatureTransfer's learning_rate"):
        FeatureTransfer(learning_rate=1e30, epochs=3).transferred(source, values, quiet=True)
    with pytest.raises(ModelError, match="does not take inputs"):
        FeatureTransfer(input_shape=(5, 5, 3)).transferred(source, images, quiet=True)
    with pytest.raises(DataError, match=r"expects inputs of shape \(8, 8, 2\), the data has \(6, 6, 2\)"):
        FeatureTransfer(input_shape=(8, 8, 2)).transferred(source, images, quiet=True)
