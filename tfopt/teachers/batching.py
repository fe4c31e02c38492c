"""Run a teacher over many samples: one graph, suitable batch sizes, and visible progress."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfopt.errors import DataError

# Input bytes per batch, small enough for intermediate results to stay in fast memory.
_BATCH_BYTES = 4 * 2**20
_FROZEN_AT_MOST = 2**30  # bytes of weights; a graph cannot hold more than 2 GiB


class CompiledTeacher:
    """The outputs `names` of a teacher's `answers` as one graph for any batch size, with NumPy in and out.

    Where possible the graph holds the weights as constants, so that TensorFlow folds BatchNorm into preceding layers.
    """

    def __init__(
        self,
        answers: Callable[..., Mapping[str, Any]],
        names: Sequence[str],
        x: np.ndarray,
        labels: np.ndarray | None,
        fingerprint: str | None,
    ) -> None:
        import tensorflow as tf

        self.fingerprint = fingerprint
        specs = [tf.TensorSpec((None, *x.shape[1:]), tf.float32)]
        if labels is not None:
            specs.append(tf.TensorSpec((None, *labels.shape[1:]), labels.dtype))

        def listed(*inputs: Any) -> list[Any]:
            found = answers(*inputs)
            return [found[name] for name in names]

        self._live = tf.function(listed, autograph=False).get_concrete_function(*specs)
        self._graph = self._live if fingerprint is None else _frozen(self._live)
        # By name: with positional arguments a frozen graph first fails to bind and prints all values in the error.
        self._names = None if self._graph is self._live else [tensor.op.name for tensor in self._graph.inputs]

    def __call__(self, x: np.ndarray, labels: np.ndarray | None) -> list[np.ndarray]:
        """Return the teacher's outputs for a batch `x`, as a list of arrays."""
        import tensorflow as tf

        inputs = [tf.convert_to_tensor(x, tf.float32)]
        if labels is not None:
            inputs.append(tf.convert_to_tensor(labels))
        if self._names is None:
            return [tensor.numpy() for tensor in self._graph(*inputs)]
        return [tensor.numpy() for tensor in self._graph(**dict(zip(self._names, inputs, strict=True)))]


def _frozen(live: Any) -> Any:
    """Return the graph with its variables frozen to constants, or unchanged if that fails."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if sum(np.prod(variable.shape) * variable.dtype.size for variable in live.graph.variables) > _FROZEN_AT_MOST:
        return live
    try:
        return convert_variables_to_constants_v2(live, lower_control_flow=False)
    except Exception:  # e.g. lookup tables, which cannot be constants
        return live


def regrouped(batches: Iterable[Any], size: int | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield batches x or (x, labels) regrouped to `size` samples; the last batch holds the remainder.

    Weights, in batches (x, labels, weights), are left out.
    """
    waiting: list[tuple[np.ndarray, np.ndarray | None]] = []
    for batch in batches:
        x, labels = (*batch, None)[:2] if isinstance(batch, tuple) else (batch, None)
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
