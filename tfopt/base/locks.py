"""Locks on folders: one process at a time writes to each, and others hear which one does."""

import contextlib
import errno
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tfopt.errors import OutputError

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def locked(path: Path, what: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` within this block. The system releases it when the process ends, however that happens.

    Where the file system has no locks, the block runs without one, with a warning.

    Args:
        path: of the lock file; its folder exists. The block may remove both.
        what: the name of what is locked, for the message.
        wait: called once with a message before waiting for the holder. If None, raise instead.

    Raises:
        OutputError: another process, or another thread of this one, holds it; or the file cannot be locked, as it is
            another user's.
    """
    from filelock import FileLock, Timeout

    # Its substitute for a system's lock is a file that a dead process leaves behind.
    lock, has_locks = FileLock(path, timeout=0, fallback_to_soft=False), True
    try:
        try:
            lock.acquire()
        except Timeout:
            if wait is None:
                raise
            wait(f"waiting: {what} is in use by {_holder(path)}")
            lock.acquire(timeout=-1, poll_interval=0.2)
    except Timeout as error:
        raise OutputError(
            f"{what} is in use by {_holder(path)}. Wait until it ends, or give another folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise OutputError(
                f"{what} cannot be locked: {path}: {error.strerror or error}. If the file is another user's, remove it "
                "or give another folder."
            ) from error
        has_locks = False
    if not has_locks:
        warnings.warn(
            f"{what} is on a file system without locks: let no other process write there meanwhile.", stacklevel=4
        )
        yield
        return
    own = path.stat().st_ino  # no other file has it as long as the lock is held
    try:
        about = {"pid": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        path.write_text(json.dumps(about))
        yield
    finally:
        if not _is_of_another(path, own):
            path.unlink(missing_ok=True)
        lock.release()


def _is_of_another(path: Path, own: int) -> bool:
    """Return whether another process has replaced `path`, whose inode was `own`, after the block removed it."""
    with contextlib.suppress(OSError):
        return path.stat().st_ino != own
    return False


def _holder(path: Path) -> str:
    """Return who holds the lock file `path`, in words."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        about = json.loads(path.read_text())
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    return "another process"
