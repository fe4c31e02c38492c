"""Warnings about data and model before training: what does not keep a run from starting, but may spoil it."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from tfopt.base.words import counted
from tfopt.data import Dataset, Split
from tfopt.data.arrays_by_name import leaves
from tfopt.data.predicting import outputs_for
from tfopt.data.table import Table
from tfopt.evaluate.chance import guess_of, other_classes
from tfopt.graph.variables import unchanged
from tfopt.tasks import task_of
from tfopt.tasks.balance import IMBALANCED
from tfopt.tasks.metrics import predicted_classes
from tfopt.tasks.responses import are_logits

# Fewer training samples per class than this leave too little for a validation part.
FEW = 5
_SHOWN = 3
# Validation samples, and how many at once, that show whether a model knows the data.
JUDGED_ON, BATCH = 200, 32
GUESSES = "the model guesses"


def data_warnings(
    data: Dataset, outputs: int, predict: Any = None, logits: bool = False, *, learns: bool = False
) -> list[str]:
    """Return warnings in words.

    Args:
        data: preprocessed for the model.
        outputs: number of the model's outputs.
        predict: maps inputs to outputs of a model that should know the task already; None if there is none.
        logits: whether these outputs are logits.
        learns: whether the recipe begins by training the model, which may be untrained so far.
    """
    found = _shared_samples(data)
    if not task_of(data).has_classes:
        return found
    counts = np.bincount(_class_numbers(data, data.train), minlength=data.num_classes or 0)
    if data.labels == "sparse" and outputs > len(counts):
        found.append(f"the labels show {len(counts):,} of the model's {outputs:,} classes")
    found += [*_counts(counts, data.class_names), *_missing(data, counts)]
    return [*found, *(guesses(data, predict, logits, learns=learns) if predict else [])]


def doubts(model: Any, data: Any) -> list[str]:
    """Return notes on samples that `model` does not know, or that are fed in another way than it was trained.

    The ranges of a file, and the way in which apps will feed it, come from them.

    Args:
        model: of either Keras.
        data: a `Dataset`; there is nothing to say about other samples, or about models with several inputs or outputs.
    """
    inputs, made = (list(getattr(model, side, None) or ()) for side in ("inputs", "outputs"))
    if len(inputs) != 1 or len(made) != 1 or not isinstance(data, Dataset) or not task_of(data).has_classes:
        return []
    fixed = inputs[0].shape[0] or 1
    part = data.validation.some(min(JUDGED_ON, len(data.validation)) // fixed * fixed)
    if not len(part):
        return []
    with unchanged(model):
        outputs = np.asarray(model.predict(part.x(), batch_size=max(fixed, BATCH // fixed * fixed), verbose=0))
    if said := other_classes(data, outputs, "the model"):
        return [said]
    few = dataclasses.replace(data, validation=part)
    found = guesses(few, lambda inputs: outputs, logits=are_logits(outputs, task_of(data)))
    return [said for said in found if said.startswith(GUESSES)]


def recalls(data: Dataset, outputs: Any, logits: bool = False) -> str:
    """Return balanced accuracy and the recalls on the test part, if the classes of `data` are imbalanced; else "".

    Balanced accuracy is the mean of the recalls of all classes in the test part, for which a model gave `outputs`.
    """
    if not task_of(data).has_classes or not _imbalanced(np.bincount(_class_numbers(data, data.train))):
        return ""
    truth = _class_numbers(data, data.test)
    chosen = predicted_classes(outputs, logits=logits)
    by_class = {int(c): float(np.mean(chosen[truth == c] == c)) for c in np.unique(truth)}
    listed = ", ".join(f"{_name(c, data.class_names)} {value:.3f}" for c, value in by_class.items())
    return f"balanced accuracy {np.mean(list(by_class.values())):.4f}; recall by class: {listed}"


def _shared_samples(data: Dataset) -> list[str]:
    """Warn of validation and test samples that are also in the training data: they reward memorization."""
    train, found = set(_digests(data.train)), []
    of_table = isinstance(data.preprocessing, Table)
    for name in ("validation", "test"):
        part = _digests(data.split(name))
        if shared := sum(digest in train for digest in part):
            found.append(
                f"{shared:,} of {len(part):,} {name} rows have the features of a training row: data leakage, unless "
                "different rows may be alike"
                if of_table
                else f"{shared:,} of {len(part):,} {name} samples are in the training data, too: data leakage"
            )
    return found


def _digests(part: Split) -> list[bytes]:
    arrays = leaves(part.inputs)
    wanted = [np.float32 if array.dtype.kind == "f" else array.dtype for array in arrays]
    found = []
    for sample in zip(*arrays, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for value, dtype in zip(sample, wanted, strict=True):
            digest.update(np.ascontiguousarray(value, dtype).tobytes())
        found.append(digest.digest())
    return found


def _counts(counts: np.ndarray, names: tuple[str, ...] | None) -> list[str]:
    found = []
    present = np.flatnonzero(counts)
    fewest, most = present[counts[present].argmin()], present[counts[present].argmax()]
    if _imbalanced(counts):
        found.append(
            f"imbalanced: {counts[most]:,} training samples of {_name(most, names)}, {counts[fewest]:,} of "
            f'{_name(fewest, names)}; Training(class_weight="balanced") gives all classes the same weight'
        )
    if counts[fewest] < FEW:
        found.append(
            f"{_name(fewest, names)} has {counted(counts[fewest], 'training sample')}: too few to learn it, or to tell "
            "on validation data whether it was learned"
        )
    return found


def _missing(data: Dataset, counts: np.ndarray) -> list[str]:
    """Warn of validation and test parts without a class of the training data: nobody sees whether it is lost."""
    found = []
    for name in ("validation", "test"):
        there = np.bincount(_class_numbers(data, data.split(name)), minlength=len(counts))[: len(counts)]
        missing = np.flatnonzero((counts > 0) & (there == 0))
        if len(missing):
            listed = ", ".join(_name(each, data.class_names) for each in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
            found.append(f"no {name} sample of {listed}{more}: whether the file knows it is not seen there")
    return found


def _imbalanced(counts: np.ndarray) -> bool:
    present = counts[counts > 0]
    return len(present) > 1 and int(present.max()) >= IMBALANCED * int(present.min())


def guesses(data: Dataset, predict: Any, logits: bool, *, learns: bool = False) -> list[str]:
    """Warn of a model that is no better than always predicting the most frequent class, or may not be."""
    task, labels = task_of(data), data.validation.y()
    found = guess_of(task, labels, np.asarray(outputs_for(predict, data.validation)), logits=logits)
    if found is None or found.sure is False:
        return []
    compared = (
        f"accuracy {found.made:.4f} on {counted(len(labels), 'validation sample')}, where always predicting the most "
        f"frequent class has {found.of_guess:.4f}"
    )
    if found.sure is None:
        return [f"the validation data cannot tell whether the model does more than guess: {compared}"]
    cause = "As untrained models do; if it is trained, the" if learns else "The"
    return [
        f"{GUESSES}: {compared}. {cause} usual causes are the preprocessing ({data.preprocessing.describe()}), "
        "the order of the classes, the size of the images, and BatchNormalization statistics of other data"
    ]


def _class_numbers(data: Dataset, part: Split) -> np.ndarray:
    return task_of(data).groups(part.labels)


def _name(number: Any, names: tuple[str, ...] | None) -> str:
    return f"'{names[number]}'" if names else f"class {number}"
