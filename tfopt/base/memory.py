"""Memory in bytes: what this process and its children take, and what the machine has."""

import contextlib
import re
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_HIGHEST = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def start_peak() -> None:
    """Let `peak` count from now on, where the system allows that; otherwise it counts from the start of the process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak(process: int | str = "self") -> int | None:
    """Return the most memory that a process has held at a time; None if the system does not tell."""
    with contextlib.suppress(OSError):
        if found := _HIGHEST.search(Path(f"/proc/{process}/status").read_text()):
            return int(found[1]) * 1024
    return _maximum("RUSAGE_SELF") if process == "self" else None


def peak_of_ended_children() -> int:
    """Return the most memory that one child process which has ended held at a time, in any run; 0 if unknown."""
    return _maximum("RUSAGE_CHILDREN") or 0


def total() -> int | None:
    """Return the memory of this machine, or of the container; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        found.append(int(Path("/proc/meminfo").read_text().split()[1]) * 1024)
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(path).read_text()))
    return min(found, default=None)


def limit(name: str, most: int) -> None:
    """Lower a limit of this process, such as "RLIMIT_AS", as far as the system allows."""
    if resource is None:
        return
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _maximum(who: str) -> int | None:
    if resource is None:
        return None
    found = resource.getrusage(getattr(resource, who)).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
