"""What a verdict says about the finished file, beyond the guard of the stages."""

from collections.abc import Sequence
from typing import Any

from tfopt.base.words import counted, metric_in_words
from tfopt.data import Dataset
from tfopt.errors import PromiseError
from tfopt.evaluate.chance import at_chance, worse_than_naive, worse_than_the_mean
from tfopt.evaluate.report import Row
from tfopt.run.recipe import Recipe
from tfopt.tasks import task_of
from tfopt.tasks.metrics import guessing
from tfopt.tasks.significance import is_guessing

IF_GUESSING = (
    "Look at the rows of the report, train the stages for longer or with a smaller learning rate, or accept it with "
    "allow_drift=True (--allow-drift)."
)


def budget_missed(recipe: Recipe, rows: Sequence[Row]) -> str:
    """Return how the file misses the budget of the last stage of `recipe`; "" if it keeps it, or there is none."""
    budget = recipe.stages[-1].budget if recipe.stages else None
    if budget is None:
        return ""
    before, after = (row.metrics.get("accuracy") for row in (rows[0], rows[-1]))
    try:
        budget.require(before, after, rows[-1].bytes)
    except PromiseError as error:
        return str(error)
    return ""


def guesses(data: Dataset, rows: Sequence[Row]) -> str:
    """Return that the file guesses on the test part; "" unless it does, and the first model did not."""
    if not task_of(data).has_classes:
        return ""
    labels = data.test.y()
    before, after = (row.metrics["accuracy"] or 0.0 for row in (rows[0], rows[-1]))
    if not at_chance(before, after, labels):
        return ""
    return (
        f"the file's accuracy is {after:.4f}, that of always predicting the most frequent class is "
        f"{guessing(labels):.4f}; before the first stage it was {before:.4f}"
    )


def not_learned(data: Dataset, outputs: Any, row: Row | None) -> str:
    """Return that `outputs` of the file for the test part are no better than answers that need no model; else "".

    `row` holds its metrics; None if something else has been said of its accuracy.
    """
    said = (at_most_guesses(data, row) if row else "", behind_the_mean(data, outputs), behind_naive(data, outputs))
    return " ".join(filter(None, said))


def at_most_guesses(data: Dataset, row: Row) -> str:
    """Return that the file of `row` does no more than guess on the test part; "" if it does, or if that is unsure."""
    if not task_of(data).has_classes:
        return ""
    chance, accuracy, count = guessing(data.test.y()), row.metrics["accuracy"], len(data.test)
    if accuracy is None or not is_guessing(round(accuracy * count), count, chance):
        return ""
    return (
        f"The file has not learned its classes: its accuracy on {counted(count, 'test sample')} is {accuracy:.4f}, "
        f"that of always predicting the most frequent class is {chance:.4f}."
    )


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
