"""Losses and the form of the labels: class numbers, or one value for each output."""

import functools
from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.task import LabelForm


def fits_labels(loss: Any, labels: LabelForm) -> bool:
    """Return False for a crossentropy of Keras that expects another label encoding; `Task.loss` gives the right one.

    A loss of somebody else always counts, whatever its name is.
    """
    if not isinstance(loss, str) and not is_built_in(loss):
        return True
    name = loss if isinstance(loss, str) else _name(loss)
    family = name.lower().replace("_", "")
    if "categoricalcrossentropy" not in family or family.startswith("sparse") == (labels == "sparse"):
        return True
    smooth = hasattr(loss, "get_config") and loss.get_config().get("label_smoothing")
    return bool(smooth)  # the other encoding has no loss that smooths


def compares_with_outputs(loss: Any) -> bool:
    """Return whether `loss` is a built-in Keras loss that expects one label per output, as most do."""
    kind = _kind(loss)
    return kind in _built_in() and not kind.__name__.lower().startswith("sparse")


def is_built_in(loss: Any) -> bool:
    """Return whether `loss`, an object or a function, is of either Keras."""
    return _kind(loss) in _built_in()


def _kind(loss: Any) -> Any:
    """Return the function, or the class, of a loss."""
    loss = getattr(loss, "loss", loss)  # of Keras 3, run by tf_keras
    return loss if hasattr(loss, "__name__") else type(loss)


@functools.cache
def _built_in() -> frozenset[Any]:
    """Return the loss functions and classes of both Keras versions."""
    import keras

    packages = (tf_keras().losses, keras.losses)
    return frozenset(value for package in packages for value in vars(package).values() if callable(value))


def _name(loss: Any) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


@functools.cache
def one_hot_loss() -> Any:
    """Return the class of losses on class numbers that compute another loss on one-hot labels."""
    import tensorflow as tf

    base: Any = tf_keras().losses.Loss

    class OneHotLoss(base):  # type: ignore[misc]
        """Encodes class numbers (batch, ...) or (batch, ..., 1) as one value for each output.

        Two classes of one output become 0 and 1.

        Args:
            loss: a tf_keras loss, or a function of labels and outputs.
        """

        def __init__(self, loss: Any) -> None:
            super().__init__(getattr(loss, "reduction", "auto"), _name(loss))
            self.loss = loss

        def encoded(self, y_true: Any, y_pred: Any) -> Any:
            if len(y_true.shape) == len(y_pred.shape):
                y_true = tf.squeeze(y_true, -1)
            if y_pred.shape[-1] == 1:
                return tf.cast(y_true[..., None], y_pred.dtype)
            return tf.one_hot(tf.cast(y_true, tf.int32), y_pred.shape[-1], dtype=y_pred.dtype)

        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            compute = self.loss if isinstance(self.loss, base) else super().__call__
            return compute(self.encoded(y_true, y_pred), y_pred, sample_weight)

        def call(self, y_true: Any, y_pred: Any) -> Any:
            return self.loss(y_true, y_pred)

    return OneHotLoss


@functools.cache
def last_axis_loss() -> Any:
    """Return the class of losses that compute another loss on class numbers (batch, ..., 1) instead of (batch, ...)."""
    base: Any = one_hot_loss()

    class LastAxisLoss(base):  # type: ignore[misc]
        """Gives labels a last axis of length 1, as masks in files have one."""

        def encoded(self, y_true: Any, y_pred: Any) -> Any:
            del y_pred
            return y_true[..., None]

    return LastAxisLoss


@functools.cache
def class_number_loss() -> Any:
    """Return the class of losses on one-hot labels that compute another loss on class numbers."""
    import tensorflow as tf

    base: Any = one_hot_loss()

    class ClassNumberLoss(base):  # type: ignore[misc]
        """Gives one-hot labels (batch, ..., classes) as class numbers (batch, ...), or (batch, 1) as Keras does."""

        def encoded(self, y_true: Any, y_pred: Any) -> Any:
            del y_pred
            numbers = tf.argmax(y_true, axis=-1, output_type=tf.int32)
            return numbers[:, None] if len(numbers.shape) == 1 else numbers

    return ClassNumberLoss
