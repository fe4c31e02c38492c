"""The start of a run: the data preprocessed for the model, and the model for the task."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.progress import Progress
from tfopt.data import Dataset
from tfopt.errors import ModelError
from tfopt.run.recipe import Recipe
from tfopt.training.augmentation import choose_augmentation
from tfopt.training.class_weights import weighted_by_class
from tfopt.transfer import FeatureTransfer, Transferred


def judge_from(source: Any, data: Dataset) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return a function from inputs of `data` to scores (n, classes): a linear head on the features of `source`.

    The head is trained at the first call. None if `source` does not accept such inputs.
    """
    settings = FeatureTransfer(input_shape=data.input_shape)
    try:
        settings.untrained(source, data)
    except ModelError:
        return None
    learned = functools.cache(lambda: settings.transferred(source, data, quiet=True).model)
    return lambda x: np.asarray(learned().predict(x, verbose=0))


def transferred(
    recipe: Recipe, source: Any, data: Dataset, *, cache: str | Path | None, progress: Progress
) -> Transferred:
    """Return the result of the transfer in `recipe` from `source` to `data`; augmentation is tested before use.

    The weights of classes that the recipe asks for count there too.
    """
    assert recipe.transfer is not None
    said: list[str] = []

    def choose(model: Any) -> Any:
        who = "a head on the features of unchanged images"
        augment, notes = choose_augmentation(lambda x: model.predict(x, verbose=0), recipe.training, data, who=who)
        said.extend(notes)
        return augment

    quiet = progress.console.quiet
    weighted = weighted_by_class(recipe.training, data)
    made = recipe.transfer.transferred(source, weighted, augment=choose, cache=cache, progress=progress, quiet=quiet)
    return dataclasses.replace(made, notes=(*made.notes, *said))
