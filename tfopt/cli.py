"""The command line: tfopt run | check | inspect | compare | rank.

Exit codes: 0 done; 1 a promise does not hold in the file, or `check` finds that the recipe cannot be carried out;
2 bad input or usage; 3 an error in tfopt itself; 130 interrupted. TensorFlow is imported only by the commands that
need it.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfopt.errors import PromiseError, RecipeError, TfoptError

if TYPE_CHECKING:
    from tfopt.data import Dataset
    from tfopt.recipe import Recipe

PREPROCESSING = ("raw", "unit", "symmetric")
UNEXPECTED = 3  # exit code
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


class _OneLineErrors(click.Command):
    """Turns errors into one line and an exit code; tracebacks behind --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _fail("interrupted; no result was written. The same command goes on after the last finished stage", 130)
        except BaseException as error:
            if ctx.params.get("debug"):
                raise
            _fail(*_explained(error))


class _Group(_OneLineErrors, click.Group):
    """`tfopt` itself, with commands."""


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, PromiseError):
        return str(error), 1
    if isinstance(error, TfoptError):
        return str(error), 2
    return (
        f"{type(error).__name__}: {error}. This should not happen; --debug before the command shows where.",
        UNEXPECTED,
    )


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    raise click.exceptions.Exit(code)


@click.group(cls=_Group, context_settings=SETTINGS)
@_debug_option
@click.version_option(package_name="tfopt")
def main(debug: bool) -> None:
    """Take a trained Keras model to a small, verified .tflite."""
    del debug  # `_OneLineErrors` looks at it
    _hush_tensorflow()


def _hush_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up chatter of TensorFlow's native part


_allow_unsafe = click.option(
    "--allow-unsafe", is_flag=True, help="Let the model file run Python code of its own. Only for files you trust."
)


def _shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--preprocess", type=click.Choice(PREPROCESSING),
                     help="What images are fed as: raw 0..255, unit 0..1, symmetric -1..1 (default: raw; where the "
                          "recipe transfers, what fits the source best)."),
        click.option("--limit", type=click.IntRange(min=1),
                     help="At most so many samples of each part, for a quick try."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--model", "--source", "model",
                     help="A Keras model file, a SavedModel or a TF-Hub handle (default: a small CNN trained on the "
                          "digits). Where the recipe transfers, it may be for another task."),
        click.option("--data", help="An image folder or .npz (default: scikit-learn's handwritten digits)."),
        click.option("--out", type=click.Path(path_type=Path),
                     help="Folder for the results (default: saved_models/NAME)."),
        click.option("--overwrite", is_flag=True, help="Replace what is in the --out folder."),
        click.option("--teacher", multiple=True,
                     help="A model to learn from in every stage: a Keras file, a SavedModel, a .tflite or a folder "
                          "that tfopt wrote. Several are averaged, or fused where they know different classes."),
        click.option("--teacher-classes", multiple=True, type=click.Path(path_type=Path),
                     help="A text file with the class names of each --teacher in turn, one in a line."),
        click.option("--teacher-preprocess", type=click.Choice(PREPROCESSING),
                     help="What the teachers are fed (default: what the model is, or what their folder says)."),
        click.option("--teacher-cache", type=click.Path(path_type=Path),
                     help="Folder that keeps the teacher's answers for further runs (default: in memory)."),
        click.option("--feature-cache", type=click.Path(path_type=Path),
                     help="Folder that keeps the features of a transfer for further runs (default: in memory)."),
        click.option("--min-accuracy", type=click.FloatRange(0, 1),
                     help="Fail with exit code 1 when the file's accuracy on the test set is below."),
        _allow_unsafe,
        click.option("--epochs-factor", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
                     help="Multiply the epochs of every stage."),
        click.option("--seed", type=click.IntRange(min=0), help="Another seed than the recipe's."),
        click.option("--quiet", is_flag=True, help="No progress, only the report."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return _shared_options(command)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_run_options
def run(recipe: Path, **options: Any) -> None:
    """Carry out RECIPE (a .py with a `recipe`, or a recipe.json) and write a verified model.tflite.

    \b
    tfopt run recipes/deep_compression.py
    tfopt run recipes/prune.py --model model.keras --data photos/ --out saved_models/photos
    """
    loaded, example_teacher = _load_recipe(recipe)
    _run(loaded, example_teacher, **options)


def run_recipe(recipe: "Recipe", example_teacher: Any = None) -> None:
    """The command line of a recipe script: the options of `tfopt run` for this one recipe.

    `example_teacher(data)` makes the teacher for the built-in digits, where the recipe wants another than usual.
    """

    @click.command(cls=_OneLineErrors, context_settings=SETTINGS, help=sys.modules["__main__"].__doc__)
    @_run_options
    @_debug_option
    def command(debug: bool, **options: Any) -> None:
        del debug
        _hush_tensorflow()
        _run(recipe, example_teacher, **options)

    command.main(prog_name=Path(sys.argv[0]).name)


def _load_recipe(path: Path) -> tuple["Recipe", Any]:
    """The recipe, and the function that makes its teacher for the digits, if it has one."""
    from tfopt.recipe import Recipe

    if path.suffix == ".json":
        return Recipe.load(path), None
    if path.suffix != ".py" or not path.is_file():
        raise RecipeError(
            f"Expected a recipe .py or .json, got {path}{'' if path.exists() else ', which does not exist'}."
        )
    import runpy

    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        if _explained(error)[1] != UNEXPECTED:
            raise
        raise RecipeError(f"{path} does not run: {type(error).__name__}: {error}.") from error
    recipe = names.get("recipe")
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} must define `recipe = tfopt.Recipe(...)`; found {type(recipe).__name__}.")
    return recipe, names.get("example_teacher")


def _run(
    recipe: "Recipe",
    example_teacher: Any = None,
    *,
    model: str | None,
    data: str | None,
    out: Path | None,
    overwrite: bool,
    epochs_factor: float,
    seed: int | None,
    quiet: bool,
    preprocess: str | None,
    limit: int | None,
    allow_unsafe: bool,
    teacher: tuple[str, ...],
    teacher_classes: tuple[Path, ...],
    teacher_preprocess: str | None,
    teacher_cache: Path | None,
    feature_cache: Path | None,
    min_accuracy: float | None,
) -> None:
    from tfopt.quiet import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.data import load_data
    from tfopt.distillation.teachers.load import load_teacher
    from tfopt.files import prepare_folder
    from tfopt.loop import optimize
    from tfopt.progress import Progress
    from tfopt.start import choose_preprocessing, data_for
    from tfopt.transfer import model_from

    if data and not model:
        raise RecipeError("--data needs --model: the default model knows the built-in digits only.")
    out = out or Path("saved_models") / recipe.name
    prepare_folder(out, overwrite=overwrite)
    recipe = recipe.scaled(epochs_factor)
    recipe = recipe if seed is None else recipe.seeded(seed)
    progress = Progress(quiet=quiet)
    if model:
        keras_model = model_from(model, allow_unsafe=allow_unsafe)
        shape = recipe.transfer.input_shape if recipe.transfer else None
        dataset = data_for(keras_model, data or "digits", preprocess=preprocess, limit=limit, input_shape=shape)
        if recipe.transfer and preprocess is None:
            dataset, said = choose_preprocessing(keras_model, dataset, shape)
            for line in said:
                progress.say(line)
        taught = None
    else:
        dataset = load_data("digits", preprocessing=preprocess, limit=limit)
        keras_model, dataset, taught = _examples(recipe, dataset, progress, example_teacher, wanted=not teacher)
    if teacher:
        taught = load_teacher(teacher, teacher_classes, teacher_preprocess, dataset.class_names)
    if min_accuracy is not None and dataset.task != "classification":
        raise RecipeError(f"--min-accuracy is for a classification; the data are for {dataset.task}.")
    checkpoint = out.with_name(f".{out.name}.checkpoint.npz")
    result = optimize(
        keras_model,
        recipe,
        dataset,
        teacher=taught,
        quiet=quiet,
        checkpoint=checkpoint,
        teacher_cache=teacher_cache,
        feature_cache=feature_cache,
    )
    result.save(out, overwrite=overwrite)
    click.echo(str(result.report))
    if min_accuracy is not None:
        _require_accuracy(result, min_accuracy, out)
    click.echo(f"wrote {out}/: {', '.join(sorted(file.name for file in out.iterdir()))}")


def _require_accuracy(result: Any, least: float, out: Path) -> None:
    found = result.report.rows[-1].metrics["accuracy"]
    if found < least:
        raise PromiseError(f"the file's accuracy is {found:.4f}, below --min-accuracy {least:g}; it is in {out}")


def _examples(
    recipe: "Recipe", data: "Dataset", progress: Any, example_teacher: Any, *, wanted: bool
) -> tuple[Any, "Dataset", Any]:
    """A model for the digits, the data, and a teacher where the recipe needs one and it is `wanted`.

    A student is small. Where the recipe transfers, the model knows the digits 0 to 4, and the data are 5 to 9.
    """
    from tfopt.examples import digits_model, with_classes

    seed, distillation = recipe.training.seed, recipe.distillation
    source, name = data, "model"
    if recipe.transfer is not None:
        source, data = with_classes(data, "01234"), with_classes(data, "56789")
        name = "source on 0 to 4, for the task of 5 to 9,"
    if distillation is None or not distillation.needs_teacher:
        progress.say(f"training the default {name} of the digits")
        return digits_model(source, seed=seed), data, None
    progress.say("training the default student on the digits")
    student = digits_model(source, width=0.4, seed=seed, name="student")
    if not wanted:
        return student, data, None
    progress.say("training the default teacher on the digits")
    make = example_teacher or (lambda data: digits_model(data, seed=seed, name="teacher"))
    return student, data, make(data)


def _print_table(table: Any) -> None:
    """Print a `rich.table.Table`, its title as a line of its own, which a narrow table would break."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140, soft_wrap=True)
    console.print(table.title, highlight=False, markup=False)
    table.title = None
    console.print(table, soft_wrap=False)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="A .py with a `recipe`, or a recipe.json (default: prune, cluster, quantize).",
)
@click.option(
    "--convert/--no-convert",
    default=True,
    show_default=True,
    help="Also make the .tflite, with random calibration data, to see what it holds.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all of it to this file too.")
@_allow_unsafe
def check(model: Path, recipe: Path | None, convert: bool, json_file: Path | None, allow_unsafe: bool) -> None:
    """Say what a recipe will do to each layer of MODEL, without training anything.

    \b
    tfopt check model.keras
    tfopt check model.keras --recipe recipes/deep_compression.py

    Exit code 1 when the recipe cannot be carried out.
    """
    from tfopt.quiet import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.checking import check as check_model
    from tfopt.files import write_atomically
    from tfopt.models import load_model

    loaded = load_model(model, allow_unsafe=allow_unsafe)
    found = check_model(loaded, _load_recipe(recipe)[0] if recipe else None, convert=convert)
    if json_file:
        write_atomically(json_file, found.to_json())
    _print_table(found.table())
    for text in found.notes:
        click.echo(f"note: {text}")
    for text in found.problems:
        click.echo(f"problem: {text}", err=True)
    if not found.ok:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def inspect(file: Path) -> None:
    """Show what FILE holds: layers or operators, parameters, sparsity, unique values, dtype, bytes."""
    from tfopt.inspection import inspect_file
    from tfopt.quiet import load_tensorflow_quietly

    load_tensorflow_quietly()

    _print_table(inspect_file(file).table())


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="An image folder, a .npz or 'digits'; its test part is used.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of LiteRT.")
@_shared_options
def compare(a: Path, b: Path, data: str, threads: int, preprocess: str | None, limit: int | None) -> None:
    """Put two model files side by side on the same test set: accuracy, agreement, bytes, latency.

    A Keras model is measured as the float .tflite that it converts to.
    """
    from tfopt.comparison import compare_files
    from tfopt.quiet import load_tensorflow_quietly

    load_tensorflow_quietly()

    table = compare_files(a, b, data, threads=threads, preprocess=preprocess, limit=limit)
    _print_table(table)


@main.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--data", required=True, help="An image folder, a .npz or 'digits'; its training part is used.")
@click.option("--feature-cache", type=click.Path(path_type=Path), help="Folder that keeps the features.")
@_shared_options
def rank(
    sources: tuple[str, ...], data: str, feature_cache: Path | None, preprocess: str | None, limit: int | None
) -> None:
    """Say which of SOURCES to transfer from: what their features tell of the labels, without any training.

    \b
    tfopt rank mobilenet.keras resnet.keras hub_module/ --data photos/

    Sources are model files, SavedModels or TF-Hub handles. LogME and H-score: higher is better.
    """
    from tfopt.quiet import load_tensorflow_quietly

    load_tensorflow_quietly()
    from tfopt.ranking import rank_sources

    ranking = rank_sources(sources, data, preprocess=preprocess, limit=limit, cache=feature_cache)
    _print_table(ranking.table())


if __name__ == "__main__":
    main()
