"""A recipe.json with a stage, a loss, a transfer and a task from another package."""

import dataclasses
import subprocess
import sys
from typing import ClassVar

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, RecipeError
from tfopt.extend import Loss, Stage, Task, Transfer, config, register
from tfopt.run.prepare import prepare
from tfopt.tasks import TASKS, task_named, task_of

ACME = """
from tfopt.extend import Loss, Stage, Task, Transfer, config, register

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

@register("acme")
class Counts(Task):
    kind = "acme>counts"
    def loss(self, *, logits, outputs=None): raise NotImplementedError
"""
WRITE = """
import sys, acme, tfopt
from tfopt import Distillation, MeanTeacher, Recipe
from tfopt.tasks import task_named
recipe = Recipe(stages=(acme.Halve(factor=3),), distillation=Distillation(losses=(acme.Near(scale=0.5),)),
                transfer=acme.Borrow(share=0.25))
text = recipe.to_json()
assert all(f'"acme>{name}"' in text for name in ("Halve", "Near", "Borrow")), text
assert Recipe.from_json(text) == recipe
taught = Recipe(stages=(), distillation=MeanTeacher(task="acme>counts"))
assert Recipe.from_json(taught.to_json()) == taught
assert task_named("acme>counts") is acme.Counts
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
taught = {"stages": [], "distillation": {"kind": "MeanTeacher", "task": "acme>counts"}}
assert "Task 'acme>counts' is not registered; import the package 'acme' first" in why(taught), why(taught)
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


@pytest.fixture
def counts(monkeypatch):
    """A registered task of another package: the labels are counts, compared by their Poisson likelihood."""
    monkeypatch.setattr(TASKS, "_classes", dict(TASKS._classes))

    @register("acme")
    class Counts(Task):
        kind = "acme>counts"
        activation = "exponential"
        formulas: ClassVar = {
            "worst": lambda predictions, labels: float(np.abs(predictions - labels).max()),
            "mae": lambda predictions, labels: float(np.abs(predictions - labels).mean()),
        }
        keras_metric = "mae"
        has_probabilities = False
        smaller_is_better = True

        def loss(self, *, logits, outputs=None):
            return tf_keras().losses.Poisson()

    return Counts


def test_a_run_for_the_task_of_another_package_trains_with_its_loss_and_reports_its_metrics(counts, monkeypatch):
    losses, compile_model = [], tf_keras().Model.compile
    monkeypatch.setattr(
        tf_keras().Model,
        "compile",
        lambda self, *args, **kwargs: [losses.append(kwargs["loss"]), compile_model(self, *args, **kwargs)][1],
    )
    x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    y = np.exp(x @ np.array([[0.5], [-0.3], [0.2]], "float32"))
    data = dataclasses.replace(tfopt.load_data(((x, y), (x, y))), task="acme>counts")
    assert task_of(data) == counts("values", None, (1,))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="exponential")])
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=1),),
        export=tfopt.Export(weights="float32", activations="float32"),
    )
    result = tfopt.optimize(model, recipe, data, quiet=True)
    worst = np.abs(result.lite.predict(x) - y).max()
    assert result.report.rows[-1].metrics["worst"] == pytest.approx(worst, rel=1e-3)
    assert result.report.rows[-1].metrics.keys() == {"worst", "mae"}
    assert losses and all(type(loss) is tf_keras().losses.Poisson for loss in losses)


def test_a_task_has_the_name_of_its_package_as_kind(counts):
    assert task_named("acme>counts") is counts and counts in TASKS and counts not in TASKS.builtin
    with pytest.raises(DataError, match="Task 'other>counts' is not registered; import the package 'other' first"):
        task_named("other>counts")
    other = type("Other", (counts,), {})
    with pytest.raises(RecipeError, match="already registered"):
        register("acme")(other)
    with pytest.raises(RecipeError, match=r"begin with 'other>', got 'acme>counts'; write kind = \"other>counts\"\."):
        register("other")(counts)
