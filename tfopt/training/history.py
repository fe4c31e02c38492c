"""The course of a training, as plain data for a report."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class History:
    """What Keras logged in each epoch of one training, and which epoch was kept.

    Attributes:
        values: one per epoch by name, to six digits; None for NaN and infinity, which JSON lacks.
        metric: the name of the one that decides which epoch is best; with "val_" before it on validation data.
        kept: the epoch, from 1, whose weights were kept; 0 for the weights from before the training.
    """

    values: dict[str, list[float | None]]
    metric: str
    kept: int

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return max(map(len, self.values.values()), default=0)

    @classmethod
    def of(cls, logs: Mapping[str, Iterable[float]], *, metric: str, kept: int) -> "History":
        """Return the course in the `history` that Keras's `fit` returns."""
        return cls(values={name: list(map(_short, each)) for name, each in logs.items()}, metric=metric, kept=kept)


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
