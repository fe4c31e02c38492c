"""Memory of this process, its children and the machine."""

import subprocess
import sys

import numpy as np
import pytest

from tfopt.base import memory
from tfopt.base.limits import GIB, MIB

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


@linux
def test_the_peak_is_that_since_the_start():
    block = np.ones(200 * MIB, np.uint8)
    assert memory.peak() > 200 * MIB
    del block
    memory.start_peak()
    low = memory.peak()
    block = np.ones(100 * MIB, np.uint8)
    assert 90 * MIB < memory.peak() - low < 150 * MIB
    del block


@linux
def test_the_peak_of_another_process():
    code = "block = b'1' * (150 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert 150 * MIB < memory.peak(process.pid) < 250 * MIB
        process.communicate(b"\n")
    assert memory.peak_of_ended_children() >= 150 * MIB
    assert memory.peak(process.pid) is None  # it has ended


def test_the_machine_has_at_least_what_its_process_takes(monkeypatch, tmp_path):
    assert memory.total() > memory.peak()
    (tmp_path / "small").write_text(str(GIB))
    (tmp_path / "none").write_text("max")
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "none"), str(tmp_path / "small"), str(tmp_path / "missing")))
    assert memory.total() == GIB  # that of a container
