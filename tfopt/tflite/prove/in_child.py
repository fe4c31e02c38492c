"""Run a finished file. Runs only in the child of `tfopt.base.native`; models and samples are passed in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.tflite.prove.signals import layer_signals
from tfopt.tflite.read import LiteModel


def predict(model: str, samples: str, out: str) -> None:
    """Run the .tflite `model` on the .npz `samples` (by input name) and write its outputs, by number, to `out`."""
    found = LiteModel(Path(model).read_bytes()).predict(_read(samples))
    arrays = found if isinstance(found, list) else [found]
    np.savez(out, **{str(number): array for number, array in enumerate(arrays)})


def signals(
    reference: str, model: str, samples: str, layers: Sequence[str], outputs: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return (layers, operator, decibels) of each operator, see `layer_signals`."""
    one, other = (LiteModel(Path(path).read_bytes()) for path in (reference, model))
    found, _ = layer_signals(one, other, _read(samples), layers, outputs)
    return [(signal.layers, signal.operator, signal.sqnr) for signal in found]


def _read(samples: str) -> dict[str, np.ndarray]:
    with np.load(samples) as file:
        return {name: file[name] for name in file.files}
