"""`tfopt run`, and the command line of recipe scripts."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfopt.cli.command import (
    DATA_SOURCES,
    PREPROCESSING,
    SETTINGS,
    OneLineErrors,
    allow_drift_option,
    allow_unsafe_option,
    debug_option,
    foreign_code,
    hush_tensorflow,
    shared_options,
    show_deprecations,
)
from tfopt.cli.events import events_on_stdout
from tfopt.cli.outcome import carried_out, require_success, save, say_written, written
from tfopt.cli.repeating import repeat
from tfopt.cli.shipped import RecipeName, recipe_file
from tfopt.errors import DataError, RecipeError

if TYPE_CHECKING:
    from tfopt.base.progress import Listener
    from tfopt.data import Dataset
    from tfopt.run.prepare import Prepared
    from tfopt.run.recipe import Recipe
    from tfopt.training.distribution import Distribution


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a recipe runs on unless the command line names it; None stands for the digits and models for them.

    Attributes:
        data: returns the data, anything that `load_data` accepts.
        model: returns a Keras model for a `Dataset`; the first stage may have all of its training.
        teacher: returns the teacher for a `Dataset`.
    """

    data: Callable[[], Any] | None = None
    model: Callable[["Dataset"], Any] | None = None
    teacher: Callable[["Dataset"], Any] | None = None


speedup_option = click.option(
    "--speedup",
    type=click.FloatRange(min=1, min_open=True),
    help="Keep 1/SPEEDUP of the multiplications, in a recipe that prunes channels (faster, prune_channels); with --set "
    "stages.PruneChannels.measure=milliseconds, of the time that files take on this machine.",
)


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--model", "--source", "model",
                     help="A Keras model file, a SavedModel or a TF-Hub handle (default: the recipe's, or a small CNN "
                          "trained on the digits). If the recipe transfers, it may be for another task."),
        click.option("--data", help=f"{DATA_SOURCES} (default: the recipe's, or scikit-learn's "
                                    "handwritten digits)."),
        click.option("--text", metavar="COLUMN", help="The column of texts in a table or records (default: text)."),
        click.option("--labels", metavar="COLUMN", help="The column of labels in a table or records (default: label)."),
        click.option("--task", metavar="TASK",
                     help="What the labels mean, where they leave it open: classification, multilabel, regression, "
                          "segmentation or forecasting; with reconstruction the inputs are the targets, and labels say "
                          "which samples are anomalies."),
        click.option("--out", type=click.Path(path_type=Path),
                     help="Folder for the results (default: saved_models/NAME)."),
        click.option("--overwrite", is_flag=True, help="Replace the contents of the --out folder."),
        click.option("--teacher", multiple=True,
                     help="A model to distill from in every stage: a Keras file, a SavedModel, a .tflite or a folder "
                          "that tfopt wrote. Several are averaged, or fused if they know different classes."),
        click.option("--teacher-classes", multiple=True, type=click.Path(path_type=Path),
                     help="A text file with the class names of a teacher, one per line; repeat it for each --teacher, "
                          "in the same order."),
        click.option("--teacher-preprocessing", type=click.Choice(PREPROCESSING),
                     help="Range of the pixels for the teachers (default: that of the model, or what a teacher's "
                          "folder says)."),
        click.option("--teacher-cache", type=click.Path(path_type=Path),
                     help="Folder to keep the teacher's answers in for later runs (default: in memory)."),
        click.option("--feature-cache", type=click.Path(path_type=Path),
                     help="Folder to keep the features of a transfer in for later runs (default: in memory)."),
        click.option("--checkpoint-every", type=click.FloatRange(min=0), default=10.0, show_default=True,
                     metavar="MINUTES", help="Minutes between two checkpoints within an epoch. There is one after "
                                             "each epoch as well."),
        click.option("--distribute", type=click.Choice(["mirrored", "multiworker"]),
                     help="Spread the training over the GPUs of this machine (mirrored), or over several machines "
                          "(multiworker): run the same command on each, with TF_CONFIG in its environment."),
        click.option("--min-accuracy", type=click.FloatRange(0, 1),
                     help="Fail with exit code 1 if the file's accuracy on the test set is lower."),
        allow_drift_option,
        allow_unsafe_option,
        click.option("--set", "assignments", metavar="PLACE=VALUE", multiple=True,
                     help="Change a setting of the recipe, e.g. stages.0.final_sparsity=0.7, stages.Quantize.epochs=2 "
                          "or training.seed=1. Can be repeated."),
        click.option("--io", type=click.Choice(["float32", "int8", "uint8", "int16"]),
                     help="Type of the file's inputs and outputs (default: the recipe's)."),
        click.option("--batch-size", type=click.IntRange(min=1),
                     help="Samples per training step (default: the recipe's)."),
        speedup_option,
        click.option("--epochs-factor", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
                     help="Multiply the epochs of every stage, and of the head of a transfer, by this."),
        click.option("--seed", type=click.IntRange(min=0), help="Random seed (default: the recipe's)."),
        click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True,
                     help="Run with this many seeds, one folder each, and report mean and standard deviation."),
        click.option("--quiet", is_flag=True, help="Show only the report, no progress."),
        click.option("--json", "json_events", is_flag=True,
                     help="Print what happens as JSON lines on stdout, for programs; all else goes to stderr."),
        click.option("--track", metavar="NAME[=WHERE]", multiple=True,
                     help="Follow the run in tensorboard (WHERE: a folder, default logs), mlflow (a tracking URI) or "
                          "wandb (a project). Can be repeated."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return shared_options(command)


@click.command()
@click.argument("recipe", type=RecipeName(path_type=Path))
@_run_options
def run(recipe: Path, **options: Any) -> None:
    """Run RECIPE and write a verified model.tflite.

    RECIPE is the name of one that comes with tfopt (see `tfopt recipes`), a .py that defines `recipe`, or a
    recipe.json.

    \b
        tfopt run deep_compression
        tfopt run prune --model model.keras --data photos/ --out saved_models/photos

    A .py recipe runs as a Python program, so only use one from someone you trust. A recipe.json is data and never
    runs code. Images are fed as a data.json beside the model or the recipe.json says, unless --preprocessing does.
    """
    with events_on_stdout(wanted=options.pop("json_events")) as listeners:
        recipe = recipe_file(recipe)
        loaded, examples = load_recipe(recipe)
        _run(loaded, examples, file=recipe if recipe.suffix == ".json" else None, listeners=listeners, **options)


def run_recipe(
    recipe: "Recipe", example_teacher: Any = None, *, example_data: Any = None, example_model: Any = None
) -> None:
    """Run the command line of a recipe script: the options of `tfopt run` for this one recipe.

    Args:
        recipe: the recipe to run.
        example_teacher: a function of the data that returns their teacher, to replace the default one.
        example_data: a function that returns the data for a run without --data, to replace the digits: anything that
            `load_data` accepts.
        example_model: a function of the data that returns a Keras model for a run without --model. It may be untrained
            if the recipe begins with training.

    Examples:
        A recipe script, `my_recipe.py`, which runs as `python my_recipe.py --model model.keras --data photos/`:

        >>> recipe = tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize()))
        >>> if __name__ == "__main__":
        ...     tfopt.run_recipe(recipe)
    """

    @click.command(cls=OneLineErrors, context_settings=SETTINGS, help=sys.modules["__main__"].__doc__)
    @_run_options
    @debug_option
    def command(debug: bool, **options: Any) -> None:
        del debug
        hush_tensorflow()
        show_deprecations()
        with events_on_stdout(wanted=options.pop("json_events")) as listeners:
            _run(recipe, Examples(example_data, example_model, example_teacher), listeners=listeners, **options)

    command.main(prog_name=Path(sys.argv[0]).name)


def load_recipe(path: Path) -> tuple["Recipe", Examples]:
    """Return the recipe and its examples: the functions example_data, example_model and example_teacher of a .py.

    `path` may be the name of one that comes with tfopt.
    """
    from tfopt.run.recipe import Recipe

    path = recipe_file(path)
    if path.suffix == ".json":
        return Recipe.load(path), Examples()
    import runpy

    sys.path.insert(0, str(path.resolve().parent))  # as `python recipe.py` does
    with foreign_code(f"{path} does not run"):
        names = runpy.run_path(str(path))
    recipe = names.get("recipe")
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} must define `recipe = tfopt.Recipe(...)`; found {type(recipe).__name__}.")
    return recipe, Examples(*(names.get(f"example_{field.name}") for field in dataclasses.fields(Examples)))


def _run(
    recipe: "Recipe", examples: Examples, *, out: Path | None, distribute: str | None = None, **options: Any
) -> None:
    """Run `recipe` into the folder `out`; of several workers, only the chief does."""
    from tfopt.training.distribution import own_folder

    if options["data"] and not options["model"] and not examples.model:
        raise RecipeError("--data needs --model: the default model knows only the built-in digits.")
    out = out or Path("saved_models") / recipe.name
    assignments, speedup = options.pop("assignments"), options.pop("speedup")
    given, recipe = recipe, _as_set(recipe, assignments, options.pop("io"), options.pop("batch_size"))
    recipe = sped_up(recipe, given, speedup)
    if distribute and options["repeats"] > 1:
        raise RecipeError("--repeats does not go with --distribute. Run the seeds one by one, each with its own --out.")
    with own_folder(distribute, out) as own:
        _run_in(own or out, recipe, examples, distribute, **options)


def _run_in(
    out: Path,
    recipe: "Recipe",
    examples: Examples,
    distribute: str | None,
    *,
    track: Sequence[str],
    listeners: Sequence["Listener"],
    **options: Any,
) -> None:
    """Run `recipe` into the folder `out`, which is not left behind empty if the run fails."""
    from tfopt.base.files import WORK, prepare_folder, remove_empty, working_folder
    from tfopt.base.interruption import Interrupted, ending_on_signals
    from tfopt.base.stderr import load_tensorflow_quietly
    from tfopt.training.distribution import distributed

    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    prepare_folder(out, overwrite=options["overwrite"])
    try:
        # TensorFlow takes seconds to load, so it comes after what may fail without it.
        with ending_on_signals(), working_folder(out), distributed(distribute) as distribution:
            load_tensorflow_quietly()
            from tfopt.run.tracking.track import tracked

            distribution.copy_from_chief(out / WORK / "checkpoint")
            with tracked(track if distribution.is_chief else (), quiet=options["quiet"]) as trackers:
                _run_into(out, recipe, examples, distribution, listeners=[*listeners, *trackers], **options)
    except BaseException as error:
        remove_empty(out / WORK / "checkpoint", out / WORK, *new)
        if isinstance(error, Interrupted):
            error.kept = (out / WORK).exists()
        raise


def _as_set(recipe: "Recipe", assignments: tuple[str, ...], io: str | None, batch_size: int | None) -> "Recipe":
    """Return `recipe` with what the options change."""
    from tfopt.run.assignments import with_assignments

    short = {"export.io": io, "training.batch_size": batch_size}
    named = [f"{place}={value}" for place, value in short.items() if value is not None]
    return with_assignments(recipe, [*assignments, *named]) if assignments or named else recipe


def sped_up(recipe: "Recipe", before: "Recipe", speedup: float | None) -> "Recipe":
    """Return `recipe` with 1/`speedup` of the multiplications, or of the milliseconds if its stage measures these.

    Raises:
        RecipeError: it does not prune channels, or does so more than once, or by bytes; or `--set` has given another
            share than the recipe `before`.
    """
    from tfopt.stages import PruneChannels

    if speedup is None:
        return recipe
    stages = [stage for stage in recipe.stages if isinstance(stage, PruneChannels)]
    if len(stages) != 1:
        raise RecipeError(
            f"--speedup needs a recipe with one PruneChannels; '{recipe.name}' has {len(stages)}. Run the recipe "
            "faster or prune_channels, or set final_ratio with --set."
        )
    (stage,) = stages
    if stage.final_ratio not in {each.final_ratio for each in before.stages if isinstance(each, PruneChannels)}:
        raise RecipeError("--speedup sets final_ratio, and --set does so too. Give one of them.")
    if stage.measure == "bytes":
        raise RecipeError('--speedup is of multiplications or milliseconds, but the recipe measures "bytes".')
    measure = stage.measure if stage.measure == "milliseconds" else "macs"
    faster = dataclasses.replace(stage, measure=measure, final_ratio=1 / speedup, widths=())
    return dataclasses.replace(recipe, stages=tuple(faster if each is stage else each for each in recipe.stages))


def _run_into(
    out: Path,
    recipe: "Recipe",
    examples: Examples,
    distribution: "Distribution",
    *,
    file: Path | None = None,
    model: str | None,
    data: str | None,
    text: str | None,
    task: str | None,
    labels: str | None,
    overwrite: bool,
    epochs_factor: float,
    seed: int | None,
    repeats: int,
    quiet: bool,
    preprocessing: str | None,
    limit: int | None,
    allow_drift: bool,
    allow_unsafe: bool,
    teacher: tuple[str, ...],
    teacher_classes: tuple[Path, ...],
    teacher_preprocessing: str | None,
    teacher_cache: Path | None,
    feature_cache: Path | None,
    checkpoint_every: float,
    min_accuracy: float | None,
    listeners: Sequence["Listener"],
) -> None:
    from tfopt.base.files import WORK
    from tfopt.base.progress import Progress
    from tfopt.data import Dataset, load_data
    from tfopt.models.sources import model_from
    from tfopt.run.prepare import prepare
    from tfopt.run.run_data import data_of_run
    from tfopt.tasks import task_of
    from tfopt.teachers.load import load_teacher
    from tfopt.transfer.preprocessing import choose_preprocessing

    recipe = recipe.scaled(epochs_factor)
    recipe = recipe if seed is None else recipe.seeded(seed)
    if allow_drift:
        recipe = dataclasses.replace(recipe, export=dataclasses.replace(recipe.export, allow_drift=True))
    progress = Progress(quiet=quiet, listeners=listeners)
    if model:
        keras_model = model_from(model, allow_unsafe=allow_unsafe)
        shape = recipe.transfer.input_shape if recipe.transfer else None
        places = [] if recipe.transfer else [model, recipe, file]  # a transfer looks for itself
        dataset = data_of_run(
            keras_model,
            recipe,
            data or "digits",
            preprocessing=preprocessing,
            limit=limit,
            input_shape=shape,
            beside=places,
            text=text,
            task=task,
            labels=labels,
            quiet=quiet,
            listeners=listeners,
        )
        if recipe.transfer and preprocessing is None:
            dataset, said = choose_preprocessing(keras_model, dataset, shape, getattr(recipe.transfer, "layer", None))
            for line in said:
                progress.say(line)
        taught = None
    else:
        source = data or (examples.data() if examples.data else "digits")
        if isinstance(source, Dataset):
            names = ("--preprocessing", "--limit", "--text", "--labels", "--task")
            _require_no_reading(dict(zip(names, (preprocessing, limit, text, labels, task), strict=True)))
        dataset = load_data(source, preprocessing=preprocessing, limit=limit, text=text, labels=labels, task=task)
        keras_model, dataset, taught = _examples(recipe, dataset, progress, examples, wanted=not teacher)
    if teacher:
        taught = load_teacher(
            teacher, teacher_classes, teacher_preprocessing, dataset.class_names, allow_unsafe=allow_unsafe
        )
    if min_accuracy is not None and not task_of(dataset).scores_classes:
        raise RecipeError(f"--min-accuracy needs a classification task; the data are for {dataset.task}.")

    def prepared(recipe: "Recipe", out: Path) -> "Prepared":
        try:
            return prepare(
                keras_model,
                recipe,
                dataset,
                teacher=taught,
                quiet=quiet,
                checkpoint=out / WORK / "checkpoint",
                checkpoint_every=checkpoint_every,
                overwrite=overwrite,
                teacher_cache=teacher_cache,
                feature_cache=feature_cache,
                listeners=listeners,
                distribution=distribution,
            )
        except DataError as error:
            if data or not model:
                raise
            reason = str(error).partition("; give images")[0].rstrip(".")
            raise DataError(
                f"--data is missing, so the data are the built-in digits. {reason}. Give --data, such as a folder of "
                "photos with a folder for each class."
            ) from error

    if repeats > 1:
        repeat(prepared, recipe, repeats, out, overwrite=overwrite, min_accuracy=min_accuracy)
        progress.tell("written", **written(out))
        return
    result = carried_out(prepared(recipe, out), out)
    if distribution.is_chief:
        verdict = result.report.verdict if result.verdict.ok else ""  # the error says it
        click.echo(str(dataclasses.replace(result.report, verdict=verdict)))
        save(result, out, overwrite=overwrite)
        progress.tell("written", **written(out))
    require_success(result.report, result.verdict, min_accuracy, out)
    if distribution.is_chief:
        say_written(out)


def _require_no_reading(options: dict[str, Any]) -> None:
    """Raise RecipeError for options that say how to read data: the recipe provides a Dataset that is already loaded."""
    if given := [name for name, value in options.items() if value is not None]:
        raise RecipeError(
            f"Expected no {' and '.join(given)}: the recipe provides a Dataset that is already loaded. Leave "
            f"{'it' if len(given) == 1 else 'them'} out, or give --data."
        )


def _examples(
    recipe: "Recipe", data: "Dataset", progress: Any, examples: Examples, *, wanted: bool
) -> tuple[Any, "Dataset", Any]:
    """Return a model for the data, the data, and a teacher if the recipe needs one and it is `wanted`.

    Without an example model, it is one for the digits. A student is small. If the recipe transfers, the model knows the
    digits 0 to 4, and the data are 5 to 9.
    """
    if examples.model:
        model = examples.model(data)
        return model, data, examples.teacher(data) if examples.teacher and wanted else None
    from tfopt.run.examples import digits_model, with_classes
    from tfopt.tasks import task_of

    if not task_of(data).has_classes:
        raise RecipeError(
            f"The default model classifies handwritten digits; the task of the data is {data.task}. Give --model and "
            "--data, or leave --task out."
        )
    seed, distillation = recipe.training.seed, recipe.distillation
    source, what = data, "model on the digits"
    if recipe.transfer is not None:
        source, data = with_classes(data, "01234"), with_classes(data, "56789")
        what = "source model on the digits 0 to 4; the task is 5 to 9"
    if distillation is None or not distillation.needs_teacher:
        progress.say(f"training the default {what}")
        return digits_model(source, seed=seed), data, None
    progress.say("training the default student on the digits")
    student = digits_model(source, width=0.4, seed=seed, name="student")
    if not wanted:
        return student, data, None
    progress.say("training the default teacher on the digits")
    make = examples.teacher or (lambda data: digits_model(data, seed=seed, name="teacher"))
    return student, data, make(data)
