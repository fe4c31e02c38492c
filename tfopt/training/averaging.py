"""The exponential moving average of the weights of a training."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras


def averaged_weights(momentum: float) -> Any:
    """Return a tf_keras callback that validates with, and in the end leaves, the average of the weights.

    The average moves by 1 - min(momentum, (1 + t) / (10 + t)) toward the trained weights in step t, as that of
    `tf.train.ExponentialMovingAverage`: short trainings are averaged over their last tenth. Weights that are zero
    throughout stay zero. Training itself goes on from the trained weights.

    Args:
        momentum: in (0, 1), e.g. 0.99 for the last hundred steps or so.
    """
    return _callback_class()(momentum)


@functools.cache  # `fit` adds the callbacks of a stage unless it has one of the same class
def _callback_class() -> Any:
    import tensorflow as tf

    class AveragedWeights(tf_keras().callbacks.Callback):  # type: ignore[misc]
        _supports_tf_logs = True  # see `EpochLines`

        def __init__(self, momentum: float) -> None:
            super().__init__()
            self._momentum = momentum

        def on_train_begin(self, logs: Any = None) -> None:
            model: Any = self.model
            self._weights = list(getattr(model, "student", model).trainable_variables)
            self._averages = [tf.Variable(weight, trainable=False) for weight in self._weights]
            self._trained: list[Any] | None = None  # while the model has the averages
            self._steps = tf.Variable(0.0)

            def update() -> None:
                self._steps.assign_add(1.0)
                rate = 1 - tf.minimum(self._momentum, (1 + self._steps) / (10 + self._steps))
                for average, weight in zip(self._averages, self._weights, strict=True):
                    average.assign_add(tf.cast(rate, weight.dtype) * (weight - average))

            self._update = tf.function(update)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._update()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if self._trained is not None:
                self._assign(self._trained)
                self._trained = None

        def on_test_begin(self, logs: Any = None) -> None:
            if self._trained is None:
                self._trained = [weight.numpy() for weight in self._weights]
                self._assign(self._averages)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.on_test_begin()  # for a fit without validation

        def get_state(self) -> dict[str, np.ndarray]:
            state = {"steps": self._steps.numpy()}
            for name, values in (("average", self._averages), ("trained", self._trained or ())):
                state |= {f"{name}_{number}": np.asarray(value) for number, value in enumerate(values)}
            return state

        def set_state(self, state: Mapping[str, np.ndarray]) -> None:
            self._steps.assign(state["steps"])
            for number, average in enumerate(self._averages):
                average.assign(state[f"average_{number}"])
            if "trained_0" in state:
                self._trained = [state[f"trained_{number}"] for number in range(len(self._weights))]

        def _assign(self, values: list[Any]) -> None:
            for weight, value in zip(self._weights, values, strict=True):
                weight.assign(value)

    return AveragedWeights
