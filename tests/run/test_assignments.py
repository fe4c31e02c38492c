"""Settings of a recipe by their place in its JSON."""

import pytest

import tfopt
from tfopt.errors import RecipeError
from tfopt.run.assignments import with_assignments

RECIPE = tfopt.Recipe(name="two", stages=(tfopt.Prune(final_sparsity=0.5, epochs=2), tfopt.Quantize(epochs=1)))


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("stages.0.final_sparsity=0.7", lambda r: r.stages[0].final_sparsity, 0.7),
        ("stages.Quantize.epochs=3", lambda r: r.stages[1].epochs, 3),
        ("stages.0.block_size=[1, 4]", lambda r: r.stages[0].block_size, (1, 4)),
        ("stages.0.schedule=constant", lambda r: r.stages[0].schedule, "constant"),
        ("training.horizontal_flip=true", lambda r: r.training.horizontal_flip, True),
        ("export.io=uint8", lambda r: r.export.io, "uint8"),
        ("max_drop=null", lambda r: r.max_drop, None),
        ("name=other", lambda r: r.name, "other"),
    ],
)
def test_a_setting_has_the_value(text, read, value):
    changed = with_assignments(RECIPE, [text])
    assert read(changed) == value and read(RECIPE) != value
    assert type(read(changed)) is type(value)


def test_several_settings_and_nothing_else():
    changed = with_assignments(RECIPE, ["stages.0.epochs=5", "training.seed=7"])
    expected = RECIPE.to_dict()
    expected["stages"][0]["epochs"], expected["training"]["seed"] = 5, 7
    expected["stages"][0]["min_steps"] = 0  # as many epochs as were asked for
    assert changed.to_dict() == expected
    changed = with_assignments(RECIPE, ["stages.0.min_steps=40", "stages.0.epochs=5"])
    assert (changed.stages[0].epochs, changed.stages[0].min_steps) == (5, 40)
    for texts in (
        ["stages.Prune.min_steps=40", "stages.0.epochs=5"],
        ["stages.Prune.epochs=5", "stages.0.min_steps=40"],
    ):
        assert with_assignments(RECIPE, texts).stages[0].min_steps == 40


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages.0.final_sparsty=0.7", "the nearest to 'final_sparsty' is final_sparsity"),
        ("stages.2.epochs=1", "for '2', expected one of 0, 1, Prune, Quantize"),
        ("stages.Prun.epochs=1", "the nearest to 'Prun' is Prune"),
        ("stages.0.epochs.more=1", "nothing is below 2"),
        ("stages.0.final_sparsity=much", "final_sparsity"),
        ("stages.0.final_sparsity=1.5", "final_sparsity"),
        ("export.io=int7", "io"),
        ("epochs", r"Expected a setting as PLACE=VALUE, .*got epochs"),
        ("=1", "PLACE=VALUE"),
    ],
)
def test_wrong_settings_are_one_clear_error(text, words):
    with pytest.raises(RecipeError, match=words):
        with_assignments(RECIPE, [text])
