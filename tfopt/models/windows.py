r"""Keras 2 files written on Windows, whose weights lie in groups such as `layers\\dense` (keras issue #18528).

No Keras finds them there: it looks for `layers/dense`.
"""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from tfopt.base.archives import open_zip

WEIGHTS = "model.weights.h5"


@contextlib.contextmanager
def with_slashes(path: Path) -> Iterator[Path]:
    """Yield `path`, or a copy with "/" in the names of groups if the file has backslashes there."""
    import h5py

    if path.is_dir() or not (names := _with_backslashes(path)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if not zipfile.is_zipfile(path):
            with h5py.File(path, "r") as source, h5py.File(copy, "w") as target:
                _copy(source, target)
        else:
            with open_zip(path) as archive, zipfile.ZipFile(copy, "w") as renamed:
                for name in archive.namelist():
                    data = archive.read(name)
                    renamed.writestr(name, _renamed(data) if name in names else data)
        yield copy


def _with_backslashes(path: Path) -> tuple[str, ...]:
    """Return the members of the archive `path` with such groups; for an HDF5 file, its name."""
    import h5py

    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            return (path.name,) if _has_backslashes(file) else ()
    with open_zip(path) as archive:
        if WEIGHTS not in archive.namelist():
            return ()
        with archive.open(WEIGHTS) as weights, h5py.File(weights, "r") as file:
            return (WEIGHTS,) if _has_backslashes(file) else ()


def _has_backslashes(file: Any) -> bool:
    """Return whether a group of the new layout has them; in the old one they may be part of a layer's name."""
    old = "layer_names" in file.attrs or "model_weights" in file
    return not old and any("\\" in name for name in file)


def _renamed(data: bytes) -> bytes:
    import h5py

    written = BytesIO()
    with h5py.File(BytesIO(data), "r") as source, h5py.File(written, "w") as target:
        _copy(source, target)
    return written.getvalue()


def _copy(source: Any, target: Any) -> None:
    target.attrs.update(source.attrs)
    for name in sorted(source):  # an outer group comes before those inside it
        source.copy(name, target, name=name.replace("\\", "/"))


@contextlib.contextmanager
def weights_of(path: Path) -> Iterator[Path]:
    """Yield the HDF5 file with the weights of `path`: the file itself, or a copy of the one in a `.keras` archive.

    Raises:
        KeyError: the archive has no such file.
    """
    if not zipfile.is_zipfile(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / WEIGHTS
        with open_zip(path) as archive, archive.open(WEIGHTS) as weights, copy.open("wb") as file:
            shutil.copyfileobj(weights, file)
        yield copy
