"""What holds for every stage and for its promises."""

import dataclasses

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError, PromiseError, RecipeError
from tfopt.stages import (
    STAGES,
    Binarize,
    Cluster,
    FineTune,
    LowRank,
    PostTraining,
    Prune,
    PruneBlocks,
    PruneChannels,
    Quantize,
)
from tfopt.stages.kernels.promise import Clusters, MByN, Sparsity

EACH = [
    pytest.param(FineTune(), id="FineTune"),
    pytest.param(PruneChannels(final_ratio=0.6, round_to=1, iterations=2), id="PruneChannels"),
    pytest.param(LowRank(rank=2, round_to=1), id="LowRank"),
    pytest.param(Prune(schedule="one-shot"), id="Prune"),
    pytest.param(Cluster(number_of_clusters=5), id="Cluster"),
    pytest.param(Quantize(), id="Quantize"),
    pytest.param(Binarize(), id="Binarize"),
    pytest.param(PostTraining(weight_bits=4, rounding="nearest"), id="PostTraining"),
]


def state_of(model):
    """Everything in which a caller could notice a change."""
    layers = {path: layer for _, layer, path in bridge.flat_layers(model)}
    return {
        "weights": [weight.tobytes() for weight in model.get_weights()],
        "layers": {path: (id(layer), len(layer.weights), layer.trainable) for path, layer in layers.items()},
        "flags": (model.trainable, bridge.is_compiled(model), id(model.optimizer)),
        "config": keras.saving.serialize_keras_object(model.get_config()),
    }


def kernels(model):
    return {
        layer.name: layer.get_weights()[0]
        for _, layer, _ in bridge.flat_layers(model)
        if "Conv" in type(layer).__name__ or type(layer).__name__ == "Dense"
    }


def outline(model):
    """Names, kinds and order of layers."""
    return [(name, type(layer).__name__) for name, layer, _ in bridge.flat_layers(model)]


@pytest.fixture(scope="module", params=EACH)
def stage(request):
    return request.param


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def trained(request, stage, small_model, samples):
    """A compiled, partly frozen model of either Keras, before and after a stage ran on it."""
    api = keras if request.param == "keras" else keras_compat.tf_keras()
    model = small_model(api)
    model.get_layer("inner").get_layer("conv").trainable = False
    model.compile(api.optimizers.SGD(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = state_of(model)
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, samples[0])
    history = wrapped.fit(samples[0][:128], samples[1][:128], callbacks=stage.callbacks(), verbose=0).history
    return api, model, before, wrapped, history, stage.strip(wrapped)


def test_the_table_names_every_stage():
    """But PruneBlocks, for which this model has no residual block: tests/stages/test_restructuring.py."""
    assert {type(param.values[0]) for param in EACH} | {PruneBlocks} == set(STAGES.builtin)


@pytest.mark.slow
def test_the_callers_model_is_unchanged_and_shares_nothing(trained):
    _, model, before, wrapped, _, stripped = trained
    assert state_of(model) == before
    own = {id(weight) for weight in model.weights}
    assert own.isdisjoint(id(weight) for weight in [*wrapped.weights, *stripped.weights])


@pytest.mark.slow
def test_a_compiled_model_comes_back_compiled_and_ready_to_fit(trained, samples):
    api, _, _, wrapped, history, stripped = trained
    assert set(history) == {"loss", "accuracy"}
    assert type(wrapped.optimizer).__module__.startswith("tf_keras")
    assert wrapped.optimizer.learning_rate.numpy() == np.float32(0.01)
    x, y = samples[0][:32], samples[1][:32]
    assert type(stripped.optimizer).__module__.startswith(f"{api.__name__}.")
    weights = stripped.get_weights()
    assert "accuracy" in stripped.fit(x, y, verbose=0).history
    stripped.set_weights(weights)


@pytest.mark.slow
def test_strip_gives_back_kind_and_architecture_with_other_weights(stage, trained, samples):
    api, model, _, wrapped, _, stripped = trained
    assert isinstance(stripped, api.Model)
    names = {name for name, _ in outline(model)}
    assert [row for row in outline(stripped) if row[0] in names or not stage.restructures] == outline(model)
    if not stage.resizes:
        assert stripped.get_config() == model.get_config()
        assert [w.name for w in stripped.weights] == [w.name for w in model.weights]
    trainable = {name: layer.trainable for name, layer, _ in bridge.flat_layers(model)}
    now = {name: layer.trainable for name, layer, _ in bridge.flat_layers(stripped)}
    assert {name: now[name] for name in trainable} == trainable
    assert not np.array_equal(kernels(stripped)["head"], kernels(model)["head"])
    rounded = any(hasattr(layer, "quantize_config") for layer in wrapped.layers)  # but `stripped` does not
    ours, theirs = stripped.predict(samples[0], verbose=0), wrapped.predict(samples[0], verbose=0)
    np.testing.assert_allclose(ours, theirs, atol=0.03 if rounded else 1e-5)


@pytest.mark.slow
def test_saving_keeps_every_weight_bit_for_bit(trained, tmp_path):
    api, _, _, _, _, stripped = trained
    stripped.save(tmp_path / "plain.keras")
    loaded = api.models.load_model(tmp_path / "plain.keras")
    assert [w.tobytes() for w in loaded.get_weights()] == [w.tobytes() for w in stripped.get_weights()]


def test_a_model_that_is_not_compiled_stays_so(stage, small_model):
    model = small_model(keras)
    wrapped = stage.apply(model, steps=1)
    assert not bridge.is_compiled(wrapped)
    assert not model.compiled


def test_strip_refuses_a_model_that_apply_did_not_make(stage, small_model):
    with pytest.raises(ModelError, match=rf"expects the model that {type(stage).__name__}.apply returned"):
        stage.strip(bridge.to_tf_keras(small_model(keras)))


@pytest.mark.parametrize(
    ("stage", "keep"),
    [(FineTune(), {"clusters"}), (Prune(), {"clusters", "sparsity"}), (Cluster(), {"clusters"}), (Quantize(), {"x"})],
)
def test_a_stage_refuses_to_keep_what_it_cannot(stage, keep, small_model):
    lost = sorted(keep - type(stage).preserves)[0]
    with pytest.raises(RecipeError, match=rf"{type(stage).__name__} cannot keep {lost}"):
        stage.apply(small_model(keras), steps=1, keep=keep)


def test_negative_steps_are_refused(small_model):
    with pytest.raises(RecipeError, match="got -1"):
        FineTune().apply(small_model(keras), steps=-1)


@pytest.mark.parametrize("stage", [Prune(), Cluster()])
def test_a_model_without_kernels_is_refused(stage):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization()])
    with pytest.raises(ModelError, match="no layer with a kernel"):
        stage.apply(model, steps=1)


@pytest.mark.parametrize("stage", [Prune(layers=(("*", False),)), Cluster(layers=(("*", False),))])
def test_rules_that_leave_nothing_to_do_are_refused(stage, small_model):
    with pytest.raises(RecipeError, match="leave every layer unchanged"):
        stage.apply(small_model(keras), steps=1)


@pytest.mark.parametrize("kind", STAGES.builtin)
def test_a_stage_is_a_frozen_value_that_refuses_unknown_and_wrong_settings(kind):
    assert kind() == kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().epochs = 3
    for wrong in ({"epoch": 1}, {"epochs": -1}, {"learning_rate": 0.0}, {"layers": (("x", None),)}):
        with pytest.raises(RecipeError):
            kind(**wrong)
    if not kind.takes_words:
        with pytest.raises(RecipeError, match="rule for 'x' sets 'half'"):
            kind(layers=(("x", "half"),))


# Promises ----------------------------------------------------------------------------------------

HALF = np.array([[0.0, 1.0, -0.0, 2.0], [3.0, 0.0, 4.0, 0.0]])  # half of it zero; columns are output channels
RICH = np.array([[1.0, 5.0], [2.0, 6.0], [1.0, 6.0]])  # 4 different values, 2 in each column
PATTERN = np.array([[1, 0], [0, 1], [0, 1], [2, 0], [3, 3]], float)  # 2:4 along the first axis, then a remainder


@pytest.mark.parametrize(
    ("promise", "values", "axis", "message"),
    [
        pytest.param(Sparsity("d", 0.5), HALF, -1, None, id="exactly met"),
        pytest.param(Sparsity("d", 0.4), HALF, -1, None, id="more zeros than promised"),
        pytest.param(Sparsity("d", 0.56), HALF, -1, None, id="within half a weight"),
        pytest.param(Sparsity("d", 0.57), HALF, -1, "sparsity 0.5000, promised 0.5700", id="more than half off"),
        pytest.param(Sparsity("d", 0.99), np.eye(3)[:1], -1, None, id="one weight stays in any kernel"),
        pytest.param(Sparsity("d", 0.9), np.eye(3)[:, :2], -1, "sparsity 0.6667, promised 0.9000", id="but not two"),
        pytest.param(Sparsity("d", 0.1), np.full((4, 4), 1e-30), -1, "sparsity 0.0000, promised 0.1000", id="tiny"),
        pytest.param(Clusters("d", 4), RICH, -1, None, id="as many values"),
        pytest.param(Clusters("d", 3), RICH, -1, "4 different weights in the kernel, promised at most 3", id="more"),
        pytest.param(Clusters("d", 2, per_channel=True), RICH, -1, None, id="per column"),
        pytest.param(Clusters("d", 2, per_channel=True), RICH.T, 0, None, id="per row"),
        pytest.param(Clusters("d", 1, True), RICH, -1, "2 different weights in one output channel, promised at most 1",
                     id="more in a column"),
        pytest.param(MByN("d", 2, 4), PATTERN, -1, None, id="2:4 down the columns"),
        pytest.param(MByN("d", 2, 4), PATTERN.T, 0, None, id="2:4 with the channels first, as in the file"),
        pytest.param(MByN("d", 2, 4), PATTERN[1:], -1, "fewer than 2 zeros in 4 consecutive weights", id="shift"),
        pytest.param(MByN("d", 1, 4), np.ones((4, 2)), -1, "fewer than 1 zeros in 4 consecutive weights",
                     id="no zeros"),
    ],
)  # fmt: skip
def test_promises_on_arrays_made_by_hand(promise, values, axis, message):
    assert promise.broken(values, axis) == message


def test_a_target_that_float32_cannot_express_is_not_a_broken_promise():
    # 0.7 is 0.69999999 as float32: of 100 million weights, 1.2 fewer than 70 million are pruned.
    values = np.ones(100_000_000, np.int8)
    values[: 70_000_000 - 2] = 0
    assert Sparsity("d", 0.7).broken(values, -1) is None
    values[:1000] = 1
    assert Sparsity("d", 0.7).broken(values, -1) is not None


def test_what_folding_a_batch_norm_leaves_of_a_promise():
    assert Clusters("d", 4).after_folding() == Clusters("d", 4, per_channel=True)
    assert Sparsity("d", 0.5).after_folding() == Sparsity("d", 0.5)
    assert MByN("d", 2, 4).after_folding() == MByN("d", 2, 4)


def test_verify_names_stage_layer_and_promise(small_model):
    with pytest.raises(PromiseError, match=r"Prune: layer 'stem': sparsity 0.0000, promised 0.5000"):
        Prune().verify(small_model(keras))
    with pytest.raises(PromiseError, match=r"Cluster: layer 'stem': 216 different weights in the kernel"):
        Cluster().verify(small_model(keras))


@pytest.mark.parametrize(("old", "new"), [("learnt", "summary"), ("rehearsed", "for_dry_run")])
def test_a_stage_with_a_method_under_its_old_name_is_refused(old, new):
    with pytest.raises(RecipeError, match=rf"^Mine\.{old} was renamed to {new} in 0\.2\.0\. Rename the method\.$"):
        type("Mine", (Prune,), {old: lambda self, model: []})
