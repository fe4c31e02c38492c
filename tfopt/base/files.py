"""Atomic writes of files and folders: each is written next to its target, then renamed into place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tfopt.errors import OutputError


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write `data` (text as UTF-8) to `path` atomically and return the path.

    Create missing parent folders.

    Raises:
        OutputError: the file cannot be written; an older file stays.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {_reason(error)}.") from error
    return Path(path)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the same suffix, for the block to write one file to.

    When the block ends, sync the file to disk and rename it to `path`; if it raises or is interrupted, delete the file.

    Raises:
        OutputError: the folder cannot be written, or the block wrote no file.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise OutputError(f"{path} is a folder; expected the path of a file.")
    _make_folder(target.parent)
    temporary = _sibling(target)
    try:
        yield temporary
        if not temporary.is_file():
            raise OutputError(f"Nothing was written for {path}.")
        _sync(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Check that results can be written to the folder `path` before hours are spent on them.

    Create the folder if it is missing. Delete nothing, not even with `overwrite`.

    Raises:
        OutputError: the folder holds files and `overwrite` is not set, `path` is a file, or it cannot be written.
    """
    target = _checked_target(path, overwrite)
    _make_folder(target)
    probe = _sibling(target / "probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"Cannot write to the folder {path}: {_reason(error)}.") from error
    return target


@contextmanager
def output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder next to `path` for the block to fill; rename it to `path` when the block succeeds.

    Only then delete an older folder at `path`. When the block raises or is interrupted, delete the new folder and keep
    the old one.

    Raises:
        OutputError: as `prepare_folder` does. If another process filled `path` meanwhile, the results stay in the
            folder named in the message.
    """
    target = _checked_target(path, overwrite)
    _make_folder(target.parent)
    temporary = _sibling(target)
    _make_folder(temporary)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        _swap(temporary, _checked_target(path, overwrite))
    except (OSError, OutputError) as error:
        reason = _reason(error) if isinstance(error, OSError) else str(error).rstrip(".")
        raise OutputError(f"{reason}. The results are in {temporary}.") from error


def _checked_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the absolute path of a folder that may be created, filled or (with `overwrite`) replaced."""
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise OutputError(f"{path} is a file; expected a folder for the results.")
    if not _holds_files(target):
        return target
    if not overwrite:
        raise OutputError(
            f"The folder {path} is not empty. Pass --overwrite (overwrite=True) to replace it, or another folder."
        )
    here = Path.cwd()
    if target in (here, *here.parents, Path.home(), *Path.home().parents):
        raise OutputError(f"{path} holds the working or home folder, which is never replaced. Pass another one.")
    return target


def _holds_files(folder: Path) -> bool:
    try:
        return folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise OutputError(f"Cannot read the folder {folder}: {_reason(error)}.") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {folder}: {_reason(error)}.") from error


def _sibling(target: Path) -> Path:
    """Return a free hidden name in the same folder. Keep the suffix: Keras picks the file format by it."""
    return target.with_name(f".{target.stem}.{uuid4().hex[:12]}{target.suffix}")


def _swap(new: Path, target: Path) -> None:
    """Rename `new` to `target`, and only then delete the old `target`."""
    if not target.exists():
        new.rename(target)
        return
    old = _sibling(target)
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
