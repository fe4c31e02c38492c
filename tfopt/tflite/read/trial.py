"""The sandbox's trial of a .tflite: read all of it and run it once. Runs only in the child process."""

import numpy as np
from ai_edge_litert import interpreter as _loaded  # noqa: F401  loaded before the memory limit is set

from tfopt.errors import DataError, ModelError
from tfopt.tflite.read.model import LiteModel


def run(path: str) -> None:
    """Read every weight of the .tflite at `path` and run it on one random sample, and on two if it can be resized.

    Errors of the run are ignored: a file may need real inputs, e.g. an index within a range.
    """
    lite = LiteModel(path)
    lite.weights()
    try:
        sample = lite.random_sample()
        lite.predict(sample)
        arrays = sample if isinstance(sample, list) else [sample]
        lite.predict([np.concatenate([each, np.zeros_like(each)]) for each in arrays])
    except (DataError, ModelError):
        return
