"""Running a teacher over many samples: one graph, batches of a good size, and progress that a person sees."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt import terminal
from tfopt.errors import DataError

if TYPE_CHECKING:
    from tfopt.distillation.teachers.answering import Answering

# Rows at once: as many as make this many bytes of input, so that what a model computes stays in fast memory.
_BATCH_BYTES = 4 * 2**20
_FROZEN_AT_MOST = 2**30  # bytes of weights; a graph cannot hold more than 2 GiB
_LONG = 2.0  # seconds after which a person wants to see progress


class Graph:
    """A teacher's `answers` as one graph for batches of any size, NumPy in and out.

    The graph holds the weights as constants where it can, so that TensorFlow folds BatchNorm into the layers before.
    """

    def __init__(self, teacher: "Answering", x: np.ndarray, labels: np.ndarray | None, fingerprint: str | None) -> None:
        import tensorflow as tf

        self.fingerprint = fingerprint
        specs = [tf.TensorSpec((None, *x.shape[1:]), tf.float32)]
        if labels is not None:
            specs.append(tf.TensorSpec((None, *labels.shape[1:]), labels.dtype))
        names = teacher._names()

        def listed(*inputs: Any) -> list[Any]:
            found = teacher.answers(*inputs)
            return [found[name] for name in names]

        self._live = tf.function(listed, autograph=False).get_concrete_function(*specs)
        self._graph = self._live if fingerprint is None else _frozen(self._live)
        # By name: given by position, a frozen graph first fails to bind them and prints all values into the error.
        self._names = None if self._graph is self._live else [tensor.op.name for tensor in self._graph.inputs]

    def __call__(self, x: np.ndarray, labels: np.ndarray | None) -> list[np.ndarray]:
        import tensorflow as tf

        inputs = [tf.convert_to_tensor(x, tf.float32)]
        if labels is not None:
            inputs.append(tf.convert_to_tensor(labels))
        if self._names is None:
            return [tensor.numpy() for tensor in self._graph(*inputs)]
        return [tensor.numpy() for tensor in self._graph(**dict(zip(self._names, inputs, strict=True)))]


def _frozen(live: Any) -> Any:
    """The graph with its variables as constants; as it is where that cannot be."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if sum(np.prod(variable.shape) * variable.dtype.size for variable in live.graph.variables) > _FROZEN_AT_MOST:
        return live
    try:
        return convert_variables_to_constants_v2(live, lower_control_flow=False)
    except Exception:  # e.g. tables, which are no constants
        return live


def regrouped(batches: Iterable[Any], size: int | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Batches x or (x, labels) cut and joined to `size` samples; the last one is what is left."""
    waiting: list[tuple[np.ndarray, np.ndarray | None]] = []
    for batch in batches:
        x, labels = batch if isinstance(batch, tuple) else (batch, None)
        x, labels = np.asarray(x), None if labels is None else np.asarray(labels)
        if size is None:
            size = int(np.clip(_BATCH_BYTES // max(4 * math.prod(x.shape[1:]), 1), 16, 512))
        if size < 1:
            raise DataError(f"Expected a batch_size of 1 or above, got {size}.")
        if waiting and sum(len(part) for part, _ in waiting) + len(x) > size:
            yield _joined(waiting)
            waiting = []
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            waiting.append((x[part], None if labels is None else labels[part]))
            if len(waiting[0][0]) == size:
                yield waiting.pop()
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[np.ndarray, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray | None]:
    if len(parts) == 1:
        return parts[0]
    labels = [labels for _, labels in parts if labels is not None]
    return np.concatenate([x for x, _ in parts]), np.concatenate(labels) if labels else None


@contextmanager
def progress_bar(label: str, total: int, progress: Any, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of samples done; what takes long is seen, what does not is not.

    In a terminal a bar, in a log one line at the end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = progress.console if progress is not None else terminal.console(file=sys.stderr, soft_wrap=True)
    label = terminal.plain(label)
    quiet = quiet or console.quiet
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    task, started, shown = bar.add_task(label, total=total), time.perf_counter(), False

    def advance(count: int) -> None:
        nonlocal shown
        bar.advance(task, count)
        if not shown and not quiet and console.is_terminal and time.perf_counter() - started > _LONG:
            bar.start()
            shown = True

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
    seconds = time.perf_counter() - started
    if not quiet and seconds > _LONG:
        console.print(f"{label}: answers to {total:,} samples in {seconds:.0f} s")
