"""How a stage is trained: the loss that fits, the optimizer, and the augmentation the model can stand."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.base.progress import Progress
from tfopt.base.weight_statistics import accuracy
from tfopt.data import Augmentation, Dataset
from tfopt.errors import RecipeError
from tfopt.training.layer_rates import as_remembered
from tfopt.training.schedules import scheduled
from tfopt.transfer.head import loss_for

if TYPE_CHECKING:
    from tfopt.run.recipe import Training

# An augmentation is left out when it costs the untouched model more than this share of its right answers.
AUGMENTATION_MAY_COST = 0.1
PROBE = 1000


def train(
    learner: Any,
    batches: Any,
    data: Dataset,
    *,
    loss: Any,
    training: "Training",
    epochs: int,
    progress: Progress,
    label: str,
    learning_rate: float | None = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, list[float]]:
    """Compile `learner` (tf_keras) and fit it on `batches`, the training part of `data`, with a line for each epoch.

    `learning_rate` stands in for that of `training`; `label` is what the lines begin with. Returns what `fit`
    recorded. Raises `RecipeError` where the loss is not finite.
    """
    optimizer = make_optimizer(
        training, learning_rate or training.learning_rate, epochs * data.steps(training.batch_size)
    )
    learner.compile(
        optimizer=as_remembered(optimizer, getattr(learner, "student", learner)),
        loss=loss,
        metrics=["accuracy"] if data.task != "regression" else ["mae"],
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
        lines.stop()  # tf_keras tells its callbacks nothing of an interruption
    recorded: dict[str, list[float]] = history.history
    return recorded


def choose_loss(model: Any, training: "Training", data: Dataset) -> Any:
    """The loss to train `model` (tf_keras) with: the recipe's, else the compiled one, else what fits the labels.

    Raises `RecipeError` for a loss name that tf_keras does not know, or one that does not fit the labels.
    """
    if training.loss is not None:
        try:
            return tf_keras().losses.get(training.loss)
        except ValueError as error:
            raise RecipeError(f"Unknown loss {training.loss!r}. Give the name of a tf_keras loss.") from error
    if bridge.is_compiled(model) and model.loss is not None and _fits_labels(model.loss, data):
        return model.loss
    return _loss_for_labels(model, data)


def _loss_for_labels(model: Any, data: Dataset) -> Any:
    logits = data.task != "regression" and not _gives_probabilities(model, data)
    if data.task == "classification" and model.output_shape[-1] == 1:
        return tf_keras().losses.BinaryCrossentropy(from_logits=logits)
    return loss_for(data, logits=logits)


def _fits_labels(loss: Any, data: Dataset) -> bool:
    """False for a crossentropy that is right but for the encoding of the labels: the twin for it is taken.

    Raises `RecipeError` where no twin computes the same.
    """
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    family = name.lower().replace("_", "")
    if "categoricalcrossentropy" not in family:
        return True
    if family.startswith("sparse") == (data.labels == "sparse"):
        return True
    if getattr(loss, "_fn_kwargs", {}).get("label_smoothing"):
        raise RecipeError(
            f"The model was compiled with {name} and label smoothing, which needs one-hot labels; the data has "
            f"{data.labels} labels. Give one-hot labels, or the recipe a Training(loss=...)."
        )
    return False


def _gives_probabilities(model: Any, data: Dataset) -> bool:
    outputs = model(data.validation.x(slice(0, 64)), training=False).numpy()
    inside = bool(np.all((outputs >= 0) & (outputs <= 1)))
    if data.task == "multilabel" or outputs.shape[-1] == 1:
        return inside
    return inside and bool(np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def make_optimizer(training: "Training", learning_rate: float, steps: int) -> Any:
    """A new tf_keras optimizer by the recipe. Raises `RecipeError` for a name that tf_keras does not know."""
    optimizers = tf_keras().optimizers
    rate = scheduled(tf_keras(), learning_rate, steps, training.schedule, training.warm_up)
    # Not optimizers.get: with a learning rate it gives the old optimizers, without AdamW, Lion and others.
    known = {name.lower(): kind for name, kind in vars(optimizers).items() if isinstance(kind, type)}
    known.pop("optimizer")  # the base of all
    if training.optimizer.lower() not in known:
        raise RecipeError(f"Unknown optimizer {training.optimizer!r}. Known: {', '.join(sorted(known))}.")
    return known[training.optimizer.lower()](learning_rate=rate, jit_compile=False)  # XLA is slow on a CPU


def stop_at_nan(label: str) -> Any:
    """A tf_keras callback that raises `RecipeError` at the first batch whose loss is NaN or infinite."""

    class StopAtNaN(tf_keras().callbacks.Callback):  # type: ignore[misc]
        _supports_tf_logs = True  # see `EpochLines`

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = float((logs or {}).get("loss", 0.0))
            if not math.isfinite(loss):
                raise RecipeError(
                    f"{label}: the loss is {loss} after batch {batch + 1}, so nothing more can be learnt. "
                    "Lower the learning rate, or look for extreme values in the data."
                )

    return StopAtNaN()


def choose_augmentation(
    judge: Callable[[np.ndarray], np.ndarray] | None,
    training: "Training",
    data: Dataset,
    *,
    who: str = "the untouched model",
) -> tuple[Augmentation | None, list[str]]:
    """The recipe's augmentation without what `judge` cannot stand, and what to say about that.

    A mirrored digit is another digit. So each transformation is tried on the validation images first: it is
    left out when `judge`, which gives scores (n, classes) for inputs and is called `who`, then loses more than a
    tenth of its accuracy, and where there is no judge.
    """
    wanted: dict[str, Any] = {"horizontal_flip": training.horizontal_flip, "shift": training.shift}
    wanted = {name: value for name, value in wanted.items() if value}
    if not wanted:
        return None, []
    if len(data.input_shape) != 3 or data.task != "classification":
        return None, [f"no augmentation ({', '.join(wanted)}): it is for image classification only"]
    if judge is None:
        return None, [f"no augmentation ({', '.join(wanted)}): no model can tell what is recognisable then"]
    probe = data.validation.spread(PROBE)
    x, y = data.validation.x(probe), data.validation.y(probe)
    before = accuracy(judge(x), y)
    kept: dict[str, Any] = {}
    notes = []
    for name, value in wanted.items():
        augmentation = Augmentation(**{name: value})
        changed = augmentation.apply(_tensor(x), augmentation.draw(len(x), x.shape[1:], training.seed)).numpy()
        if name == "horizontal_flip":
            changed = x[:, :, ::-1]  # all of them, where training mirrors every other one
        after = accuracy(judge(changed), y)
        verdict = f"{who} has {after:.3f} on images so changed, {before:.3f} on them as they are"
        if after >= (1 - AUGMENTATION_MAY_COST) * before:
            kept[name] = value
            notes.append(f"augmented with {name}={value}: {verdict}")
        else:
            notes.append(f"augmentation {name} left out: {verdict}")
    return (Augmentation(**kept) if kept else None), notes


def _tensor(x: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.constant(x)
