"""What estimators of scikit-learn answer: probabilities, logits or values, a column for each output of a model."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.errors import ModelError

HALVES = np.array([-0.5, 0.5])
"""The factors by which one decision d between two classes becomes two logits, -d / 2 and d / 2."""
_SHAPE = "decision_function_shape"


def answering(estimator: Any) -> Any:
    """Return a fitted estimator with a column for each class: the best one of a search, and an SVC not in pairs.

    Raises:
        ModelError: its answers stand for no classes and no values, or only for classes without scores.
    """
    chosen = getattr(estimator, "best_estimator_", estimator)
    what = type(last_step(chosen)).__name__
    if not hasattr(chosen, "classes_"):
        _require_values(chosen, what)
        return chosen
    if not hasattr(chosen, "predict_proba") and not hasattr(chosen, "decision_function"):
        raise ModelError(
            f"A {what} answers with classes only, which say nothing about the others; expected predict_proba or "
            'decision_function. Fit one that has either, such as VotingClassifier(voting="soft") or '
            "CalibratedClassifierCV(...)."
        )
    pairs = [name for name, value in chosen.get_params().items() if name.endswith(_SHAPE) and value == "ovo"]
    return copy.deepcopy(chosen).set_params(**dict.fromkeys(pairs, "ovr")) if pairs else chosen


def _require_values(estimator: Any, what: str) -> None:
    last = last_step(estimator)
    if hasattr(estimator, "decision_function"):
        raise ModelError(
            f"A {what} tells outliers from other samples, and has no classes to teach. Pass a function that answers as "
            "the student does, such as lambda x: -estimator.decision_function(x)[:, None] for a value that is larger "
            "for outliers."
        )
    if hasattr(estimator, "predict_proba") or hasattr(last, "labels_"):
        raise ModelError(
            f"A {what} numbers groups that it found, which are not the classes of a student. Pass a classifier or a "
            "regressor."
        )


def outputs_of(estimator: Any, x: np.ndarray) -> np.ndarray:
    """Return what an estimator from `answering` gives for rows: probabilities, else logits, else values.

    Args:
        estimator: a classifier, also of several labels that are 0 or 1, or a regressor.
        x: (n, features).

    Returns:
        float64 (n, outputs); of several labels the probability of 1, or its logit.

    Raises:
        ModelError: there is no column for each class.
    """
    if not hasattr(estimator, "classes_"):
        return values_of(estimator, x)
    made = probabilities_of(estimator, x) if hasattr(estimator, "predict_proba") else logits_of(estimator, x)
    if made.shape[1] != (expected := len(estimator.classes_)):
        raise ModelError(
            f"A {type(last_step(estimator)).__name__} gives {made.shape[1]} columns for {expected} classes; expected "
            "one for each. Pass a function of a batch that returns these."
        )
    return made


def values_of(estimator: Any, x: np.ndarray) -> np.ndarray:
    """Return the values of a regressor, (n, outputs)."""
    values = np.asarray(estimator.predict(x))
    return values if values.ndim > 1 else values[:, None]


def logits_of(estimator: Any, x: np.ndarray) -> np.ndarray:
    """Return the decisions of a classifier, (n, classes) or (n, labels); of two classes -d / 2 and d / 2."""
    decisions = np.asarray(estimator.decision_function(x))
    if isinstance(estimator.classes_, list):
        _require_yes_or_no(estimator)
    return decisions if decisions.ndim > 1 else decisions[:, None] * HALVES


def probabilities_of(estimator: Any, x: np.ndarray) -> np.ndarray:
    """Return the probabilities of a classifier: (n, classes), or (n, labels) that each of several labels is 1."""
    found = estimator.predict_proba(x)
    if not isinstance(estimator.classes_, list):
        return np.asarray(found)
    _require_yes_or_no(estimator)
    if not isinstance(found, list):
        return np.asarray(found)
    columns = zip(found, estimator.classes_, strict=True)
    return np.stack([made @ (np.asarray(classes) == 1) for made, classes in columns], axis=1)


def _require_yes_or_no(estimator: Any) -> None:
    """Raise `ModelError` unless each of several labels is 0 or 1."""
    if all(np.isin(classes, (0, 1)).all() for classes in estimator.classes_):
        return
    listed = "; ".join(_listed(classes) for classes in estimator.classes_)
    raise ModelError(
        f"A {type(last_step(estimator)).__name__} answers for {len(estimator.classes_)} labels with the classes "
        f"{listed}; a model has one output for each label, for 0 or 1. Fit an estimator for each label, and teach a "
        "student of each."
    )


def class_names(estimator: Any) -> tuple[str, ...] | None:
    """Return the classes in the order of the columns; None for values, labels, and the class numbers 0, 1, 2, ..."""
    classes = getattr(estimator, "classes_", None)
    if classes is None or isinstance(classes, list) or np.array_equal(classes, np.arange(len(classes))):
        return None
    return tuple(_names(classes))


def last_step(estimator: Any) -> Any:
    """Return the estimator at the end of a `Pipeline`; any other as it is."""
    steps = getattr(estimator, "steps", None)
    return steps[-1][1] if steps else estimator


def _listed(classes: Sequence[Any]) -> str:
    return ", ".join(_names(classes))


def _names(classes: Sequence[Any]) -> list[str]:
    """Return classes as texts, whole numbers without a point."""
    return [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in classes]
