"""Compare an integer file of a recurrent model with the float file, which may be smaller or faster."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from tfopt.errors import TfoptError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration
from tfopt.tflite.write.compact import compact
from tfopt.tflite.write.converter import convert, in_float
from tfopt.tflite.write.recurrent import recurrent_layers

ROUNDS = 15
NOTABLY = 1.1
"""Ratio of times from which on one file counts as slower, on a machine that does other work too."""


def compared_with_float(
    model: Any, flat_model: Any, lite: LiteModel, settings: Export, samples: Calibration
) -> list[str]:
    """Return a note if the float file would be as small as `lite`, or faster.

    Without an integer operator for a whole loop, each time step is a copy of the cell's operators; with one, LiteRT may
    compute it slower than the float one.

    Args:
        model: what was converted.
        flat_model: the same as a flat tf_keras model.
        lite: the integer file.
        settings: its settings.
        samples: of the ranges; the first one is timed.
    """
    if not recurrent_layers(flat_model):
        return []
    try:
        rival = LiteModel(compact(convert(model, in_float(settings), flat_model=flat_model)))
    except TfoptError:  # then there is no choice
        return []
    ours, theirs = _milliseconds([lite, rival], next(iter(samples)))
    if lite.size < rival.size and ours < NOTABLY * theirs:
        return []
    return [
        f"recurrent layers: {lite.size:,} bytes and {ours:.2f} ms a sample in {settings.activations}; in float32 "
        f"{rival.size:,} bytes and {theirs:.2f} ms"
    ]


def _milliseconds(files: Sequence[LiteModel], sample: Any) -> list[float]:
    """Return the median time that each file takes for `sample`, measured in turns."""
    seconds: list[list[float]] = [[] for _ in files]
    for _ in range(ROUNDS):
        for file, own in zip(files, seconds, strict=True):
            started = time.perf_counter()
            file.predict(sample)
            own.append(time.perf_counter() - started)
    return [1000 * statistics.median(own) for own in seconds]
