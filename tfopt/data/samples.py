"""Samples in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tfopt.data.arrays_by_name import Arrays, count_samples, map_arrays, rows
from tfopt.data.front_end import FrontEnd
from tfopt.data.random_changes import RandomChanges

FEW_GUIDES = 2000


@dataclass(frozen=True, eq=False)
class Split:
    """Samples in memory as they were read; scaled only on access.

    Args:
        inputs: (n, ...), in a compact dtype such as uint8; by name for a model with several inputs.
        labels: int32 (n, ...) class numbers, float32 (n, k) or (n, ...), or uint8 class numbers of masks; by name for a
            model with several outputs.
        preprocessing: the front end, which maps `inputs` to model inputs; of several inputs, it maps the images.
        reconstructs: whether the targets are the model inputs instead of the labels.
        weights: of the samples in the training loss, float32 (n,), or by output; None: all count alike.
    """

    inputs: Any
    labels: Any
    preprocessing: FrontEnd
    reconstructs: bool = False
    weights: Any = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return count_samples(self.inputs)

    def x(self, indices: Any = None) -> Any:
        """Return model inputs (n, ...): all samples, or those at `indices` (integers, a slice).

        They are float32, or int32 for texts.
        """
        chosen = rows(self.inputs, indices)
        if isinstance(chosen, dict):
            return map_arrays(self._of_several, chosen)
        return self.preprocessing.apply(chosen)

    def _of_several(self, array: np.ndarray) -> np.ndarray:
        return self.preprocessing.apply(array) if are_images(array) else array.astype(np.float32)

    def changed(self, indices: Any, augment: RandomChanges, drawn: np.ndarray) -> np.ndarray:
        """Return `x(indices)` after the changes that come before the front end.

        Args:
            indices: integers, a slice.
            augment: the random changes.
            drawn: by `augment` for these samples, (n, columns).
        """
        return self.preprocessing.apply(augment.change_stored(self.inputs[indices], drawn))

    def y(self, indices: Any = None) -> Any:
        """Return the targets of all samples, or of those at `indices`: the labels, or what `x` returns.

        Class numbers are int32.
        """
        return self.x(indices) if self.reconstructs else map_arrays(_wide, rows(self.labels, indices))

    def w(self, indices: Any = None) -> Any:
        """Return the weights of all samples, or of those at `indices`; None if there are none."""
        return None if self.weights is None else rows(self.weights, indices)

    def guides(self) -> Any:
        """Return targets for statistics over them: all labels, or inputs of `FEW_GUIDES` samples where they are it."""
        return self.y(self.spread(FEW_GUIDES)) if self.reconstructs else self.labels

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one target, without the batch axis."""
        shape: tuple[int, ...] = self.shape if self.reconstructs else self.labels.shape[1:]
        return shape

    @cached_property
    def shapes(self) -> Any:
        """Shape of one model input, without the batch axis; by name if there are several."""
        return map_arrays(lambda array: array.shape[1:], self.x(slice(0, 1)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only model input, without the batch axis; () if there are several."""
        return () if isinstance(self.shapes, dict) else self.shapes

    def __repr__(self) -> str:
        """Return the number and the shape of the samples, not their values."""
        shown = map_arrays(lambda array: f"{array.shape[1:]} {array.dtype}", self.inputs)
        return f"Split({len(self):,} samples of {shown})"

    def at(self, indices: Any) -> Split:
        """Return the samples at `indices` (integers, a slice)."""
        inputs, labels = rows(self.inputs, indices), rows(self.labels, indices)
        return replace(self, inputs=inputs, labels=labels, weights=self.w(indices))

    def some(self, n: int) -> Split:
        """Return `n` of the samples (all, if fewer), see `spread`."""
        return self.at(self.spread(n))

    def spread(self, n: int) -> np.ndarray:
        """Return indices of `n` samples (all, if fewer), in order: one, drawn with a fixed seed, from each nth part.

        Image folders come sorted by class, which the parts respect; labels that come in turns would be missed by
        samples at equal distances.
        """
        borders = np.linspace(0, len(self), min(n, len(self)) + 1).astype(np.int64)
        return np.random.default_rng(0).integers(borders[:-1], borders[1:])


def _wide(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.int32) if labels.dtype == np.uint8 else labels


def are_images(inputs: Arrays) -> bool:
    """Return whether `inputs` are 8-bit images, which a `data.json` says how to feed."""
    return not isinstance(inputs, dict) and inputs.dtype == np.uint8 and inputs.ndim == 4
