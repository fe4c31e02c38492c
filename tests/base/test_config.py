"""Errors of configs: each says which setting, what came and what was expected, in tfopt's words."""

import pytest

import tfopt
from tfopt.errors import RecipeError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfopt.Prune(final_sparsity=2), "Prune.final_sparsity = 2: expected a number "),
        (lambda: tfopt.Prune(epochs=-1), "Prune.epochs = -1: expected a number of at least 0."),
        (lambda: tfopt.Prune(epochs=1.5), "Prune.epochs = 1.5: expected a whole number."),
        (lambda: tfopt.Prune(epochs="many"), "Prune.epochs = 'many': expected a whole number."),
        (lambda: tfopt.Prune(learning_rate=0), "Prune.learning_rate = 0: expected a number above 0"),
        (lambda: tfopt.Prune(sparsity=0.5), "Prune.sparsity = 0.5: there is no such setting; the nearest one is "),
        (lambda: tfopt.Prune(color=1), "Prune.color = 1: there is no such setting."),
        (lambda: tfopt.Recipe(name="q"), "Recipe.stages: this setting is missing."),
        (lambda: tfopt.Recipe(stages=(), training=3), "Recipe.training = 3: expected a Training."),
        (lambda: tfopt.Recipe(stages=(3,)), "Recipe.stages.0 = 3: expected a Stage."),
        (lambda: tfopt.FineTune(1), "FineTune takes its settings by name, as in FineTune("),
        (
            lambda: tfopt.Export("int8"),
            "Export takes its settings by name, as in Export(weights=...); got 'int8' without",
        ),
        (lambda: tfopt.Recipe(), "Recipe.stages: this setting is missing."),
        (
            lambda: tfopt.Prune(epochs="x" * 500),
            f"Prune.epochs = '{'x' * 59} ... {'x' * 14}': expected a whole number.",
        ),
        (lambda: tfopt.Export(weights="int3"), "Export.weights = 'int3': expected 'float32', "),
        (lambda: tfopt.Export(sparse="perhaps"), "Export.sparse = 'perhaps': expected True or False."),
        (lambda: tfopt.Training(metrics="mape"), "Training.metrics = 'mape': expected a list or tuple, or a dict."),
        (
            lambda: tfopt.Training(shift="far", zoom="far"),
            "Training.shift = 'far': expected a number; Training.zoom = 'far': expected a number.",
        ),
        (lambda: tfopt.Training(learning_rate=float("inf")), "Training.learning_rate = inf: expected a finite number."),
    ],
)
def test_messages_in_plain_words(make, message):
    with pytest.raises(RecipeError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 200
    for foreign in ("ArgsKwargs", "Input should", "Value error", "keyword argument", "pydantic"):
        assert foreign not in str(caught.value)
