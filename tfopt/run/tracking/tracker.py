"""The contract of a tracker: it opens a run, logs numbers, and closes the run with its files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is known of a run when it begins.

    Attributes:
        name: of the recipe.
        params: the settings of the recipe, by place.
        versions: of the packages, by name.
    """

    name: str
    params: Mapping[str, str]
    versions: Mapping[str, str]


class Tracker(ABC):
    """Where the numbers of a run go.

    Args:
        where: a folder, address or project, in the terms of the tracker; None for its default.
    """

    title: str
    """Its name in messages."""

    def __init__(self, where: str | None = None) -> None:
        self.where = where

    @abstractmethod
    def begin(self, start: Start) -> None:
        """Open a run."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of one step: an epoch, counted through all stages, or for names with "file/" a row."""

    @abstractmethod
    def end(self, files: Mapping[str, bytes], *, ok: bool) -> None:
        """Close the run with its files, by name; there are none if it failed."""

    def show_model(self, model: Any) -> None:
        """Show the graph of a flat tf_keras model; most trackers have no place for it."""
