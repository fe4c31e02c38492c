"""Progress display: a live line per epoch or a bar in a terminal, plain lines in a log."""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

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


@functools.cache
def _callback_class() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from tfopt.base.keras_compat import tf_keras

    class EpochLines(tf_keras().callbacks.Callback):  # type: ignore[misc]
        # Otherwise tf_keras copies the logs to NumPy after every batch, which waits for the batch.
        _supports_tf_logs = True

        def __init__(self, progress: Progress, label: str) -> None:
            super().__init__()
            self._progress, self._label = progress, label
            self._bar: Any = None

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            del logs
            self._started = time.perf_counter()
            self._title = plain(f"{self._label} epoch {epoch + 1}/{self.params['epochs']}")
            if self._progress.console.is_terminal and not self._progress.console.quiet:
                self._bar = Bar(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=self._progress.console, transient=True,
                )  # fmt: skip
                self._task = self._bar.add_task(self._title, total=self.params["steps"])
                self._bar.start()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del logs
            if self._bar:
                self._bar.update(self._task, completed=batch + 1)

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

    A terminal gets a bar, a log one line at the end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    output = progress.console if progress is not None else console(file=sys.stderr, soft_wrap=True)
    label = plain(label)
    quiet = quiet or output.quiet
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=output, transient=True,
    )  # fmt: skip
    task, started, shown = bar.add_task(label, total=total), time.perf_counter(), False

    def advance(count: int) -> None:
        nonlocal shown
        bar.advance(task, count)
        if not shown and not quiet and output.is_terminal and time.perf_counter() - started > _LONG:
            bar.start()
            shown = True

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
    seconds = time.perf_counter() - started
    if not quiet and seconds > _LONG:
        output.print(f"{label}: answers to {total:,} samples in {seconds:.0f} s")
