"""Convert in a child process, and find the layer that makes it crash."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfopt.base import native, sandbox
from tfopt.base.stderr import warnings_held
from tfopt.graph import keras_internals
from tfopt.graph.types import flatten
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration
from tfopt.tflite.write.in_child import write_samples

SECONDS = 1800
"""The time limit of a conversion, plus 2 s per sample."""
FOR_THE_SEARCH = 6
"""While searching for the layer, the time limit is divided by this."""
_DOORS = "tfopt.tflite.write.in_child:"


class Converter:
    """Converts traced models with the same settings and samples; created by `isolated`.

    Args:
        settings: of the files.
        samples: for the activation ranges; None for float activations.
        folder: for the files exchanged between the processes; it must outlive the converter.
    """

    def __init__(self, settings: Export, samples: Calibration | None, folder: Path) -> None:
        self.settings, self.samples, self._folder = settings, samples, folder
        self._stored: Path | None = None

    def convert(self, function: Any, holder: Any, *, hasty: bool = False) -> bytes:
        """Return the .tflite of a concrete function.

        Args:
            function: the concrete function.
            holder: the object that owns its variables.
            hasty: divide the time limit by `FOR_THE_SEARCH`.

        Raises:
            native.CrashError: the child died, or took too long (OverdueError).
            native.FailedError: the converter raised an exception.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            _save(function, holder, place)
            return self._called("convert", Path(place, "out"), hasty, folder=place)

    def quantize(self, data: bytes, *, hasty: bool = False) -> bytes:
        """Return the float .tflite `data` quantized by litert-quantizer.

        Args:
            data: the file.
            hasty: as in `convert`.

        Raises:
            ModelError: litert-quantizer fails.
            native.CrashError: as in `convert`.
            native.FailedError: as in `convert`.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            path = Path(place, "float")
            path.write_bytes(data)
            return self._called("quantize", Path(place, "out"), hasty, model=str(path))

    def _called(self, door: str, out: Path, hasty: bool, **arguments: Any) -> bytes:
        seconds = SECONDS + (2 * self.samples.number if self.samples else 0)
        native.call(
            _DOORS + door,
            seconds / FOR_THE_SEARCH if hasty else seconds,
            out=str(out),
            settings=dataclasses.asdict(self.settings),
            samples=self._written_samples(),
            **arguments,
        )
        data = out.read_bytes()
        sandbox.record_tried(data)  # the child has run it
        return data

    def _written_samples(self) -> str | None:
        if self.samples is None:
            return None
        if self._stored is None:
            path = self._folder / "samples.npz"
            write_samples(path, self.samples)
            self._stored = path  # set only when the file is complete
        return str(self._stored)


@contextmanager
def isolated(settings: Export, samples: Calibration | None) -> Iterator[Converter]:
    """Yield a `Converter` with a temporary folder that is deleted after the block."""
    with tempfile.TemporaryDirectory(prefix="tfopt-") as folder:
        yield Converter(settings, samples, Path(folder))


def _save(function: Any, holder: Any, folder: str) -> None:
    import tensorflow as tf

    with warnings_held():  # about names and lookup tables
        try:
            tf.saved_model.save(holder, folder, signatures={"serving_default": function})
        except (AssertionError, ValueError):  # it reads variables that `holder` does not track: use constants
            from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

            frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
            tf.saved_model.save(tf.Module(), folder, signatures={"serving_default": frozen})


def blamed_layer(flat_model: Any, crashes: Callable[[Any], bool]) -> Any:
    """Return the first layer of a flat tf_keras model that makes a conversion crash, found by bisection.

    Args:
        flat_model: a model that crashes.
        crashes: returns whether a model of only the first layers crashes.
    """
    layers = [layer for layer, *_ in keras_internals.nodes(flat_model)]
    low, high = 0, len(layers)  # the first `low` calls do not crash, the first `high` do
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if crashes(_first(flat_model, middle)) else (middle, high)
    return layers[high - 1]


def _first(flat_model: Any, count: int) -> Any:
    """Return a model of the first `count` calls of `flat_model`, whose outputs are all tensors they do not read."""
    from tfopt.base.keras_compat import tf_keras

    calls = list(keras_internals.nodes(flat_model))[:count]
    read = {id(tensor) for _, args, kwargs, _ in calls for tensor in flatten([args, kwargs])}
    ends = [tensor for _, _, _, outputs in calls for tensor in flatten(outputs) if id(tensor) not in read]
    return tf_keras().Model(flat_model.inputs, ends, name=flat_model.name)
