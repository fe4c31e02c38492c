"""A child process for native code that may crash: conversion, calibration and the first run of a model.

TensorFlow's converter and LiteRT's kernels end the process for some models, and the converter keeps memory after every
conversion (tensorflow issue 122598). The child is started once and kept, because it imports TensorFlow for seconds;
after a crash the next call starts another one.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from tfopt import errors
from tfopt.base import worker

_IN_CHILD = "TFOPT_IN_NATIVE_CHILD"
_ENVIRONMENT = {_IN_CHILD: "1", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
MOST_TEXT = 20_000
"""Characters of an error that are handed back."""


class CrashError(Exception):
    """Native code ended its process or did not end; the message says how: "segmentation fault".

    Attributes:
        said: the last line that it printed, "" for none.
    """

    def __init__(self, cause: str, said: str = "") -> None:
        super().__init__(cause + (f" ({said})" if said else ""))
        self.said = said


class FailedError(Exception):
    """What the function raised, unless it was an error of tfopt: its text."""


def call(door: str, seconds: float, **arguments: Any) -> Any:
    """Return what the function `door` ("tfopt.module:function") returns in the child.

    Args:
        door: a function at the top of a module.
        seconds: it may take.
        arguments: of the function; they and the result must be JSON values. Hand over arrays and models by file.

    Raises:
        CrashError: the child died, or took longer.
        FailedError: the function raised another exception.
        TfoptError: the function raised it.
    """
    if os.environ.get(_IN_CHILD):
        return worker.door(door)(**arguments)
    try:
        found = _child().ask({"door": door, "arguments": arguments}, seconds)
    except worker.NotStartedError as error:
        raise errors.ModelError(
            f"The process in which models are converted does not start: {error}. Free memory, or see what "
            "`python -c 'import tensorflow'` says."
        ) from error
    except worker.OverdueError as error:
        raise CrashError(f"no answer within {seconds:.0f} seconds") from error
    except worker.DiedError as error:
        raise CrashError(error.cause, _last_line(error.said)) from error
    if "error" in found:
        raise _error(found["error"], found["message"])
    return found["result"]


def start() -> None:
    """Start the child, so that it imports TensorFlow while the caller goes on."""
    if not os.environ.get(_IN_CHILD):
        with contextlib.suppress(worker.NotStartedError):  # the first call says so
            _child().start()


_CHILDREN: dict[int, worker.Worker] = {}


def _child() -> worker.Worker:
    """Return the child of this process; a forked process gets another one."""
    if os.getpid() not in _CHILDREN:
        _CHILDREN[os.getpid()] = worker.Worker("tfopt.base.native:serve", _ENVIRONMENT)
    return _CHILDREN[os.getpid()]


def _last_line(said: str) -> str:
    """Return the last line that says something; where it is a stack trace, the line before."""
    lines = [line.strip() for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("@", "***", "PC:", "#"))]
    return lines[-1][:300] if lines else ""


def _error(kind: str, message: str) -> Exception:
    known = getattr(errors, kind, None)
    return known(message) if isinstance(known, type) and issubclass(known, errors.TfoptError) else FailedError(message)


# In the child


def serve() -> None:
    """Call functions as requested on standard input."""
    worker.answer(_served, _prepare)


def _prepare() -> None:
    with contextlib.suppress(OSError):  # when memory runs out, the system ends this process and not the caller's
        Path("/proc/self/oom_score_adj").write_text("500")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    import tensorflow as tf

    tf.constant(0)


def _served(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": worker.door(request["door"])(**request["arguments"])}
    except Exception as error:
        text = str(error) if isinstance(error, errors.TfoptError) else f"{type(error).__name__}: {error}"
        return {"error": type(error).__name__, "message": text[:MOST_TEXT]}
