"""Run all stages of a recipe and the export on an untrained model, to find errors before hours of training."""

from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.data import Dataset
from tfopt.errors import ModelError, RecipeError
from tfopt.graph.taps import shapes
from tfopt.graph.types import flatten
from tfopt.run.recipe import Recipe
from tfopt.search.bits import with_fewest_bits
from tfopt.search.widths import require_reachable, with_likely_widths
from tfopt.stages import PruneChannels, Stage
from tfopt.stages.kernels.promise import Promise
from tfopt.stages.kernels.table import named_kernel
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

_LEAST_SAMPLES, _MOST_SAMPLES = 8, 256
_MOST_VALUES = 2**22
"""Most numbers in the samples of a dry run together: whether it runs does not depend on how many there are."""


def samples_for(data: Dataset) -> Any:
    """Return training inputs of `data` for the ranges of a dry run: fewer where each is large."""
    size = sum(np.asarray(each).size for each in flatten(data.representative(1)))
    return data.representative(max(_LEAST_SAMPLES, min(_MOST_SAMPLES, _MOST_VALUES // max(size, 1))))


def established_before(recipe: Recipe) -> list[frozenset[str]]:
    """Return, for each stage of `recipe`, what the stages before it established ("sparsity", "clusters")."""
    before: list[frozenset[str]] = []
    so_far: frozenset[str] = frozenset()
    for stage in recipe.stages:
        before.append(so_far)
        if stage.establishes:
            so_far |= {stage.establishes}
    return before


def dry_run(flat_model: Any, recipe: Recipe, steps_per_epoch: int, samples: Any, *, like: Any = None) -> LiteModel:
    """Apply every stage of `recipe` to a flat tf_keras model and export it; return the file.

    Args:
        flat_model: the model before the first stage. It is not changed; each stage is applied to the result of the
            previous one.
        recipe: the stages.
        steps_per_epoch: of training.
        samples: inputs for the ranges, float32 arrays, batch first: one, or a list with one per input.
        like: the caller's model, to whose Keras the result is brought back; that is tried.

    Raises:
        ModelError, RecipeError, DataError: as training and export would.
        PromiseError: the file would break a promise of a stage. Only promises that hold without training are tried.
    """
    promises: list[Promise] = []
    last = flat_model
    for stage, keep in zip(recipe.stages, established_before(recipe), strict=True):
        stage, applied = _applied(stage, flat_model, steps_per_epoch, keep, samples, recipe.export)
        _require_outputs(stage, applied, flat_model)
        _require_lists(stage, applied, flat_model, keep)
        if recipe.distillation:
            shapes(applied, recipe.distillation.layers("student"))  # raises for an unknown layer
        flat_model = stage.untrained_result(applied)
        promises += [promise for promise in stage.promises(flat_model) if _holds(promise, flat_model)]
        last = applied if stage.last else flat_model
    if like is not None and any(stage.resizes for stage in recipe.stages):
        bridge.to_keras(flat_model, like=like, resized=True)
    elif like is not None:
        bridge.require_rebuildable(like)
    lite = build_file(last, recipe.export, samples, promises, flat_model, proven=False)
    budget = recipe.stages[-1].budget if recipe.stages else None
    if budget and budget.max_bytes is not None and len(lite.data) > budget.max_bytes:
        raise RecipeError(
            f"max_bytes={budget.max_bytes:,} cannot be met: with 4 bits wherever that saves bytes, the file has "
            f"{len(lite.data):,} bytes. Allow that many, or start with a smaller model."
        )
    return lite


def _require_outputs(stage: Stage, applied: Any, flat_model: Any) -> None:
    """Raise `ModelError` if the result of `stage.apply` has other outputs than the model."""
    before, after = ([tuple(output.shape) for output in model.outputs] for model in (flat_model, applied))
    if before != after:
        raise ModelError(
            f"{type(stage).__name__}.apply changes the outputs of '{flat_model.name}': expected shapes {before}, got "
            f"{after}. A stage may resize layers, not outputs."
        )


def _require_lists(stage: Stage, applied: Any, flat_model: Any, keep: frozenset[str]) -> None:
    """Raise `RecipeError` if a method of the stage, of another package maybe, returns no list where one is expected."""
    returned = {
        "notes": stage.notes(flat_model, keep),
        "summary": stage.summary(applied),
        "callbacks": stage.callbacks(),
    }
    for name, value in returned.items():
        if not isinstance(value, list) or (name != "callbacks" and not all(isinstance(one, str) for one in value)):
            raise RecipeError(
                f"{type(stage).__name__}.{name} must return a list{'' if name == 'callbacks' else ' of texts'}; it "
                f"returned {value!r}."
            )


def _holds(promise: Promise, flat_model: Any) -> bool:
    kernel = named_kernel(flat_model.get_layer(promise.layer), promise.weight)
    return promise.broken(kernel.values, kernel.channel_axis) is None


def resized(stage: Stage, flat_model: Any, keep: frozenset[str], samples: Any) -> Any:
    """Return the input of the stage after `stage`: `flat_model`, resized if `stage` resizes, without training."""
    if not stage.resizes:
        return flat_model
    stage, applied = _applied(stage, flat_model, 1, keep, samples)
    return stage.untrained_result(applied)


def _applied(
    stage: Stage,
    flat_model: Any,
    steps_per_epoch: int,
    keep: frozenset[str],
    samples: Any,
    export: Export | None = None,
) -> tuple[Stage, Any]:
    """Return a fast version of `stage`, with the fewest bits if bits are to be chosen, and its untrained model.

    With `export`, widths that files are to choose must be reachable by such files.
    """
    stage = stage.for_dry_run()
    if stage.budget and stage.budget.max_bytes is not None:
        stage = with_fewest_bits(stage, flat_model)
    if isinstance(stage, PruneChannels) and stage.measures_files:
        if export is not None:
            require_reachable(stage, flat_model, samples, export)
        stage = with_likely_widths(stage, flat_model)
    stage, _ = stage.chosen(flat_model, samples)
    applied = stage.apply(flat_model, steps=stage.epochs_on(steps_per_epoch) * steps_per_epoch, keep=keep)
    if stage.last or stage.resizes:
        stage.calibrate(applied, samples)
    return stage, applied


def samples_of(arrays: list[np.ndarray]) -> Any:
    """Return `arrays`, one per input, as `dry_run` and Keras expect them: a single one without a list."""
    return arrays[0] if len(arrays) == 1 else arrays
