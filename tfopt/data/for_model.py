"""Data in the form that a model expects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tfopt.base.renamed import renamed_arguments
from tfopt.data import Dataset, Preprocessing, load_data


@renamed_arguments(preprocess="preprocessing")
def data_for(
    model: Any,
    source: Any,
    *,
    preprocessing: str | None = None,
    limit: int | None = None,
    input_shape: Sequence[int] | None = None,
) -> Dataset:
    """Return `load_data(source)` with images converted to the size and colors that `model` expects.

    Args:
        model: a Keras model or a `LiteModel`.
        source: as for `load_data`.
        preprocessing: the name of a `Preprocessing` ("raw", "unit", "symmetric").
        limit: the most samples in each part.
        input_shape: overrides the model's input shape.
    """
    if isinstance(source, Dataset):
        return source
    shape = tuple(input_shape or tuple(model.inputs[0].shape)[1:])
    is_folder = isinstance(source, str | Path) and Path(source).is_dir()
    if not is_folder or len(shape) != 3:
        named = Preprocessing.named(preprocessing) if preprocessing else None
        return load_data(source, preprocessing=named, limit=limit)
    size = (shape[0], shape[1]) if shape[0] and shape[1] else None
    colors: dict[int, Literal["rgb", "grayscale"]] = {1: "grayscale", 3: "rgb"}
    color = colors.get(shape[2])
    return load_data(
        source, preprocessing=Preprocessing.named(preprocessing or "raw"), size=size, color=color, limit=limit
    )
