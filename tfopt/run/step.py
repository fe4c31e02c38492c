"""One stage of a run: choose its bits, train it, strip it and evaluate it."""

import gc
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from tfopt.base.devices import device_name
from tfopt.base.files import is_full
from tfopt.base.keras_compat import tf_keras
from tfopt.data import Dataset
from tfopt.data.mixup import mixed
from tfopt.distillation.self_taught.mean_teacher_session import MeanTeacherSession
from tfopt.errors import DivergedError, RecipeError, TfoptError
from tfopt.run.calibrated import keep_calibrated, restore_calibrated
from tfopt.run.guard import Guard, predictor
from tfopt.run.judge import Evaluation
from tfopt.run.prepare import CALIBRATION_SAMPLES, Prepared
from tfopt.run.run_folder import Attempt
from tfopt.search.bits import choose_bits
from tfopt.search.widths import choose_widths
from tfopt.stages import PruneChannels, Stage
from tfopt.tflite.write.export import build_file
from tfopt.training.backup import Backup
from tfopt.training.class_weights import class_weighted, class_weights
from tfopt.training.fit import train
from tfopt.training.history import History
from tfopt.training.rate_finder import find_learning_rate
from tfopt.training.settings import SEEDS


@dataclass(frozen=True)
class Step:
    """A stage that has been carried out.

    Attributes:
        stage: with its measured choices made, such as bits and a learning rate.
        trained: what `apply` returned, trained.
        flat_model: the same without wrappers.
        notes: for the report.
        evaluation: on validation data.
        history: of its training; None without one.
    """

    stage: Stage
    trained: Any
    flat_model: Any
    notes: list[str]
    evaluation: Evaluation
    history: History | None = None


class StageRunner:
    """Carries out stages of a prepared run.

    Args:
        prepared: the run.
        guard: evaluates the results.
    """

    def __init__(self, prepared: Prepared, guard: Guard) -> None:
        self._run, self._guard = prepared, guard
        self._training = prepared.recipe.training  # with the batch size that fits into memory
        self._seconds_before = 0.0

    def seconds_before(self) -> float:
        """Return the seconds that interrupted runs have trained what was carried out since the last call."""
        seconds, self._seconds_before = self._seconds_before, 0.0
        return seconds

    @property
    def _steps_per_epoch(self) -> int:
        return self._run.data.steps(self._training.batch_size)

    def step(self, stage: Stage, position: int, flat_model: Any, keep: frozenset[str]) -> Step:
        """Return the result of `stage`, the one at `position` of the recipe, on `flat_model`.

        If memory runs out and the recipe allows it, this and all later stages have smaller batches.

        Args:
            stage: to carry out.
            position: decides the seed.
            flat_model: the result of the stages before; not changed.
            keep: what they established.

        Raises:
            PromiseError: the training did not reach the stage's target.
            DivergedError: the loss, the weights or the outputs are not finite.
            RecipeError: memory runs out.
        """
        import tensorflow as tf

        if self._run.checkpoint:
            kept = self._run.checkpoint.batch_size(position, self._training.batch_size)
            self._training = replace(self._training, batch_size=kept)
        while True:
            try:
                step = self._tried(stage, position, flat_model, keep)
                return replace(step, notes=[*self._lowered(stage), *step.notes])
            except tf.errors.ResourceExhaustedError as error:
                if is_full(error):  # TensorFlow raises the same error for a full disk
                    raise
                self._lower_batch(stage, position, error)
            gc.collect()  # what the training held; only now does the error no longer hold it

    def _lower_batch(self, stage: Stage, position: int, error: Exception) -> None:
        """Lower the batch size by half, as memory ran out in `stage`. Raise RecipeError if the recipe forbids it."""
        name, size = type(stage).__name__, self._training.batch_size
        if not self._training.lower_batch_on_oom or size < 2:
            raise RecipeError(
                f"{name}: memory ran out on {device_name()} with batch_size={size}. {self._advice()}, free memory, or "
                "train a smaller model."
            ) from error
        self._training = replace(self._training, batch_size=size // 2)
        if self._run.checkpoint:
            self._run.checkpoint.keep_batch_size(position, size // 2)
        for note in self._lowered(stage):
            self._run.progress.say(f"note: {name}: {note}; the stage begins again")

    def _advice(self) -> str:
        """Return how the run gets a batch size that fits into memory."""
        over = " and start over" if self._run.checkpoint else ""
        if self._training.lower_batch_on_oom:
            return f"Give a smaller one (--batch-size){over}"
        there = " and goes on from the checkpoint" if self._run.checkpoint else ""
        return (
            "Let the run find a smaller one: lower_batch_on_oom=True (--set training.lower_batch_on_oom=true) halves it"
            f"{there}; or give one (--batch-size){over}"
        )

    def _lowered(self, stage: Stage) -> list[str]:
        """Return a note if `stage` trains with a smaller batch size than the recipe's."""
        size, given = self._training.batch_size, self._run.recipe.training.batch_size
        if size == given or not stage.epochs:
            return []
        return [f"batch size {size} instead of {given}, at the same learning rate, since memory ran out"]

    def _tried(self, stage: Stage, position: int, flat_model: Any, keep: frozenset[str]) -> Step:
        """Return the result of `stage` with the current batch size."""
        checkpoint = self._run.checkpoint
        attempt = checkpoint.attempt(position, stage, self._training) if checkpoint else Attempt(None, Backup())
        stage, notes = attempt.choice() or self._chosen(stage, flat_model, keep, attempt)
        notes = [*notes, *stage.notes(flat_model, keep)]
        seeded = stage.seeded(self._run.recipe.training.seed)
        distribution = self._run.distribution
        backup = replace(attempt.backup, distribution=distribution, position=distribution.position())
        trained, learned, history = self.train(seeded, position, flat_model, keep, backup)
        self._seconds_before += backup.seconds_before
        evaluation = self._guard.evaluate(predictor(trained))
        if not math.isfinite(evaluation.metric):
            raise DivergedError(
                f"The {self._guard.metric} of the trained model is {evaluation.metric} on "
                "validation data. Lower the learning rate, or look for extreme values in the data."
            )
        return Step(stage, trained, stage.strip(trained), [*notes, *learned], evaluation, history)

    def train(
        self, stage: Stage, position: int, flat_model: Any, keep: frozenset[str], backup: Backup
    ) -> tuple[Any, list[str], History | None]:
        """Return the trained result of `stage.apply`, notes, and the history of its training, if there was one."""
        training, seed = self._training, self._seed(position)
        label = f"{position + 1}/{len(self._run.recipe.stages)} {type(stage).__name__}"
        model, learner = self._learner(stage, position, flat_model, keep, label, backup)
        epochs = stage.epochs_on(self._steps_per_epoch)
        steps = epochs * self._steps_per_epoch
        if not steps:
            return model, stage.summary(model), None
        progress = self._run.progress.within(stage=type(stage).__name__, number=position + 1)
        progress.tell("stage_started", of=len(self._run.recipe.stages), epochs=epochs, steps=self._steps_per_epoch)
        size = training.batch_size
        distribution, weights = backup.distribution, (weight.tobytes() for weight in model.get_weights())
        distribution.require_alike(f"what they train in {label}", repr(stage).encode(), *weights)
        twin = distribution.twin(learner, lambda: self._learner(stage, position, flat_model, keep, label, backup)[1])
        if self._run.session:
            batches = self._run.session.batches(size, seed=seed, epochs=epochs, position=backup.position)
        else:
            batches = self._run.data.batches(
                "train", size, shuffle=True, seed=seed, augment=self._run.augmentation, position=backup.position
            )
            batches = mixed(batches, training.mixup, seed, backup.position) if training.mixup else batches
        fitted = train(
            learner,
            class_weighted(batches, class_weights(training, self._labeled_data())),
            self._run.data,
            loss=self._run.loss,
            training=training,
            epochs=epochs,
            learning_rate=stage.learning_rate,
            progress=progress,
            label=label,
            callbacks=stage.callbacks(),
            own_callbacks=self._run.callbacks(stage),
            keep_from=self._keep_from(stage, steps),
            logits=self._run.logits,
            backup=backup,
            twin=twin,
        )
        more = f"{epochs} epochs instead of {stage.epochs}, for min_steps={stage.min_steps}"
        notes = [more] if epochs > stage.epochs else []
        taught = self._run.session.summary(fitted.history) if self._run.session else []
        return model, [*notes, *fitted.notes, *stage.summary(model), *taught], fitted.course

    def _labeled_data(self) -> Dataset:
        """Return the data with the training samples whose labels are used."""
        session = self._run.session
        return session.labeled_data if isinstance(session, MeanTeacherSession) else self._run.data

    def _seed(self, position: int) -> int:
        return (self._run.recipe.training.seed + position) % SEEDS

    def _learner(
        self, stage: Stage, position: int, flat_model: Any, keep: frozenset[str], label: str, backup: Backup
    ) -> Any:
        """Return the result of `stage.apply`, calibrated, and what is fitted to train it."""
        model = self._applied(stage, position, flat_model, keep, label, backup)
        epochs = stage.epochs_on(self._steps_per_epoch)
        return model, self._run.session.student(model) if self._run.session and epochs else model

    def _applied(
        self, stage: Stage, position: int, flat_model: Any, keep: frozenset[str], label: str, backup: Backup
    ) -> Any:
        """Return the result of `stage.apply`, calibrated, or as `backup` has kept it."""
        training = self._run.recipe.training
        tf_keras().utils.set_random_seed(self._seed(position))  # so that a resumed run repeats the whole one
        steps = stage.epochs_on(self._steps_per_epoch) * self._steps_per_epoch
        model = stage.apply(flat_model, steps=steps, keep=keep)
        wanted = max(CALIBRATION_SAMPLES, stage.samples_wanted)

        kept = stage.last and not steps  # else the training or the next stage keeps it
        if kept and restore_calibrated(model, backup):
            self._run.progress.say(f"{label}: going on after its calibration")
            return model

        def say(done: str) -> None:
            self._run.progress.say(f"{label} {done}")

        inputs = self._run.data.representative(wanted, seed=training.seed)
        calibrates = type(stage).calibrate is not Stage.calibrate
        with self._run.progress.during(f"{label} calibrating") if calibrates else nullcontext():
            stage.calibrate(model, inputs, progress=say)
        if kept and calibrates:
            keep_calibrated(model, backup)
        return model

    def _keep_from(self, stage: Stage, steps: int) -> int | None:
        """Return the step from which on `train` may keep an epoch; None if only the last one counts."""
        return stage.holds_after(steps) if self._run.session is None or self._run.session.keeps_any_epoch else None

    def _chosen(self, stage: Stage, flat_model: Any, keep: frozenset[str], attempt: Attempt) -> tuple[Stage, list[str]]:
        """Return `stage` with its measured choices made, and notes; `attempt` keeps them."""
        chosen, notes = self._with_choices(stage, flat_model, keep)
        chosen, more = self._at_found_rate(chosen, flat_model)
        if chosen != stage or notes or more:  # else nothing was measured
            attempt.keep_choice(chosen, [*notes, *more])
        return chosen, [*notes, *more]

    def _at_found_rate(self, stage: Stage, flat_model: Any) -> tuple[Stage, list[str]]:
        """Return `stage` with the learning rate of a range test, if it needs one, and a note on it."""
        training = self._training
        if not training.range_test or stage.learning_rate or not stage.epochs:
            return stage, []
        self._run.progress.say("looking for a learning rate")
        tf_keras().utils.set_random_seed(training.seed)  # dropout draws in the test, too
        try:
            found = find_learning_rate(
                flat_model,
                self._run.data,
                loss=self._run.loss,
                optimizer=training.optimizer,
                batch_size=min(training.batch_size, len(self._run.data.train)),
                seed=training.seed,
                quiet=True,
            ).suggestion
        except TfoptError as error:
            return stage, [f"learning rate {training.learning_rate:g}, since the range test found none: {error}"]
        return replace(stage, learning_rate=found), [f"learning rate {found:.3g}, found by a range test"]

    def _with_choices(self, stage: Stage, flat_model: Any, keep: frozenset[str]) -> tuple[Stage, list[str]]:
        """Return `stage` with its measured choices made, and notes on them."""
        wanted, seed = max(CALIBRATION_SAMPLES, stage.samples_wanted), self._run.recipe.training.seed
        samples = self._run.data.representative(wanted, seed=seed)
        if isinstance(stage, PruneChannels) and stage.measures_files:
            self._run.progress.say(f"choosing the channels of each layer by the {stage.measure} of files")
            return choose_widths(stage, flat_model, samples, self._run.recipe.export, progress=self._run.progress.say)
        stage, notes = stage.chosen(flat_model, samples)
        if stage.budget is None:
            return stage, notes
        self._run.progress.say("choosing the bits of each layer")

        def size(chosen: Stage) -> int:
            quick = chosen.for_dry_run()
            model = quick.apply(flat_model, steps=1, keep=keep)
            quick.calibrate(model, samples)
            lite = build_file(model, self._run.recipe.export, self._run.data, proven=False)
            return lite.size  # with the class names of the final file

        return choose_bits(stage, flat_model, self._run.data, size)
