"""`tfopt run`, and the command line of recipe scripts."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfopt.cli.command import (
    SETTINGS,
    OneLineErrors,
    debug_option,
    foreign_code,
    hush_tensorflow,
    show_deprecations,
)
from tfopt.cli.events import events_on_stdout
from tfopt.cli.outcome import carried_out, require_success, save, say_passed, say_written, written
from tfopt.cli.repeating import repeat
from tfopt.cli.run_inputs import Examples, Named, explained_digits, load_inputs
from tfopt.cli.run_options import run_options
from tfopt.cli.shipped import RecipeName, recipe_file
from tfopt.errors import RecipeError

if TYPE_CHECKING:
    from tfopt.base.progress import Listener
    from tfopt.run.prepare import Prepared
    from tfopt.run.recipe import Recipe
    from tfopt.training.distribution import Distribution


@click.command()
@click.argument("recipe", type=RecipeName(path_type=Path))
@run_options
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
    @run_options
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

    if options["data"] not in (None, "digits") and not options["model"] and not examples.model:
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
    from tfopt.base.interruption import Interrupted, ending_on_signals, finishing
    from tfopt.base.stderr import load_tensorflow_quietly
    from tfopt.base.terminal import outlasting_readers
    from tfopt.training.distribution import distributed

    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    prepare_folder(out, overwrite=options["overwrite"])
    try:
        # TensorFlow takes seconds to load, so it comes after what may fail without it.
        # So that an interruption is one, whatever native code makes of it, where it gets to know what is kept.
        with (
            ending_on_signals(),
            finishing(),
            outlasting_readers(),
            working_folder(out),
            distributed(distribute) as distribution,
        ):
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
    overwrite: bool,
    epochs_factor: float,
    seed: int | None,
    repeats: int,
    quiet: bool,
    allow_drift: bool,
    teacher_cache: Path | None,
    feature_cache: Path | None,
    checkpoint_every: float,
    min_accuracy: float | None,
    listeners: Sequence["Listener"],
    **named: Any,
) -> None:
    """Load what `recipe` needs, carry it out and write the result to the folder `out`."""
    from tfopt.base.files import WORK
    from tfopt.base.progress import Progress
    from tfopt.run.prepare import prepare
    from tfopt.tasks import task_of

    recipe = recipe.scaled(epochs_factor)
    recipe = recipe if seed is None else recipe.seeded(seed)
    if allow_drift:
        recipe = dataclasses.replace(recipe, export=dataclasses.replace(recipe.export, allow_drift=True))
    progress = Progress(quiet=quiet, listeners=listeners)
    inputs = Named(**named)
    model, data, teacher = load_inputs(inputs, examples, recipe, file, progress)
    if min_accuracy is not None and not task_of(data).scores_classes:
        raise RecipeError(f"--min-accuracy needs a classification task; the data are for {data.task}.")

    def prepared(recipe: "Recipe", out: Path) -> "Prepared":
        with explained_digits(inputs):
            return prepare(
                model,
                recipe,
                data,
                teacher=teacher,
                quiet=quiet,
                checkpoint=out / WORK / "checkpoint",
                checkpoint_every=checkpoint_every,
                overwrite=overwrite,
                teacher_cache=teacher_cache,
                feature_cache=feature_cache,
                listeners=listeners,
                distribution=distribution,
            )

    if repeats > 1:
        repeat(prepared, recipe, repeats, out, overwrite=overwrite, min_accuracy=min_accuracy)
        progress.tell("written", **written(out))
        return
    result = carried_out(prepared(recipe, out), out)
    if distribution.is_chief:
        save(result, out, overwrite=overwrite)
        verdict = result.report.verdict if result.verdict.ok else ""  # the error says it
        click.echo(str(dataclasses.replace(result.report, verdict=verdict)))
        progress.tell("written", **written(out))
    require_success(result.report, result.verdict, min_accuracy, out)
    if distribution.is_chief:
        say_written(out)
        say_passed(result.report, result.verdict)
