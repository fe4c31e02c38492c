"""A recipe.json with a stage, a loss and a transfer from another package."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tfopt
from tfopt.extend import Loss, Stage, Transfer, config
from tfopt.run.prepare import prepare

ACME = """
from tfopt.extend import Loss, Stage, Transfer, config, register

@register("acme")
@config
class Halve(Stage):
    factor: int = 2
    def _wrap(self, flat_model, steps, keep): return flat_model

@register("acme")
@config
class Near(Loss):
    label = "near"
    scale: float = 1.0
    def __call__(self, loss_inputs, connectors): return 0.0

@register("acme")
@config
class Borrow(Transfer):
    share: float = 1.0
    def untrained(self, source, data): raise NotImplementedError
"""
WRITE = """
import sys, acme, tfopt
from tfopt import Distillation, Recipe
recipe = Recipe(stages=(acme.Halve(factor=3),), distillation=Distillation(losses=(acme.Near(scale=0.5),)),
                transfer=acme.Borrow(share=0.25))
text = recipe.to_json()
assert all(f'"acme>{name}"' in text for name in ("Halve", "Near", "Borrow")), text
assert Recipe.from_json(text) == recipe
open(sys.argv[1], "w").write(text)
"""
READ = """
import json, sys
from tfopt import Recipe, RecipeError
values = json.load(open(sys.argv[1]))
def why(values):
    try:
        Recipe.from_dict(values)
    except RecipeError as error:
        return str(error)
assert why(values).startswith("Stage 'acme>Halve' is not registered; import the package 'acme' first")
values["stages"] = []
assert why(values).startswith("Loss 'acme>Near' is not registered; import the package 'acme' first")
values["distillation"] = None
assert why(values).startswith("Transfer 'acme>Borrow' is not registered; import the package 'acme' first")
"""


def test_a_recipe_of_another_package_round_trips_and_names_it_where_it_is_missing(tmp_path):
    (tmp_path / "acme.py").write_text(ACME)
    for name, code in (("write.py", WRITE), ("read.py", READ)):
        (tmp_path / name).write_text(code)
        run = [sys.executable, str(tmp_path / name), str(tmp_path / "recipe.json")]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@config
class Idle(Stage):
    def _wrap(self, flat_model, steps, keep):
        return flat_model


@config
class Silent(Loss):
    label = "silent"

    def __call__(self, loss_inputs, connectors):
        return 0.0


@config
class Lend(Transfer):
    def untrained(self, source, data):
        raise NotImplementedError


UNREGISTERED = {
    "Stage 'Idle'": tfopt.Recipe(stages=(Idle(),)),
    "Loss 'Silent'": tfopt.Recipe(stages=(), distillation=tfopt.Distillation(losses=(Silent(),))),
    "Transfer 'Lend'": tfopt.Recipe(stages=(), transfer=Lend()),
}


@pytest.mark.parametrize("what", UNREGISTERED)
def test_what_is_not_registered_is_not_written(what):
    with pytest.raises(tfopt.RecipeError, match=f"{what} of the module .* is not registered, .*extend.register"):
        UNREGISTERED[what].to_json()


@pytest.mark.parametrize("what", UNREGISTERED)
def test_a_run_is_refused_before_anything_is_read(what):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(tfopt.RecipeError, match=f"{what} .* is not registered"):
        prepare(model, UNREGISTERED[what], "a folder that is not there", teacher=model, quiet=True)


def test_check_names_what_is_not_registered():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    (problem,) = tfopt.check(model, UNREGISTERED["Stage 'Idle'"], convert=False).problems
    assert problem.startswith("Stage 'Idle' of the module ")


def test_by_hand_nothing_has_to_be_registered():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    kept = Idle().strip(Idle().apply(model, steps=1))
    np.testing.assert_array_equal(kept.get_weights()[0], model.get_weights()[0])
