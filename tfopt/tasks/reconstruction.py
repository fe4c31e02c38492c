"""Reconstruction: the input is the target, and a large error is a sign of an anomaly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tfopt.errors import DataError
from tfopt.tasks.metrics import Metric, area_under_roc, mean_squared_error
from tfopt.tasks.regression import Regression
from tfopt.tasks.task import Samples

AT_ONCE = 256
"""Samples whose errors are computed together."""


@dataclass(frozen=True)
class Reconstruction(Regression):
    """A model, such as an autoencoder, gives its input again.

    Labels are 0 for normal samples and 1 for anomalies; models learn from normal samples only.
    """

    kind = "reconstruction"
    responses = Regression.kind
    formulas: ClassVar[Mapping[str, Metric]] = {"mse": mean_squared_error}
    keras_metric = "mse"

    @override
    def measured(self, predictions: Any, samples: Samples, *, logits: bool = False) -> dict[str, float]:
        """Return the error on normal samples and, if there are anomalies, the area under the ROC of the scores.

        Raises:
            DataError: all samples are anomalies.
        """
        parts = [slice(start, start + AT_ONCE) for start in range(0, len(predictions), AT_ONCE)]
        scores = np.concatenate([anomaly_scores(samples.x(part), predictions[part]) for part in parts])
        anomalous = np.asarray(samples.labels) != 0
        if anomalous.all():
            raise DataError(
                f"Expected normal samples to measure the error of a reconstruction on, got {len(scores):,} anomalies "
                "alone; add normal samples, labeled 0."
            )
        found = {"mse": float(scores[~anomalous].mean())}
        return {**found, "auc": area_under_roc(scores, anomalous)} if anomalous.any() else found

    @override
    def groups(self, labels: np.ndarray) -> np.ndarray:
        return labels


def anomaly_scores(inputs: Any, outputs: Any) -> np.ndarray:
    """Return the mean squared error of each sample's reconstruction: the larger, the less normal the sample is.

    Args:
        inputs: of an autoencoder, (n, ...), as the model gets them.
        outputs: of the model, in the same shape.

    Returns:
        float64 (n,), in squared units of the input.

    Examples:
        >>> normal, strange = np.zeros((1, 4)), np.full((1, 4), 2.0)
        >>> tfopt.anomaly_scores(np.concatenate([normal, strange]), np.zeros((2, 4)))
        array([0., 4.])
    """
    difference = np.asarray(outputs, np.float64) - np.asarray(inputs, np.float64)
    squares: np.ndarray = np.square(difference).reshape(len(difference), -1).mean(axis=1)
    return squares
