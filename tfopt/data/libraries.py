"""Data sets of two libraries: tensorflow-datasets by name, and objects of Hugging Face's `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from tfopt.base.words import reason_of
from tfopt.data.folder import PART_NAMES
from tfopt.data.named_rows import NamedRows, Row
from tfopt.errors import DataError

PREFIX = "tfds:"


def is_hugging_face(source: Any) -> bool:
    """Return whether `source` is a data set of Hugging Face's `datasets`, or a dict of them, such as a DatasetDict."""
    if isinstance(source, Mapping):
        return bool(source) and all(map(is_hugging_face, source.values()))
    return all(hasattr(source, name) for name in ("features", "column_names", "__iter__")) and not hasattr(
        source, "element_spec"
    )


def rows_of_hugging_face(source: Any) -> NamedRows:
    """Return the rows of a Hugging Face data set; its splits are the parts, and its only ClassLabel has the labels.

    Raises:
        DataError: a dict of splits has none for training.
    """
    splits = dict(source) if isinstance(source, Mapping) else {"train": source}
    parts, notes = _by_part(splits)
    features = parts["train"].features or {}
    named = {name: tuple(each.names) for name, each in features.items() if getattr(each, "names", None)}
    label = next(iter(named)) if len(named) == 1 else "label" if "label" in named else None
    builder = getattr(getattr(parts["train"], "info", None), "builder_name", None) or "dataset"
    return NamedRows(
        {name: partial(iter, split) for name, split in parts.items()},
        f"Hugging Face {builder}",
        label,
        named.get(label) if label else None,
        notes,
    )


def rows_of_tfds(name: str) -> NamedRows:
    """Return the rows of the data set `name` of tensorflow-datasets, which is downloaded once.

    Raises:
        DataError: tensorflow-datasets is not installed, or has no such data set, or cannot prepare it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"Cannot read {PREFIX}{name} without tensorflow-datasets ({error}): pip install 'tfopt[datasets]'."
        ) from error
    try:
        builder = tfds.builder(name)
        builder.download_and_prepare()
    except Exception as error:
        raise DataError(f"Cannot load {name!r} from tensorflow-datasets: {reason_of(error)}.") from error
    info = builder.info
    parts, notes = _by_part({split: split for split in info.splits})
    keys = info.supervised_keys
    label = keys[1] if keys and isinstance(keys[1], str) else "label" if "label" in info.features else None
    names = getattr(info.features[label], "names", None) if label else None
    return NamedRows(
        {part: partial(_examples, builder, split) for part, split in parts.items()},
        f"{PREFIX}{name}",
        label,
        tuple(names) if names else None,
        notes,
    )


def _examples(builder: Any, split: str) -> Iterator[Row]:
    yield from builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator()


def _by_part(splits: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return splits by the name of their part, and a note on those that are left out."""
    parts = {PART_NAMES[name.lower()]: split for name, split in splits.items() if name.lower() in PART_NAMES}
    if "train" not in parts:
        raise DataError(f"Expected a split called train, got {', '.join(splits)}; pass a dict with train.")
    used = [name for name in splits if name.lower() in PART_NAMES]
    if len(used) > len(parts):
        raise DataError(
            f"Expected one split for each of train, validation and test, got {', '.join(used)}; pass a dict with one "
            "of each."
        )
    left = [name for name in splits if name.lower() not in PART_NAMES]
    return parts, (f"splits left out: {', '.join(left)}",) if left else ()
