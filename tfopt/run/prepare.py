"""Prepare a run: everything that can fail before the stages are trained."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfopt import bridge
from tfopt.base import memory
from tfopt.base.annotations import annotate, annotations
from tfopt.base.devices import grow_gpu_memory, is_slow
from tfopt.base.keras_compat import float32_layers
from tfopt.base.progress import Listener, Progress
from tfopt.base.stderr import retracing_warnings_held
from tfopt.data import Dataset, fit_to_ports
from tfopt.data.mixup import for_mixup, require_no_mixup
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher
from tfopt.distillation.session import Session, adapted_teacher, default_distillation, session_for
from tfopt.distillation.several_session import SeveralSession
from tfopt.errors import ModelError, RecipeError
from tfopt.graph.indices import index_inputs
from tfopt.graph.ports import Ports
from tfopt.graph.walk import walk
from tfopt.models.save import why_not_saved
from tfopt.models.sources import model_from
from tfopt.run.data_warnings import data_warnings
from tfopt.run.dry_run import dry_run, samples_for
from tfopt.run.guard import predictor
from tfopt.run.identity import about_run, identity_of
from tfopt.run.recipe import Recipe, as_recipe, require_json
from tfopt.run.requirements import (
    CallbacksOf,
    metrics_of_model,
    not_distributed,
    require_callbacks,
    require_for_several,
    require_metrics,
    require_one_answer,
    require_precision,
    why_by_hand,
)
from tfopt.run.run_data import data_of_run, require_labels
from tfopt.run.run_folder import RunFolder, open_run_folder
from tfopt.run.start import judge_from, transferred
from tfopt.stages import FineTune, Stage
from tfopt.tasks.loss import fits_labels
from tfopt.teachers import Answering, as_teacher
from tfopt.training.augmentation import choose_augmentation
from tfopt.training.backup import EVERY, backing_up_every
from tfopt.training.class_weights import class_weights
from tfopt.training.compiled_metrics import CompiledMetric
from tfopt.training.distribution import Distribution
from tfopt.training.fit import make_optimizer
from tfopt.training.loss_notes import loss_notes
from tfopt.training.named import is_object, loss_named
from tfopt.training.outputs import LossByOutput, objective
from tfopt.transfer import Transferred

# Number of training inputs for a stage's `calibrate`.
CALIBRATION_SAMPLES = 512


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first stage.

    Attributes:
        model: in the caller's Keras; after a transfer, its result.
        flat_model: the same as a flat tf_keras model.
        recipe: the recipe to carry out; it has a distillation if there is a teacher.
        data: preprocessed for the model.
        loss: on the labels; a `LossByOutput` if there are several outputs.
        logits: whether the model outputs logits rather than probabilities; by output if there are several.
        augmentation: of training images; None for none.
        session: supervision in addition to the labels; None without a distillation.
        notes: for the first row of the report.
        files: files that the transfer adds to the result, by name.
        checkpoint: keeps the progress of the run; may be None.
        progress: reports the steps of the run.
        callbacks: returns the caller's callbacks for the training of a stage, as tf_keras takes them.
        distribution: over what the training is spread.
        metrics: that the model is compiled with, to be measured for each row.
    """

    model: Any
    flat_model: Any
    recipe: Recipe
    data: Dataset
    loss: Any
    logits: Any
    augmentation: Any
    session: Session | None
    notes: tuple[str, ...]
    files: Mapping[str, bytes]
    checkpoint: RunFolder | None
    progress: Progress
    callbacks: CallbacksOf
    distribution: Distribution = dataclasses.field(default_factory=Distribution)
    metrics: tuple[CompiledMetric, ...] = ()


@retracing_warnings_held()
@float32_layers()
def prepare(
    model: Any,
    recipe: Recipe | Stage | Sequence[Stage],
    data: Any,
    *,
    teacher: Any = None,
    quiet: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY / 60,
    overwrite: bool = False,
    teacher_cache: str | Path | None = None,
    feature_cache: str | Path | None = None,
    listeners: Sequence[Listener] = (),
    callbacks: Sequence[Any] | CallbacksOf = (),
    distribution: Distribution | None = None,
) -> Prepared:
    """Check that `recipe` can be carried out, and prepare its transfer, augmentation and teacher.

    Args:
        model: as for `optimize`, like all that follow.
        recipe: the stages.
        data: a `Dataset`, or anything `load_data` accepts.
        teacher: a model to learn from.
        quiet: no progress on stderr.
        checkpoint: a folder that keeps the progress of the run.
        checkpoint_every: minutes between two checkpoints within an epoch.
        overwrite: replace the checkpoint of another run in that folder.
        teacher_cache: a folder for the teacher's answers.
        feature_cache: a folder for the features of a transfer.
        listeners: get the events of the run.
        callbacks: of Keras 3 or tf_keras, for the training of each stage; or a function of the stage that returns them.
        distribution: over what the training is spread; None for none.

    Returns:
        The argument of `carry_out`.

    Raises:
        ModelError, DataError, RecipeError: what cannot work.
    """
    recipe, distribution = as_recipe(recipe), distribution or Distribution()
    if not distribution.is_chief:
        teacher_cache = feature_cache = None  # the chief alone writes files
    memory.start_peak()
    grow_gpu_memory()
    require_precision(recipe.training.precision)
    callbacks_of = callbacks if callable(callbacks) else require_callbacks(callbacks)
    source, progress = model_from(model), Progress(quiet=quiet, listeners=listeners)
    require_json(recipe)
    names = [type(stage).__name__ for stage in recipe.stages]
    progress.tell("run_started", name=recipe.name, stages=names, recipe=json.loads(recipe.to_json()))
    dataset, start, flat_model = _start(source, recipe, data)
    require_labels(recipe, dataset, teacher)
    if teacher is not None and recipe.distillation is None and not dataset.has_several:
        recipe = dataclasses.replace(recipe, distillation=default_distillation(dataset))
    dataset = _for_mixup(dataset, recipe, flat_model)
    loss, logits = _learned(recipe, dataset, flat_model)
    steps = dataset.steps(recipe.training.batch_size)
    samples = len(dataset.train), len(dataset.validation)
    distribution.require(recipe.training.batch_size, samples, not_distributed(recipe))
    ready = _adapted(teacher, recipe, dataset)
    kept = None
    if checkpoint or distribution.workers > 1:
        about = about_run(
            {"recipe": identity_of(recipe)},
            data=dataset.fingerprint,
            model=source if recipe.transfer else flat_model,
            loss=loss,
            teacher=ready and ready.identity,
            distribute=distribution.describe(),
        )
        distribution.require_alike("what they are to do", json.dumps(about, sort_keys=True).encode())
        every, writes = 60 * checkpoint_every, distribution.is_chief
        if checkpoint:
            kept = open_run_folder(
                checkpoint, about, every=every, overwrite=overwrite, progress=progress, writes=writes
            )
    with progress.during("checking that the recipe can run"):
        lite = dry_run(flat_model, recipe, steps, samples_for(dataset), like=start)
    if kept:
        kept.require_space(sum(weight.nbytes for weight in flat_model.get_weights()), len(lite.data))
    notes: tuple[str, ...] = ()
    files: Mapping[str, bytes] = {}
    if recipe.transfer:
        made = _transferred(recipe, source, dataset, feature_cache, kept, progress)
        start, notes, files = made.model, made.notes, made.files
        flat_model = bridge.to_tf_keras(start)
        loss, logits = objective(flat_model, recipe.training, dataset)
    losses = loss_notes(flat_model, recipe.training, dataset) if any(stage.epochs for stage in recipe.stages) else []
    metrics, without = metrics_of_model(start, dataset, flat_model, logits) if not recipe.transfer else ((), [])
    said = [*_warnings(recipe, dataset, source, start, flat_model, ready, logits), *without]
    for warning in said:
        progress.say(f"note: {warning}")
    judge = None if dataset.has_several else ready
    augmentation, tried = _augmentation(recipe, dataset, flat_model, judge, source)
    session = _session(recipe, ready, dataset, augmentation, teacher_cache, progress)
    if session:  # fail now if they cannot be compared
        learner = session.student(flat_model)
        if isinstance(loss, LossByOutput):
            learner.compile(loss=dict(loss.losses))
    return Prepared(
        model=start,
        flat_model=flat_model,
        recipe=recipe,
        data=dataset,
        loss=loss,
        logits=logits,
        augmentation=augmentation,
        session=session,
        notes=(
            *annotations(source).notes,
            *said,
            *losses,
            *notes,
            *tried,
            *distribution.notes(recipe.training.batch_size),
        ),
        files=files,
        checkpoint=kept,
        progress=progress,
        callbacks=callbacks_of,
        distribution=distribution,
        metrics=metrics,
    )


def _learned(recipe: Recipe, data: Dataset, flat_model: Any) -> tuple[Any, Any]:
    """Return the loss and whether the model outputs logits; raise an error now for settings that do not fit."""
    loss, logits = objective(flat_model, recipe.training, data)
    make_optimizer(recipe.training, recipe.training.learning_rate, 1)
    require_metrics(recipe, data, flat_model, logits)
    class_weights(recipe.training, data)
    return loss, logits


def _warnings(
    recipe: Recipe, data: Dataset, source: Any, start: Any, flat_model: Any, teacher: Any, logits: Any
) -> list[str]:
    """Return what does not keep the run from starting, but should be known before."""
    said = data_warnings(
        data,
        flat_model.outputs[0].shape[-1],
        None if recipe.transfer or teacher else predictor(flat_model),
        logits,
        learns=bool(recipe.stages) and isinstance(recipe.stages[0], FineTune),
    )
    if own := bridge.said_of_own_training(source):
        said.append(own)
    if why := why_not_saved(start):
        said.append(f"the result will have no model.keras: {why}")
    if is_slow(recipe.training.precision):
        said.append(f"this CPU has no instructions for {recipe.training.precision}: training is slower than in float32")
    return said


def _start(source: Any, recipe: Recipe, data: Any) -> tuple[Dataset, Any, Any]:
    """Return the data preprocessed for the model, and the model for the dry run: in the caller's Keras, and flat."""
    transfer, start = recipe.transfer, source
    for side in ("inputs", "outputs"):
        Ports(source, side)  # raises for nested ones
    flat_model = bridge.to_tf_keras(source)
    annotate(flat_model, preprocessing=annotations(source).preprocessing)
    shape = transfer.input_shape if transfer else None
    places = [annotations(source).path, recipe]
    dataset = data_of_run(flat_model, recipe, data, input_shape=shape, beside=places, quiet=True)
    if transfer:
        require_one_answer(dataset)
        start = transfer.untrained(source, dataset).model
        flat_model = bridge.to_tf_keras(start)
    if why := why_by_hand(flat_model):
        raise ModelError(why)
    fit_to_ports(dataset, flat_model)
    if dataset.has_several:
        require_for_several(recipe, flat_model)
    return dataset, start, flat_model


def _for_mixup(data: Dataset, recipe: Recipe, flat_model: Any) -> Dataset:
    """Return the data with labels that can be mixed, if the recipe mixes samples.

    Raises:
        RecipeError: the recipe, the labels or the inputs do not allow it.
    """
    training = recipe.training
    if recipe.distillation:
        require_no_mixup(training.mixup)
    if not training.mixup:
        return data
    named = isinstance(training.loss, str) or is_object(training.loss)
    if named and not fits_labels(loss_named(training.loss), "one-hot"):
        raise RecipeError(
            f"Training(mixup=...) mixes one-hot labels; the loss {training.loss!r} expects class numbers. Leave "
            "out the loss, or give 'categorical_crossentropy'."
        )
    if index_inputs(walk(flat_model)):
        raise RecipeError(
            f"Training(mixup=...) averages inputs, but '{flat_model.name}' looks its inputs up in a table, such as the "
            "numbers of words. Leave mixup out."
        )
    return for_mixup(data, flat_model.output_shape[-1])


def _augmentation(recipe: Recipe, data: Dataset, flat_model: Any, teacher: Any, source: Any) -> tuple[Any, list[str]]:
    """Return the augmentation of training images, judged by the best model: a teacher, else the model itself.

    If the model has not learned the task yet, the features of the `source` judge instead.
    """
    training = recipe.training
    if recipe.transfer and not recipe.transfer.learns and teacher is None:
        who = "a head on the features of the source"
        return choose_augmentation(judge_from(source, data), training, data, who=who)
    if teacher is None or not teacher.response:
        return choose_augmentation(lambda x: flat_model.predict(x, verbose=0), training, data)
    return choose_augmentation(
        lambda x: teacher.predict(x, quiet=True)["output"], training, data, who=f"the teacher '{teacher.name}'"
    )


def _adapted(teacher: Any, recipe: Recipe, data: Dataset) -> Answering | None:
    """Return `teacher` adapted to the data; None if nothing is learned from one."""
    if data.has_several:
        return None if teacher is None else as_teacher(teacher)
    return adapted_teacher(teacher, recipe.distillation, data) if recipe.distillation else None


def _session(
    recipe: Recipe, teacher: Any, data: Dataset, augmentation: Any, folder: str | Path | None, progress: Progress
) -> Session | None:
    given = recipe.distillation
    if data.has_several and not isinstance(given, MeanTeacher):
        return SeveralSession(given, teacher, data) if given or teacher is not None else None
    if not given:
        return None
    return session_for(
        given,
        teacher,
        data,
        augment=augmentation,
        seed=recipe.training.seed,
        folder=folder,
        progress=progress,
    )


def _transferred(
    recipe: Recipe,
    source: Any,
    data: Dataset,
    cache: str | Path | None,
    kept: RunFolder | None,
    progress: Progress,
) -> Transferred:
    """Return the result of the transfer of `recipe`, or that which an interrupted run has kept."""
    assert recipe.transfer is not None
    if kept is None:
        return transferred(recipe, source, data, cache=cache, progress=progress)
    if (made := kept.transferred(source)) is not None:
        progress.say(f"going on after the {type(recipe.transfer).__name__}")
        return made
    cache = cache or (kept.cache() if recipe.transfer.resumes else None)
    with backing_up_every(kept.every):
        made = transferred(recipe, source, data, cache=cache, progress=progress)
    kept.keep_transferred(made)
    return made
