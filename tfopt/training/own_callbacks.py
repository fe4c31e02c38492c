"""The caller's callbacks in the training of a stage, whose promise they must not break."""

from collections.abc import Callable, Sequence
from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.bridge import as_tf_keras_callback, keeps_best


def with_callbacks(callbacks: Sequence[Any], waits: Callable[[], bool], progress: Progress, label: str) -> list[Any]:
    """Return tf_keras callbacks that do what `callbacks` do, and train on where they end a training too early.

    Args:
        callbacks: of Keras 3 or tf_keras.
        waits: whether no epoch may be kept yet, since the promise of the stage does not hold.
        progress: gets a note on what ends a training too early.
        label: of the training.

    Raises:
        RecipeError: one is no callback, or works on models of Keras 3 only.
    """
    if not callbacks:
        return []
    own = [as_tf_keras_callback(each, waits if keeps_best(each) else None) for each in callbacks]
    return [*own, _training_on(waits, progress, label)]


def _training_on(waits: Callable[[], bool], progress: Progress, label: str) -> Any:
    class TrainingOn(tf_keras().callbacks.Callback):  # type: ignore[misc]
        _supports_tf_logs = True  # see `EpochLines`
        said = False

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if not self.model.stop_training or not waits():
                return
            self.model.stop_training = False
            if not self.said:
                progress.say(
                    f"note: {label}: a callback would end the training before the stage reaches its target; it goes on"
                )
            self.said = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.on_train_batch_end(0)

    return TrainingOn()
