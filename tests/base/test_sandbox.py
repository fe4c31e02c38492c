"""The child process that opens untrusted files first; the functions that it calls are in a module of the test."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfopt.base import sandbox, worker
from tfopt.errors import DataError, ModelError

DOORS = """
import ctypes, os, socket, time
from tfopt.errors import DataError

def fine(path): print("noise on standard output")
def refuse(path): raise DataError(f"{path} is refused.")
def crash(path): ctypes.string_at(0)
def leave(path): os._exit(0)
def hang(path): time.sleep(100)
def fill(path): return len(b"x" * (9 * 2**30))
def exhaust(path):
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n")
    os.abort()
def killed(path): os.kill(os.getpid(), 9)
def fail(path): raise KeyError("a raw error")
def once(path):
    with open(path, "a") as file: file.write("opened\\n")
def connect(path, port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        raise DataError("No network.") from error
"""


@pytest.fixture
def doors(tmp_path, monkeypatch):
    """A fresh sandbox that can import the test's functions."""
    (tmp_path / "doors.py").write_text(DOORS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = sandbox.Sandbox()
    monkeypatch.setitem(worker._WORKERS, (sandbox.Sandbox, os.getpid()), made)
    monkeypatch.setattr(sandbox, "_OPENED", set())
    file = tmp_path / "file"
    file.write_bytes(b"content")
    yield file
    made.stop()


def test_a_file_that_opens_well_is_opened_once(doors):
    for _ in range(3):
        sandbox.try_first("doors:fine", doors)
    log = doors.with_name("log")
    log.write_text("")
    sandbox.try_first("doors:once", log)
    changed = log.read_text()
    sandbox.try_first("doors:once", log)  # it has changed since
    sandbox.try_first("doors:fine", doors)
    assert changed == "opened\n"
    assert log.read_text() == "opened\nopened\n"


def test_errors_keep_their_class(doors):
    with pytest.raises(DataError, match=r"file is refused\.$"):
        sandbox.try_first("doors:refuse", doors)


def test_the_path_in_an_error_is_the_one_given(doors, monkeypatch):
    monkeypatch.chdir(doors.parent)
    with pytest.raises(DataError, match=r"^file is refused\.$"):
        sandbox.try_first("doors:refuse", "file")


@pytest.mark.parametrize("door", ["crash", "leave"])
def test_a_crash_is_an_error_and_the_next_file_gets_another_child(doors, door):
    with pytest.raises(ModelError, match="crashed the sandbox"):
        sandbox.try_first(f"doors:{door}", doors)
    sandbox.try_first("doors:fine", doors)


def test_a_file_that_takes_too_long_is_refused(doors, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 2)
    start = time.monotonic()
    with pytest.raises(ModelError, match="took more than 2 seconds"):
        sandbox.try_first("doors:hang", doors)
    assert time.monotonic() - start < 30
    sandbox.try_first("doors:fine", doors)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit follows from /proc")
def test_a_file_that_takes_too_much_memory_is_refused(doors):
    with pytest.raises(ModelError, match=r"needs more than 4\.0 GiB of memory"):
        sandbox.try_first("doors:fill", doors)


@pytest.mark.parametrize("door", ["exhaust", "killed"])
def test_a_death_for_lack_of_memory_is_no_crash(doors, door):
    with pytest.raises(ModelError, match=r"^file needs more than 4\.0 GiB of memory") as caught:
        sandbox.Sandbox().open(f"doors:{door}", doors, {}, "file")
    assert not isinstance(caught.value, sandbox.CrashedError)


def test_an_unforeseen_error_names_the_file(doors):
    with pytest.raises(ModelError, match=r"file cannot be opened \(KeyError: 'a raw error'\)"):
        sandbox.try_first("doors:fail", doors)


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="the system may not let it leave the network")
def test_there_is_no_network(doors):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(DataError, match="No network"):
            sandbox.try_first("doors:connect", doors, port=port)


def test_nothing_is_tried_inside_the_sandbox(doors, monkeypatch):
    monkeypatch.setenv("TFOPT_IN_SANDBOX", "1")
    sandbox.try_first("doors:crash", doors)


def test_a_model_far_larger_than_its_file_is_refused(tmp_path):
    """A config of a few kilobytes that describes 40 GB of weights."""
    import json
    import zipfile

    import keras

    from tfopt import load_model

    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(8)]).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    for layer in config["config"]["layers"][1:]:
        layer["config"]["units"] = 100_000
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError):
        load_model(path)


def test_modules_next_to_the_file_are_not_imported(doors, monkeypatch):
    """A folder with a downloaded file may also contain a json.py."""
    monkeypatch.chdir(doors.parent)
    (doors.parent / "json.py").write_text("open('ran', 'w').close()")
    (doors.parent / "doors.py").rename(doors.parent / "elsewhere.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "."]))
    with pytest.raises(ModelError, match="No module named 'elsewhere'"):
        sandbox.try_first("elsewhere:fine", doors)
    assert not (doors.parent / "ran").exists()


def test_a_sandbox_that_does_not_start_is_not_blamed_on_the_file(doors, monkeypatch):
    for executable in (None, *["/bin/true"] * 20):  # it may end before or after the request is written
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(ModelError, match="does not start"):
            sandbox.try_first("doors:fine", doors)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_child_ends_with_its_parent_even_in_the_middle_of_a_file(doors):
    program = (
        "import os, sys, threading, time; from tfopt.base import sandbox, worker; "
        "threading.Thread(target=sandbox.try_first, args=('doors:hang', sys.argv[1]), daemon=True).start(); "
        "time.sleep(3); print(worker.of_this_process(sandbox.Sandbox)._process.pid, flush=True); os._exit(0)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([worker.search_path(), str(doors.parent)])}
    done = subprocess.run([sys.executable, "-c", program, str(doors)], capture_output=True, text=True, env=env)
    child = Path("/proc", done.stdout.strip())
    deadline = time.monotonic() + 30
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not child.exists()
