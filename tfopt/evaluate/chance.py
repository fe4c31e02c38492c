"""Whether an accuracy means something: a file has forgotten its task, or the data are of another one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfopt.base.progress import Progress
from tfopt.base.words import counted
from tfopt.data import Dataset
from tfopt.data.windows import naive_forecast
from tfopt.tasks import Task, task_of
from tfopt.tasks.balance import Asked
from tfopt.tasks.metrics import guessing, wilson_interval
from tfopt.tasks.scaling import TargetScale
from tfopt.tasks.significance import is_guessing

_UNSURE = 0.1
"""A balanced accuracy this far from that of a guess to 1 may be more than a guess on more samples."""


def tell_of_other_classes(data: Dataset, outputs: ArrayLike, name: object) -> None:
    """Print a note if `outputs`, of the file or model `name`, are not one for each class of `data`."""
    if said := other_classes(data, outputs, name):
        Progress().say(f"note: {said}")


def other_classes(data: Dataset, outputs: ArrayLike, name: object) -> str:
    """Return a note if `outputs`, of the file or model `name`, are not one for each class of `data`; else ""."""
    shape = np.shape(outputs)
    count = shape[-1] if len(shape) > 1 else 1
    if not data.num_classes or count == data.num_classes or (count == 1 and data.num_classes == 2):
        return ""
    return (
        f"the {counted(count, 'output')} of {name} are not the {data.num_classes:,} classes of the data: its accuracy "
        "on them means nothing. A transfer (recipes/feature_transfer.py) makes a model for these classes"
    )


def at_chance(before: float, after: float, labels: ArrayLike) -> bool:
    """Return whether accuracy fell from significantly better than guessing to no better than guessing.

    Args:
        before: accuracy of the model.
        after: accuracy of the file.
        labels: of the samples that both were measured on.

    Returns:
        True where the 95 % interval (Wilson) of `before` lies above guessing and above that of `after`, which does not.
    """
    count = len(np.asarray(labels))
    low_before, _ = wilson_interval(round(before * count), count)
    low_after, high_after = wilson_interval(round(after * count), count)
    chance = guessing(labels)
    return low_before > chance >= low_after and high_after < low_before


@dataclass(frozen=True)
class Guess:
    """What right answers of a model say beside those of always answering what is most frequent.

    Attributes:
        metric: the name of what is compared.
        made: by the model.
        of_guess: the same of always answering what is most frequent.
        sure: True if the model does no more than guess, False if it does more, None if that is unsure.
    """

    metric: str
    made: float
    of_guess: float
    sure: bool | None


def guess_of(task: Task, labels: np.ndarray, outputs: np.ndarray, *, logits: bool) -> Guess | None:
    """Return whether `outputs` do no more than guess.

    A model that is right as often as a guess may still tell classes apart, as one does that was trained to find a rare
    one. For places and for several labels only this counts, since most of their answers are the usual ones.

    Args:
        task: of the output.
        labels: of the samples, (N, ...).
        outputs: for them, (N, ...).
        logits: whether these are logits rather than probabilities.

    Returns:
        None if there are no classes, or if outputs are no numbers.
    """
    asked = Asked.by(task, labels)
    if asked is None or not np.isfinite(outputs).all():
        return None
    told_apart = asked.told_apart(task, outputs, logits=logits)
    weights = np.ones(asked.number) if task.has_classes else asked.balanced
    made, often = (
        float(found.mean())
        for found in (asked.hits(task, outputs, weights, logits=logits), asked.hits_of_guess(task, weights))
    )
    if task.has_classes:
        sure = is_guessing(round(made * len(labels)), len(labels), often)
        return Guess("accuracy", made, often, False if told_apart else sure)
    # Labels that are all the same tell nothing.
    unsure = often > 1 - 1e-9 or made - often > _UNSURE * (1 - often)
    return Guess("balanced accuracy", made, often, False if told_apart else None if unsure else True)


def only_guesses(task: Task, labels: np.ndarray, outputs: np.ndarray, *, logits: bool) -> Guess | None:
    """Return what `guess_of` does if `outputs` surely do no more than guess, else None."""
    found = guess_of(task, labels, outputs, logits=logits)
    return found if found and found.sure else None


def forgotten(
    task: Task, labels: np.ndarray, outputs: np.ndarray, before: float | None, *, logits: bool
) -> Guess | None:
    """Return what `outputs` of a file make of its classes if it guesses, and the model before did not; else None.

    Args:
        task: with classes.
        labels: of the samples that both were measured on.
        outputs: of the file.
        before: accuracy of the model; None if it has no number, which is no guess.
        logits: whether outputs are logits rather than probabilities.
    """
    found = guess_of(task, labels, outputs, logits=logits)
    if found is None or found.sure is False:
        return None
    fell = bool(found.sure) if before is None else at_chance(before, found.made, labels)
    return found if fell else None


def worse_than_the_mean(data: Dataset, outputs: Any) -> dict[str, float]:
    """Return how many times the squared error on the test samples is that of always answering the mean in training.

    Each value of an output counts in units of its standard deviation.

    Args:
        data: with labels.
        outputs: for the test samples.

    Returns:
        The ratio by output, where it is above 1 (R2 below 0); "" is the only output. Without outputs of classes, and
        those that reconstruct their inputs.
    """
    task = task_of(data)
    if data.labels == "none" or data.train.reconstructs:
        return {}
    guides, labels, found = (task.by_output(each) for each in (data.train.guides(), data.test.y(), outputs))
    ratios = {}
    for name, one in task.by_task().items():
        if not one.smaller_is_better:
            continue
        scale = TargetScale.of(guides[name])
        wanted = scale.normalized(labels[name])
        made = scale.normalized(np.asarray(found[name]).reshape(wanted.shape))
        error, of_mean = (float(np.square(each - wanted, dtype=np.float64).mean()) for each in (made, 0.0))
        if of_mean > 0:
            ratios[name] = error / of_mean
    return {name: ratio for name, ratio in ratios.items() if ratio > 1}


def worse_than_naive(data: Dataset, outputs: Any) -> tuple[str, float, float] | None:
    """Return how forecasts for the test samples compare with the naive one, which repeats the last value.

    Args:
        data: windows of a series.
        outputs: for the test samples.

    Returns:
        The metric, its value for `outputs` and for the naive forecast; None unless that is better, or for other data.
    """
    if data.forecast_columns is None or data.labels == "none":
        return None
    task, labels = task_of(data), data.test.y()
    naive = task.metric(naive_forecast(data.test, data.forecast_columns), labels)
    made = task.metric(np.asarray(outputs).reshape(labels.shape), labels)
    return (task.keras_metric, made, naive) if made > naive else None
