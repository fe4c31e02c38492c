"""The contract of all kinds of transfer: from a source model and the data of a new task to a model for it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from tfopt.base.config import config
from tfopt.base.registry import registered_name
from tfopt.data import Augmentation, Dataset
from tfopt.surgery.restructure import restructure
from tfopt.tasks import task_of

Augment = Augmentation | Callable[[Any], Augmentation | None] | None


@dataclass(frozen=True)
class Transferred:
    """A model for the new task, and what was done to make it.

    Attributes:
        model: a plain model of the source's Keras.
        notes: in words, for a report.
        files: what is to be saved beside the result, by name.
    """

    model: Any
    notes: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


@config
class Transfer(ABC):
    """What a recipe begins with where its model is trained for another task: a frozen config.

    Attributes:
        input_shape: of one sample, where it should be another than the source's.
        seed: of all that is drawn.
    """

    input_shape: tuple[PositiveInt, ...] | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)

    learns: ClassVar[bool] = False
    """True where `transferred` has learnt the new task, so that its model can tell what can still be recognised."""

    @abstractmethod
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        """The model that `transferred` gives, before anything is learnt: quickly there, to see whether it will do."""

    def transferred(
        self,
        source: Any,
        data: Dataset,
        *,
        augment: Augment = None,
        cache: str | Path | None = None,
        progress: Any = None,
        quiet: bool = False,
    ) -> Transferred:
        """A model for the task of `data`, with what can be had of `source`, which is not changed.

        Args:
            source: whatever `feature_extractor` takes.
            data: of the new task.
            augment: of the training images, where several views of them are wanted; or a function that chooses it,
                given a model that has learnt from the images as they are.
            cache: a folder that keeps what takes long.
            progress: a `Progress`.
            quiet: no progress bars.

        Raises:
            ModelError, DataError, RecipeError, OutputError: what cannot be, before long work where it can be known.
        """
        del augment, cache, progress, quiet
        return self.untrained(source, data)

    def fresh(self, model: Any, data: Dataset, *, number: int = 0, **sizes: Any) -> Any:
        """The architecture of `model` for the task of `data`, with weights that depend on seed and `number` alone.

        `sizes` are further arguments of `restructure`.
        """
        task = task_of(data)
        return restructure(
            model,
            input_shape=self.input_shape or data.input_shape,
            classes=task.outputs,
            activation=task.activation,
            seed=self.seed + number,
            **sizes,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; says its class under "kind"."""
        return {"kind": registered_name(type(self)), **dataclasses.asdict(self)}
