"""Tasks: labels, loss, outputs, metrics, and whether responses are logits or probabilities."""

from tfopt.tasks.classification import Classification
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.regression import Regression
from tfopt.tasks.segmentation import Segmentation
from tfopt.tasks.table import TASKS, TaskName, task_named, task_of, task_of_responses
from tfopt.tasks.task import LabelForm, Task

__all__ = [
    "TASKS",
    "Classification",
    "LabelForm",
    "Multilabel",
    "Regression",
    "Segmentation",
    "Task",
    "TaskName",
    "task_named",
    "task_of",
    "task_of_responses",
]
