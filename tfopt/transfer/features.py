"""Features of a whole data set, computed once and kept."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.data import Augmentation, Dataset, Preprocessing
from tfopt.data.batches import view_inputs
from tfopt.data.dataset import Split
from tfopt.distillation.teachers.answering import OUTPUT
from tfopt.distillation.teachers.answers import Answers, StaleAnswersError
from tfopt.distillation.teachers.teacher import Teacher
from tfopt.errors import DataError

ASKED_AT_ONCE = 256


def extract_features(
    extractor: Any,
    data: Dataset,
    *,
    views: int = 1,
    augment: Augmentation | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Any = None,
    quiet: bool = False,
) -> Dataset:
    """`data` with features in place of its inputs: float32 (n, width), or whatever shape `extractor` gives.

    Args:
        extractor: a model of features, such as `feature_extractor` gives; also a path, a LiteModel or a function.
        data: fed to `extractor` as its preprocessing says.
        views: how often each training sample is shown, each time augmented anew; the training part becomes so many
            times as long. Validation and test are shown once, as they are.
        augment: of the training images; None shows them as they are.
        seed: of the augmentation.
        cache: a folder that keeps the features as memory-mapped `.npy` files, so that they may be larger than memory.
            They are used again as long as the extractor with its weights, the data, its preprocessing and the
            augmentation are the same, and else computed anew, which is said. None keeps them in memory.
        progress: a `Progress`, told what is computed anew.
        quiet: no progress bars.

    Raises:
        DataError: views without augmentation, or a cache folder that holds something else.
        ModelError: the extractor does not take the data.
        OutputError: the disk is full.
    """
    if views < 1 or (views > 1 and augment is None):
        raise DataError(f"Expected 1 view, or several with an augmentation; got {views} and {augment}.")
    teacher = Teacher(extractor).settled(data.train.x(slice(0, 64)), None)

    def of(name: str) -> Split:
        part, shown, change = data.split(name), views if name == "train" else 1, augment if name == "train" else None
        about = {
            "data": data.fingerprint,
            "part": name,
            "augmentation": dataclasses.asdict(change) if change else None,
            "views": shown,
            "seed": seed if change else None,
        }
        answers = _kept(
            teacher,
            about,
            shown * len(part),
            folder=None if cache is None else Path(cache) / name,
            label=f"features of {name}",
            progress=progress,
            quiet=quiet,
        )
        values = answers.view(0, _shown(part, shown, change, seed))[OUTPUT]
        return Split(values, np.concatenate([part.labels] * shown), Preprocessing())

    note = f"inputs are features of '{teacher.name}'" + (f", of {views} augmented views" if views > 1 else "")
    return dataclasses.replace(
        data, train=of("train"), validation=of("validation"), test=of("test"), notes=(*data.notes, note, *teacher.notes)
    )


def _shown(part: Split, views: int, augment: Augmentation | None, seed: int) -> Callable[[], Iterator[np.ndarray]]:
    def batches() -> Iterator[np.ndarray]:
        for view in range(views):
            yield from view_inputs(part, view, ASKED_AT_ONCE, seed=seed, augment=augment)

    return batches


def _kept(
    teacher: Teacher, about: dict[str, Any], count: int, *, folder: Path | None, progress: Any, **shown: Any
) -> Answers:
    """The answers in `folder`; those for something else are removed first, which is said."""
    try:
        return Answers(teacher, about, count, folder=folder, progress=progress, **shown)
    except StaleAnswersError as error:
        assert folder is not None
        if progress is not None:
            progress.say(f"the kept features are stale ({error}); computing them anew")
        shutil.rmtree(folder)
        return Answers(teacher, about, count, folder=folder, progress=progress, **shown)
