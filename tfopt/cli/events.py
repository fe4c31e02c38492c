"""`tfopt run --json`: the events of a run as JSON lines on stdout, for programs; docs/cli.md lists their fields."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tfopt.base.finite_json import finite
from tfopt.base.progress import Listener
from tfopt.cli.command import ending

EVENTS = frozenset({"run_started", "stage_started", "epoch", "message", "note", "export", "row", "verdict", "written"})


class JsonLines:
    """Writes events to a stream, until nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Write an event that programs read."""
        if event in EVENTS:
            self.write(event, **values)

    def write(self, event: str, **values: Any) -> None:
        """Write one line."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **finite(values)}, allow_nan=False)
        if self._stream is None:
            return
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):  # the run is worth more
            self._stream = None


@contextlib.contextmanager
def events_on_stdout(*, wanted: bool) -> Iterator[list[Listener]]:
    """Yield the listener that writes events to stdout, all other output of this block to stderr; the last says the end.

    Args:
        wanted: False for neither.
    """
    if not wanted:
        yield []
        return
    lines = JsonLines(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield [lines]
    except BaseException as error:
        message, code = ending(error)
        lines.write("error", message=message, code=code)
        raise
    lines.write("finished", code=0)
