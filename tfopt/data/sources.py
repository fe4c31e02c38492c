"""Which reader a source belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.config import shortened
from tfopt.base.words import counted
from tfopt.data.arrays import has_raw_inputs, is_npz, read_arrays, read_dict, read_digits, read_npz
from tfopt.data.folder import IMAGES, FileKind, kind_of, read_folder
from tfopt.data.front_end import FrontEnd
from tfopt.data.libraries import PREFIX, is_hugging_face, rows_of_hugging_face, rows_of_tfds
from tfopt.data.named_rows import NamedRows, read_rows
from tfopt.data.parts import Parts
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.raw_folder import read_raw_folder
from tfopt.data.streams import Steps, has_streams, is_stream, is_tf_data
from tfopt.data.table_files import TableFiles, table_files
from tfopt.data.tables import read_table
from tfopt.data.tfrecords import record_files, rows_of_records
from tfopt.errors import DataError

TABLE = "table"
DIGITS = "digits"
"""The name of the data that come with scikit-learn."""
_OF_RESULT = ("model.keras", "recipe.json", "report.json")


def path_of(source: Any) -> Path | None:
    """Return the path that `source` is; None for objects, and for names: "digits" and tfds:NAME.

    Raises:
        DataError: it is the folder of a result.
    """
    if not isinstance(source, str | Path) or source == DIGITS or str(source).startswith(PREFIX):
        return None
    path = Path(source)
    if all((path / name).is_file() for name in _OF_RESULT):
        more = f'; for the handwritten digits write "{DIGITS}" alone' if path.name == DIGITS else ""
        raise DataError(
            f"Expected samples, got {source}, which holds the result of a run, not data{more}. Give the folder, table "
            "or file that the samples are in."
        )
    return path


def shadowed_note(source: Any) -> str:
    """Return a note if `source` is the name of data that come along, and here is a file or folder of that name."""
    if isinstance(source, Path) or source is None or source != DIGITS or not Path(DIGITS).exists():
        return ""
    return f"{DIGITS} are scikit-learn's handwritten digits, not what is called {DIGITS} here: that is ./{DIGITS}"


def read_source(
    source: Any,
    text: str | None,
    labels: str | None,
    how: FrontEnd,
    features: Mapping[str, Any] | None,
    *,
    values: bool = False,
    anomalies: bool = False,
    steps: Steps | None = None,
) -> Parts:
    """Read `source`, as `load_data` takes it; `how` says how images are fed, or is the front end of other samples.

    With `values`, labels in columns are values, even if they look like classes. With `anomalies`, classes in folders
    are normal samples and anomalies. `steps` are for streams.

    Raises:
        DataError: it cannot be read.
    """
    if steps is not None and not has_streams(source):
        came = source if isinstance(source, str | Path) else type(source).__name__
        raise DataError(f"Expected tf.data or a PyDataset for steps=, got {came}; limit= takes some samples.")
    if _are_rows(source):
        raise DataError(
            f"Expected samples or a path, got a list of {counted(len(source), 'dict')}, the rows of a table. Write "
            'them to a CSV, as with pandas.DataFrame(rows).to_csv("rows.csv", index=False), and give its path.'
        )
    if rows := _named_rows(source, features):
        return read_rows(rows, text=text, labels=labels, how=how, values=values)
    front_end = None if isinstance(how, Preprocessing) else how
    if table := _table_of(source):
        return read_table(table, text=text, labels=labels, front_end=front_end, values=values)
    kind, path = raw_kind(source), path_of(source) or Path()
    if text or labels:
        _require_path(source)
        raise DataError(
            "Expected a table (.csv, .tsv, .jsonl, .parquet) for text= and labels= (--text and --labels), got "
            f"{shortened(repr(source))}."
        )
    if isinstance(kind, FileKind):
        return read_raw_folder(path, kind, front_end, anomalies=anomalies)
    return replace(_read_numbers(source, steps, anomalies), front_end=front_end)


def _are_rows(source: Any) -> bool:
    """Return whether `source` is a list of dicts from columns to single values."""
    rows = source if type(source) is list else ()  # not one with columns, as of Hugging Face
    return bool(rows) and all(isinstance(row, Mapping) and all(map(np.isscalar, row.values())) for row in rows[:2])


def _named_rows(source: Any, features: Mapping[str, Any] | None) -> NamedRows | None:
    """Return a source of rows with named columns that is no table; None for another one."""
    path = path_of(source)
    if path and (files := record_files(path)):
        return rows_of_records(files, features, f"TFRecord {path.name}")
    if features:
        raise DataError(f"Expected TFRecord files for features=, got {shortened(repr(source))}.")
    if isinstance(source, str) and source.startswith(PREFIX):
        return rows_of_tfds(source.removeprefix(PREFIX))
    return rows_of_hugging_face(source) if is_hugging_face(source) else None


def has_columns(source: Any) -> bool:
    """Return whether `source` has rows with named columns and is no table: TFRecord files, data sets of libraries."""
    if isinstance(source, str) and source.startswith(PREFIX):
        return True
    path = path_of(source)
    return bool(record_files(path)) if path else is_hugging_face(source)


def has_images_to_decode(source: Any) -> bool:
    """Return whether images of `source` are decoded when it is loaded, in any size and color."""
    path = path_of(source)
    return has_columns(source) or (path is not None and path.is_dir() and not table_files(path))


def holds_raw_arrays(source: Any) -> bool:
    """Return whether the inputs in arrays, in a .npz or in tf.data are texts or records, which models do not take."""
    if is_npz(source):
        return has_raw_inputs(Path(source))
    return not isinstance(source, str | Path) and _are_raw(source)


def _are_raw(values: Any) -> bool:
    """Return whether arrays, or the first of a tuple or list, are texts or records."""
    if is_tf_data(values):
        return _are_raw(values.element_spec)
    if isinstance(values, Mapping):
        return any(map(_are_raw, values.values()))
    if isinstance(values, tuple | list):  # the inputs come first
        return bool(values) and _are_raw(values[0])
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "SUV" or (values.dtype == object and _are_raw(next(values.flat, None)))
    return isinstance(values, str | bytes) or getattr(getattr(values, "dtype", None), "name", "") == "string"


def raw_kind(source: Any) -> FileKind | str | None:
    """Return `TABLE` for the files of a table, the kind of other files than images in a folder, and else None."""
    path = path_of(source)
    if _table_of(source):
        return TABLE
    if path is None or not path.is_dir():
        return None
    return kind if (kind := kind_of(path)) is not IMAGES else None


def _table_of(source: Any) -> TableFiles | None:
    """Return the files of a table; None for other sources, also for "digits" beside a folder of that name."""
    return table_files(path_of(source) if isinstance(source, str | Path) else source)


def _require_path(source: Any) -> None:
    path = path_of(source)
    if path is not None and not path.exists():
        raise DataError(f'Expected a folder, a table, a .npz file or "digits", got a path that does not exist: {path}.')


def _read_numbers(source: Any, steps: Steps | None, anomalies: bool) -> Parts:
    """Read images, numbers or, for a front end, raw samples in arrays."""
    if is_stream(source):
        return read_dict({"train": source}, steps)
    if isinstance(source, dict):
        return read_dict(source, steps)
    if not isinstance(source, (str, Path)):
        return read_arrays(source)
    path = path_of(source)
    if path is None:
        return read_digits()
    if path.is_dir():
        return read_folder(path, anomalies=anomalies)
    _require_path(source)
    if not is_npz(path):
        raise DataError(
            f"Expected a folder, a table (.csv, .tsv, .jsonl, .parquet) or a .npz file, got {path}; save arrays with "
            "numpy.savez."
        )
    return read_npz(path, anomalies=anomalies)
