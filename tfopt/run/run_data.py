"""The samples of a run: with labels, or without where no stage needs them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.for_model import HELD_OUT, data_for
from tfopt.data.ids import check_ids
from tfopt.data.split import NAMES
from tfopt.data.unlabeled import unlabeled
from tfopt.errors import RecipeError
from tfopt.run.recipe import Recipe
from tfopt.tasks.regression import Regression

UNKNOWN = "accuracy unknown: the samples have no labels"
"""A note on each row of a report on such samples."""


def data_of_run(
    model: Any,
    recipe: Recipe,
    source: Any,
    *,
    preprocessing: str | None = None,
    limit: int | None = None,
    beside: Iterable[Any] = (),
    **how: Any,
) -> Dataset:
    """Return the samples on which `recipe` is carried out.

    Args:
        model: a Keras model.
        recipe: if nothing in it needs labels, samples without them are enough.
        source: as for `data_for`; or samples without labels, as for `representative_for`, or an array of them.
        preprocessing: as for `data_for`, like all that follow.
        limit: the most samples in each part.
        beside: paths near which a `data.json` may be.
        **how: more arguments of `data_for`.

    Raises:
        DataError: as `data_for`.
    """
    places = list(beside)
    if not users_of_labels(recipe) and not any(how.get(name) for name in ("text", "labels", "task")):
        given: dict[str, Any] = {"preprocessing": preprocessing, "limit": limit, "beside": places}
        if isinstance(source, np.ndarray):
            return _without_labels(data_for(model, (source, np.zeros(len(source), np.int64)), **given, **how))
        if (found := unlabeled(model, source, **given, held_out=HELD_OUT)) is not None:
            check_ids(found, model)
            return found
    return data_for(model, source, preprocessing=preprocessing, limit=limit, beside=places, **how)


def _without_labels(data: Dataset) -> Dataset:
    parts = {name: data.split(name) for name in NAMES}
    emptied: dict[str, Any] = {
        name: replace(part, labels=np.zeros((len(part), 0), np.float32)) for name, part in parts.items()
    }
    return replace(
        data, **emptied, task=Regression.kind, labels="none", num_classes=None, source="an array without labels"
    )


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
