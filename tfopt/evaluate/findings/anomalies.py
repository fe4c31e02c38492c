"""How well a file tells normal samples from anomalies, and from which score on a sample should count as one."""

import numpy as np

from tfopt.evaluate.findings.types import AnomalyScores

BINS = 40
FALSE_ALARMS = 0.01
"""Share of normal validation samples that may be above the threshold."""


def anomaly_findings(scores: np.ndarray, anomalous: np.ndarray, validation: np.ndarray) -> AnomalyScores | None:
    """Return the distribution of the scores of test samples, and a threshold from validation samples alone.

    Args:
        scores: of test samples, float64 (N,), as `anomaly_scores` gives them.
        anomalous: which of them are anomalies, bool (N,).
        validation: scores of normal samples, (M,).

    Returns:
        None if a score is not finite.
    """
    if not (np.isfinite(scores).all() and np.isfinite(validation).all()):
        return None
    edges = _edges(scores)
    threshold = float(np.quantile(validation, 1 - FALSE_ALARMS))
    normal, strange = scores[~anomalous], scores[anomalous]
    return AnomalyScores(
        edges=edges.tolist(),
        normal=np.histogram(normal, edges)[0].tolist(),
        anomalous=np.histogram(strange, edges)[0].tolist(),
        threshold=threshold,
        false_alarms=_share_above(threshold, normal),
        caught=_share_above(threshold, strange),
    )


def _edges(scores: np.ndarray) -> np.ndarray:
    """Return bins of equal ratio: errors of anomalies are often a hundred times those of normal samples."""
    low, high = float(scores.min()), float(scores.max())
    if low > 0 and high > low:
        edges = np.geomspace(low, high, BINS + 1)
        edges[0], edges[-1] = low, high  # as powers they may miss the ends by a rounding
        return edges
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _share_above(threshold: float, scores: np.ndarray) -> float | None:
    return float((scores > threshold).mean()) if len(scores) else None
