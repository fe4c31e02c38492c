"""Whether an accuracy means something: a file has forgotten its task, or the data are of another one."""

import numpy as np
from numpy.typing import ArrayLike

from tfopt.base.progress import Progress
from tfopt.base.words import counted
from tfopt.data import Dataset
from tfopt.tasks.metrics import guessing, wilson_interval


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
