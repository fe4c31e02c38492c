"""The same test samples for several files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.data.arrays_by_name import leaves
from tfopt.data.beside import mask_values_beside, stated_beside
from tfopt.data.dataset import Dataset
from tfopt.data.for_model import measurable
from tfopt.data.front_end import FrontEnd
from tfopt.data.stated_series import series_beside
from tfopt.data.streams import has_streams, in_arrays
from tfopt.errors import DataError
from tfopt.tasks import task_of


def datasets_for(
    paths: Sequence[str | Path],
    files: Sequence[Any],
    source: Any,
    *,
    preprocessing: str | FrontEnd | None = None,
    limit: int | None = None,
) -> Iterator[Dataset]:
    """Yield the samples for each file, all with the same test part, as `measurable` returns them.

    Samples are read once, and again only for a file that states, itself or in a `data.json` beside it, something else
    than the first one. Streams are read into arrays, since they may give other samples each time.

    Args:
        paths: of the files.
        files: as a `LiteModel` each.
        source: as for `data_for`, or samples without labels.
        preprocessing: as for `load_data`; None leaves it to each file.
        limit: the most samples in each part.

    Raises:
        DataError: data that does not fit; test parts or tasks that differ between files.
    """
    source = in_arrays(source) if has_streams(source) else source
    first, expected = None, None
    for path, file in zip(paths, files, strict=True):
        stated = _stated(path, file)
        if first is not None and stated == expected:
            yield first
            continue
        data = measurable(file, source, preprocessing=preprocessing, limit=limit, beside=(path, file))
        if first is None:
            first, expected = data, stated
        _require_same(first, data, f"{paths[0]} and {path}")
        yield data


def _stated(path: str | Path, file: Any) -> tuple[Any, ...]:
    """Return all on which samples for a file may depend, beside the shapes of its inputs."""
    places = (path, file)
    front_end = next((found for place in places if (found := stated_beside(place))), None)
    names = [[port.name for port in ports] for ports in (file.inputs, file.outputs)]
    return front_end and front_end.to_dict(), mask_values_beside(places), series_beside(places)[0], names


def _require_same(one: Dataset, other: Dataset, files: str) -> None:
    """Raise `DataError` unless two data sets have the same tasks, and the same labels in their test parts."""
    if one is other:
        return
    if task_of(one).by_task() != task_of(other).by_task():
        raise DataError(
            f"Expected the same outputs and tasks for {files}, got {_tasks(one)} and {_tasks(other)}, as the data.json "
            "beside each says; compare files of one task."
        )
    labels = [leaves(data.test.labels) for data in (one, other)]
    if not all(np.array_equal(a[:], b[:]) for a, b in zip(*labels, strict=True)):
        raise DataError(
            f"Expected the same test samples for {files}, got other labels for the second, as the data.json beside "
            "each says; compare files that were trained on the same labels."
        )


def _tasks(data: Dataset) -> str:
    found = task_of(data).by_task().items()
    return ", ".join(f"{name} {task.kind} ({task.num_classes or 'no'} classes)".strip() for name, task in found)
