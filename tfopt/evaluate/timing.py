"""Time files in interleaved rounds, so background load affects all of them equally."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.model import Inputs

ROUNDS, RUNS = 5, 50


def interleaved_times(
    files: Sequence[LiteModel],
    samples: Sequence[Inputs | None] | None = None,
    *,
    rounds: int = ROUNDS,
    runs: int = RUNS,
) -> list[NDArray[np.float64]]:
    """Time all `files` in each of the rounds: A B C A B C ...

    Args:
        files: to time.
        samples: for each file, inputs of which the first sample is used; None for random numbers.
        rounds: of all files.
        runs: timed invocations of a file in a round.

    Returns:
        For each file, milliseconds of one invocation, (rounds, runs).
    """
    fed = list(zip(files, samples or [None] * len(files), strict=True))
    found = [[file.times(sample, runs=runs) for file, sample in fed] for _ in range(rounds)]
    return [np.stack(column) for column in zip(*found, strict=True)]


def speedup(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Return how many times faster `after` is than `before`: the median over rounds of the ratio of their medians.

    Args:
        before: milliseconds (rounds, runs) from `interleaved_times`.
        after: of another file, from the same call.
    """
    return float(np.median(np.median(before, axis=1) / np.median(after, axis=1)))
