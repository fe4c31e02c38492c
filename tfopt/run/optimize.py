"""optimize: the loop from a trained model to a verified, smaller file."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tfopt import bridge
from tfopt.base import memory, worker
from tfopt.base.devices import device_name
from tfopt.base.interruption import ending_on_signals
from tfopt.base.keras_compat import float32_layers
from tfopt.base.stderr import retracing_warnings_held
from tfopt.base.words import counted
from tfopt.data.batches import naming_samples
from tfopt.data.beside import image_preprocessing
from tfopt.data.predicting import outputs_for
from tfopt.errors import DataError, PromiseError, TfoptError
from tfopt.evaluate.findings.collect import collect_findings
from tfopt.evaluate.findings.layers import low_signals
from tfopt.evaluate.report import Report, Resources, answers_on_test
from tfopt.run.checkpoint import as_file
from tfopt.run.data_warnings import recalls
from tfopt.run.dry_run import established_before
from tfopt.run.guard import Guard, Verdict, predictor
from tfopt.run.prepare import Prepared, prepare
from tfopt.run.recipe import Recipe
from tfopt.run.requirements import CallbacksOf
from tfopt.run.result import Result, described
from tfopt.run.resumed import resumed
from tfopt.run.rows import Rows
from tfopt.run.run_folder import in_use
from tfopt.run.step import StageRunner, Step
from tfopt.run.target_start import begin_at_targets
from tfopt.run.tracking.track import tracked
from tfopt.run.tries import carry_out_stage
from tfopt.run.verdicts import IF_GUESSING, budget_missed, guesses, not_learned
from tfopt.stages import Stage
from tfopt.stages.cluster.cluster import folded_clusters
from tfopt.stages.kernels.promise import Promise
from tfopt.tasks import task_of
from tfopt.tasks.metrics import agreement
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.export import build_file
from tfopt.training.backup import EVERY
from tfopt.training.class_weights import class_weights
from tfopt.training.distribution import Distribute, distributed, own_folder

COMPARED = 1000
"""Test samples on which the file is compared with the Keras model."""
SLOWER = 0.9
"""A file below this speed ratio is called slower; closer ones may be noise."""


def optimize(
    model: Any,
    recipe: Recipe | Stage | Sequence[Stage],
    data: Any,
    *,
    teacher: Any = None,
    quiet: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY / 60,
    teacher_cache: str | Path | None = None,
    feature_cache: str | Path | None = None,
    callbacks: Sequence[Any] | CallbacksOf = (),
    track: Sequence[str] = (),
    distribute: Distribute | None = None,
) -> Result:
    """Carry out `recipe` on a copy of `model` and verify the exported file.

    Args:
        model: a Keras 3 or tf_keras model, the path of one, or a TF-Hub handle. It is not changed. With
            `recipe.transfer` it is the source, which may be for another task.
        recipe: the stages, their training and the export; or a stage or a list of stages, for the defaults.
        data: a `Dataset`, or anything `load_data` accepts; if no stage needs labels, as with `PostTraining` alone, also
            samples without: an array, a .npz with x alone, a folder of images.
        teacher: a model to learn from in every stage, according to `recipe.distillation` (by default the usual loss for
            the task): anything `Teacher` accepts, a `Teacher` or an `Ensemble`. It is not changed.
        quiet: no progress on stderr.
        checkpoint: a folder that keeps the progress of the run: the transfer, each stage, and each epoch within one.
            After an interruption, calling `optimize` again with the same recipe, model, teacher and data goes on from
            there. `Result.save` removes it.
        checkpoint_every: minutes between two checkpoints within an epoch.
        teacher_cache: a folder that keeps the teacher's answers for further runs; None keeps them in memory.
        feature_cache: the same for the features of a transfer.
        callbacks: of Keras 3 or tf_keras, for the training of each stage; or a function that gets the stage and returns
            them. They may end a training once the promise of its stage holds.
        track: where to follow the run: "tensorboard", "mlflow" or "wandb"; or with a folder, an address or a project,
            as in "tensorboard=logs".
        distribute: spread the training: "mirrored", over the GPUs of this machine; "multiworker", over the machines
            that the environment variable TF_CONFIG names, each of which makes this call. See the guide on distribution.

    Returns:
        The compressed model, its file and the report.

    Raises:
        ModelError, DataError, RecipeError: before training, for what cannot work.
        PromiseError: the training or the file breaks a promise of the recipe.

    Examples:
        >>> result = tfopt.optimize(model, tfopt.PostTraining(weight_bits=4, rounding="nearest"), data, quiet=True)
        >>> [row.step for row in result.report.rows]
        ['original', 'exported int4']
        >>> result.lite.size < result.report.rows[0].bytes
        True
    """
    folder = None if checkpoint is None else Path(checkpoint)
    with (
        nullcontext() if folder is None else ending_on_signals(),
        own_folder(distribute, folder) as own,
        in_use(own),
        distributed(distribute) as distribution,
        tracked(track if distribution.is_chief else (), quiet=quiet) as listeners,
    ):
        if own is not None:
            distribution.copy_from_chief(own)
        prepared = prepare(
            model,
            recipe,
            data,
            teacher=teacher,
            quiet=quiet,
            checkpoint=own,
            checkpoint_every=checkpoint_every,
            teacher_cache=teacher_cache,
            feature_cache=feature_cache,
            listeners=listeners,
            callbacks=callbacks,
            distribution=distribution,
        )
        return carry_out(prepared)


@naming_samples()
@retracing_warnings_held()
@float32_layers()
def carry_out(prepared: Prepared) -> Result:
    """Train, measure and export a prepared run; the second half of `optimize`.

    Args:
        prepared: from `prepare`.

    Returns:
        The compressed model, its file and the report.

    Raises:
        PromiseError: the training or the file breaks a promise of the recipe.
    """
    try:
        return _Run(prepared).result()
    except BaseException:
        if prepared.checkpoint:
            prepared.checkpoint.remove_if_useless()
        raise


class _Run:
    """The state of one run: the current flat model, and the rows so far."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.recipe, self.data, self.progress = prepared.recipe, prepared.data, prepared.progress
        self.session, self.checkpoint = prepared.session, prepared.checkpoint
        self.flat_model, self.notes = prepared.flat_model, list(prepared.notes)
        self.files, self.verdict = prepared.files, Verdict()
        weights = class_weights(self.recipe.training, self.data)
        self.guard = Guard(self.data, self.recipe.max_drop, logits=prepared.logits, weights=weights)
        self.runner = StageRunner(prepared, self.guard)
        self.stages = list(self.recipe.stages)  # as they are carried out
        self.finished = 0  # number of stages
        self.report = Report(self.recipe.to_dict())
        self.rows = Rows(prepared, self.report.rows)
        self.outputs: Any = None  # of the exported file for the test part

    def result(self) -> Result:
        self.progress.tell("model", model=self.flat_model)
        self.guard.accept(self.guard.evaluate(predictor(self.flat_model)))
        self._resume()
        if not self.report.rows:
            transfer = self.recipe.transfer
            taught = self.session.notes() if self.session else []
            name = type(transfer).__name__ if transfer else "original"
            self.rows.add_step(name, self.flat_model, [*self.data.describe(), *self.notes, *taught])
        promises, final, notes, started = self._carry_out_stages()
        lite = self._export(final, promises, notes, started)
        if self.verdict.ok and (said := budget_missed(self.recipe, self.report.rows)):
            self._fail(said)
        model = self._as_given(self.flat_model, self.finished)
        fed = None if self.recipe.transfer else image_preprocessing(self.data)
        recipe = dataclasses.replace(self.recipe, stages=tuple(self.stages), preprocessing=fed)
        with self.progress.during("looking at the file for the report"):
            findings = collect_findings(
                lite,
                lambda: self.rows.first_file,
                self.flat_model,
                self.data,
                logits=self.prepared.logits,
                outputs=self.outputs,
            )
        for note in low_signals(findings.layers):
            self.report.rows[-1].notes.append(note)
            self.progress.say(f"note: {note}")
        verdict, resources = self.verdict, self._resources()
        self.report = Report(recipe.to_dict(), self.report.rows, verdict.text, verdict.ok, findings, resources)
        data = described(self.data)
        files = {**self.data.preprocessing.files(), **self.files}
        writes = self.prepared.distribution.is_chief
        result = Result(model, lite, self.report, recipe, data, files, self.verdict, self.checkpoint, writes)
        self.progress.tell("verdict", ok=self.verdict.ok, text=self.verdict.text)
        self.progress.tell("result", result=result)
        return result

    def _resources(self) -> Resources:
        precision = self.recipe.training.precision
        return Resources(device_name(), precision, memory.peak(), worker.peak_of_children())

    def _carry_out_stages(self) -> tuple[list[Promise], Any, list[str], float]:
        """Carry out the stages that are not finished, or those before one that fails its guard.

        Returns:
            The promises that hold, the model to export, and the notes and the start of the row of the file.
        """
        before, promises = established_before(self.recipe), list[Promise]()
        final, notes, started = self.flat_model, list[str](), time.perf_counter()
        for position, stage in enumerate(self.stages):
            if new := position >= self.finished:
                started = time.perf_counter()
                step = self._guarded(stage, position, before[position])
                started -= self.runner.seconds_before()
                if step is None:
                    return promises, self.flat_model, [], time.perf_counter()
                stage, final, self.flat_model = step.stage, step.trained, step.flat_model
                notes, self.rows.history = step.notes, step.history
                self.finished += 1
            promises = [*promises, *stage.promises(self.flat_model)]
            if new and not stage.last:  # the last row is the exported file
                self.rows.add_step(type(stage).__name__, self.flat_model, notes, started)
                row = self.report.rows[-1]
                row.notes.extend(folded_clusters(self.flat_model, promises, row.max_unique_weights))
                self._keep()
                started, notes = time.perf_counter(), []
            if not stage.last:
                final = self.flat_model
        return promises, final, notes, started

    def _guarded(self, stage: Stage, position: int, keep: frozenset[str]) -> Step | None:
        """Return `stage` carried out on the current model, if needed by a second, gentler try; None if both fail."""
        started, name = time.perf_counter(), type(stage).__name__
        start, notes = (self.flat_model, []) if position else self._at_targets()

        def tried(variant: Stage) -> Step:
            step = self.runner.step(variant, position, start, keep)
            return dataclasses.replace(step, notes=[*notes, *step.notes])

        outcome = carry_out_stage(
            stage,
            tried,
            self.guard,
            learning_rate=self.recipe.training.learning_rate,
            say=lambda line: self.progress.say(f"{name}: {line}"),
        )
        self.stages[position] = outcome.stage
        if outcome.step and not outcome.failure:
            self.guard.accept(outcome.step.evaluation)
            return outcome.step
        if outcome.step:
            self.rows.history = outcome.step.history
            started -= self.runner.seconds_before()
            self.rows.add_step(f"{name} (not kept)", outcome.step.flat_model, outcome.step.notes, started)
            lost = self._as_given(outcome.step.flat_model, position + 1)
            self._add_file(f"{name}_not_kept.keras", lost)
        self.verdict = Verdict(ok=False, text=f"{name} ended the run: {outcome.failure}")
        return None

    def _add_file(self, name: str, model: Any) -> None:
        """Add a model to the files of the result, if it can be saved."""
        try:
            self.files = {**self.files, name: as_file(model)}
        except (OSError, TfoptError) as error:
            self.report.rows[-1].notes.append(f"{name} is missing: {error}")
            self.progress.say(f"note: {self.report.rows[-1].notes[-1]}")

    def _at_targets(self) -> tuple[Any, list[str]]:
        """Return the model with which the first stage begins, and notes; the file of a failed one has the original."""
        if not any(stage.epochs for stage in self.stages):
            return self.flat_model, []
        return begin_at_targets(self.flat_model, self.data)

    def _as_given(self, flat_model: Any, stages: int) -> Any:
        """Return the result of the first `stages` stages in the Keras of the caller's model."""
        return bridge.to_keras(flat_model, like=self.prepared.model, resized=self._resized(stages))

    def _keep(self) -> None:
        """Write the finished stages to the checkpoint."""
        if self.checkpoint and self.checkpoint.writes:
            resized = self._resized(self.finished)
            carried = dataclasses.replace(self.recipe, stages=tuple(self.stages)).to_json()
            try:
                self.checkpoint.stages.save(
                    self.flat_model, self.report.rows, resized=resized, recipe=carried, best=self.guard.best
                )
            except (OSError, TfoptError) as error:  # a full disk, say: the training is worth more than its checkpoint
                self.progress.say(f"note: no checkpoint was written ({error}); the run goes on")
                return
            self.checkpoint.forget_attempts()

    def _resume(self) -> None:
        """Resume an interrupted run, if there is one."""
        if not self.checkpoint:
            return
        try:
            found = resumed(self.checkpoint.stages, self.recipe, self.data, self.flat_model)
        except DataError as error:
            self.notes.append(f"{error} Ignoring it: the run starts over.")
            self.progress.say(self.notes[-1])
            return
        if not found:
            return
        rows, self.flat_model, self.stages = found.rows, found.flat_model, found.stages
        self.report.rows.extend(rows)
        self.guard.accept(found.best or self.guard.evaluate(predictor(self.flat_model)))
        self.finished = len(rows) - 1  # the first row is the original model
        self.progress.tell("resumed", epochs=sum(row.history.epochs for row in rows if row.history), rows=len(rows))
        self.progress.say(
            f"resuming after {rows[-1].step}: {self.finished} of {len(self.recipe.stages)} stages are already done"
        )

    def _resized(self, stages: int) -> bool:
        """Return True if one of the first `stages` stages may have changed layer sizes."""
        return any(stage.resizes for stage in self.recipe.stages[:stages])

    def _fail(self, text: str) -> None:
        """Mark the run as failed, with `text` before the current text of the verdict."""
        self.verdict = Verdict(ok=False, text=f"{text} {self.verdict.text}".strip())

    def _export(self, model: Any, promises: Sequence[Promise], notes: list[str], started: float) -> LiteModel:
        settings = self.recipe.export
        with self.progress.during("exporting"):
            lite = self._file(model, promises)
        self.progress.tell("export", bytes=lite.size, weights=settings.weights, activations=settings.activations)
        notes = [*notes, *lite.notes]
        outputs = self.outputs = answers_on_test(lite, self.data)
        if task_of(self.data).has_classes:
            chosen = self.data.test.spread(COMPARED)
            theirs = outputs_for(predictor(model), self.data.test.at(chosen))
            same = agreement(outputs[chosen], theirs, logits=self.prepared.logits)
            notes.append(f"the file and the Keras model agree on {same:.1%} of {counted(len(chosen), 'test sample')}")
        held = {weight.tensor.dtype for weight in lite.weights()}
        name = f"exported {'int4' if 'int4' in held else settings.weights}"
        if said := recalls(self.data, outputs, self.prepared.logits):
            notes.append(said)
        row = self.rows.measured(name, lite, notes, started, outputs)
        if row.speedup is not None and row.speedup < SLOWER:
            other = '; Export(weights="float32") (--set export.weights=float32) may be faster'
            row.notes.append(
                f"the file runs at {row.speedup:.2f}x the speed of the original float32 file on this machine: measure "
                f"it on your device{'' if settings.weights == 'float32' else other}"
            )
            self.progress.say(f"note: {row.notes[-1]}")
        self.rows.append(row)
        self._check_file(lite)
        if self.verdict.ok and (said := guesses(self.data, self.report.rows, outputs, self.prepared.logits)):
            if settings.allow_drift:
                self.report.rows[-1].notes.append(f"allowed: {said}")
            else:
                self.verdict = Verdict(ok=False, text=f"Expected a file that does its task; {said}. {IF_GUESSING}")
        if said := not_learned(self.data, outputs, self.prepared.logits, of_classes=self.verdict.ok):
            texts = [said, self.verdict.text] if self.verdict.ok else [self.verdict.text, said]
            self.verdict = dataclasses.replace(self.verdict, text=" ".join(filter(None, texts)))
        return lite

    def _file(self, model: Any, promises: Sequence[Promise]) -> LiteModel:
        """Return the file; after a failed stage, one in float if the recipe's export is not possible without it."""
        try:
            return build_file(model, self.recipe.export, self.data, promises, self.flat_model)
        except PromiseError as error:
            if self.verdict.ok:
                raise
            text = f"{self.verdict.text} The file is in float: {error}"
            self.verdict = dataclasses.replace(self.verdict, text=text)
            return build_file(model, FLOAT, self.data, promises, self.flat_model)

    def _check_file(self, lite: LiteModel) -> None:
        """Complete the verdict: evaluate the exported file, unless a stage has failed, and say what nobody can tell."""
        evaluation = self.guard.evaluate(lite.predict)
        if self.verdict.ok and self.guard.fails(evaluation):
            self.verdict = Verdict(
                ok=False,
                text=f"The exported file fell: {self.guard.compared(evaluation)}; max_drop={self.guard.max_drop:g}. "
                "Keep more layers in float, or allow more with Recipe(max_drop=...).",
            )
        if not self.verdict.ok:  # a drop that is found is beyond chance
            return
        unsure, fallen = self.guard.too_few_samples(), self.guard.too_low(evaluation)
        if unsure and self.guard.improved(evaluation) and not fallen:
            self.report.rows[-1].notes.append(f"better than the original model beyond chance, though {unsure}")
            unsure = ""
        if fallen:
            unsure = f"The file may be worse: {self.guard.compared(evaluation)}; that may be chance. {unsure}"
        self.verdict = Verdict(text=unsure.strip())
