"""The model, data and teacher of a run: those that the command line names, or the recipe's examples."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfopt.errors import DataError, RecipeError, TfoptError

if TYPE_CHECKING:
    from tfopt.base.progress import Progress
    from tfopt.data import Dataset
    from tfopt.run.recipe import Recipe


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


@dataclasses.dataclass(frozen=True)
class Named:
    """What the command line says about the model, the data and the teacher; see the options of `tfopt run`."""

    model: str | None
    data: str | None
    text: str | None
    labels: str | None
    task: str | None
    mask_values: tuple[int, ...] | None
    window: int | None
    horizon: int | None
    targets: tuple[str, ...] | None
    preprocessing: str | None
    settings: tuple[str, ...]
    limit: int | None
    teacher: tuple[str, ...]
    teacher_classes: tuple[Path, ...]
    teacher_preprocessing: str | None
    allow_unsafe: bool

    @property
    def reading(self) -> dict[str, Any]:
        """How to read the data: arguments of `load_data`."""
        names = ("preprocessing", "limit", "text", "labels", "task", "mask_values")
        return {name: getattr(self, name) for name in names}

    @property
    def given(self) -> str:
        """The options that say how to read the data, in words; "" for none."""
        options = {**self.reading, "input": self.settings or None}
        return " and ".join(f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None)

    def front_end(self, places: Sequence[Any] = ()) -> dict[str, Any]:
        """Return the front end that --input makes, as an argument of `load_data`; {} without the option.

        Raises:
            RecipeError: there are no --data, --preprocessing is given, too, or a data.json beside one of `places`
                states a front end, with which the model was trained.
            DataError: as `front_end_of`.
        """
        if not self.settings:
            return {}
        if not self.data:
            raise RecipeError("--input says how to read the data: give them with --data.")
        if self.preprocessing:
            raise RecipeError("--preprocessing is for images, --input for other samples. Give one of them.")
        from tfopt.data.beside import raw_front_end_beside
        from tfopt.data.front_end_settings import front_end_of

        stated, said = raw_front_end_beside(places)
        if stated:
            raise RecipeError(f"--input is for new models, but this one was trained on {said}. Leave it out.")
        return {"preprocessing": front_end_of(self.settings, self.data)}

    def series(self) -> "Dataset | None":
        """Return the windows of the series that --data names; None unless --window makes it one.

        Raises:
            RecipeError: options of a series without --window, others with it, or no --data.
        """
        if self.window is None:
            if self.horizon or self.targets:
                raise RecipeError("--horizon and --targets are for series: give --window, too.")
            return None
        if not self.data:
            raise RecipeError("--window cuts a series: give the table that holds it with --data.")
        if self.given:
            raise RecipeError(f"Expected no {self.given} beside --window: a series has columns of numbers alone.")
        from tfopt.data import load_series

        return load_series(self.data, window=self.window, horizon=self.horizon or 1, targets=self.targets)


def load_inputs(
    named: Named, examples: Examples, recipe: "Recipe", file: Path | None, progress: "Progress"
) -> tuple[Any, "Dataset", Any]:
    """Return the model, the data and the teacher of a run of `recipe`; the teacher may be None.

    Args:
        named: what the command line says.
        examples: what the recipe runs on otherwise.
        recipe: the recipe, which may say how images are fed.
        file: the file of the recipe, if it may have a data.json beside it.
        progress: reports what is chosen and trained.

    Raises:
        ModelError, DataError, RecipeError: they cannot be read, or do not go together.
    """
    model, data, teacher = (
        (*_given(named, recipe, file, progress), None)
        if named.model
        else _examples(named, examples, recipe, file, progress)
    )
    if named.teacher:
        from tfopt.teachers.load import load_teacher

        names, classes = named.teacher, named.teacher_classes
        teacher = load_teacher(
            names,
            classes,
            named.teacher_preprocessing,
            data.class_names,
            mask_values=data.mask_values,
            allow_unsafe=named.allow_unsafe,
        )
    return model, data, teacher


def _given(named: Named, recipe: "Recipe", file: Path | None, progress: "Progress") -> tuple[Any, "Dataset"]:
    """Return the model that the command line names, and the data for it."""
    from tfopt.models.sources import model_from
    from tfopt.run.run_data import data_of_run
    from tfopt.transfer.preprocessing import choose_preprocessing

    model = model_from(named.model, allow_unsafe=named.allow_unsafe)
    transfer = recipe.transfer
    shape = transfer.input_shape if transfer else None
    places = [] if transfer else [named.model, recipe, file]  # a transfer looks for itself
    front_end = named.front_end(places)
    data = data_of_run(
        model,
        recipe,
        named.series() or named.data or "digits",
        **(named.reading | front_end),
        input_shape=shape,
        beside=places,
        quiet=progress.console.quiet,
        listeners=progress.listeners,
    )
    _require_read(data, front_end)
    if transfer and named.preprocessing is None:
        data, said = choose_preprocessing(model, data, shape, getattr(transfer, "layer", None))
        for line in said:
            progress.say(line)
    return model, data


def _require_read(data: "Dataset", front_end: dict[str, Any]) -> None:
    """Raise `DataError` if the front end that was to read `data`, if there is one, did not."""
    from tfopt.data.front_end_settings import require_read

    for each in front_end.values():
        require_read(data.preprocessing, each)


def _require_digits(file: Path) -> None:
    """Raise `RecipeError` if a `data.json` beside the recipe `file` says that it ran on other data than the digits."""
    from tfopt.base.reading import parse_json, reading
    from tfopt.run.examples import DIGITS_SHAPE

    path = file.with_name("data.json")
    if file.suffix != ".json" or not path.is_file():
        return
    with reading(lambda why: RecipeError(f"{path} cannot be read ({why}). Give --model and --data.")):
        about = parse_json(path.read_bytes())
    shape = about.get("input_shape") if isinstance(about, dict) else None
    if shape and shape != list(DIGITS_SHAPE):
        raise RecipeError(
            f"{file} holds stages and settings, but neither the model nor the data that it ran on, with samples of "
            f"shape {shape}. Give --model and --data; a recipe that builds its own network runs again by its name."
        )


def _of_recipe(example_model: Callable[["Dataset"], Any], data: "Dataset") -> Any:
    """Return the network that the recipe builds for `data`. Raise `RecipeError` if it cannot."""
    from tfopt.base.words import reason_of

    try:
        return example_model(data)
    except TfoptError:
        raise
    except Exception as error:
        raise RecipeError(
            f"The recipe builds no network for samples of shape {data.input_shape} and the task {data.task!r}: "
            f"{reason_of(error).rstrip('.')}. Give data of the form that the recipe describes (tfopt recipes), or your "
            "own network with --model."
        ) from error


def _examples(
    named: Named, examples: Examples, recipe: "Recipe", file: Path | None, progress: "Progress"
) -> tuple[Any, "Dataset", Any]:
    """Return a model for the data, the data, and a teacher if the recipe needs one and none is named.

    Without an example model, it is one for the digits. A student is small. If the recipe transfers, the model knows the
    digits 0 to 4, and the data are 5 to 9.
    """
    from tfopt.data import Dataset, load_data
    from tfopt.data.sources import shadowed_note

    if said := shadowed_note(named.data):
        progress.say(f"note: {said}")
    if not examples.data and not named.data and file:
        _require_digits(file)
    source = named.series() or named.data or (examples.data() if examples.data else "digits")
    if isinstance(source, Dataset):
        _require_no_reading(named)
    front_end, wanted = named.front_end(), not named.teacher
    data = load_data(source, **(named.reading | front_end))
    _require_read(data, front_end)
    if examples.model:
        model = _of_recipe(examples.model, data)
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


@contextmanager
def explained_digits(named: Named) -> Iterator[None]:
    """Add to a DataError of the block that the data are the digits, if a model is named and --data was left out."""
    try:
        yield
    except DataError as error:
        if named.data or not named.model:
            raise
        reason = str(error).partition("; give images")[0].rstrip(".")
        raise DataError(
            f"--data is missing, so the data are the built-in digits. {reason}. Give --data, such as a folder of "
            "photos with a folder for each class."
        ) from error


def _require_no_reading(named: Named) -> None:
    """Raise RecipeError for options that say how to read data: the recipe provides a Dataset that is already loaded."""
    if named.given:
        raise RecipeError(
            f"Expected no {named.given}: the recipe provides a Dataset that is already loaded. Leave this out, or give "
            "--data."
        )
