"""The stage PostTraining: its promises about bits, verified in the file."""

import json

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.errors import RecipeError
from tfopt.run.recipe import Recipe
from tfopt.stages import Cluster, PostTraining, Prune
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

INT8 = Export(weights="int8", activations="int8", compact=False)
NAMES = ("stem", "inline", "apart", "head")


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(keras)


def rounded(stage, model, samples, keep=()):
    applied = stage.apply(model, steps=0, keep=keep)
    stage.calibrate(applied, samples[0])
    return applied


def weight(lite, name):
    return next(w for w in lite.weights() if f"/{name}/" in f"/{w.tensor.name}/")


@pytest.fixture(scope="module")
def four(model, samples):
    """(stage, its result, its file)"""
    stage = PostTraining(weight_bits=4, iterations=100)
    applied = rounded(stage, model, samples)
    return stage, applied, build_file(applied, INT8, samples[0])


def test_the_file_has_4_bit_weights_and_integers_only(four):
    lite = four[2]
    assert {weight(lite, name).tensor.dtype for name in NAMES} == {"int4"}
    assert not lite.float_tensors()


def test_the_file_computes_what_the_rounded_model_does(four, samples):
    _, applied, lite = four
    expected = applied.predict(samples[0], verbose=0)
    assert np.abs(lite.predict(samples[0]) - expected).max() < 0.05  # activations are rounded only in the file


def test_it_is_nearer_to_the_float_model_than_plain_rounding(model, samples, four):
    expected = model.predict(samples[0], verbose=0)
    plain = PostTraining(
        weight_bits=4, weight_steps="max", rounding="nearest", bias_correction=False, equalization=False
    )
    errors = [
        np.square(made.predict(samples[0], verbose=0) - expected).mean()
        for made in (four[1], rounded(plain, model, samples))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_the_stripped_model_is_the_rounded_one(model, four, samples):
    stage, applied, _ = four
    stripped = stage.strip(applied)
    assert isinstance(stripped, keras.Model)
    np.testing.assert_allclose(
        stripped.predict(samples[0], verbose=0), applied.predict(samples[0], verbose=0), atol=1e-5
    )
    assert len(np.unique(stripped.get_layer("head").get_weights()[0][:, 0])) <= 15


def test_rules_choose_bits_or_leave_a_layer_to_the_converter(model, samples):
    stage = PostTraining(weight_bits=4, rounding="nearest", layers=(("stem", 8), ("head", False), ("inline", 2)))
    lite = build_file(rounded(stage, model, samples), INT8, samples[0])
    assert weight(lite, "stem").tensor.dtype == weight(lite, "head").tensor.dtype == "int8"
    assert np.abs(weight(lite, "inline").values).max() == 1
    decisions = stage.decisions(bridge.to_tf_keras(model))
    assert "8-bit" in decisions["stem"].does and "converter" in decisions["head"].why


def test_zeros_stay(model, samples):
    prune = Prune(final_sparsity=0.5, schedule="one-shot")
    sparse = prune.strip(prune.apply(model, steps=0))
    applied = rounded(PostTraining(weight_bits=4, iterations=50), sparse, samples, keep={"sparsity"})
    promises = prune.promises(bridge.to_tf_keras(sparse))
    build_file(applied, INT8, samples[0], promises, bridge.to_tf_keras(applied))  # raises if one is broken


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"epochs": 1}, "epochs"), ({"weight_bits": 9}, "weight_bits"), ({"layers": (("stem", "weights"),)}, "stem"),
     ({"max_drop": 1.5}, "max_drop")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        PostTraining(**settings)


def test_wrong_bits_in_a_rule_and_lost_clusters_are_refused(model):
    with pytest.raises(RecipeError, match="2 to 8"):
        PostTraining(layers=(("stem", 9),)).apply(model, steps=0)
    with pytest.raises(RecipeError, match="cannot keep clusters"):
        PostTraining().apply(model, steps=0, keep={Cluster.establishes})


def test_a_recipe_with_it_goes_through_json():
    recipe = Recipe(name="r", stages=(PostTraining(weight_bits=4, layers=(("stem", 8),)),))
    assert Recipe.from_json(json.dumps(recipe.to_dict())) == recipe


def test_what_becomes_of_each_kernel_is_told_meanwhile(model, samples):
    stage, told = PostTraining(weight_bits=4, iterations=1), []
    applied = stage.apply(model, steps=0)
    stage.calibrate(applied, samples[0], progress=told.append)
    assert [line.split("/")[0] for line in told] == [layer.name for layer in applied.layers if hasattr(layer, "kernel")
                                                     or hasattr(layer, "depthwise_kernel")]  # fmt: skip
