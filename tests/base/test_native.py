"""The child process for native code; the functions that it calls are in a module of the test."""

import os
import signal
import sys
import threading
import time

import pytest

from tfopt.base import memory, native, worker
from tfopt.errors import DataError

DOORS = """
import ctypes, os, signal, sys, time
from tfopt.errors import DataError

def double(number): print("noise on standard output"); return {"twice": 2 * number, "process": os.getpid()}
def refuse(): raise DataError("Refused.")
def fail(): raise KeyError("a raw error")
def crash(): print("loading", file=sys.stderr); ctypes.string_at(0)
def abort():
    os.write(2, b"the first line\\nCheck failed: a == b\\n    @ 0x1234 stack\\n")
    os.abort()
def leave(status): os._exit(status)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def hang(): time.sleep(100)
def limits():
    import resource
    return [resource.getrlimit(resource.RLIMIT_DATA)[0], resource.getrlimit(resource.RLIMIT_CORE)[0]]
def take(gib):
    import numpy as np
    return int(np.ones(int(gib * 2**30), np.uint8).sum())
def run_out(): os.write(2, b"terminate called: std::bad_alloc\\n"); os.abort()
"""


@pytest.fixture(scope="module")
def child(native_child):
    return native_child("native_doors", DOORS)


def call(function, seconds=60, **arguments):
    return native.call(f"native_doors:{function}", seconds, **arguments)


def test_one_child_answers_all_calls(child):
    first, second = call("double", number=2), call("double", number=21)
    assert [first["twice"], second["twice"]] == [4, 42]
    assert first["process"] == second["process"] != os.getpid()


def test_errors_keep_their_class_and_others_their_text(child):
    with pytest.raises(DataError, match=r"^Refused\.$"):
        call("refuse")
    with pytest.raises(native.FailedError, match=r"^KeyError: 'a raw error'$"):
        call("fail")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "arguments", "cause"),
    [
        ("crash", {}, r"^segmentation fault \(loading\)$"),
        ("abort", {}, r"^abort \(Check failed: a == b\)$"),
        ("kill", {}, "^killed by the system, for example because memory ran out$"),
        ("leave", {"status": 3}, "^exit status 3$"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_crash_names_its_cause_and_the_next_call_gets_another_child(child, function, arguments, cause):
    with pytest.raises(native.CrashError, match=cause):
        call(function, **arguments)
    assert call("double", number=1)["twice"] == 2


def test_a_kill_from_outside_is_distinguished_from_a_crash(child):
    with pytest.raises(native.KilledError):
        call("kill")
    with pytest.raises(native.CrashError) as crash:
        call("abort")
    assert crash.type is native.CrashError


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sessions")
def test_the_child_has_its_own_session_so_that_ctrl_c_reaches_only_the_caller(child):
    call("double", number=0)
    assert os.getsid(child.start().pid) != os.getsid(0)


def test_what_takes_too_long_is_ended(child):
    call("double", number=0)
    process, start = child.start(), time.monotonic()
    with pytest.raises(native.CrashError, match="no answer within 1 seconds"):
        call("hang", 1)
    assert time.monotonic() - start < 30
    assert process.poll() is not None


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interruption_ends_the_child(child):
    call("double", number=0)
    process = child.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist workers ignore it
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call("hang")
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.poll() is not None
    assert call("double", number=1)["twice"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA")
def test_the_child_may_take_the_memory_of_the_machine_and_no_more(child, monkeypatch):
    assert call("limits") == [memory.total(), 0]
    said = rf"^it needed more memory than the {memory.total() / 2**30:.1f} GiB of this machine$"
    with pytest.raises(native.KilledError, match=said):
        call("take", gib=memory.total() / 2**30 + 1)
    with pytest.raises(native.KilledError, match=said):
        call("run_out")
    assert call("take", gib=0.25) == 2**28
    assert worker.peak_of_children() > 2**28


def test_inside_the_child_functions_are_called_directly(monkeypatch):
    monkeypatch.setenv(native._IN_CHILD, "1")
    assert native.call("os:getpid", 1) == os.getpid()


def test_the_last_line_of_a_child_is_not_from_a_stack_trace():
    assert worker.DiedError(-6, "a\nb\n    @ 0x1234 stack").last_line == "b"
