"""TFRecord files of tf.train.Examples, with features that are given or inferred from the first records."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tfopt.base.words import reason_of
from tfopt.data.folder import PART_NAMES, is_shown
from tfopt.data.named_rows import NamedRows, Row
from tfopt.errors import DataError

_NAME = re.compile(r"\.tfrec(ord)?s?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_FIRST = 16  # records that show what features there are


def record_files(source: Any) -> dict[str, list[Path]]:
    """Return the TFRecord files at a path, or in a folder, by part; none for another source.

    A part is a word of the name, as in train-00000-of-00002.tfrecord; without such words all are for training.

    Raises:
        DataError: only some names have such words, or none is for training.
    """
    if not isinstance(source, str | Path) or not Path(source).exists():
        return {}
    path = Path(source)
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    files = [file for file in files if _NAME.search(file.name) and is_shown(file.name)]
    parts = [_part_in(file.name) for file in files]
    if len(files) < 2 or not any(parts):
        return {"train": files} if files else {}
    if None in parts or "train" not in parts:
        came = ", ".join(file.name for file in files[:3])
        raise DataError(f"Expected train, validation or test in the name of each TFRecord file of {path}, got {came}.")
    return {
        part: [file for file, own in zip(files, parts, strict=True) if own == part]
        for part in dict.fromkeys(part for part in parts if part)
    }


def _part_in(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((PART_NAMES[word] for word in words if word in PART_NAMES), None)


def rows_of_records(files: Mapping[str, list[Path]], features: Mapping[str, Any] | None, source: str) -> NamedRows:
    """Return the records in files as rows with a column for each feature.

    Args:
        files: by part.
        features: how to parse a record, as for `tf.io.parse_single_example`; None infers it.
        source: a description of the origin.

    Raises:
        DataError: `features` cannot be inferred, because records differ.
    """
    spec = dict(features) if features else _inferred(files["train"], source)
    notes = () if features else (f"features of the first records: {', '.join(spec)}",)
    read: dict[str, Callable[[], Iterator[Row]]] = {part: partial(_parsed, each, spec) for part, each in files.items()}
    return NamedRows(read, source, notes=notes)


def _records(files: list[Path]) -> Any:
    import tensorflow as tf

    packed = [file.suffix.lower() == ".gz" for file in files]
    if any(packed) and not all(packed):
        raise DataError(f"Expected all TFRecord files packed as .gz or none, got both beside {files[0]}.")
    return tf.data.TFRecordDataset([str(file) for file in files], compression_type="GZIP" if packed[0] else "")


def _parsed(files: list[Path], features: Mapping[str, Any]) -> Iterator[Row]:
    import tensorflow as tf

    def parse(record: Any) -> Any:
        found = tf.io.parse_single_example(record, dict(features))
        return {
            name: tf.sparse.to_dense(each) if isinstance(each, tf.SparseTensor) else each
            for name, each in found.items()
        }

    yield from _records(files).map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator()


def _inferred(files: list[Path], source: str) -> dict[str, Any]:
    """Return a description of the features that the first records have, each of a fixed length."""
    import tensorflow as tf

    try:
        records = list(itertools.islice(_records(files).as_numpy_iterator(), _FIRST))
        examples = [tf.train.Example.FromString(record).features.feature for record in records]
    except Exception as error:
        raise DataError(f"Expected TFRecord files of tf.train.Examples, got {source}: {reason_of(error)}.") from error
    types = {"bytes_list": tf.string, "int64_list": tf.int64, "float_list": tf.float32}
    found: dict[str, Any] = {}
    for name in examples[0] if examples else ():
        own = [example[name] for example in examples if name in example]
        kinds = {feature.WhichOneof("kind") for feature in own}
        lengths = {len(getattr(feature, kind).value) for feature in own for kind in kinds if kind}
        if len(kinds) > 1 or len(lengths) > 1 or len(own) < len(examples) or None in kinds:
            raise DataError(
                f"Expected the feature {name!r} in every record of {source} with one type and length, got others in "
                f"the first {len(examples)}; describe it: features={{{name!r}: tf.io.VarLenFeature(...), ...}}."
            )
        length = lengths.pop()
        found[name] = tf.io.FixedLenFeature([] if length == 1 else [length], types[kinds.pop()])
    if not found:
        raise DataError(f"Expected records with features in {source}, got none.")
    return found
