"""Stages of other packages that break the contract are found before training."""

import re
from typing import Any

import keras
import numpy as np
import pytest
from typing_extensions import override

import tfopt
from tfopt.base.config import config
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError, RecipeError

X, Y = np.random.default_rng(0).normal(size=(60, 6)).astype("float32"), np.arange(60) % 3


@config
class Bad(tfopt.FineTune):
    """A stage whose `_wrap` returns something else."""

    made: str = "nothing"

    @override
    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        layers = tf_keras().layers
        if self.made == "narrow":
            return tf_keras().Model(flat_model.inputs, layers.Dense(2, name="narrow")(flat_model.outputs[0]))
        return {"nothing": None, "text": "x", "keras 3": keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])}[
            self.made
        ]


@config
class Holding(tfopt.FineTune):
    """A stage with a setting that JSON cannot hold."""

    mask: Any = None


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    from tfopt.stages import STAGES

    monkeypatch.setattr(STAGES, "_classes", {**STAGES._classes, "acme>Bad": Bad, "acme>Holding": Holding})


@pytest.mark.parametrize("made", ["nothing", "text", "keras 3"])
def test_what_is_no_model(model, made):
    with pytest.raises(ModelError, match=r"Bad\._wrap must return a tf_keras model"):
        tfopt.optimize(model, tfopt.Recipe(stages=(Bad(made=made, epochs=1),)), (X, Y), quiet=True)


def test_other_outputs(model):
    recipe = tfopt.Recipe(stages=(Bad(made="narrow", epochs=1),))
    with pytest.raises(ModelError, match=r"Bad\.apply changes the outputs"):
        tfopt.optimize(model, recipe, (X, Y), quiet=True)
    assert "changes the outputs" in str(tfopt.check(model, recipe).problems)


def test_a_setting_that_json_cannot_hold(model):
    for mask, words in ((np.arange(3), "cannot be written as JSON"), ((1, 2), None)):
        recipe = tfopt.Recipe(stages=(Holding(mask=mask, epochs=1, min_steps=0),))
        if words is None:
            tfopt.optimize(model, recipe, (X, Y), quiet=True)
            continue
        with pytest.raises(RecipeError, match=words):
            tfopt.optimize(model, recipe, (X, Y), quiet=True)


def test_wrong_arguments_of_apply_and_check(model):
    for wrong in (None, "4", 1.5, -1):
        with pytest.raises(RecipeError, match="a whole number, 0 or more; got"):
            tfopt.Prune().apply(model, steps=wrong)
    with pytest.raises(RecipeError, match="got the text 'sparsity'"):
        tfopt.Cluster().apply(model, steps=1, keep="sparsity")
    with pytest.raises(RecipeError, match=r"Expected a tfopt\.Recipe, a stage or a list of stages; got a str"):
        tfopt.check(model, "recipe.json")


@pytest.mark.parametrize(
    "call",
    [
        lambda: tfopt.load_model(None),
        lambda: tfopt.LiteModel(None),
        lambda: tfopt.LiteModel(b"", threads=0),
        lambda: tfopt.load_data((X, Y), preprocessing=3),
    ],
)
def test_wrong_types_are_errors_of_tfopt(call):
    with pytest.raises(tfopt.errors.TfoptError, match="Expected"):
        call()


@pytest.mark.parametrize(
    ("name", "returned"),
    [("notes", None), ("notes", "abc"), ("notes", [1]), ("summary", None), ("summary", ("abc",)), ("callbacks", None)],
)
def test_what_is_no_list(model, monkeypatch, name, returned):
    monkeypatch.setattr(tfopt.FineTune, name, lambda *_: returned)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),))
    words = rf"FineTune\.{name} must return a list.*returned {re.escape(repr(returned))}"
    with pytest.raises(RecipeError, match=words):
        tfopt.optimize(model, recipe, (X, Y), quiet=True)
