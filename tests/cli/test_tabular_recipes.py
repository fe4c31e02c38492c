"""The recipes for tables of classes and of values."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import tfopt
from tfopt.errors import RecipeError

RECIPES = Path(__file__).parents[2] / "recipes"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)).astype("float32")


def names(recipe):
    return runpy.run_path(str(RECIPES / f"{recipe}.py"))


@pytest.mark.parametrize(
    ("recipe", "task", "words"),
    [("tabular", "regression", "got values. Run tabular_values"), ("tabular_values", None, "got classes.*run tabular")],
)
def test_each_recipe_names_the_other_for_its_labels(recipe, task, words):
    data = tfopt.load_data((X, (np.arange(300) % 3).astype("float32" if task else "int32")), task=task)
    with pytest.raises(RecipeError, match=words):
        names(recipe)["example_model"](data)


def test_values_of_unlike_scale_are_learned():
    """Both are linear in the inputs: the mean of the labels leaves all of their variance, the file little."""
    y = np.stack([3 * X[:, 0] - X[:, 1], 1000 + 100 * X[:, 2]], axis=1).astype("float32")
    given = names("tabular_values")
    data = tfopt.load_data(((X[:240], y[:240]), (X[240:], y[240:])), task="regression")
    result = tfopt.optimize(
        given["example_model"](data),
        given["recipe"].scaled(0.5),
        data,
        teacher=given["example_teacher"](data),
        quiet=True,
    )
    made = result.lite.predict(data.test.x())
    left = np.square(made - y[240:]).mean(axis=0) / y[240:].var(axis=0)
    assert result.verdict.ok and (left < 0.15).all(), left
