"""The output of every reader: the parts of the source, before splitting and checking."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tfopt.data.front_end import FrontEnd
from tfopt.data.preprocessing import Color

Pair = tuple[Any, Any]
"""Inputs and labels, each an array or a dict of arrays."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Inputs and labels by the name of the part.

    Args:
        pairs: "train" always, "validation" and "test" if the source has them. The inputs are the samples or, with
            `files`, the paths of the images as an object array (n,). Several inputs or outputs come by name, those of
            a list as "0", "1", ... in its order.
        source: a description of the data's origin.
        class_names: by class number, if the source names them.
        notes: remarks on what the reader decided or left out.
        files: whether the inputs are paths of images still to be read.
        masks: whether the labels are paths of masks still to be read.
        weights: of the samples by the name of the part, (n,), or by output; parts without weights are missing.
        color: of images that are read, if it is known.
        front_end: what turns the inputs, raw samples (n,), into numbers; None for images and for numbers.
    """

    pairs: dict[str, Pair]
    source: str
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    files: bool = False
    masks: bool = False
    front_end: FrontEnd | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    color: Color | None = None
