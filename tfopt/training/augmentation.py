"""Choose the augmentations that do not destroy labels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.data import Augmentation, Dataset
from tfopt.tasks import task_of
from tfopt.tasks.metrics import accuracy
from tfopt.training.settings import Training

# An augmentation is dropped if it costs the given model more than this fraction of its correct answers.
AUGMENTATION_MAY_COST = 0.1

PROBE = 1000


def choose_augmentation(
    judge: Callable[[np.ndarray], np.ndarray] | None,
    training: Training,
    data: Dataset,
    *,
    who: str = "the original model",
) -> tuple[Augmentation | None, list[str]]:
    """Return the recipe's augmentation without transformations that `judge` cannot recognize, and notes.

    A mirrored digit is a different digit. So each transformation is first tested on the validation images: it is
    dropped if it costs `judge`, which returns scores (n, classes) and is called `who` in notes, more than a tenth of
    its accuracy, or if there is no judge.
    """
    wanted: dict[str, Any] = {"horizontal_flip": training.horizontal_flip, "shift": training.shift}
    wanted = {name: value for name, value in wanted.items() if value}
    if not wanted:
        return None, []
    if len(data.input_shape) != 3 or not task_of(data).has_classes:
        return None, [f"no augmentation ({', '.join(wanted)}): it is for image classification only"]
    if judge is None:
        return None, [
            f"no augmentation ({', '.join(wanted)}): there is no model to judge which images stay recognizable"
        ]
    probe = data.validation.spread(PROBE)
    x, y = data.validation.x(probe), data.validation.y(probe)
    before = accuracy(judge(x), y)
    kept: dict[str, Any] = {}
    notes = []
    for name, value in wanted.items():
        augmentation = Augmentation(**{name: value})
        changed = augmentation.apply(_tensor(x), augmentation.draw(len(x), x.shape[1:], training.seed)).numpy()
        if name == "horizontal_flip":
            changed = x[:, :, ::-1]  # all of them; training mirrors half
        after = accuracy(judge(changed), y)
        verdict = f"{who} has {after:.3f} on images changed this way, {before:.3f} on unchanged ones"
        if after >= (1 - AUGMENTATION_MAY_COST) * before:
            kept[name] = value
            notes.append(f"augmented with {name}={value}: {verdict}")
        else:
            notes.append(f"augmentation {name} left out: {verdict}")
    return (Augmentation(**kept) if kept else None), notes


def _tensor(x: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.constant(x)
