"""What a verdict says about the finished file, beyond the guard of the stages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base.words import counted, metric_in_words
from tfopt.data import Dataset
from tfopt.data.arrays_by_name import rows as arrays
from tfopt.errors import PromiseError
from tfopt.evaluate.chance import forgotten, only_guesses, worse_than_naive, worse_than_the_mean
from tfopt.evaluate.report import Row
from tfopt.run.recipe import Recipe
from tfopt.run.rows import CLASS_WEIGHTED
from tfopt.tasks import Task, task_of

IF_GUESSING = (
    "Look at the rows of the report, train the stages for longer or with a smaller learning rate, or accept it with "
    "allow_drift=True (--allow-drift)."
)


JUDGED_ON = 5000
"""Test samples that show whether a file has learned its classes."""


def budget_missed(recipe: Recipe, rows: Sequence[Row]) -> str:
    """Return how the file misses the budget of the last stage of `recipe`; "" if it keeps it, or there is none."""
    budget = recipe.stages[-1].budget if recipe.stages else None
    if budget is None:
        return ""
    before, after = (_accuracy(row) for row in rows[-2:])  # of the model before the stage, of the file
    try:
        budget.require(before, after, rows[-1].bytes)
    except PromiseError as error:
        return str(error)
    return ""


def _accuracy(row: Row) -> float | None:
    """Return the accuracy that counts, NaN if it has no number, which keeps no limit; None if the task has none."""
    for name in (CLASS_WEIGHTED, "accuracy", "binary_accuracy"):
        if name in row.metrics:
            value = row.metrics[name]
            return math.nan if value is None else value
    return None


def guesses(data: Dataset, rows: Sequence[Row], outputs: Any, logits: Any) -> str:
    """Return that the file guesses the classes of an output on the test part, and the first model did not; else "".

    Args:
        data: with the test part.
        rows: of the first model, ..., of the file.
        outputs: of the file for the test part; a list or dict of several.
        logits: whether these are logits; by output if there are several.
    """
    task, chosen = task_of(data), data.test.spread(JUDGED_ON)
    classes = {name: one for name, one in task.by_task().items() if one.has_classes}
    if data.labels == "none" or not classes:
        return ""
    labels, answers, said = task.by_output(data.test.y(chosen)), task.by_output(outputs), []
    for name, one in classes.items():
        before, after = (row.metrics[f"{name}_accuracy" if name else "accuracy"] for row in (rows[0], rows[-1]))
        found = arrays(np.asarray(answers[name]), chosen)
        lost = _lost(one, labels[name], found, before, after, logits=logits[name] if name else logits)
        was = "it had no number" if before is None else f"it was {before:.4f}"
        if lost:
            said.append(f"the file's accuracy{f' of {name}' if name else ''} is {lost}; before the first stage {was}")
    return "; ".join(said)


def _lost(
    task: Task, labels: Any, outputs: np.ndarray, before: float | None, after: float | None, *, logits: bool
) -> str:
    """Return the accuracy of a file in words if it guesses and the model before did not; else ""."""
    if after is None:
        return "" if before is None else "not a number"
    found = forgotten(task, labels, outputs, before, logits=logits)
    if found is None:
        return ""
    return f"{found.made:.4f}, that of always predicting the most frequent class is {found.of_guess:.4f}"


def not_learned(data: Dataset, outputs: Any, logits: Any, *, of_classes: bool = True) -> str:
    """Return that `outputs` of the file for the test part are no better than answers that need no model; else "".

    Args:
        data: with the test part.
        outputs: a list or dict of several.
        logits: whether these are logits rather than probabilities; by output if there are several.
        of_classes: also of outputs with classes; not if something else has been said of their accuracy.
    """
    guessed = at_most_guesses(data, outputs, logits) if of_classes else ""
    return " ".join(filter(None, (guessed, behind_the_mean(data, outputs), behind_naive(data, outputs))))


def at_most_guesses(data: Dataset, outputs: Any, logits: Any) -> str:
    """Return that the file does no more than guess on the test part; "" if it does, or if that is unsure."""
    task, chosen, said = task_of(data), data.test.spread(JUDGED_ON), []
    if task.labels == "none":
        return ""
    labels, answers = task.by_output(data.test.y(chosen)), task.by_output(outputs)
    samples = counted(len(chosen), "test sample")
    for name, one in task.by_task().items():
        found = only_guesses(one, labels[name], arrays(answers[name], chosen), logits=logits[name] if name else logits)
        if found:
            said.append(
                f"The file has not learned {f'the classes of {name}' if name else 'its classes'}: its {found.metric} "
                f"on {samples} is {found.made:.4f}, that of always predicting the most frequent class is "
                f"{found.of_guess:.4f}."
            )
    return " ".join(said)


def behind_naive(data: Dataset, outputs: Any) -> str:
    """Return that repeating the last value is better than `outputs` of the file for the test part; else ""."""
    found = worse_than_naive(data, outputs)
    if found is None:
        return ""
    metric, made, naive = found
    return (
        "The file forecasts worse than the naive forecast, which repeats the last value: on the test samples its "
        f"{metric_in_words(metric)} is {made:.4g}, that of the naive forecast is {naive:.4g}."
    )


def behind_the_mean(data: Dataset, outputs: Any) -> str:
    """Return that always answering the mean of the targets is better than `outputs` of the file for the test part."""
    found = worse_than_the_mean(data, outputs)
    if not found:
        return ""
    said = [
        f"{f'For {name}, its' if name else 'Its'} squared error on the test samples is {ratio:.3g} times that of the "
        "mean."
        for name, ratio in found.items()
    ]
    return (
        "The file has not learned its values: always answering the mean of the training targets is better. "
        f"{' '.join(said)}"
    )
