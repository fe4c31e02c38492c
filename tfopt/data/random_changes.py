"""The contract of augmentations: random changes of training samples, as functions of seed, view and sample number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from tfopt.errors import DataError


@dataclass(frozen=True)
class RandomChanges(ABC):
    """Random changes of training samples: drawn for each, then applied to what is stored and to what the model gets.

    Attributes:
        columns: what is drawn for a sample.
        names: of the transformations, which are fields.
    """

    columns: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def of_strength(cls, strength: float) -> Self:
        """Return all transformations with `strength` from 0 (none) to 1; 0.5 is usual."""

    @abstractmethod
    def with_only(self, **transformations: Any) -> Self:
        """Return the augmentation with these transformations instead."""

    @property
    def transformations(self) -> dict[str, Any]:
        """The transformations in use, with their settings."""
        return {name: value for name in self.names if (value := getattr(self, name))}

    @abstractmethod
    def draw(self, count: int, input_shape: tuple[int, ...], seed: int | list[int]) -> np.ndarray:
        """Return the changes for `count` samples, float32 (count, columns); the same `seed` gives the same draws.

        Raises:
            DataError: it cannot change model inputs of `input_shape`.
        """

    def change_stored(self, values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return stored samples `values` (n, ...) after the changes `drawn` that come before the front end."""
        del drawn
        return values

    @abstractmethod
    def apply(self, inputs: Any, drawn: Any) -> Any:
        """Return model inputs, float32 (n, ...), after the changes `drawn`; works in a `tf.function`."""

    def apply_to_masks(self, masks: Any, drawn: Any) -> Any:
        """Return labels of places, (n, ...), moved as `apply` moves the inputs; works in a `tf.function`.

        Raises:
            DataError: these changes cannot move labels.
        """
        del masks, drawn
        raise DataError(
            f"Expected labels without places for {type(self).__name__}, which moves inputs but not labels; leave "
            "augment out for this data."
        )
