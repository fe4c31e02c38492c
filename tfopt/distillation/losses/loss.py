"""The contract of all distillation losses, and what they see of a batch."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import NonNegativeFloat

from tfopt.base.config import config
from tfopt.tasks import TaskName

Shape = tuple[int | None, ...]
"""Of one sample's feature, without the batch axis; None where it is free."""


@dataclass(frozen=True)
class LossInputs:
    """The inputs of a loss for one batch, as float32 tensors whatever the precision of the models.

    Attributes:
        student, teacher: (batch, classes) logits; (batch, ...) values in a regression. The teacher's is None where
            it is not asked for its response. Where a model gives probabilities, their logarithms stand here.
        labels: (batch, classes) one-hot or multi-hot, or (batch, ...) values; None for a batch without labels.
        student_features, teacher_features: (batch, ...) by layer name.
        parameters: of the student, (variable as it is, its value when distillation began), for those losses that
            ask for them.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(student=np.zeros((4, 10)), teacher=np.ones((4, 10)), labels=np.eye(10)[:4])
        >>> term = tfopt.losses.Hinton(temperature=2.0)
        >>> term(inputs, ()).shape  # a value for each sample
        TensorShape([4])
    """

    student: Any
    teacher: Any = None
    labels: Any = None
    student_features: Mapping[str, Any] = field(default_factory=dict)
    teacher_features: Mapping[str, Any] = field(default_factory=dict)
    parameters: Sequence[tuple[Any, np.ndarray]] = ()


@config
class Loss(ABC):
    """One term that the student minimizes in addition to the loss on the labels: a frozen config and its formula.

    Attributes:
        weight: factor of the term in the sum.

    Examples:
        >>> @tfopt.extend.config
        ... class Squares(tfopt.extend.Loss):
        ...     task = "classification"
        ...     def __call__(self, loss_inputs, connectors):
        ...         return np.mean(np.sum((loss_inputs.student - loss_inputs.teacher) ** 2, axis=-1)) / 2
        >>> float(Squares()(tfopt.extend.LossInputs(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])), ()))
        2.0
    """

    weight: NonNegativeFloat = 1.0

    label: ClassVar[str] = ""
    """What the term is called in the logs; by default the name of the class in snake case."""
    task: ClassVar[TaskName | None] = None
    """The task whose responses are compared; None if the response is not used."""
    alpha: ClassVar[float] = 1.0
    """Weight that the paper gives the loss on the labels when this term is added."""
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_parameters: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.label:
            cls.label = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (student layer, teacher layer) whose outputs are compared."""
        return ()

    @property
    def hint_phase(self) -> float:
        """The share of the training steps, from the first on, in which this term alone is trained.

        It stops counting after them. 0: it counts throughout, in addition to the others.
        """
        return 0.0

    def connectors(self, layers: Any, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[Any]:
        """Return new Keras layers to train with the student, e.g. to connect different widths.

        Args:
            layers: `keras.layers` or `tf_keras.layers`.
            student: shapes without the batch axis, by layer name.
            teacher: the same of the teacher.

        Raises:
            ModelError: the shapes cannot be compared.
        """
        del layers, student, teacher
        return []

    @abstractmethod
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        """Return the unweighted term: (batch,), one value per sample, or () if it is defined on the whole batch.

        `connectors` are the layers that `connectors` made.
        """
