"""A child process for native code that may crash: conversion, calibration and the first run of a model.

TensorFlow's converter and LiteRT's kernels abort the process on some models, and the converter leaks memory with every
conversion (tensorflow issue 122598). The child is started once and reused, because importing TensorFlow takes seconds;
after a crash, the next call starts a new one.
"""

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from tfopt import errors
from tfopt.base import memory, worker
from tfopt.base.limits import GIB

_IN_CHILD = "TFOPT_IN_NATIVE_CHILD"
_ENVIRONMENT = {_IN_CHILD: "1", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_NOT_NEEDED = ("keras", "tf_keras")
"""Packages that TensorFlow imports where it finds them. They take nearly half of the time in which the child starts."""
MOST_TEXT = 20_000
"""The most characters of an error that are returned."""
_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Oo]ut of memory|OOM when allocating|[Cc]annot allocate memory")


class CrashError(Exception):
    """Native code crashed; the message says how, and the last line it printed: "abort (Check failed: a == b)"."""


class OverdueError(CrashError):
    """Native code exceeded the time limit."""


class KilledError(CrashError):
    """The child was killed from outside, by the system or a user, or memory ran out; the model may be in order."""


class NotStartedError(errors.ModelError):
    """The child does not start."""


class FailedError(Exception):
    """The function raised an exception that is not tfopt's; the message is its text."""


def call(door: str, seconds: float, **arguments: Any) -> Any:
    """Call the function `door` ("tfopt.module:function") in the child and return its result.

    Args:
        door: a module-level function.
        seconds: the time limit.
        arguments: keyword arguments of the function. They and the result must be JSON values; pass arrays and models
            as files.

    Raises:
        CrashError: the child died.
        OverdueError: it exceeded the time limit.
        KilledError: it was killed, or needed more memory than the machine has.
        NotStartedError: it does not start.
        FailedError: the function raised another exception.
        TfoptError: the function raised it.
    """
    if in_child():
        return worker.door(door)(**arguments)
    try:
        found = worker.of_this_process(child).ask({"door": door, "arguments": arguments}, seconds)
    except worker.NotStartedError as error:
        raise NotStartedError(
            f"The process that converts models does not start: {error}. Free some memory, or check whether `python -c "
            "'import tensorflow'` works."
        ) from error
    except worker.OverdueError as error:
        raise OverdueError(f"no answer within {seconds:.0f} seconds") from error
    except worker.DiedError as error:
        if _OUT_OF_MEMORY.search(error.said):
            raise _out_of_memory() from error
        kind = KilledError if error.status == -9 else CrashError
        raise kind(f"{error.cause} ({error.last_line})" if error.last_line else error.cause) from error
    if "error" in found:
        if _OUT_OF_MEMORY.search(found["message"]) or "MemoryError" in found["error"]:
            raise _out_of_memory()
        raise _error(found["error"], found["message"])
    return found["result"]


def _out_of_memory() -> KilledError:
    return KilledError(f"it needed more memory than the {(memory.total() or 0) / GIB:.1f} GiB of this machine")


def start() -> None:
    """Start the child, so that it imports TensorFlow in the background."""
    if not in_child():
        with contextlib.suppress(worker.NotStartedError):  # the first call reports it
            worker.of_this_process(child).start()


def child() -> worker.Worker:
    """Make the child."""
    return worker.Worker("tfopt.base.native:serve", _ENVIRONMENT)


def in_child() -> bool:
    """Return whether this process is the child."""
    return _IN_CHILD in os.environ


def _error(kind: str, message: str) -> Exception:
    known = getattr(errors, kind, None)
    return known(message) if isinstance(known, type) and issubclass(known, errors.TfoptError) else FailedError(message)


# In the child


def serve() -> None:
    """Serve function calls that arrive on standard input."""
    worker.answer(_served, _prepare)


def _prepare() -> None:
    with contextlib.suppress(OSError):  # out of memory, the system then kills this process and not the caller
        Path("/proc/self/oom_score_adj").write_text("500")
    memory.limit("RLIMIT_CORE", 0)
    if most := memory.total():  # more cannot end well; counted are values, not the addresses that libraries reserve
        memory.limit("RLIMIT_DATA", most)
    for package in _NOT_NEEDED:
        sys.modules[package] = None  # type: ignore[assignment]  # an import of it fails, which TensorFlow takes
    import tensorflow as tf

    tf.constant(0)


def _served(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": worker.door(request["door"])(**request["arguments"])}
    except Exception as error:
        text = str(error) if isinstance(error, errors.TfoptError) else f"{type(error).__name__}: {error}"
        return {"error": type(error).__name__, "message": text[:MOST_TEXT]}
