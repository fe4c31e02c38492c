"""What a stage says about a model, for models as users have them: of Keras 3, nested, Sequential, subclassed."""

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError, RecipeError
from tfopt.stages import Cluster, FineTune, LowRank, PostTraining, Prune, PruneBlocks, PruneChannels, Quantize

STAGES = (
    FineTune(),
    PruneBlocks(),
    PruneChannels(round_to=1),
    LowRank(rank=2, round_to=1),
    Prune(),
    Cluster(),
    Quantize(),
    PostTraining(),
)


@keras.saving.register_keras_serializable("test_any_model")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second, self.head = keras.layers.Dense(8), keras.layers.Dense(8), keras.layers.Dense(3)

    def call(self, inputs):
        hidden = keras.ops.relu(self.first(inputs))
        return self.head(hidden + self.second(hidden))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), np.float32))
    return model


def functional():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    added = keras.layers.Add()([hidden, keras.layers.Dense(8)(hidden)])
    return keras.Model(inputs, keras.layers.Dense(3)(added))


def nested():
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(2)(functional()(inputs)))


def said(stage, model):
    return stage.decisions(model), stage.notes(model), [str(promise) for promise in stage.promises(model)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
@pytest.mark.parametrize("make", [functional, nested, subclassed])
def test_stages_say_the_same_of_a_model_and_of_its_flat_model(stage, make):
    model = make()
    assert said(stage, model) == said(stage, bridge.to_tf_keras(model))


def test_a_sequential_model_of_tf_keras_and_a_stage_without_decisions_of_its_own():
    layers = keras_compat.tf_keras().layers
    model = keras_compat.tf_keras().Sequential([layers.Dense(4, input_shape=(3,), name="only")])
    assert list(Prune().decisions(model)) == ["only"] == list(FineTune().decisions(model))


def test_calibration_of_another_model_is_refused():
    with pytest.raises(ModelError, match=r"PostTraining.strip expects the model that PostTraining.apply returned"):
        PostTraining().calibrate(functional(), np.zeros((4, 6), np.float32))


def _conv_model(name):
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.SeparableConv2D(4, 3, name="separable_conv2d"),
        keras.layers.Conv2D(4, 3, name="conv2d_7"),
    ]
    return keras.Sequential(layers, name=name)


def two_parts():
    inputs = keras.Input((8, 8, 3))
    left, right = _conv_model("left"), _conv_model("right")
    deep = keras.Sequential([keras.Input((8, 8, 3)), right], name="deep")
    joined = keras.layers.Concatenate()([left(inputs), deep(inputs)])
    return keras.Model(inputs, keras.layers.Conv2D(4, 1, name="top")(joined))


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("left/conv", {"left/conv"}),
        ("deep/right/conv", {"deep/right/conv"}),
        ("deep/*", {"deep/right/conv", "deep/right/separable_conv2d", "deep/right/conv2d_7"}),
        ("*/conv2d_7", {"left/conv2d_7", "deep/right/conv2d_7"}),
        ("conv", {"left/conv", "deep/right/conv"}),
        ("conv2d_7", {"left/conv2d_7", "deep/right/conv2d_7"}),
        ("separable_conv2d", {"left/separable_conv2d", "deep/right/separable_conv2d"}),
        ("top", {"top"}),
    ],
)
def test_rules_find_layers_of_nested_models_by_path_and_by_name(pattern, paths):
    model = two_parts()
    names = {path: name for name, _, path in bridge.flat_layers(model)}
    for flat in (model, bridge.clone(bridge.to_tf_keras(model))):
        decisions = Prune(layers=((pattern, False),)).decisions(flat)
        assert {path for path, name in names.items() if name in decisions and "by rule" in decisions[name].why} == paths


def test_a_rule_for_one_kernel_of_a_nested_layer():
    decisions = Prune(layers=(("left/separable_conv2d/depthwise_kernel", 0.5),)).decisions(two_parts())
    done = [name for name, decision in decisions.items() if "depthwise" in decision.does]
    assert len(done) == 1


def test_paths_survive_a_stage_and_the_error_names_them():
    stage = Prune(schedule="one-shot")
    stripped = stage.strip(stage.apply(bridge.to_tf_keras(two_parts()), steps=0))
    assert Prune(layers=(("deep/right/conv", False),)).decisions(stripped)
    with pytest.raises(RecipeError, match=r"left/conv \(Conv2D\).*deep/right/conv2d_7 \(Conv2D\)"):
        Prune(layers=(("deep/conv", False),)).decisions(two_parts())
