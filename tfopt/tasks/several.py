"""Several outputs, each with its own task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tfopt.tasks.metrics import Metric
from tfopt.tasks.task import Samples, Task


@dataclass(frozen=True)
class Several(Task):
    """Each output of a model has a separate task and separate labels.

    Attributes:
        tasks: by output, in the order of the model's outputs.
    """

    tasks: Mapping[str, Task] = field(default_factory=dict)

    kind = "several"
    activation = "linear"
    formulas: ClassVar[Mapping[str, Metric]] = {}
    keras_metric = "loss"
    has_probabilities = False
    smaller_is_better = True

    @override
    def by_task(self) -> Mapping[str, Task]:
        return self.tasks

    @override
    def by_output(self, values: Any) -> dict[str, Any]:
        """Return `values`, a list in the order of the outputs or a dict, by output."""
        if isinstance(values, Mapping):
            return {name: values[name] for name in self.tasks}
        return dict(zip(self.tasks, values, strict=True))

    @override
    def loss(self, *, logits: Any, outputs: int | None = None) -> Any:
        """Raise `NotImplementedError`: each output has a task, whose loss depends on its width."""
        raise NotImplementedError

    @override
    def measured(self, predictions: Any, samples: Samples, *, logits: Any = False) -> dict[str, float]:
        """Return the metrics of all outputs, as "output_metric"."""
        found, labels = self.by_output(predictions), samples.y()
        how = logits if isinstance(logits, Mapping) else dict.fromkeys(self.tasks, logits)
        return {
            f"{name}_{metric}": value
            for name, task in self.tasks.items()
            if task.labels != "none"
            for metric, value in task.metrics(found[name], labels[name], logits=how[name]).items()
        }

    @override
    def groups(self, labels: Any) -> np.ndarray:
        """Return the classes of the first output whose samples have one; 0 if there is none."""
        known = [task.groups(labels[name]) for name, task in self.tasks.items() if task.has_classes]
        return known[0] if known else np.zeros(len(next(iter(labels.values()))), np.int32)
