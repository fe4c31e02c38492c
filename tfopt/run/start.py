"""What a run starts from: the data as the model takes it, and the model for the task of the data."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfopt.base.progress import Progress
from tfopt.data import Dataset, Preprocessing, load_data
from tfopt.data.preprocessing import NAMED
from tfopt.errors import ModelError
from tfopt.run.recipe import Recipe
from tfopt.training.fit import choose_augmentation
from tfopt.transfer import FeatureTransfer, Transferred, feature_extractor
from tfopt.transfer.scores import logme

# Training images that preprocessing is chosen by.
LOOKED_AT = 500
JUDGE_EPOCHS = 20


def data_for(
    model: Any,
    source: Any,
    *,
    preprocess: str | None = None,
    limit: int | None = None,
    input_shape: Sequence[int] | None = None,
) -> Dataset:
    """`load_data(source)` with images brought to the size and colours that `model` expects.

    `model` is a Keras model or a `LiteModel`; `preprocess` the name of a `Preprocessing` ("raw", "unit",
    "symmetric"); `limit` the most samples in each part; `input_shape` what is wanted instead of the model's own.
    """
    if isinstance(source, Dataset):
        return source
    shape = tuple(input_shape or tuple(model.inputs[0].shape)[1:])
    is_folder = isinstance(source, str | Path) and Path(source).is_dir()
    if not is_folder or len(shape) != 3:
        named = Preprocessing.named(preprocess) if preprocess else None
        return load_data(source, preprocessing=named, limit=limit)
    size = (shape[0], shape[1]) if shape[0] and shape[1] else None
    colors: dict[int, Literal["rgb", "grayscale"]] = {1: "grayscale", 3: "rgb"}
    color = colors.get(shape[2])
    return load_data(
        source, preprocessing=Preprocessing.named(preprocess or "raw"), size=size, color=color, limit=limit
    )


def choose_preprocessing(source: Any, data: Dataset, input_shape: Sequence[int] | None) -> tuple[Dataset, list[str]]:
    """`data` fed as `source` was most likely trained, and what to say about that.

    Of the named kinds of preprocessing, the one with the features that say most about the labels, by LogME of some
    training images. Only for images of 8 bits that are fed as they are and that `source` takes; nothing is changed for
    others.
    """
    if data.train.inputs.dtype != np.uint8 or len(data.input_shape) != 3 or data.preprocessing.scale != 1:
        return data, []
    extractor = feature_extractor(source, input_shape=input_shape)
    if any(size not in (None, given) for size, given in zip(extractor.input_shape[1:], data.input_shape, strict=True)):
        return data, []
    chosen = np.random.default_rng(0).permutation(len(data.train))[:LOOKED_AT]
    ways = {name: data.fed_as(name) for name in NAMED}
    scores = {
        name: logme(extractor.predict(way.train.x(chosen), verbose=0), way.train.y(chosen))
        for name, way in ways.items()
    }
    best = max(scores, key=lambda name: scores[name])
    told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    return ways[best], [f"images are fed as '{best}', for the highest LogME of the features of {len(chosen)}: {told}"]


def judge_from(source: Any, data: Dataset) -> Callable[[np.ndarray], np.ndarray] | None:
    """Scores (n, classes) for inputs of `data` by a linear head on the features of `source`; trained when first asked.

    None where `source` does not take such inputs.
    """
    settings = FeatureTransfer(input_shape=data.input_shape, epochs=JUDGE_EPOCHS)
    try:
        settings.untrained(source, data)
    except ModelError:
        return None
    learnt = functools.cache(lambda: settings.transferred(source, data, quiet=True).model)
    return lambda x: np.asarray(learnt().predict(x, verbose=0))


def transferred(
    recipe: Recipe, source: Any, data: Dataset, *, cache: str | Path | None, progress: Progress
) -> Transferred:
    """What the transfer of `recipe` makes of `source` for `data`; the augmentation is tried before it is used."""
    assert recipe.transfer is not None
    said: list[str] = []

    def choose(model: Any) -> Any:
        who = "a head on the features of images as they are"
        augment, notes = choose_augmentation(lambda x: model.predict(x, verbose=0), recipe.training, data, who=who)
        said.extend(notes)
        return augment

    quiet = progress.console.quiet
    made = recipe.transfer.transferred(source, data, augment=choose, cache=cache, progress=progress, quiet=quiet)
    return dataclasses.replace(made, notes=(*made.notes, *said))
