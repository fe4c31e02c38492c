"""Estimators of scikit-learn as Keras models: linear ones and perceptrons, also after a StandardScaler."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfopt.errors import ModelError
from tfopt.models.estimator_outputs import HALVES, logits_of, probabilities_of, values_of

_ACTIVATIONS = {
    "identity": "linear",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softmax": "softmax",
    "exp": "exponential",
}
"""Those of MLPClassifier and MLPRegressor, as Keras calls them."""
_ROUNDING = 1e-4
Layer = tuple[np.ndarray, np.ndarray, str]
"""Kernel (inputs, outputs), bias (outputs,), and activation."""


def is_estimator(source: Any) -> bool:
    """Return whether `source` is an estimator of scikit-learn, or follows its conventions."""
    return all(hasattr(source, name) for name in ("get_params", "set_params", "fit", "predict"))


def from_estimator(estimator: Any) -> Any:
    """Return a Keras 3 model that computes what a fitted estimator does.

    `LogisticRegression` and `MLPClassifier` become models of probabilities, one output per class, other classifiers
    models of logits; with two classes these are -d / 2 and d / 2 for the decision d. A regressor becomes a model of
    values. The outputs are compared with those of the estimator.

    Args:
        estimator: a linear model, `LinearSVC`, `MLPClassifier` or `MLPRegressor`, also as the last step of a `Pipeline`
            of `StandardScaler`s.

    Raises:
        ModelError: another kind, an estimator that is not fitted, or one that computes something else.
    """
    import keras

    scalers, last = _steps(estimator)
    if not hasattr(estimator, "n_features_in_"):
        raise ModelError(f"Expected a fitted estimator, got a {type(last).__name__} before fit(); fit it first.")
    dense = _layers(last)
    inputs = outputs = keras.Input((int(estimator.n_features_in_),))
    for scaler in scalers:
        mean, variance = scaler.mean_ if scaler.with_mean else 0.0, scaler.var_ if scaler.with_std else 1.0
        mean, variance = (np.broadcast_to(part, scaler.n_features_in_).copy() for part in (mean, variance))
        variance[variance == 0] = 1  # as StandardScaler does with constants
        outputs = keras.layers.Normalization(mean=mean, variance=variance)(outputs)
    for kernel, bias, activation in dense:
        layer = keras.layers.Dense(len(bias), activation=activation)
        outputs = layer(outputs)
        layer.set_weights([kernel, bias])
    model = keras.Model(inputs, outputs, name=type(last).__name__.lower())
    _check(model, estimator, scalers, last)
    return model


def _check(model: Any, estimator: Any, scalers: list[Any], last: Any) -> None:
    """Raise `ModelError` if the outputs of `model` differ from those of the estimator by more than rounding."""
    x = np.random.default_rng(0).normal(size=(64, int(estimator.n_features_in_)))
    for scaler in reversed(scalers):
        x = scaler.inverse_transform(x)
    made, wanted = np.asarray(model(x.astype(np.float32)), np.float64), _outputs(estimator, last, x.astype(np.float32))
    if not np.allclose(made, wanted, rtol=_ROUNDING, atol=_ROUNDING * max(1, np.abs(wanted).max())):
        raise ModelError(
            f"A {type(last).__name__} computes more than its coefficients say: the Keras model differs by "
            f"{np.abs(made - wanted).max():.3g}. Use the estimator as the teacher of a small Keras model."
        )


def _outputs(estimator: Any, last: Any, x: np.ndarray) -> np.ndarray:
    if not hasattr(last, "classes_"):
        return values_of(estimator, x)
    return probabilities_of(estimator, x) if _has_probabilities(last) else logits_of(estimator, x)


def _steps(estimator: Any) -> tuple[list[Any], Any]:
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)]) if step not in (None, "passthrough")]
    *before, last = steps
    if others := [type(step).__name__ for step in before if type(step).__name__ != "StandardScaler"]:
        raise ModelError(
            f"Expected a Pipeline of StandardScalers and one estimator, got {', '.join(others)}; apply it to the data "
            "first, or use the Pipeline as a teacher."
        )
    return before, last


def _layers(estimator: Any) -> list[Layer]:
    if hasattr(estimator, "coefs_"):
        return _perceptron(estimator)
    if not hasattr(estimator, "coef_") or hasattr(estimator, "support_vectors_"):
        raise ModelError(
            f"Expected a fitted linear model, LinearSVC, MLPClassifier or MLPRegressor, got a "
            f"{type(estimator).__name__}; other estimators can be the teacher of a small Keras model."
        )
    kernel = np.atleast_2d(np.asarray(estimator.coef_, np.float64)).T
    bias = np.broadcast_to(np.asarray(estimator.intercept_, np.float64), kernel.shape[1]).copy()
    if not hasattr(estimator, "classes_"):
        return [(kernel, bias, "linear")]
    return [_of_two_classes(kernel, bias, "softmax" if _has_probabilities(estimator) else "linear")]


def _has_probabilities(estimator: Any) -> bool:
    """Return whether the softmax of the decisions are the probabilities; other classifiers normalize otherwise."""
    return hasattr(estimator, "coefs_") or type(estimator).__name__ in ("LogisticRegression", "LogisticRegressionCV")


def _perceptron(estimator: Any) -> list[Layer]:
    hidden = _ACTIVATIONS[estimator.activation]
    layers: list[Layer] = [
        (kernel, bias, hidden) for kernel, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True)
    ]
    kernel, bias, _ = layers.pop()
    ending = _ACTIVATIONS[estimator.out_activation_]
    if ending == "sigmoid" and len(bias) == 1:
        return [*layers, _of_two_classes(kernel, bias, "softmax")]
    return [*layers, (kernel, bias, ending)]


def _of_two_classes(kernel: np.ndarray, bias: np.ndarray, activation: str) -> Layer:
    """Return a layer with an output for each class: of one decision d, -d / 2 and d / 2."""
    if len(bias) > 1:
        return kernel, bias, activation
    return kernel * HALVES, bias * HALVES, activation
