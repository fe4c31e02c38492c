"""Read from a checkpoint where an interrupted run goes on, and require that it is this run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfopt.data import Dataset
from tfopt.errors import TfoptError
from tfopt.evaluate.report import Row
from tfopt.run.checkpoint import Checkpoint, Kept
from tfopt.run.judge import Evaluation
from tfopt.run.recipe import Recipe
from tfopt.stages import Stage


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on.

    Attributes:
        flat_model: after the stages that are finished.
        rows: of the report so far, the first of which is the original model.
        stages: as they are carried out.
        best: the evaluation of the best model so far; None if it is not known.
    """

    flat_model: Any
    rows: list[Row]
    stages: list[Stage]
    best: Evaluation | None


def resumed(checkpoint: Checkpoint, recipe: Recipe, data: Dataset, start: Any) -> Resumed | None:
    """Return where the run of `recipe` goes on; None if nothing is kept.

    Args:
        checkpoint: of the stages that are finished.
        recipe: the recipe of the run.
        data: the data of the run.
        start: the flat model that the run began with.

    Raises:
        DataError: the checkpoint is damaged.
    """
    found = checkpoint.load()
    if not found:
        return None
    _require_rows(checkpoint, recipe, found.rows)
    best, stages = _best(checkpoint, found, data), _stages(checkpoint, found, recipe)
    done = recipe.stages[: len(found.rows) - 1]
    model = checkpoint.resumed(
        found,
        start,
        resized=any(stage.resizes for stage in done),
        restructured=any(stage.restructures for stage in done),
    )
    return Resumed(model, found.rows, stages, best)


def _require_rows(checkpoint: Checkpoint, recipe: Recipe, rows: Sequence[Row]) -> None:
    """Raise DataError unless the rows are those of the first stages."""
    steps = [type(stage).__name__ for stage in recipe.stages]
    metrics = set(rows[0].metrics) if rows else set()
    if not rows or [row.step for row in rows[1:]] != steps[: len(rows) - 1]:
        raise checkpoint.damaged("its rows do not match the stages")
    if any(set(row.metrics) != metrics for row in rows):
        raise checkpoint.damaged(f"its rows do not have the metrics {', '.join(sorted(metrics))}")


def _best(checkpoint: Checkpoint, found: Kept, data: Dataset) -> Evaluation | None:
    if found.best is None or found.best.by_sample is None:
        return None
    samples = [each.by_sample for each in (found.best, *found.best.parts.values())]
    if any(each is None or len(each) != len(data.validation) for each in samples):
        raise checkpoint.damaged("the evaluation of its best model does not fit the validation data")
    return found.best


def _stages(checkpoint: Checkpoint, found: Kept, recipe: Recipe) -> list[Stage]:
    """Return the stages as the interrupted run carried them out: a second try may have changed one."""
    if not found.recipe:
        return list(recipe.stages)
    try:
        return list(Recipe.from_json(found.recipe).stages)
    except TfoptError as error:
        raise checkpoint.damaged("its recipe cannot be read") from error
