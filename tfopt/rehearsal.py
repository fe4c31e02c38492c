"""All stages of a recipe and the export on an untrained model: what cannot work says so before hours of training."""

from typing import Any

import numpy as np

from tfopt.distillation.taps import shapes
from tfopt.export import build
from tfopt.litert import LiteModel
from tfopt.recipe import Recipe


def established_before(recipe: Recipe) -> list[frozenset[str]]:
    """For each stage of `recipe`, what the stages before it established ("sparsity", "clusters")."""
    before: list[frozenset[str]] = []
    so_far: frozenset[str] = frozenset()
    for stage in recipe.stages:
        before.append(so_far)
        if stage.establishes:
            so_far |= {stage.establishes}
    return before


def rehearse(plain: Any, recipe: Recipe, steps_per_epoch: int, samples: Any) -> tuple[LiteModel, list[str]]:
    """Apply every stage of `recipe` to `plain` (flat tf_keras, unchanged) and export; the file, and notes on it.

    `samples`: inputs for the ranges, float32 arrays, batch first: one, or a list of one for each input.
    Raises what training and export would raise: ModelError, RecipeError, DataError, PromiseError.
    """
    final = plain
    for stage, keep in zip(recipe.stages, established_before(recipe), strict=True):
        applied = stage.apply(plain, steps=stage.epochs * steps_per_epoch, keep=keep)
        if recipe.distillation:
            shapes(applied, recipe.distillation.layers("student"))  # raises for a layer that is not there
        if stage.last:
            stage.calibrate(applied, samples)
            final = applied
    return build(final, recipe.export, samples)


def samples_of(arrays: list[np.ndarray]) -> Any:
    """`arrays`, one for each input, as `rehearse` and Keras take them: a single one bare."""
    return arrays[0] if len(arrays) == 1 else arrays
