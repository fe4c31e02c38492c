"""Both sides of the proof: the outputs of the Keras model and, from a child process, those of the file."""

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfopt.base import native
from tfopt.bridge.check import in_graph, run
from tfopt.errors import DataError, ModelError
from tfopt.tflite.prove.signals import Signal
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.blame import blamed_operator

Samples = Mapping[str, NDArray[Any]]
"""Arrays, samples first, by the names of the inputs in the file."""
AT_ONCE, VALUES_AT_ONCE = 32, 2**19
"""The least samples in a batch for Keras, and the numbers in a batch of more; small batches take longer."""
SECONDS = 600
"""Time limit of a file for the samples of a proof."""
_DOORS = "tfopt.tflite.prove.in_child:"


def keras_outputs(model: Any, samples: Samples, batch: int | None = None) -> list[NDArray[Any]]:
    """Return the outputs of `model`, of either Keras, in their order.

    Args:
        model: with inputs in the order of `samples`.
        samples: for its inputs.
        batch: the fixed batch size of the model; None if it is free.
    """
    arrays = list(samples.values())
    size = batch or max(AT_ONCE, VALUES_AT_ONCE // max(1, sum(array[0].size for array in arrays)))
    count, parts = len(arrays[0]), []
    images = any(array.dtype.kind in "ui" and array.ndim > 3 for array in arrays)
    call = in_graph(model) if images else None  # outside of a graph Keras 3 rounds when it resizes
    for start in range(0, count, size):
        rows = [array[start : start + size] for array in arrays]
        left = len(rows[0])
        if batch and left < batch:
            rows = [np.concatenate([array, np.repeat(array[-1:], batch - left, axis=0)]) for array in rows]
        parts.append([output[:left] for output in run(model, rows, call=call)])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def file_outputs(lite: LiteModel, samples: Samples) -> dict[str, NDArray[Any]]:
    """Return the outputs of the file by name, run in a child process.

    Raises:
        ModelError: LiteRT cannot run the file, or its process dies.
    """
    with tempfile.TemporaryDirectory(prefix="tfopt-") as folder:
        try:
            _predict(folder, samples, lite.data)
        except native.KilledError as error:
            raise ModelError(
                f"The process that ran the .tflite was killed ({error}). Free memory and try again."
            ) from error
        except native.OverdueError as error:
            raise ModelError(
                f"The .tflite gave {error} for the samples of the proof. Try again when the machine is free, or pass "
                "smaller samples."
            ) from error
        except native.CrashError as error:
            place = blamed_operator(lite.data, functools.partial(_crashes, samples=samples), lite.layers)
            raise ModelError(
                f"The process that ran the .tflite died{place} ({error}): the file is of no use. Choose other "
                "activations or weights, or replace the layer that LiteRT cannot run."
            ) from error
        except native.FailedError as error:
            raise ModelError(f"The .tflite does not run: {error} Choose other activations or weights.") from error
        with np.load(Path(folder, "out.npz")) as file:
            return {port.name: file[str(number)] for number, port in enumerate(lite.outputs)}


def file_signals(
    reference: bytes, lite: LiteModel, samples: Samples, layers: Sequence[str], outputs: Sequence[str]
) -> list[Signal]:
    """Return `layer_signals`, run in a child process; empty if that fails."""
    with tempfile.TemporaryDirectory(prefix="tfopt-") as folder:
        _write(folder, samples, lite.data)
        Path(folder, "reference").write_bytes(reference)
        paths = {"reference": "reference", "model": "model", "samples": "samples.npz"}
        arguments = {name: str(Path(folder, file)) for name, file in paths.items()}
        try:
            rows = native.call(_DOORS + "signals", SECONDS, **arguments, layers=list(layers), outputs=list(outputs))
        except (native.CrashError, native.FailedError, ModelError):
            return []
    return [Signal(where, operator, math.inf if value is None else value) for where, operator, value in rows]


def _predict(folder: str, samples: Samples, model: bytes) -> None:
    """Let the child write the outputs of the file `model` to out.npz in `folder`."""
    _write(folder, samples, model)
    arguments = {name.partition(".")[0]: str(Path(folder, name)) for name in ("model", "samples.npz", "out.npz")}
    native.call(_DOORS + "predict", SECONDS, **arguments)


def _crashes(data: bytes, samples: Samples) -> bool:
    """Return whether LiteRT crashes on the file `data`."""
    with tempfile.TemporaryDirectory(prefix="tfopt-") as folder:
        try:
            _predict(folder, samples, data)
        except (native.KilledError, native.OverdueError):
            return False
        except native.CrashError:
            return True
        except (native.FailedError, ModelError, DataError):
            return False
    return False


def _write(folder: str, samples: Samples, model: bytes) -> None:
    Path(folder, "model").write_bytes(model)
    np.savez(Path(folder, "samples.npz"), **dict(samples))  # type: ignore[arg-type]
