"""The files of a table: one, or several whose rows follow each other or are parts of a data set."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.data.cells import as_texts
from tfopt.data.columns import Columns, is_table, read_columns
from tfopt.data.folder import PART_NAMES, is_shown
from tfopt.errors import DataError

SPLIT = "split"
"""The column that says which part a row belongs to."""
_ABOUT = (".md", ".txt", ".json", ".yaml", ".yml", ".html", ".pdf", "")
"""Suffixes of files beside tables that tell about them."""
_SHOWN = 3


@dataclass(frozen=True)
class TableFiles:
    """The files of a table.

    Attributes:
        name: of all of them together, for messages.
        files: with the part that each is; None where names do not say it.
    """

    name: str
    files: tuple[tuple[str | None, Path], ...]

    def __str__(self) -> str:
        return self.name


def table_files(source: Any) -> TableFiles | None:
    """Return the files of a table: a file, those in a folder, or those in a dict by part; None for other sources.

    Files in a folder are parts if each has a word such as train or test in its name, as train-00000-of-00002.parquet
    has, or in that of its folder; else they are one table.

    Raises:
        DataError: only some names in a folder have such words, none is for training, or a file of a dict is missing.
    """
    if isinstance(source, Mapping):
        return _by_part(source)
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if path.is_file():
        return TableFiles(str(path), ((None, path),)) if is_table(path) else None
    return _in_folder(path) if path.is_dir() else None


def _by_part(source: Mapping[Any, Any]) -> TableFiles | None:
    paths = {key: Path(value) for key, value in source.items() if isinstance(value, str | Path)}
    if not source or len(paths) < len(source) or not all(map(is_table, paths.values())):
        return None
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise DataError(f"Expected a table for each part, got a path that does not exist: {', '.join(missing)}.")
    files = tuple((_part_in(str(key)), path) for key, path in paths.items())
    return _checked(TableFiles(", ".join(path.name for path in paths.values()), files))


def _in_folder(root: Path) -> TableFiles | None:
    shown = sorted(each for each in root.iterdir() if is_shown(each.name))
    folders = [each for each in shown if each.is_dir()]
    if any(_part_in(folder.name) is None for folder in folders):
        return None
    files = [(_part_in(each.name), each) for each in shown if not each.is_dir()]
    files += [(_part_in(folder.name), each) for folder in folders for each in sorted(folder.iterdir())]
    tables = [(part, file) for part, file in files if file.is_file() and is_table(file)]
    others = [file for _, file in files if is_shown(file.name) and not is_table(file)]
    if not tables or any(file.suffix.lower() not in _ABOUT for file in others):
        return None
    return _checked(TableFiles(str(root), tuple(tables)))


def _part_in(name: str) -> str | None:
    return next((PART_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in PART_NAMES), None)


def _checked(found: TableFiles) -> TableFiles:
    parts = {part for part, _ in found.files}
    if parts == {None}:
        return found
    if None in parts or "train" not in parts:
        names = [file.name for part, file in found.files if part is None or "train" not in parts]
        raise DataError(
            f"Expected tables for train and, optionally, validation and test, got {', '.join(names[:_SHOWN])} in "
            f"{found}; name each by its part, or give the table to learn from alone."
        )
    return found


def read_files(
    table: TableFiles,
    texts: Collection[str] = (),
    needed: Collection[str] = (),
    labels: str | None = None,
    verbatim: Collection[str] = (),
) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of all files of a table, as `read_columns` does for one; of parts, also the column `SPLIT`.

    A column that has texts in one file has texts in all.

    Raises:
        DataError: as `read_columns`, or the files have different columns.
    """
    found = _read_each(table, texts, needed, labels, verbatim)
    if mixed := _with_texts_and_numbers([columns for columns, _ in found]):
        found = _read_each(table, {*texts, *mixed}, needed, labels, verbatim)
    names = [file.name for _, file in table.files]
    _require_alike([columns for columns, _ in found], names, table)
    columns = {name: _joined([columns[name] for columns, _ in found]) for name in found[0][0]}
    notes = tuple(dict.fromkeys(note for _, notes in found for note in notes))
    if len(names) == 1 and table.files[0][0] is None:
        return columns, notes
    counts = [len(next(iter(each.values()))) for each, _ in found]
    if table.files[0][0] is not None:
        if SPLIT in columns:
            raise DataError(f"Expected parts by the names of files or in a column {SPLIT!r}, got both in {table}.")
        columns[SPLIT] = np.repeat(np.array([part for part, _ in table.files], object), counts)
    rows = ", ".join(f"{count:,} from {name}" for name, count in list(zip(names, counts, strict=True))[:_SHOWN])
    return columns, (*notes, f"rows: {rows}{', ...' if len(names) > _SHOWN else ''}")


def _read_each(table: TableFiles, *how: Any) -> list[tuple[Columns, tuple[str, ...]]]:
    return [read_columns(file, *how) for _, file in table.files]


def _with_texts_and_numbers(files: list[Columns]) -> set[str]:
    """Return the columns that are texts in one file and numbers in another."""
    return {
        name for name in files[0] if len({columns[name].dtype == object for columns in files if name in columns}) > 1
    }


def _require_alike(files: list[Columns], names: list[str], table: TableFiles) -> None:
    for columns, name in zip(files[1:], names[1:], strict=True):
        for has, lacks, where in ((files[0], columns, name), (columns, files[0], names[0])):
            if missing := [column for column in has if column not in lacks]:
                raise DataError(
                    f"Expected the same columns in all files of {table}, got no {', '.join(missing[:_SHOWN])} in "
                    f"{where}; leave out the file, or add what it lacks."
                )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len({part.dtype == object for part in parts}) > 1:  # Parquet, which has types
        parts = [part if part.dtype == object else np.array([*as_texts(part), None], object)[:-1] for part in parts]
    return np.concatenate(parts)
