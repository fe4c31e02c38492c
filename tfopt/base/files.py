"""Atomic writes of files and folders: each is written next to its target, then renamed into place."""

import contextlib
import errno
import glob
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tfopt.base import interruption
from tfopt.base.limits import MIB
from tfopt.base.locks import locked
from tfopt.errors import OutputError

_LEFT = re.compile(r"\.[0-9a-f]{12}(?=\.|$)")  # in the names of `_sibling`


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


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a pipe, a socket or a device. Opening a pipe waits for its other end.

    Raises:
        OSError: nothing is there, or nobody may see it.
    """
    mode = Path(path).stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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


WORK = ".tfopt"
"""The folder inside an output folder for what is not a result: checkpoint, lock, and results that are being written.

It lies inside since the output folder may be a mount point, or lie in a folder that cannot be written.
"""

_SWAP = "swap.json"  # in WORK: the record of a swap


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
def working_folder(target: Path) -> Iterator[Path]:
    """Yield the folder for work inside the output folder `target`, locked for this process.

    Remove what dead processes have left there, and in the end the folder itself if it is empty.

    Raises:
        OutputError: another process works there.
    """
    work = target / WORK
    _make_folder(work)
    try:
        with locked(work / "lock", f"The folder {target}"):
            clean(target)
            yield work
    finally:
        with contextlib.suppress(OSError):  # it holds a checkpoint, or is gone
            work.rmdir()


@contextmanager
def output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder for the block to fill; when the block succeeds, move what it holds to the folder `path`.

    Only then delete what was there. When the block raises or is interrupted, delete the new folder and keep the old
    files.

    Raises:
        OutputError: as `prepare_folder` does. If another process filled `path` meanwhile, the results stay in the
            folder named in the message.
    """
    target = _checked_target(path, overwrite)
    made = not target.exists()
    new = target / WORK / f"new-{uuid4().hex[:12]}"
    _make_folder(new)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        remove_empty(new.parent, *[target] * made)
        raise
    interruption.finish()
    try:
        _swap(new, _checked_target(path, overwrite))
    except (OSError, OutputError) as error:
        reason = _reason(error) if isinstance(error, OSError) else str(error).rstrip(".")
        raise OutputError(f"{reason}. The results are in {_kept_beside(new, target)}.") from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    remove_empty(new.parent)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise `OutputError` if fewer than `needed` bytes are free on the disk of `folder`, which exists."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OutputError(
            f"{what} takes up to {needed / MIB:,.1f} MiB, and {folder} has {free / MIB:,.1f} MiB free. Make room, or "
            "give another folder."
        )


def beside(folder: Path, ending: str) -> Path:
    """Return a path next to `folder`, named after it; inside of it if nothing can be written next to it."""
    if os.path.ismount(folder) or not os.access(folder.resolve().parent, os.W_OK):
        return folder / f"{folder.name}{ending}"
    return folder.with_name(f"{folder.name}{ending}")


def free_beside(folder: Path) -> Path:
    """Return a path next to `folder`, or in it, where nothing is."""
    return next(place for number in itertools.count(2) if not (place := beside(folder, f"-{number}")).exists())


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
    """Return whether `folder` holds anything but what an interrupted swap has put there."""
    try:
        return folder.is_dir() and not set(_results(folder)) <= set(_interrupted_swap(folder).get("after", ()))
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
    """Move what `new` holds to the folder `target`, and only then delete what was there; all or nothing.

    The record of the swap is on disk before the first move. If the process dies within, `_complete_swap` does the rest.
    """
    _complete_swap(target)
    old = target / WORK / f"old-{uuid4().hex[:12]}"
    _make_folder(old)
    before, after = _results(target), _results(new)
    record = {"new": new.name, "old": old.name, "before": before, "after": after}
    write_atomically(target / WORK / _SWAP, json.dumps(record))
    moves = [(target / name, old / name) for name in before] + [(new / name, target / name) for name in after]
    try:
        for source, place in moves:
            source.rename(place)
    except BaseException:  # a signal may come between a move and the next line, so look where each file is
        for source, place in reversed(moves):
            if os.path.lexists(place) and not os.path.lexists(source):
                place.rename(source)
        (target / WORK / _SWAP).unlink()
        old.rmdir()
        raise
    _end_swap(new, old)
    (target / WORK / _SWAP).unlink()


def _complete_swap(target: Path) -> None:
    """Do what is left of a swap whose process died.

    Its record stays: what it has moved to `target` may be replaced, as the run that wrote it did not come to its end.
    """
    record = _interrupted_swap(target)
    if not record:
        return
    new, old = (target / WORK / record[name] for name in ("new", "old"))
    try:
        if new.is_dir() and (left := _results(new)):  # else all is moved, and `old` may be half deleted
            for name in record["before"]:
                if os.path.lexists(target / name) and not os.path.lexists(old / name):
                    (target / name).rename(old / name)
            for name in left:
                (new / name).rename(target / name)
    except OSError as error:
        raise OutputError(
            f"{target} holds a part of a result, and the rest cannot be moved there from {new}: {_reason(error)}."
        ) from error
    _end_swap(new, old)


def _end_swap(new: Path, old: Path) -> None:
    """Delete the emptied folder `new` first, which says that all is moved, and then the `old` files."""
    remove_empty(new)
    shutil.rmtree(old, ignore_errors=True)


def _interrupted_swap(target: Path) -> dict[str, Any]:
    """Return the record of a swap whose process died; empty if there is none."""
    try:
        record = json.loads((target / WORK / _SWAP).read_text())
        return {name: record[name] for name in ("new", "old", "before", "after")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _results(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != WORK)


def _kept_beside(new: Path, target: Path) -> Path:
    """Return where the results in the folder `new` are, after moving them where nothing cleans up, if possible."""
    try:
        return new.rename(free_beside(target))
    except OSError:
        return new


def clean(target: Path) -> None:
    """Remove what dead processes have left in and next to the output folder `target`, which this process has locked.

    A result of which only a part was moved here is moved as a whole.
    """
    _complete_swap(target)
    for old in (target / WORK).glob("old-*"):
        for entry in old.iterdir():
            if not (target / entry.name).exists():
                entry.rename(target / entry.name)
    parent = target.resolve().parent
    siblings = [each for each in parent.glob(f".{glob.escape(target.name)}.*") if _LEFT.fullmatch(each.suffix)]
    for folder in (*(target / WORK).glob("old-*"), *(target / WORK).glob("new-*"), *siblings):
        shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(target / WORK)


def remove_leftovers(folder: Path, start: str = "") -> None:
    """Remove temporary files that dead processes have left in `folder` and below.

    Only files for which names begin with `start`; nobody else may write such files there.
    """
    for path in folder.rglob(f".{start}*"):
        if _LEFT.search(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def remove_empty(*folders: Path) -> None:
    """Remove those of `folders`, one after the other, that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):  # it holds something, or is gone
            folder.rmdir()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def is_full(error: BaseException | None) -> bool:
    """Return whether a full disk caused `error`."""
    seen = set[int]()  # an error may be raised from itself
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):  # as TensorFlow and HDF5 say it, and what a child process said
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
