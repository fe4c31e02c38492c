"""Train a stage: the loss, the optimizer, the fit, and what is kept of it."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tfopt.base.devices import computing_in
from tfopt.base.keras_compat import tf_keras
from tfopt.base.overrides import Overrides, override_attributes
from tfopt.base.progress import Progress, stopped_at_end
from tfopt.base.words import counted
from tfopt.data import Dataset
from tfopt.data.arrays_by_name import count_samples
from tfopt.data.batches import count_steps, without_weights
from tfopt.errors import DivergedError
from tfopt.tasks import Task, task_of
from tfopt.tasks.scaling import TargetScale
from tfopt.training import batchnorm
from tfopt.training.backup import Backup
from tfopt.training.balanced import balanced_accuracy, samples_beside, score_reader, what_decides
from tfopt.training.best import Score, keep_best
from tfopt.training.class_weights import class_weighted, class_weights
from tfopt.training.distribution import Distribution
from tfopt.training.history import History
from tfopt.training.outputs import LossByOutput
from tfopt.training.own_callbacks import with_callbacks
from tfopt.training.rates import as_remembered, for_target_scale
from tfopt.training.sample_weights import fitted_to_losses
from tfopt.training.schedules import scheduled
from tfopt.training.settings import Training
from tfopt.training.variables import build_metric, build_optimizer

VALIDATION_BATCH = 256
# Moving averages this close to the precise statistics change no prediction worth a validation.
SMALL_SHIFT = 0.02
FROZEN_WARM_UP = 0.2
"""Fraction of the steps with a rising rate where pretrained BatchNormalizations keep their statistics."""
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Trained:
    """What came out of a training.

    Attributes:
        history: of `fit`: a value per epoch by name.
        notes: what was kept, in words.
        course: the same with the epoch that was kept, for the report.
    """

    history: dict[str, list[float]]
    notes: list[str]
    course: History


def _in_precision(train: Callable[P, R]) -> Callable[P, R]:
    """Let `train` compute in the precision of its settings."""

    @functools.wraps(train)
    def in_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        training: Any = kwargs["training"]
        with computing_in(training.precision):
            return train(*args, **kwargs)

    return in_precision


@_in_precision
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
    own_callbacks: Sequence[Any] = (),
    keep_from: int | None = None,
    logits: Any = False,
    backup: Backup | None = None,
    twin: Any = None,
) -> Trained:
    """Compile `learner` (tf_keras), fit it on `batches`, the training part of `data`, and keep what validates best.

    That is the best epoch, and the better statistics of its BatchNormalizations: the moving averages, or those of the
    training data.

    Args:
        learner: the model, or a learner with it as `student`.
        batches: for one epoch.
        data: also gives the validation part.
        loss: on the labels; a `LossByOutput` if there are several outputs.
        training: the settings.
        epochs: passes over `batches`, 1 or more.
        progress: gets a line per epoch.
        label: the prefix of these lines.
        learning_rate: replaces that of `training`.
        callbacks: of the stage.
        own_callbacks: of the caller, of either Keras. They may stop the training once an epoch may be kept.
        keep_from: the number of steps after which an epoch may be kept; 0 may also keep the start. None keeps the last.
        logits: whether the model outputs logits rather than probabilities; by output if there are several.
        backup: keeps the training for a run that is interrupted, and says over what it is spread; `batches` are made
            with its position.
        twin: what is fitted in place of `learner`, see `Distribution.twin`; None for itself.

    Returns:
        The history and notes.

    Raises:
        DivergedError: the loss or the weights are not finite.
    """
    backup, fitted = backup or Backup(), learner if twin is None else twin
    batches = fitted_to_losses(batches, loss, task_of(data), _student(learner))
    spec, read = batches.element_spec[1], score_reader(data, training)
    with backup.distribution.scope():
        history, best = _fit(
            fitted,
            batches,
            data,
            objective=_objective(data, loss, fitted, spec, logits, training),
            training=training,
            epochs=epochs,
            progress=progress,
            label=label,
            learning_rate=learning_rate or training.learning_rate,
            callbacks=callbacks,
            own_callbacks=own_callbacks,
            keep_from=keep_from,
            backup=backup,
            read=read,
        )
        kept = best.restore()
    backup.distribution.hand_over(fitted, learner)
    model = _student(learner)
    _require_finite(model, label)
    if fitted is not learner:
        learner.compile(**_objective(data, loss, learner, spec, logits, training))
    validation = _validation(data, training)

    def score() -> Score:
        return read(learner.evaluate(validation, verbose=0, return_dict=True))

    notes = [kept, *(_better_statistics(model, data, training.seed, score) if best.epoch != 0 else [])]
    metric = task_of(data).keras_metric
    course = History.of(history, metric=metric, kept=best.last if best.epoch is None else best.epoch)
    return Trained(history, [note for note in notes if note], course)


def _fit(
    learner: Any,
    batches: Any,
    data: Dataset,
    *,
    objective: dict[str, Any],
    training: Training,
    epochs: int,
    progress: Progress,
    label: str,
    learning_rate: float,
    callbacks: Sequence[Any],
    own_callbacks: Sequence[Any],
    keep_from: int | None,
    backup: Backup,
    read: Callable[..., Score],
) -> tuple[dict[str, list[float]], Any]:
    """Compile and fit `learner`; return the history and the callback that knows its best epoch."""
    model, per_epoch = _student(learner), data.steps(training.batch_size)
    steps = epochs * per_epoch
    optimizer = as_remembered(make_optimizer(_warmed_up(training, model, len(data.train)), learning_rate, steps), model)
    optimizer = for_target_scale(optimizer, model, *_deviations(data, model))
    if training.precision == "float16":  # its smallest gradients would be zero
        optimizer = tf_keras().mixed_precision.LossScaleOptimizer(optimizer)
    learner.compile(optimizer=build_optimizer(optimizer, learner), **objective)
    arguments = _arguments(batches, data, training, backup.distribution)
    validating = {"x": arguments["validation_data"], "steps": arguments.get("validation_steps")}

    def start() -> Score:
        return read(learner.evaluate(**validating, verbose=0, return_dict=True))

    best = keep_best(
        model,
        what_decides(data, training),
        read,
        first_epoch=epochs if keep_from is None else max(1, min(math.ceil(keep_from / per_epoch), epochs)),
        start=start() if keep_from == 0 else None,
        patience=training.patience,
    )
    holds = steps if keep_from is None else min(keep_from, steps)
    own = with_callbacks(own_callbacks, lambda: int(learner.optimizer.iterations.numpy()) < holds, progress, label)
    lines = progress.callback(label)
    statistics = _statistics_in_training(model, training, len(data.train), steps)
    with override_attributes(statistics), stopped_at_end([lines]):
        history = backup.fit(
            learner,
            epochs=epochs,
            callbacks=[*callbacks, stop_at_nan(label), best, *own, lines],
            label=label,
            verbose=0,
            **arguments,
        )
    return history, best


def _deviations(data: Dataset, model: Any) -> list[float | None]:
    """Return the standard deviation of the targets of each output of `model`, of several values their geometric mean.

    None for outputs that are no values.
    """
    task = task_of(data)
    if data.labels == "none" or (data.outputs is None and len(model.outputs) > 1):
        return [None] * len(model.outputs)
    guides = task.by_output(data.train.guides())
    by_name = {
        name: float(np.exp(np.log(TargetScale.of(guides[name]).deviation).mean())) if one.smaller_is_better else None
        for name, one in task.by_task().items()
    }
    return [by_name.get(name) for name in task.by_output(list(model.outputs))] if data.outputs else [by_name[""]]


def _student(learner: Any) -> Any:
    return getattr(learner, "student", learner)


def _validation(data: Dataset, training: Training, **how: Any) -> Any:
    """Return batches of the validation part, whose samples count alike, or as their classes do in training."""
    batches = without_weights(data.batches("validation", VALIDATION_BATCH, **how))
    return class_weighted(batches, class_weights(training, data))


def _arguments(batches: Any, data: Dataset, training: Training, distribution: Distribution) -> dict[str, Any]:
    """Return the arguments of `fit` about the data."""
    if distribution.strategy is None:
        return {"batches": batches, "validation_data": _validation(data, training)}
    validation = _validation(data, training, position=distribution.position())
    return {
        "batches": distribution.spread(batches),
        "validation_data": distribution.spread(validation),
        "steps_per_epoch": data.steps(training.batch_size),
        "validation_steps": count_steps(len(data.validation), VALIDATION_BATCH),
    }


def _objective(data: Dataset, loss: Any, learner: Any, labels: Any, logits: Any, training: Training) -> dict[str, Any]:
    """Return arguments of `compile`, where `labels` are the specs of a batch; the metrics may have its weights."""
    task, model = task_of(data), _student(learner)
    which = "weighted_metrics" if training.class_weight else "metrics"

    def metric(one: Task, spec: Any, output: Any, from_logits: bool) -> Any:
        return build_metric(one.keras_metric, spec.shape, output.shape, logits=from_logits)

    if not isinstance(loss, LossByOutput):
        beside = [balanced_accuracy(task, logits=logits)] if samples_beside(data, training) else []
        return {"loss": loss, which: [metric(task, labels, model.outputs[0], logits), *beside]}
    outputs = task.by_output(model.outputs)
    metrics = {name: metric(one, labels[name], outputs[name], logits[name]) for name, one in task.by_task().items()}
    return {"loss": dict(loss.losses), "loss_weights": dict(loss.weights), which: metrics}


def _require_finite(model: Any, label: str) -> None:
    """Raise DivergedError for NaN or infinity in the weights: the last step may put them there after a finite loss."""
    if all(np.isfinite(weight.numpy()).all() for weight in model.trainable_weights):
        return
    raise DivergedError(
        f"{label}: weights are NaN or infinite after the training. Lower the learning rate, or look for extreme values "
        "in the data."
    )


def _statistics_in_training(model: Any, training: Training, samples: int, steps: int) -> Overrides:
    """Return what makes the BatchNormalizations of `model` work in training as `Training.batchnorm` says."""
    return [*_frozen_statistics(model, training, samples), *batchnorm.fitting_momentum(model, steps)]


def _frozen_statistics(model: Any, training: Training, samples: int) -> Overrides:
    few = training.batchnorm == "auto" and samples < batchnorm.FEW
    return batchnorm.in_inference_mode(model) if few or training.batchnorm == "frozen" else []


def _warmed_up(training: Training, model: Any, samples: int) -> Training:
    """Return `training` with the warm-up that it leaves open: a trained model with frozen statistics needs one.

    Adam's first steps are as large as the rate whatever the gradients are. Nothing rescales what they change, so that
    a few of them can undo the pretraining.
    """
    if training.warm_up is not None or training.schedule == "one_cycle":
        return training
    return replace(training, warm_up=FROZEN_WARM_UP) if _frozen_statistics(model, training, samples) else training


def _better_statistics(model: Any, data: Dataset, seed: int, score: Any) -> list[str]:
    """Keep the BatchNormalization statistics of `model` that validate better, and return a note if there is a choice.

    The alternative to the moving averages are the statistics of the training data.
    """
    norms = batchnorm.updated_norms(model)
    if not norms:
        return []
    averages = batchnorm.statistics_of(norms)
    samples = min(len(data.train), batchnorm.SAMPLES)
    batches = data.batches("train", 128, shuffle=True, seed=seed).take(-(-samples // 128))
    batchnorm.recompute_statistics(model, ((x, count_samples(x)) for x, *_ in batches))
    precise = batchnorm.statistics_of(norms)
    if (shift := batchnorm.statistics_shift(norms, averages, precise)) < SMALL_SHIFT:
        batchnorm.set_statistics(norms, averages)
        return []
    theirs = score()
    batchnorm.set_statistics(norms, averages)
    ours = score()
    compared = (
        f"{ours.metric:.4f}, loss {-ours.negative_loss:.4f}, with moving averages; {theirs.metric:.4f}, loss "
        f"{-theirs.negative_loss:.4f}, with statistics of {counted(samples, 'sample')}"
    )
    if not theirs.better_than(ours):
        return [f"BatchNormalization keeps its moving averages (they are off by {shift:.2f}; validation: {compared})"]
    batchnorm.set_statistics(norms, precise)
    return [
        f"BatchNormalization statistics recomputed (moving averages are off by {shift:.2f}; validation: {compared})"
    ]


def make_optimizer(training: Training, learning_rate: float, steps: int) -> Any:
    """Return a new tf_keras optimizer for the recipe."""
    optimizers = tf_keras().optimizers
    rate = scheduled(tf_keras(), learning_rate, steps, training.schedule, training.warm_up)
    # Not optimizers.get: with a learning rate it returns the old optimizers, without AdamW, Lion and others.
    known = {name.lower(): kind for name, kind in vars(optimizers).items() if isinstance(kind, type)}
    return known[training.optimizer.lower()](learning_rate=rate, jit_compile=False)  # XLA is slow on a CPU


def stop_at_nan(label: str) -> Any:
    """Return a tf_keras callback that raises DivergedError at the first batch whose loss is NaN or infinite."""

    class StopAtNaN(tf_keras().callbacks.Callback):  # type: ignore[misc]
        _supports_tf_logs = True  # see `EpochLines`

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = float((logs or {}).get("loss", 0.0))
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{label}: the loss is {loss} after batch {batch + 1}, so training cannot continue. Lower the "
                    "learning rate, or look for extreme values in the data."
                )

    return StopAtNaN()
