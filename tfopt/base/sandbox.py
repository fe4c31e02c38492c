"""A child process that opens untrusted files first.

It has no network where the system allows that, and limits on memory and on the size of files it writes. A file that
makes it crash, hang or run out of memory becomes an error here, and the next file gets a new child. One child serves
all files of a process: it starts with the first file and ends with the process.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tfopt import errors
from tfopt.base import memory, worker

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

SECONDS = 300
"""Time limit for opening a file, plus a second for every 10 MB of it."""
MEMORY = 4 * 2**30
"""Memory limit in bytes for opening a file, plus eight times its size."""
_IN_CHILD = "TFOPT_IN_SANDBOX"
# A thread and its allocator arena map up to 136 MB each, which would count as memory.
_SETTINGS = {
    _IN_CHILD: "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of sched.h


def try_first(door: str, path: str | os.PathLike[str], **options: Any) -> None:
    """Open `path` in the sandbox with the function `door` ("tfopt.module:function"); return on success.

    Args:
        door: a function of tfopt that takes the path and `options`, which must be JSON values.
        path: a file or folder. It is not tried again until it changes.
        options: further arguments of the function.

    Raises:
        TfoptError: what the function raised, of the same class.
        ModelError: the process died, ran out of memory or took too long.
    """
    if os.environ.get(_IN_CHILD):
        return
    key = (door, _identity(Path(path)), json.dumps(options, sort_keys=True))
    if key not in _OPENED:
        worker.of_this_process(Sandbox).open(door, Path(path), options, str(path))
        _OPENED.add(key)


def try_bytes_first(door: str, data: bytes, name: str) -> None:
    """Open `data` as a file in the sandbox with the function `door`, as `try_first` does; `name` is for messages."""
    if os.environ.get(_IN_CHILD) or (key := _digest(data)) in _OPENED:
        return
    with tempfile.TemporaryDirectory(prefix="tfopt-") as folder:
        path = Path(folder, "file")
        path.write_bytes(data)
        worker.of_this_process(Sandbox).open(door, path, {}, name)
    _OPENED.add(key)


def record_tried(data: bytes) -> None:
    """Record that `data` need not be tried: a child process has made and run it."""
    _OPENED.add(_digest(data))


def _digest(data: bytes) -> tuple[Any, ...]:
    return (hashlib.sha256(data).digest(),)


def start() -> None:
    """Start the sandbox, so that it imports what it needs in the background."""
    if not os.environ.get(_IN_CHILD):
        with contextlib.suppress(worker.NotStartedError):  # the first file reports it
            worker.of_this_process(Sandbox).start()


class CrashedError(errors.ModelError):
    """The sandbox died of a file."""


class Sandbox(worker.Worker):
    """The child process that opens files."""

    def __init__(self) -> None:
        super().__init__("tfopt.base.sandbox:serve", _SETTINGS)

    def open(self, door: str, path: Path, options: dict[str, Any], name: str) -> None:
        """Open `path`, under which messages know it as `name`, in the child; see `try_first`."""
        size = _size(path)
        most = MEMORY + 8 * size
        request = {"door": door, "path": str(path.absolute()), "options": options, "memory": most}
        seconds = SECONDS + size / 1e7
        try:
            answer = self.ask(request, seconds)
        except worker.NotStartedError as error:
            raise errors.ModelError(
                f"The sandbox that opens files does not start: {error}. Check whether `{sys.executable} -c 'import "
                "tfopt'` works."
            ) from error
        except worker.OverdueError as error:
            raise errors.ModelError(
                f"{name} took more than {seconds:.0f} seconds to open. Do not trust where it came from; "
                "allow_unsafe=True (--allow-unsafe) opens it without a limit."
            ) from error
        except worker.DiedError as error:
            if error.ran_out_of_memory:
                raise errors.ModelError(_too_large(name, most)) from error
            raise CrashedError(
                f"{name} crashed the sandbox ({error.cause}). It is damaged or malicious: copy or save it again, and "
                "do not trust its source."
            ) from error
        if answer:
            raise _error(answer["error"], answer["message"].replace(str(path.absolute()), name))


_OPENED: set[tuple[Any, ...]] = set()


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _identity(path: Path) -> tuple[Any, ...]:
    """Return a value that changes when a file or folder does."""
    try:
        stats = [(str(each), each.stat()) for each in _files(path.resolve())]
    except OSError:  # `door` gives the better message
        return (str(path),)
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _size(path: Path) -> int:
    try:
        return sum(each.stat().st_size for each in _files(path))
    except OSError:
        return 0


def _error(kind: str, message: str) -> errors.TfoptError:
    raised: errors.TfoptError = getattr(errors, kind, errors.ModelError)(message)
    return raised


def serve() -> None:
    """Open files as requested on standard input; answer empty on success."""
    worker.answer(_served, _prepare)


def _prepare() -> None:
    _leave_network()
    memory.limit("RLIMIT_CORE", 0)


def _served(request: dict[str, Any]) -> dict[str, str]:
    try:
        opens = worker.door(request["door"])
        memory.limit("RLIMIT_AS", _address_space() + request["memory"])
        memory.limit("RLIMIT_FSIZE", request["memory"])
        opens(request["path"], **request["options"])
    except errors.TfoptError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        return {"error": "ModelError", "message": _too_large(request["path"], request["memory"])}
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return {
            "error": "ModelError",
            "message": f"{request['path']} cannot be opened ({said}). Save or copy it again.",
        }
    return {}


def _too_large(name: str, memory: int) -> str:
    return (
        f"{name} needs more than {memory / 2**30:.1f} GiB of memory to open, far more than its size explains. Do not "
        "trust where it came from."
    )


def _address_space() -> int:
    """Return the bytes of address space that this process has mapped; most of it takes no memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # not on Linux
        return 2**40


def _leave_network() -> None:
    """Move this process into an empty network namespace, where the system allows that."""
    if sys.platform != "linux":
        return
    unshare = ctypes.CDLL(None).unshare
    user, group = os.getuid(), os.getgid()
    if unshare(_NEW_NETWORK) == 0 or unshare(_NEW_USER | _NEW_NETWORK) != 0:
        return
    with contextlib.suppress(OSError):  # otherwise files would be read as nobody
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
