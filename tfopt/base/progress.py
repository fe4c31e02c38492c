"""Progress: plain lines, below them a live line in a terminal or a notebook, and events for programs."""

import copy
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from tfopt.base.notebook import NotebookBar
from tfopt.base.terminal import console, plain

_LONG = 2.0  # seconds after which progress is shown
_NOTE = "note: "
Listener = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event and its values."""


class Progress:
    """What work reports: lines on `stream`, stderr by default, and events to `listeners`; `quiet` suppresses lines."""

    def __init__(
        self, *, quiet: bool = False, stream: TextIO | None = None, listeners: Sequence[Listener] = ()
    ) -> None:
        self.console = console(file=stream or sys.stderr, quiet=quiet, soft_wrap=True)
        self.listeners = listeners
        self._context: dict[str, Any] = {}

    def within(self, **context: Any) -> "Progress":
        """Return the same progress, whose events also have the values `context`."""
        inner = copy.copy(self)
        inner._context = {**self._context, **context}
        return inner

    def say(self, text: str) -> None:
        """Print one line; it is an event too, "note" if it begins with "note: "."""
        self.console.print(plain(text))
        if text.startswith(_NOTE):
            self.tell("note", text=text.removeprefix(_NOTE))
        else:
            self.tell("message", text=text)

    def tell(self, event: str, **values: Any) -> None:
        """Pass an event on to the listeners."""
        for listener in self.listeners:
            listener(event, {**self._context, **values})

    def callback(self, label: str) -> Any:
        """Return a tf_keras callback that shows the epochs of one `fit`, each of which is an event."""
        return _callback_class()(self, label)

    @contextmanager
    def during(self, text: str) -> Iterator[None]:
        """Print a line, and show within this block, in a terminal or a notebook, that the work goes on."""
        self.say(text)
        bar = live_bar(self.console, text, None)
        try:
            yield
        finally:
            if bar is not None:
                bar.stop()


class TerminalBar:
    """A live line at the end of a terminal, which disappears when it stops: steps, their rate, and the time left.

    Args:
        output: a `rich.console.Console`.
        title: before the bar.
        total: number of steps; None if unknown, for the time that has passed.
        done: steps that are finished already, which do not count for the rate.
    """

    def __init__(self, output: Any, title: str, total: int | None, done: int = 0) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        named = TextColumn("{task.description}", markup=False)
        known = [named, BarColumn(), MofNCompleteColumn(), _pace_column_class()(done)]
        columns = known if total else [named, BarColumn(), TimeElapsedColumn()]
        self._bar = Progress(*columns, console=output, transient=True)
        self._task = self._bar.add_task(plain(title), total=total, completed=done)
        self._bar.start()

    def update(self, done: int, title: str | None = None) -> None:
        """Show that `done` steps are finished."""
        self._bar.update(self._task, completed=done, description=None if title is None else plain(title))

    def stop(self) -> None:
        """Remove the bar and restore the cursor."""
        self._bar.stop()


@functools.cache
def _pace_column_class() -> Any:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class PaceColumn(ProgressColumn):
        def __init__(self, before: int) -> None:
            super().__init__()
            self._before = before

        def render(self, task: Any) -> Any:
            """Return steps per second, and the time left at that rate."""
            return Text(pace(int(task.completed) - self._before, task.remaining, task.elapsed or 0.0))

    return PaceColumn


def pace(done: int, remaining: float | None, seconds: float) -> str:
    """Return the rate of `done` steps in `seconds`, and the time that the `remaining` ones take; "" for none."""
    if not done or seconds <= 0:
        return ""
    rate = done / seconds
    left = round((remaining or 0) / rate)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"
    return f"{rate:.3g}/s, {clock} left"


def live_bar(output: Any, title: str, total: int | None, done: int = 0) -> TerminalBar | NotebookBar | None:
    """Return a new bar for a terminal or a notebook; None for a log or a quiet console."""
    if output.quiet:
        return None
    if output.is_jupyter:
        return NotebookBar(title, total, done)
    return TerminalBar(output, title, total, done) if output.is_terminal else None


@contextmanager
def stopped_at_end(lines: Sequence[Any]) -> Iterator[None]:
    """Stop the callbacks from `Progress.callback` after this block: tf_keras does not tell them of an interruption."""
    try:
        yield
    finally:
        for each in lines:
            each.stop()


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
            steps = self.params["steps"]
            self._before = epoch * (steps or 0)
            if self._bar is None:
                total = steps and self.params["epochs"] * steps
                self._bar = live_bar(self._progress.console, self._title, total, self._before)
            else:
                self._bar.update(self._before, self._title)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del logs
            if self._bar:
                self._bar.update(self._before + batch + 1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seconds = time.perf_counter() - self._started
            metrics = {name: float(value) for name, value in (logs or {}).items()}
            values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._progress.console.print(plain(f"{self._title}  {values}  {seconds:.0f} s"))
            self._progress.tell(
                "epoch",
                epoch=epoch + 1,
                epochs=self.params["epochs"],
                seconds=round(seconds, 3),
                learning_rate=_learning_rate(getattr(self, "model", None)),
                metrics=metrics,
            )
            self._progress.tell("weights", model=getattr(self, "model", None))

        def on_train_end(self, logs: Any = None) -> None:
            del logs
            self.stop()

        def stop(self) -> None:
            """Remove the bar from the terminal and restore the cursor."""
            if self._bar:
                self._bar.stop()
                self._bar = None

    return EpochLines


def _learning_rate(model: Any) -> float | None:
    """Return the current learning rate of a tf_keras model; None if its optimizer has none, or several."""
    from tfopt.base.keras_compat import tf_keras

    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return None if rate is None else float(tf_keras().backend.get_value(rate))


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
