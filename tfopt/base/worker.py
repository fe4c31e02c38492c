"""A child process that is started once, answers requests one at a time, and may die without harm.

`sandbox` uses one to open untrusted files, `native` another to convert and run models.
"""

import atexit
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from tfopt.base import memory

STARTING = 120
"""Seconds a child may take to start."""
ENDING = 10
"""Seconds a child may take to exit after its pipe is closed."""
_SAID_AT_MOST = 4000


class NotStartedError(Exception):
    """The child does not start; the message gives the system's reason."""


class OverdueError(Exception):
    """The child did not answer in time and was terminated."""


class DiedError(Exception):
    """The child exited before it answered.

    Attributes:
        status: its exit status, negative for a signal.
        said: the last lines it printed.
    """

    def __init__(self, status: int | None, said: str) -> None:
        super().__init__(status)
        self.status, self.said = status, said

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether it died for lack of memory: the system killed it, or C++ could not allocate what it needs."""
        return self.status == -signal.SIGKILL or "std::bad_alloc" in self.said

    @property
    def cause(self) -> str:
        """The cause in words, e.g. "segmentation fault"."""
        if self.status is None or self.status >= 0:
            return f"exit status {self.status}"
        known = {"SIGSEGV": "segmentation fault", "SIGABRT": "abort", "SIGFPE": "division by zero",
                 "SIGBUS": "bus error", "SIGILL": "illegal instruction",
                 "SIGKILL": "killed by the system, for example because memory ran out"}  # fmt: skip
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"
        return known.get(name, name)

    @property
    def last_line(self) -> str:
        """The last line that is neither of a stack trace nor information or a warning of TensorFlow; "" for none."""
        lines = [line.strip() for line in self.said.splitlines()]
        lines = [line for line in lines if line and not line.startswith(("@", "***", "PC:", "#"))]
        lines = [
            line
            for line in lines
            if not re.match(r"[IW]\d{4} |WARNING: All log messages", line) and "fully_quantize:" not in line
        ]
        return lines[-1][:300] if lines else ""


class Worker:
    """The child, restarted after it dies; it handles one request at a time and ends with this process.

    Args:
        serve: the function that the child runs, "tfopt.module:function"; it calls `answer`.
        environment: environment variables to add to those of this process.
        listens: whether to keep what the child prints to stderr, for `DiedError.said`.
    """

    def __init__(self, serve: str, environment: Mapping[str, str], *, listens: bool = True) -> None:
        self._serve, self._environment, self._listens = serve, environment, listens
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: Any = None
        self._lock = threading.RLock()
        self._ready = False
        self._owner = os.getpid()
        atexit.register(self.stop)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the child if there is none, without waiting for it. Raise NotStartedError if that fails."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process, self._ready = self._started(), False
            return self._process

    def _started(self) -> "subprocess.Popen[bytes]":
        module, _, function = self._serve.partition(":")
        self._printed = tempfile.TemporaryFile() if self._listens else None  # noqa: SIM115  lives as long as the child
        try:
            return subprocess.Popen(
                # -P: never import modules from the caller's folder, where an untrusted file may lie.
                [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed or subprocess.DEVNULL,
                env={**os.environ, **self._environment, "PYTHONPATH": search_path()},
                start_new_session=True,  # Ctrl-C goes to the caller, who stops this process
            )
        except (OSError, TypeError, ValueError) as error:
            raise NotStartedError(str(error)) from error

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        """Return the answer to `request` (both JSON values).

        Raises:
            NotStartedError, DiedError, OverdueError: there is no answer; the next request gets a new child.
        """
        with self._lock:
            process = self.start()
            if self._printed and self._ready:  # what it prints while it starts explains why it does not
                self._printed.seek(0)
                self._printed.truncate()
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it died before; the empty line shows that
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                self._await_start(process)
                line = _line(process, seconds)
                if line is None:
                    raise OverdueError(seconds)
                if not line:
                    raise self._death(process)
                return json.loads(line)
            except BaseException:  # includes Ctrl-C
                self.stop()
                raise

    def _await_start(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the line that announces a new child, so that a failed start is not blamed on a request."""
        if self._ready:
            return
        line = _line(process, STARTING)
        if line is None:
            raise NotStartedError(f"it was not ready after {STARTING} seconds")
        if not line:
            death = self._death(process)
            raise NotStartedError(f"{death.cause}; {death.last_line}" if death.last_line else death.cause)
        self._ready = True

    def _death(self, process: "subprocess.Popen[bytes]") -> DiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
        return DiedError(process.returncode, self._said())

    def _said(self) -> str:
        if not self._printed:
            return ""
        end = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, end - _SAID_AT_MOST))
        return str(self._printed.read().decode(errors="replace")).strip()

    def peak(self) -> int | None:
        """Return the most memory, in bytes, that the child has held at a time; None if unknown."""
        process = self._process
        return memory.peak(process.pid) if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """Stop the child."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # a request that the child never read
                        pipe.close()
            if self._printed:
                self._printed.close()
        self._process = None


W = TypeVar("W", bound=Worker)
_WORKERS: dict[tuple[Callable[[], Worker], int], Worker] = {}


def of_this_process(make: Callable[[], W]) -> W:
    """Return the worker that `make` made for this process; a forked process gets a new one."""
    key = (make, os.getpid())
    if key not in _WORKERS:
        _WORKERS[key] = make()
    return cast("W", _WORKERS[key])


def peak_of_children() -> int:
    """Return the most memory, in bytes, that one child process of this process held at a time; 0 if unknown."""
    peaks = [worker.peak() for worker in _WORKERS.values()]
    return max([memory.peak_of_ended_children(), *filter(None, peaks)])


def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    """Return the next line of `process`: empty if it has exited, None if there is none within `seconds`."""
    assert process.stdout is not None
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    reader.join(seconds)
    return lines[0] if lines else None


def search_path() -> str:
    """Return the module search path that gives the child the same tfopt."""
    here = str(Path(__file__).resolve().parent.parent.parent)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([here, *(path for path in given if Path(path).is_absolute())])


# In the child


def answer(served: Callable[[dict[str, Any]], Any], prepare: Callable[[], None]) -> None:
    """Answer the requests on standard input with `served` until it ends; call `prepare` once before."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps prints out of the answers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    prepare()
    answers.write(b"ready\n")
    answers.flush()
    for line in requests:
        answers.write(json.dumps(served(json.loads(line))).encode() + b"\n")
        answers.flush()


def door(name: str) -> Callable[..., Any]:
    """Return the function "module:function"."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _end_with(parent: int) -> None:
    """Exit this process when the process that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
