"""One process at a time holds a lock; others hear who does, and fail or wait."""

import errno
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from tfopt.base.locks import locked
from tfopt.errors import OutputError

HOLD = (
    "import sys, time; from pathlib import Path; from tfopt.base.locks import locked\n"
    "with locked(Path(sys.argv[1]), 'it'): print('in', flush=True); time.sleep(float(sys.argv[2]))"
)


@pytest.fixture
def other(tmp_path):
    """A function that starts a process that holds the lock for some seconds."""
    started = []

    def start(seconds):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"in\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_who_holds_it_is_said(tmp_path, other):
    process = other(60)
    said = rf"^The cache is in use by process {process.pid} on {platform.node()}, since \d{{4}}-\d\d-\d\d [\d:]+\. Wait"
    with pytest.raises(OutputError, match=said), locked(tmp_path / "lock", "The cache"):
        pytest.fail("the block must not run")
    process.kill()
    process.wait()
    with locked(tmp_path / "lock", "The cache"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


def test_a_lock_without_a_readable_holder(tmp_path, other):
    other(60)
    (tmp_path / "lock").write_text("not JSON")
    with pytest.raises(OutputError, match="in use by another process"), locked(tmp_path / "lock", "It"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("error", ["ENOSYS", "ENOTSUP", "ENOLCK"])
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    """The block runs, each time: nothing that a dead process left there is in its way."""
    import fcntl

    def flock(*_):
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "lock").write_text(f"{2**22 + 1}\n{platform.node()}\n")  # as a dead process would
    started = time.monotonic()
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match=r"^It is on a file system without locks: let no other process write"),
            locked(tmp_path / "lock", "It"),
        ):
            assert time.monotonic() - started < 1


@pytest.mark.parametrize("error", ["EACCES", "EPERM", "EIO", "EROFS"])
def test_a_file_that_cannot_be_locked_lets_nobody_in(tmp_path, monkeypatch, error):
    """As the lock of another user."""

    def denied(path, flags, *given, **more):
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", denied)
        with pytest.raises(OutputError, match=r"^It cannot be locked: .*lock: "), locked(tmp_path / "lock", "It"):
            pytest.fail("the block must not run")


def test_a_process_that_may_wait_gets_it_after_the_other(tmp_path, other):
    process, said = other(1), []
    with locked(tmp_path / "lock", "The cache", wait=said.append):
        assert process.wait(10) == 0  # it had ended before
    assert len(said) == 1 and said[0].startswith(f"waiting: The cache is in use by process {process.pid} on ")


def test_a_wait_ends_with_a_holder_that_is_killed(tmp_path, other):
    process = other(60)
    threading.Timer(0.5, process.kill).start()
    with locked(tmp_path / "lock", "The cache", wait=lambda line: None):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_the_lock_of_another_stays_if_the_block_removed_its_own(tmp_path):
    path = tmp_path / "lock"
    with locked(path, "It"):
        path.unlink()
        path.write_text("of another process")
    assert path.read_text() == "of another process"
