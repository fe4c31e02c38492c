"""The samples of a run: with labels, or without where no stage needs them."""

from typing import Any

from tfopt.data import Dataset
from tfopt.data.for_model import data_for, with_or_without_labels
from tfopt.errors import RecipeError
from tfopt.run.recipe import Recipe

UNKNOWN = "accuracy unknown: the samples have no labels"
"""A note on each row of a report on such samples."""


def data_of_run(model: Any, recipe: Recipe, source: Any, **how: Any) -> Dataset:
    """Return the samples on which `recipe` is carried out.

    Args:
        model: a Keras model.
        recipe: if nothing in it needs labels, samples without them are enough.
        source: as for `data_for`; or samples without labels, as for `unlabeled`.
        **how: more arguments of `data_for`.

    Raises:
        DataError: as `data_for`.
    """
    return (data_for if users_of_labels(recipe) else with_or_without_labels)(model, source, **how)


def users_of_labels(recipe: Recipe) -> list[str]:
    """Return what in `recipe` needs labels: stages that train or that choose by accuracy, a transfer, a teacher."""
    stages = [type(stage).__name__ for stage in recipe.stages if stage.epochs or stage.budget is not None]
    others = [type(each).__name__ for each in (recipe.transfer, recipe.distillation) if each is not None]
    return [*others, *stages]


def require_labels(recipe: Recipe, data: Dataset, teacher: Any) -> None:
    """Raise `RecipeError` if `data` have no labels, and something needs them."""
    if data.labels != "none":
        return
    if found := [*users_of_labels(recipe), *(["a teacher"] if teacher is not None else [])]:
        raise RecipeError(
            f"Expected samples with labels for {', '.join(found)}; {data.source}. Give labels, or only stages that "
            "need none, such as PostTraining()."
        )
