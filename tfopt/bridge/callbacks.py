"""Callbacks of Keras 3 in the `fit` of a tf_keras model: a tf_keras callback hands every event on to them."""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base import keras_compat
from tfopt.errors import ModelError, RecipeError
from tfopt.graph import keras_internals

_EVENTS = ("begin", "end")
_HOOKS = tuple(
    f"on_{phase}_{event}"
    for phase in ("train", "test", "predict", "epoch", "train_batch", "test_batch", "predict_batch")
    for event in _EVENTS
)
# Those that use what only a model of Keras 3 has, and what to do instead.
_REFUSED = {
    "OrbaxCheckpoint": "use ModelCheckpoint, or BackupAndRestore",
    "SwapEMAWeights": "give the optimizer use_ema=True, with which tf_keras ends on the averaged weights",
}


# Those with a twin in tf_keras, and no state that a caller would read: their settings.
_SETTINGS = {
    "BackupAndRestore": ("backup_dir", "save_freq", "delete_checkpoint"),
    "TensorBoard": (
        *("log_dir", "histogram_freq", "write_graph", "write_images", "write_steps_per_second", "update_freq"),
        *("embeddings_freq", "embeddings_metadata"),
    ),
}


def as_tf_keras_callback(callback: Any, waits: Callable[[], bool] | None = None) -> Any:
    """Return a tf_keras callback that does what `callback` does, of either Keras; its state stays in `callback`.

    Args:
        callback: of either Keras.
        waits: whether the end of an epoch does not count yet; asked at the end of each. None if all count.

    Returns:
        `callback` itself if it is one of tf_keras and does not wait.

    Raises:
        RecipeError: it works on models of Keras 3 only.
    """
    tf_keras = keras_compat.tf_keras()
    of_tf_keras = isinstance(callback, tf_keras.callbacks.Callback)
    if of_tf_keras and waits is None:
        return callback
    if not of_tf_keras:
        import keras

        if not isinstance(callback, keras.callbacks.Callback):
            raise RecipeError(f"Expected callbacks of Keras 3 or tf_keras, got {type(callback).__name__}.")
        name = next((c.__name__ for c in type(callback).__mro__ if c.__name__ in _REFUSED), None)
        if name is not None:
            raise RecipeError(
                f"{name} works on models of Keras 3 only, and `apply` returns a tf_keras one: {_REFUSED[name]}."
            )
        settings = _SETTINGS.get(type(callback).__name__)
        if settings and type(callback) is getattr(keras.callbacks, type(callback).__name__):
            arguments = {name: getattr(callback, name) for name in settings}
            if isinstance(callback, keras.callbacks.TensorBoard):
                arguments["profile_batch"] = keras_internals.profiled_batches(callback)
            return getattr(tf_keras.callbacks, type(callback).__name__)(**arguments)
    return _delegate_class()(callback, waits)


@functools.cache
def _delegate_class() -> Any:
    base: Any = keras_compat.tf_keras().callbacks.Callback

    class Delegate(base):  # type: ignore[misc]
        """Hands every event on to another callback."""

        def __init__(self, callback: Any, waits: Callable[[], bool] | None) -> None:
            super().__init__()
            self.callback, self._waits = callback, waits

        def set_params(self, params: Any) -> None:
            self.params = params
            self.callback.set_params(params)

        def set_model(self, model: Any) -> None:
            self.model = model
            self._asked(self.callback.set_model, model)

        def hand_on(self, hook: str, *args: Any) -> None:
            ends = hook in ("on_epoch_end", "on_train_batch_end")
            if ends and self._waits is not None and self._waits():
                return
            if ends and keras_internals.monitors_by_itself(self.callback):
                self.callback.mode = direction(self.callback.monitor, self.model)
            self._asked(getattr(self.callback, hook), *args)

        def _asked(self, function: Any, *args: Any) -> None:
            try:
                function(*args)
            except AttributeError as error:
                owner = type(getattr(error, "obj", None)).__module__
                if not owner.startswith("tf_keras."):
                    raise
                raise ModelError(
                    f"The callback {type(self.callback).__name__} uses what only Keras 3 has ({error}), and `apply` "
                    "returns a tf_keras model. Use the callback of the same name of tf_keras, if there is one."
                ) from error

        def _implements_train_batch_hooks(self) -> bool:
            return self._overrides("train")

        def _implements_test_batch_hooks(self) -> bool:
            return self._overrides("test")

        def _implements_predict_batch_hooks(self) -> bool:
            return self._overrides("predict")

        def _overrides(self, phase: str) -> bool:
            hooks = [f"on_{phase}_batch_{event}" for event in _EVENTS]
            hooks += [f"on_batch_{event}" for event in _EVENTS] if phase == "train" else []
            return any(not keras_internals.is_default(getattr(self.callback, hook)) for hook in hooks)

    for hook in _HOOKS:
        setattr(Delegate, hook, functools.partialmethod(Delegate.hand_on, hook))
    return Delegate


def direction(monitor: str, model: Any) -> str:
    """Return "min" or "max" for a quantity that is monitored during the training of a tf_keras model.

    A callback of Keras 3 asks the metrics of the model, which tf_keras does not tell.

    Raises:
        RecipeError: nobody knows.
    """
    name = monitor.removeprefix("val_")
    for output in model.output_names or ():
        name = name.removeprefix(f"{output}_")
    if name.endswith("loss"):
        return "min"
    known = [metric for metric in model.metrics if metric.name in (name, monitor.removeprefix("val_"))]
    for named in (*known, name, *(type(metric).__name__ for metric in known)):
        if found := keras_internals.metric_direction(getattr(named, "carried", named)):
            return found
    raise RecipeError(f'Nobody knows whether more of \'{monitor}\' is better. Give the callback mode="max" or "min".')
