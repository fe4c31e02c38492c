"""Progress display: plain lines, and below them a bar in a terminal or a notebook."""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tfopt.base.notebook import NotebookBar
from tfopt.base.terminal import console, plain

_LONG = 2.0  # seconds after which progress is shown


class Progress:
    """Progress messages on `stream` (stderr by default); `quiet` suppresses them."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.console = console(file=stream or sys.stderr, quiet=quiet, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(plain(text))

    def callback(self, label: str) -> Any:
        """Return a tf_keras callback that shows the epochs of one `fit`."""
        return _callback_class()(self, label)


class TerminalBar:
    """A progress bar in the last line of a terminal, which disappears when it stops.

    Args:
        output: a `rich.console.Console`.
        title: before the bar.
        total: number of steps; None if unknown.
    """

    def __init__(self, output: Any, title: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=output, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(plain(title), total=total)
        self._bar.start()

    def update(self, done: int) -> None:
        """Show that `done` steps are finished."""
        self._bar.update(self._task, completed=done)

    def stop(self) -> None:
        """Remove the bar and restore the cursor."""
        self._bar.stop()


def live_bar(output: Any, title: str, total: int | None) -> TerminalBar | NotebookBar | None:
    """Return a new bar for a terminal or a notebook; None for a log or a quiet console."""
    if output.quiet:
        return None
    if output.is_jupyter:
        return NotebookBar(title, total)
    return TerminalBar(output, title, total) if output.is_terminal else None


@functools.cache
def _callback_class() -> Any:
    from tfopt.base.keras_compat import tf_keras

    class EpochLines(tf_keras().callbacks.Callback):  # type: ignore[misc]
        # Otherwise tf_keras copies the logs to NumPy after every batch, which waits for the batch.
        _supports_tf_logs = True

        def __init__(self, progress: Progress, label: str) -> None:
            super().__init__()
            self._progress, self._label = progress, label
            self._bar: TerminalBar | NotebookBar | None = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            del logs
            self._started = time.perf_counter()
            self._title = f"{self._label} epoch {epoch + 1}/{self.params['epochs']}"
            self._bar = live_bar(self._progress.console, self._title, self.params["steps"])

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del logs
            if self._bar:
                self._bar.update(batch + 1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            del epoch
            self.stop()
            values = "  ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
            self._progress.say(f"{self._title}  {values}  {time.perf_counter() - self._started:.0f} s")

        def on_train_end(self, logs: Any = None) -> None:
            del logs
            self.stop()

        def stop(self) -> None:
            """Remove the bar from the terminal and restore the cursor."""
            if self._bar:
                self._bar.stop()
                self._bar = None

    return EpochLines


@contextmanager
def progress_bar(label: str, total: int, progress: Any, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of samples done. Only long operations are shown.

    A terminal and a notebook get a bar, a log one line at the end.
    """
    output = progress.console if progress is not None else console(file=sys.stderr, soft_wrap=True)
    quiet = quiet or output.quiet
    started, done, bar = time.perf_counter(), 0, None

    def advance(count: int) -> None:
        nonlocal bar, done
        done += count
        if bar is None and not quiet and time.perf_counter() - started > _LONG:
            bar = live_bar(output, label, total)
        if bar is not None:
            bar.update(done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
    seconds = time.perf_counter() - started
    if not quiet and seconds > _LONG:
        output.print(plain(f"{label}: answers to {total:,} samples in {seconds:.0f} s"))
