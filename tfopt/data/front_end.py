"""What turns raw samples into model inputs: one contract for images, texts, recordings and tables."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from tfopt.data.random_changes import RandomChanges
from tfopt.errors import DataError

ReadFile = Callable[[str], bytes]
"""Returns the content of a file that was saved with a front end, by its name."""


class FrontEnd(ABC):
    """What turns raw samples into model inputs: a frozen value, saved with every result and found again.

    Raw samples become stored ones once, when data are loaded (`fitted`, then `stored`), and stored ones become model
    inputs whenever they are needed (`apply`). What a front end learns, such as a vocabulary, comes from the training
    part alone, after the data are split. Images are read by `data.images`, since files share one size and color.

    Attributes:
        kind: its name in JSON.
        subject: what it reads, for messages.
        augmentation: the class of random changes of its samples; None if there are none.
        in_graph: whether `apply_in_graph` exists.
    """

    kind: ClassVar[str]
    subject: ClassVar[str]
    augmentation: ClassVar[type[RandomChanges] | None] = None
    in_graph: ClassVar[bool] = False

    def fitted(self, raw: np.ndarray) -> tuple[Self, tuple[str, ...]]:
        """Return the front end with what it learns from raw training samples, and notes; itself, if it has learned."""
        del raw
        return self, ()

    def stored(self, raw: np.ndarray) -> np.ndarray:
        """Return raw samples as numbers (n, ...), in a compact dtype."""
        return raw

    def notes(self, parts: Sequence[np.ndarray]) -> tuple[str, ...]:
        """Return notes on what `stored` changes in the raw samples of all `parts`, which may differ in shape."""
        del parts
        return ()

    @abstractmethod
    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return stored samples `values` (n, ...) as model inputs, a new array."""

    def apply_in_graph(self, values: Any) -> Any:
        """Return what `apply` does for a tensor, in a `tf.function`: faster, where `in_graph` is True."""
        raise NotImplementedError

    @abstractmethod
    def describe(self) -> str:
        """Return a description in words."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; with `files`, `from_dict` reads them back."""
        assert dataclasses.is_dataclass(self)
        return {"kind": self.kind, **dataclasses.asdict(self)}

    def files(self) -> dict[str, bytes]:
        """Return the content of the files to save beside the result, by name."""
        return {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], read: ReadFile) -> Self:
        """Return the front end whose `values` `to_dict` wrote, with its files from `read`.

        Raises:
            DataError: unknown keys, or values that no front end has.
        """
        del read
        return cls(**checked_keys(cls, values))


def checked_keys(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without "kind", lists as tuples. Raise `DataError` for keys that are not fields of `cls`."""
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known - {"kind"}):
        raise DataError(f"Expected the preprocessing keys {sorted(known)}, also got {unknown}.")
    return {key: _as_tuples(value) for key, value in values.items() if key != "kind"}


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(each) for each in value) if isinstance(value, list | tuple) else value
