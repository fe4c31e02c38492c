"""A child process that is started once, answers one request after the other, and may die without harm.

`sandbox` opens files of strangers in one, `native` converts and runs models in another.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STARTING = 120
"""Seconds that a child may take to start."""
ENDING = 10
"""Seconds in which a child that closed its pipe is gone."""
_SAID_AT_MOST = 4000


class NotStartedError(Exception):
    """The child does not start; the message says why, as far as the system does."""


class OverdueError(Exception):
    """The child did not answer in time, and was ended."""


class DiedError(Exception):
    """The child ended before it answered.

    Attributes:
        status: its exit status, negative for a signal.
        said: the last lines that it printed.
    """

    def __init__(self, status: int | None, said: str) -> None:
        super().__init__(status)
        self.status, self.said = status, said

    @property
    def cause(self) -> str:
        """What ended it, in words: "segmentation fault"."""
        if self.status is None or self.status >= 0:
            return f"exit status {self.status}"
        known = {"SIGSEGV": "segmentation fault", "SIGABRT": "abort", "SIGFPE": "division by zero",
                 "SIGBUS": "bus error", "SIGILL": "illegal instruction",
                 "SIGKILL": "killed by the system, as when memory runs out"}  # fmt: skip
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"
        return known.get(name, name)


class Worker:
    """The child, restarted after a death; one request at a time. It ends with this process.

    Args:
        serve: the function that the child runs, "tfopt.module:function"; it calls `answer`.
        environment: variables that the child gets besides those of this process.
    """

    def __init__(self, serve: str, environment: Mapping[str, str]) -> None:
        self._serve, self._environment = serve, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: Any = None
        self._lock = threading.RLock()
        self._ready = False
        self._owner = os.getpid()
        atexit.register(self.stop)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the child where there is none, without waiting for it. Raises NotStartedError."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process, self._ready = self._started(), False
            return self._process

    def _started(self) -> "subprocess.Popen[bytes]":
        module, _, function = self._serve.partition(":")
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  as long as the child
        try:
            return subprocess.Popen(
                # -P: the folder of the caller, where a stranger's file may lie, is no place for modules.
                [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                env={**os.environ, **self._environment, "PYTHONPATH": search_path()},
                start_new_session=True,  # Ctrl-C is for the caller, who ends this process
            )
        except (OSError, TypeError, ValueError) as error:
            raise NotStartedError(str(error)) from error

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        """Return the answer to `request` (both JSON values).

        Raises:
            NotStartedError, DiedError, OverdueError: there is none; the next request gets another child.
        """
        with self._lock:
            process = self.start()
            self._printed.seek(0)
            self._printed.truncate()
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it died before: the empty line says so
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
                self._await_start(process)
                line = _line(process, seconds)
                if line is None:
                    raise OverdueError(seconds)
                if not line:
                    raise self._death(process)
                return json.loads(line)
            except BaseException:  # Ctrl-C too
                self.stop()
                raise

    def _await_start(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the line by which a new child says that it is there, so that its death is no request's fault."""
        if not self._ready and not _line(process, STARTING):
            raise NotStartedError("it ended, or did not answer")
        self._ready = True

    def _death(self, process: "subprocess.Popen[bytes]") -> DiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
        self._printed.seek(0)
        return DiedError(process.returncode, self._printed.read().decode(errors="replace")[-_SAID_AT_MOST:].strip())

    def stop(self) -> None:
        """End the child."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # a request that the child never read
                        pipe.close()
            self._printed.close()
        self._process = None


def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    """Return the next line of `process`: empty where it has ended, None where none comes within `seconds`."""
    assert process.stdout is not None
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    reader.join(seconds)
    return lines[0] if lines else None


def search_path() -> str:
    """Return where the child finds the same tfopt."""
    here = str(Path(__file__).resolve().parent.parent.parent)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([here, *(path for path in given if Path(path).is_absolute())])


# In the child


def answer(served: Callable[[dict[str, Any]], Any], prepare: Callable[[], None]) -> None:
    """Answer requests on standard input by `served` until it ends; `prepare` is called once before."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints does not reach the answers
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
    """End this process, whatever it does, when the process that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
