"""The interface of all kinds of transfer: from a source model and the data of a new task to a model for it."""

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
from tfopt.surgery.output_scale import predict_values
from tfopt.surgery.restructure import restructure
from tfopt.tasks import task_of
from tfopt.tasks.scaling import TargetScale
from tfopt.training.settings import SEEDS

Augment = Augmentation | Callable[[Any], Augmentation | None] | None


@dataclass(frozen=True)
class Transferred:
    """A model for the new task, and how it was made.

    Attributes:
        model: a plain model of the source's Keras.
        notes: in words, for a report.
        files: files to save next to the result, by name.

    Examples:
        >>> made = tfopt.extend.Transferred(model, notes=("unchanged",))
        >>> made.notes, made.files
        (('unchanged',), {})
    """

    model: Any
    notes: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


@config
class Transfer(ABC):
    """The first step of a recipe that trains its model for another task: a frozen config.

    Attributes:
        input_shape: of one sample, if it differs from the source's.
        seed: of everything random.

    Examples:
        >>> @tfopt.extend.config
        ... class Fresh(tfopt.extend.Transfer):
        ...     def untrained(self, source, data):
        ...         return tfopt.extend.Transferred(self.fresh(source, data), notes=("weights redrawn",))
        >>> Fresh(seed=3).transferred(model, data).model.output_shape
        (None, 10)
    """

    input_shape: tuple[PositiveInt, ...] | None = None
    seed: int = Field(default=0, ge=0, lt=SEEDS)

    learns: ClassVar[bool] = False
    """True if `transferred` has trained on the new task, so that its model can judge augmentations."""

    resumes: ClassVar[bool] = False
    """True if `transferred` keeps parts that it has finished in its `cache`, and goes on after them."""

    @abstractmethod
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        """Return the model of `transferred` for `source` and `data` before training: a fast check that it works."""

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
        """Return a model for the task of `data`, with what `source`, which is not changed, can provide.

        Args:
            source: anything `feature_extractor` accepts.
            data: of the new task.
            augment: of the training images, if several views are requested; or a function that chooses it, given a
                model trained on the unchanged images.
            cache: a folder that keeps expensive results.
            progress: a `Progress`.
            quiet: no progress bars.

        Returns:
            The model, notes and files.

        Raises:
            ModelError, DataError, RecipeError, OutputError: what cannot work, before expensive steps if possible.
        """
        del augment, cache, progress, quiet
        return self.untrained(source, data)

    def fresh(self, model: Any, data: Dataset, *, number: int = 0, **sizes: Any) -> Any:
        """Return the architecture of `model` for the task of `data`, with weights drawn from seed and `number`.

        `sizes` are further arguments of `restructure`. A model for values begins with outputs of the mean and deviation
        of the training targets, if it ends in one linear layer.
        """
        task = task_of(data)
        fresh = restructure(
            model,
            input_shape=self.input_shape or data.input_shape,
            classes=task.outputs,
            activation=task.activation,
            seed=self.seed + number,
            **sizes,
        )
        if not task.has_probabilities:
            predict_values(fresh, TargetScale.of(data.train.labels))
        return fresh

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict with the class name under "kind"."""
        return {"kind": registered_name(type(self)), **dataclasses.asdict(self)}
