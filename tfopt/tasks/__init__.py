"""Tasks: labels, loss, outputs, metrics, and whether responses are logits or probabilities."""

from tfopt.tasks.classification import Classification
from tfopt.tasks.forecasting import Forecasting
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.reconstruction import Reconstruction, anomaly_scores
from tfopt.tasks.regression import Regression
from tfopt.tasks.segmentation import Segmentation
from tfopt.tasks.several import Several
from tfopt.tasks.table import TASKS, TaskName, task_named, task_of, task_of_responses
from tfopt.tasks.task import LabelForm, Task

__all__ = [
    "TASKS",
    "Classification",
    "Forecasting",
    "LabelForm",
    "Multilabel",
    "Reconstruction",
    "Regression",
    "Segmentation",
    "Several",
    "Task",
    "TaskName",
    "anomaly_scores",
    "task_named",
    "task_of",
    "task_of_responses",
]
