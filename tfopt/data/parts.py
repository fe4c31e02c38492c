"""What every reader gives: the parts that the source has, before splitting and checking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Parts:
    """Inputs and labels by the name of the part.

    Args:
        pairs: "train" always, "validation" and "test" if the source has them; the inputs are the samples, or
            with `files` the paths of the images, as an object array (n,).
        source: where they came from, in words.
        class_names: by class number, if the source names them.
        notes: what the reader decided or left out, in words.
        files: whether the inputs are paths of images still to be read.
    """

    pairs: dict[str, Pair]
    source: str
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    files: bool = False
