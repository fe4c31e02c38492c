"""SIGTERM and Ctrl-C as requests to end: work that can be saved ends after its current step, all other work at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0
"""Seconds after a request that work may go on to a point at which it can be saved."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        code: the exit code that shells expect: 130 for Ctrl-C, 143 for SIGTERM.
        kept: whether the same work, begun again, goes on from something that was kept.
        finishing: whether it came after `finish`, so that there may be a whole result.
    """

    kept = False

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(where)
        self.code = 128 + number
        self.finishing = bool(_Request.finishing)


class _Request:
    """The signal that asked to end, when it came, and whether the current work looks at it by itself."""

    number: int | None = None
    since = 0.0
    held = False
    raised: int | None = None  # the signal for which `Interrupted` was raised
    finishing: bool | None = None  # whether the work ends by itself soon; None outside of the blocks that ask


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C raise `Interrupted` within this block, or wait for `end_if_asked` within `held`.

    A second signal raises in any case; one that the process ignores stays ignored. Only the main thread can do this; in
    others the block changes nothing. If `Interrupted` comes out of native code as another error, it becomes one again.
    """
    try:
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup asks
        before = {number: signal.signal(number, _asked) for number in heeded}
    except ValueError:
        yield
        return
    _Request.raised, outer, _Request.finishing = None, _Request.finishing, None
    try:
        yield
    except Exception as error:
        if _Request.raised is None:
            raise
        raise Interrupted(_Request.raised) from error
    finally:
        _Request.number, _Request.finishing = None, outer
        for number, handler in before.items():
            signal.signal(number, handler)


def take_back_signals() -> None:
    """Let signals reach their handlers in Python again, where a library has replaced these in C."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if (handler := signal.getsignal(number)) is not None:
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait within this block, which calls `end_if_asked` often."""
    before, _Request.held = _Request.held, True
    try:
        yield
    finally:
        _Request.held = before
        end_if_asked()


@contextmanager
def finishing(*, last: bool = True) -> Iterator[None]:
    """Let a signal wait from the first call of `finish` in this block to its end: the work is done by then.

    Args:
        last: nothing follows, so that the signal has nothing left to end; else `Interrupted` is raised then.
    """
    before, _Request.finishing = _Request.finishing, False
    try:
        yield
    finally:
        ended, _Request.finishing = _Request.finishing, before
        if ended and last:
            _Request.number = None
    if ended:
        end_if_asked()


def finish() -> None:
    """Let the first signal wait for the end of the block of `finishing`, if there is one: the rest takes a moment."""
    if _Request.finishing is not None:
        _Request.finishing = True


def asked() -> int:
    """Return the number of the signal that waits; 0 for none."""
    return _Request.number or 0


def is_asked() -> bool:
    """Return whether a signal waits."""
    return asked() != 0


def ask(number: int) -> None:
    """Let a signal wait that has come to another process of the same run."""
    if _Request.number is None:
        _Request.number, _Request.since = number, time.monotonic()


def is_overdue() -> bool:
    """Return whether a signal has waited for longer than `PATIENCE`."""
    return is_asked() and time.monotonic() - _Request.since > PATIENCE


def end_if_asked(where: str = "") -> None:
    """Raise `Interrupted` if a signal waits; `where` says what is saved."""
    if _Request.number is not None:
        number, _Request.number = _Request.number, None
        raise Interrupted(number, where)


def _asked(number: int, frame: FrameType | None) -> Any:
    del frame
    if (_Request.held or _Request.finishing) and _Request.number is None:
        ask(number)
        return
    _Request.raised = number
    raise Interrupted(number)
