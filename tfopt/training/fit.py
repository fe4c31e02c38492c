"""Train a stage: the loss, the optimizer, and the fit."""

import math
from collections.abc import Sequence
from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.data import Dataset
from tfopt.errors import RecipeError
from tfopt.tasks import task_of
from tfopt.training.rates import as_remembered
from tfopt.training.schedules import scheduled
from tfopt.training.settings import Training
from tfopt.training.variables import build_metric, build_optimizer


def train(
    learner: Any,
    batches: Any,
    data: Dataset,
    *,
    loss: Any,
    training: Training,
    epochs: int,
    progress: Progress,
    label: str,
    learning_rate: float | None = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, list[float]]:
    """Compile `learner` (tf_keras) and fit it on `batches`, the training part of `data`, with a line per epoch.

    `learning_rate` replaces that of `training`; `label` is the prefix of the lines.

    Returns:
        The history of `fit`.

    Raises:
        RecipeError: the loss is not finite.
    """
    optimizer = make_optimizer(
        training, learning_rate or training.learning_rate, epochs * data.steps(training.batch_size)
    )
    student = getattr(learner, "student", learner)
    metric = build_metric(task_of(data).keras_metric, batches.element_spec[1].shape, student.outputs[0].shape)
    learner.compile(
        optimizer=build_optimizer(as_remembered(optimizer, student), learner),
        loss=loss,
        metrics=[metric],
    )
    lines = progress.callback(label)
    try:
        history = learner.fit(
            batches,
            epochs=epochs,
            validation_data=data.batches("validation", 256),
            callbacks=[*callbacks, stop_at_nan(label), lines],
            verbose=0,
        )
    finally:
        lines.stop()  # tf_keras does not notify its callbacks of an interruption
    recorded: dict[str, list[float]] = history.history
    return recorded


def make_optimizer(training: Training, learning_rate: float, steps: int) -> Any:
    """Return a new tf_keras optimizer for the recipe. Raise RecipeError for a name that tf_keras does not know."""
    optimizers = tf_keras().optimizers
    rate = scheduled(tf_keras(), learning_rate, steps, training.schedule, training.warm_up)
    # Not optimizers.get: with a learning rate it returns the old optimizers, without AdamW, Lion and others.
    known = {name.lower(): kind for name, kind in vars(optimizers).items() if isinstance(kind, type)}
    known.pop("optimizer")  # the base class of all
    if training.optimizer.lower() not in known:
        raise RecipeError(f"Unknown optimizer {training.optimizer!r}. Known: {', '.join(sorted(known))}.")
    return known[training.optimizer.lower()](learning_rate=rate, jit_compile=False)  # XLA is slow on a CPU


def stop_at_nan(label: str) -> Any:
    """Return a tf_keras callback that raises RecipeError at the first batch whose loss is NaN or infinite."""

    class StopAtNaN(tf_keras().callbacks.Callback):  # type: ignore[misc]
        _supports_tf_logs = True  # see `EpochLines`

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = float((logs or {}).get("loss", 0.0))
            if not math.isfinite(loss):
                raise RecipeError(
                    f"{label}: the loss is {loss} after batch {batch + 1}, so training cannot continue. Lower the "
                    "learning rate, or look for extreme values in the data."
                )

    return StopAtNaN()
