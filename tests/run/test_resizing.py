"""A stage may resize layers, and everything around it supports that."""

import shutil
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfopt
from tfopt import bridge
from tfopt.base.config import config
from tfopt.base.keras_compat import tf_keras
from tfopt.base.registry import register
from tfopt.errors import DataError, ModelError
from tfopt.run import step
from tfopt.run.checkpoint import Checkpoint, Kept
from tfopt.run.prepare import prepare
from tfopt.stages.stage import Stage


@register("test_resizing")
@config
class Halve(Stage):
    """Keep the first half of the units of the layer 'hidden', and the matching inputs of the layer 'head'."""

    resizes: ClassVar[bool] = True

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        units = flat_model.get_layer("hidden").units // 2
        sizes = {"hidden": {"units": units}}

        def resized(layer: Any) -> Any:
            return type(layer).from_config({**layer.get_config(), **sizes.get(layer.name, {})})

        model = tf_keras().models.clone_model(flat_model, clone_function=resized)
        for layer in model.layers:
            values = flat_model.get_layer(layer.name).get_weights()
            if layer.name == "hidden":
                values = [value[..., :units] for value in values]
            if layer.name == "head":
                values[0] = values[0][:units]
            layer.set_weights(values)
        return model


FLOAT = tfopt.Export(weights="float32", activations="float32")
SIZES = [(5, 6), (6, 4), (4, 3)]  # of the kernels below, after Halve; before, `hidden` has 8 units


def layers_of(api):
    return [
        api.layers.Dense(6, activation="relu", name="first"),
        api.layers.Dense(8, activation="relu", name="hidden"),
        api.layers.Dense(3, activation="softmax", name="head"),
    ]


def network(api, form="Sequential"):
    api.utils.set_random_seed(3)
    if form == "Sequential":
        return api.Sequential([api.Input((5,), name="x"), *layers_of(api)], name="net")
    if form == "nested":
        first, hidden, head = layers_of(api)
        inner = api.Sequential([api.Input((5,), name="x"), first, hidden], name="inner")
        return api.Sequential([api.Input((5,), name="x"), inner, head], name="net")
    x = inputs = api.Input((5,), name="x")
    for layer in layers_of(api):
        x = layer(x)
    return api.Model(inputs, x, name="net")


def outline(model):
    return [(name, type(layer).__name__) for name, layer, _ in bridge.flat_layers(model)]


def kernels(model):
    return [layer.get_weights()[0] for _, layer, _ in bridge.flat_layers(model)]


def in_numpy(arrays, x):
    """The three layers in NumPy; `arrays`: kernel and bias of each."""
    for kernel, bias in (arrays[:2], arrays[2:4]):
        x = np.maximum(x @ kernel + bias, 0)
    x = np.exp(x @ arrays[4] + arrays[5])
    return x / x.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return tfopt.load_data((rng.normal(size=(120, 5)).astype("float32"), np.arange(120) % 3))


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(9, 5)).astype("float32")


@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("form", ["Sequential", "Functional", "nested"])
def test_apply_and_strip_give_the_same_layers_in_other_sizes(api, form, x):
    model = network(api, form)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()
    wrapped = Halve().apply(model, steps=1)
    assert [kernel.shape for kernel in kernels(wrapped)] == SIZES
    stripped = Halve().strip(wrapped)
    assert isinstance(stripped, api.Model) and stripped.name == "net"
    assert isinstance(stripped, api.Sequential) == (form == "Sequential")
    assert bridge.is_compiled(stripped)
    assert outline(stripped) == outline(model)
    w1, b1, w2, b2, w3, b3 = before
    expected = in_numpy([w1, b1, w2[:, :4], b2[:4], w3[:4], b3], x)
    np.testing.assert_allclose(stripped.predict(x, verbose=0), expected, atol=1e-6)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_stage_that_does_not_say_that_it_resizes_is_refused(x):
    class Silent(Halve):
        resizes = False

    with pytest.raises((ModelError, ValueError), match="shape"):
        Silent().strip(Silent().apply(network(keras), steps=1))


def test_a_resizing_stage_that_is_not_kept_resizes_nothing(data, monkeypatch):
    """The model before it comes back as it was; that after it is written with its sizes."""
    from tfopt.run.guard import Guard

    for question in ("too_low", "fails"):
        monkeypatch.setattr(Guard, question, lambda guard, evaluation: guard.best is not None)
    resized, to_keras = [], bridge.to_keras

    def spy(model, **how):
        resized.append(how.get("resized"))
        return to_keras(model, **how)

    monkeypatch.setattr(bridge, "to_keras", spy)
    result = tfopt.optimize(network(keras), tfopt.Recipe(stages=(Halve(epochs=0),), export=FLOAT), data, quiet=True)
    assert [row.step for row in result.report.rows] == ["original", "Halve (not kept)", "exported float32"]
    assert [kernel.shape for kernel in kernels(result.model)] == [(5, 6), (6, 8), (8, 3)]
    assert resized[-2:] == [True, False]  # the file of the stage, the result


@pytest.mark.slow
def test_the_file_has_the_sizes_and_computes_what_the_model_does(data, x):
    recipe = tfopt.Recipe(stages=(Halve(epochs=1), tfopt.Prune(epochs=1, min_steps=0)), export=FLOAT, max_drop=None)
    result = tfopt.optimize(network(keras), recipe, data, quiet=True)
    assert [kernel.shape for kernel in kernels(result.model)] == SIZES
    assert isinstance(result.model, keras.Sequential)
    lite = Interpreter(model_content=result.lite.data)
    lite.allocate_tensors()
    shapes = [tuple(tensor["shape"]) for tensor in lite.get_tensor_details()]
    for inputs, outputs in SIZES:
        assert shapes.count((outputs, inputs)) == 1
    assert (8, 6) not in shapes
    entry, exit_ = lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"]
    for sample, expected in zip(x, result.model.predict(x, verbose=0), strict=True):
        lite.set_tensor(entry, sample[None])
        lite.invoke()
        np.testing.assert_allclose(lite.get_tensor(exit_)[0], expected, atol=1e-5)


def test_the_dry_run_and_check_try_each_stage_on_the_result_of_the_one_before(data):
    twice = tfopt.Recipe(stages=(Halve(), Halve(), Halve()), export=FLOAT)
    prepare(network(keras), twice, data, quiet=True)  # 8, 4, 2, 1
    found = tfopt.check(network(keras), twice)
    assert found.ok and [layer.path for layer in found.layers] == ["first", "hidden", "head"]
    seen = []

    @register("test_resizing")
    @config
    class Look(Stage):
        def decisions(self, model, keep=frozenset()):
            seen.append(model.get_layer("hidden").units)
            return super().decisions(model, keep)

        def _wrap(self, flat_model, steps, keep):
            seen.append(flat_model.get_layer("hidden").units)
            return flat_model

    assert tfopt.check(network(keras), tfopt.Recipe(stages=(Halve(), Look()), export=FLOAT)).ok
    assert seen == [4, 4]


@pytest.fixture(scope="module")
def interrupted(data, tmp_path_factory):
    """The file of a run that stopped after Halve, and the result of the whole run."""
    recipe = tfopt.Recipe(stages=(Halve(epochs=1), tfopt.Prune(epochs=1, min_steps=0)), export=FLOAT, max_drop=None)
    file = tmp_path_factory.mktemp("kept") / "run.npz"
    train = step.StageRunner.train

    def stops(run, stage, position, *rest):
        if position == 1:
            raise KeyboardInterrupt
        return train(run, stage, position, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.StageRunner, "train", stops)
        with pytest.raises(KeyboardInterrupt):
            tfopt.optimize(network(keras), recipe, data, quiet=True, checkpoint=file)
    return recipe, file, tfopt.optimize(network(keras), recipe, data, quiet=True).lite.data


@pytest.mark.slow
def test_a_run_resumes_after_a_stage_that_resized(data, interrupted, monkeypatch, tmp_path):
    recipe, kept, whole = interrupted
    file = tmp_path / "run.npz"
    shutil.copytree(kept, file)
    trained = []
    train = step.StageRunner.train
    monkeypatch.setattr(step.StageRunner, "train", lambda run, *rest: trained.append(rest[1]) or train(run, *rest))
    resumed = tfopt.optimize(network(keras), recipe, data, quiet=True, checkpoint=file)
    assert trained == [1]
    assert resumed.lite.data == whole
    resumed.save(tmp_path / "out")
    assert not file.exists()


def model_file(layers, path):
    model = tf_keras().Sequential([tf_keras().Input((5,)), *layers])
    model.save(path)
    return np.frombuffer(path.read_bytes(), np.uint8)


BAD = {
    "code": lambda path: model_file([tf_keras().layers.Lambda(lambda x: x)], path),
    "other layers": lambda path: model_file(layers_of(tf_keras())[::2], path),
    "damaged": lambda path: np.frombuffer(b"PK\x03\x04hello", np.uint8),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_a_checkpoint_with_a_model_of_another_run_is_an_error(tmp_path, make):
    start = bridge.to_tf_keras(network(keras))
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    model = make(tmp_path / "other.keras")
    kept = Kept([], [], None if model is None else model.tobytes())
    with pytest.raises(DataError, match=r"run.npz is damaged \(.+\)\."):
        checkpoint.resumed(kept, start, resized=True)


@pytest.mark.slow
def test_another_run_is_not_taken_up(data, interrupted):
    recipe, file, _ = interrupted
    prepared = prepare(network(keras), recipe, data, quiet=True, checkpoint=file)
    assert prepared.checkpoint.stages.load() is not None
    with pytest.raises(DataError, match=r"recipe.training.seed was 0, is 7\."):
        prepare(network(keras), recipe.seeded(7), data, quiet=True, checkpoint=file)
