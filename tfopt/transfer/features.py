"""Features of a whole data set, computed once and cached."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.locks import locked
from tfopt.data import Augmentation, Dataset, Preprocessing
from tfopt.data.batches import view_inputs
from tfopt.data.samples import Split
from tfopt.data.split import NAMES
from tfopt.errors import DataError
from tfopt.models.sources import model_from
from tfopt.surgery.body import Pooling, body_of
from tfopt.teachers.base import OUTPUT
from tfopt.teachers.cache import LOCK, Answers, StaleAnswersError, empty
from tfopt.teachers.teacher import Teacher

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
    """Return `data` with features instead of inputs: float32 (n, width), or whatever shape `extractor` outputs.

    Args:
        extractor: a feature model, such as one from `feature_extractor`; also a path, a LiteModel or a function.
        data: the data set; its preprocessing is applied.
        views: number of augmented views of each training sample; the training part grows by this factor. Validation and
            test samples are used once, unchanged.
        augment: of the training images; None uses them unchanged.
        seed: of the augmentation.
        cache: a folder that keeps the features as memory-mapped `.npy` files, which may exceed memory. They are reused
            while the extractor and its weights, the data, its preprocessing and the augmentation stay the same, and
            otherwise recomputed, with a note. None keeps them in memory.
        progress: a `Progress` that reports recomputation.
        quiet: no progress bars.

    Returns:
        A `Dataset` of features.

    Raises:
        DataError: views without augmentation, or a cache folder that holds something else.
        ModelError: the extractor does not accept the data.
        OutputError: the disk is full.

    Examples:
        >>> extractor = tfopt.transfer.feature_extractor(teacher)
        >>> features = tfopt.transfer.extract_features(extractor, data, quiet=True)
        >>> features.train.x().shape
        (200, 16)
    """
    parts, notes = features_of(
        extractor, data, NAMES, views=views, augment=augment, seed=seed, cache=cache, progress=progress, quiet=quiet
    )
    train, validation, test = (parts[name] for name in NAMES)
    return dataclasses.replace(data, train=train, validation=validation, test=test, notes=(*data.notes, *notes))


def features_of(
    extractor: Any,
    data: Dataset,
    names: Sequence[str],
    *,
    views: int = 1,
    augment: Augmentation | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Any = None,
    quiet: bool = False,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Return the parts `names` of `data`, in order, as from `extract_features`, and notes."""
    if views < 1 or (views > 1 and augment is None):
        raise DataError(f"Expected 1 view, or several with an augmentation; got {views} and {augment}.")
    teacher = Teacher(extractor).resolved(data.train.x(slice(0, 64)), None)
    shown = [(name, view) for name in names for view in range(views if name == "train" else 1)]
    about = {
        "data": _unweighted(data).fingerprint,
        "shown": [list(each) for each in shown],
        "augmentation": dataclasses.asdict(augment) if augment else None,
        "seed": seed if augment else None,
    }
    answers = _kept(
        teacher,
        about,
        sum(len(data.split(name)) for name, _ in shown),
        folder=cache,
        label="features",
        progress=progress,
        quiet=quiet,
    )

    def batches() -> Iterator[np.ndarray]:
        for name, view in shown:
            change = augment if name == "train" else None
            yield from view_inputs(data.split(name), view, ASKED_AT_ONCE, seed=seed, augment=change)

    values, parts, start = answers.view(0, batches)[OUTPUT], {}, 0
    for name in names:
        split, repeats = data.split(name), views if name == "train" else 1
        labels = np.concatenate([split.labels] * repeats)
        weights = None if split.weights is None else np.concatenate([split.weights] * repeats)
        parts[name] = Split(values[start : start + len(labels)], labels, Preprocessing(), weights=weights)
        start += len(labels)
    return parts, (f"inputs are features of '{teacher.name}', {views} for each training sample", *teacher.notes)


def _unweighted(data: Dataset) -> Dataset:
    """Return `data` without weights, on which features do not depend."""
    parts = {name: data.split(name) for name in NAMES}
    if all(part.weights is None for part in parts.values()):
        return data
    plain: dict[str, Any] = {name: dataclasses.replace(part, weights=None) for name, part in parts.items()}
    return dataclasses.replace(data, **plain)


def _kept(
    teacher: Teacher, about: dict[str, Any], count: int, *, folder: str | Path | None, progress: Any, **shown: Any
) -> Answers:
    """Return the answers in `folder`; remove stale ones first, with a note."""

    def found() -> Answers:
        return Answers(teacher, about, count, folder=folder, progress=progress, **shown)

    try:
        return found()
    except StaleAnswersError:
        assert folder is not None
        say = progress.say if progress is not None else lambda line: None
        with locked(Path(folder, LOCK), f"The cache {folder}", wait=say):
            try:
                return found()  # another process may have replaced them
            except StaleAnswersError as error:
                say(f"the cached features are stale ({error}); computing them again")
                empty(Path(folder))
            return found()


def feature_extractor(
    source: Any,
    *,
    layer: str | None = None,
    pooling: Pooling = "auto",
    input_shape: Sequence[int] | None = None,
) -> Any:
    """Return a new model from the inputs of `source` to features (batch, width), in the same Keras.

    Args:
        source: a Keras 3 or tf_keras model, the path of a model file or SavedModel, or a TF-Hub handle. It is not
            changed; nested models are flattened.
        layer: the layer whose output is used, by name or by path in a nested model. None uses the input of the
            classifier: a Dense layer or a 1x1 convolution with no weights after it, unless it ends in an activation of
            inner layers, such as ReLU. A model without one, such as those of `keras.applications` with
            include_top=False, is used to its end.
        pooling: reduces (batch, ..., channels) to (batch, width): "average" or "max" over all positions, "flatten"
            keeps them; "auto" averages if there is more than one position.
        input_shape: of one sample, if it differs from the model's, (96, 96, 3) for example. The weights stay, so layers
            whose weights depend on the size are refused.

    Returns:
        The feature model.

    Raises:
        ModelError: an unknown layer, several outputs, or a size that the layers do not accept.

    Examples:
        >>> extractor = tfopt.transfer.feature_extractor(teacher)
        >>> extractor.output_shape
        (None, 16)
        >>> tfopt.transfer.feature_extractor(teacher, layer="first", pooling="flatten").output_shape
        (None, 576)
    """
    body = body_of(model_from(source), layer=layer, pooling=pooling, input_shape=input_shape)
    return body.package.Model(body.inputs, body.features, name="feature_extractor")
