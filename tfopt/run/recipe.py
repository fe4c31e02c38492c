"""Recipe: the whole optimization as plain data. It holds no live object, so it can be stored as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny

from tfopt.base.config import config
from tfopt.base.reading import parse_json, reading
from tfopt.base.registry import registered_name
from tfopt.data import Preprocessing
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher
from tfopt.errors import DataError, RecipeError
from tfopt.stages import STAGES, Stage
from tfopt.tflite.settings import Export
from tfopt.training.settings import Training
from tfopt.transfer import TRANSFERS, Transfer


@config
class Recipe:
    """Stages in order, their training, an optional distillation, and the file to export.

    A stage whose model is worse than the best one before it by more than `max_drop`, on validation data, is tried once
    more, gentler; then it ends the run. The unit is accuracy (0.05 is five points) or, for values, the error of always
    answering the mean training label. None allows any drop.

    If the given model is for another task, `transfer` defines how it is adapted before the first stage.
    `preprocessing` says how images from a path are fed, as a result states it; None leaves it to the data.

    Raises:
        RecipeError: the stages contradict each other: one would lose what an earlier one established, or follows
            `Quantize`.

    Examples:
        >>> recipe = tfopt.Recipe(
        ...     stages=(tfopt.Prune(final_sparsity=0.6, epochs=6), tfopt.Quantize(epochs=2)),
        ...     training=tfopt.Training(learning_rate=5e-4, patience=5),
        ...     max_drop=0.02,
        ... )
        >>> tfopt.Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    stages: tuple[SerializeAsAny[Stage], ...]
    training: Training = dataclasses.field(default_factory=Training)
    export: Export = dataclasses.field(default_factory=Export)
    distillation: Distillation | MeanTeacher | None = None
    transfer: SerializeAsAny[Transfer] | None = None
    max_drop: float | None = Field(default=0.05, gt=0, allow_inf_nan=False)
    preprocessing: Preprocessing | None = None
    name: str = Field(default="recipe", pattern=r"^\w[\w .-]*$")

    def __post_init__(self) -> None:
        established: dict[str, str] = {}
        for position, stage in enumerate(self.stages):
            kind = type(stage).__name__
            if stage.last and position != len(self.stages) - 1:
                raise RecipeError(f"{kind} must be the last stage: its trained graph is what gets exported.")
            if lost := sorted(set(established) - stage.preserves):
                raise RecipeError(
                    f"{kind} would lose the {lost[0]} that {established[lost[0]]} established. "
                    f"Put {kind} before {established[lost[0]]}, or leave one of them out."
                )
            if stage.establishes:
                established[stage.establishes] = kind
        trained_for = self.export.weights == self.export.activations == "int8"
        if self.stages and self.stages[-1].last and not trained_for:
            raise RecipeError(
                f"{type(self.stages[-1]).__name__} trains for int8 weights and activations, but the export asks for "
                f"{self.export.weights} weights and {self.export.activations} activations. "
                'Use Export(weights="int8", activations="int8").'
            )

    def scaled(self, epochs_factor: float) -> "Recipe":
        """Return the same recipe with all epochs and `min_steps` times `epochs_factor`, also of a transfer's head.

        At least 1 epoch is left where there was 1.
        """
        stages = tuple(
            dataclasses.replace(
                stage,
                epochs=max(1, round(stage.epochs * epochs_factor)) if stage.epochs else 0,
                min_steps=round(stage.min_steps * epochs_factor),
            )
            for stage in self.stages
        )
        transfer: Any = self.transfer
        if epochs := getattr(transfer, "epochs", None):
            transfer = dataclasses.replace(transfer, epochs=max(1, round(epochs * epochs_factor)))
        return dataclasses.replace(self, stages=stages, transfer=transfer)

    def seeded(self, seed: int) -> "Recipe":
        """Return the same recipe with `seed` for training, a transfer, and stages that set no seed."""
        transfer = dataclasses.replace(self.transfer, seed=seed) if self.transfer else None
        return dataclasses.replace(self, training=dataclasses.replace(self.training, seed=seed), transfer=transfer)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict; each stage has its class name under "stage".

        Raises:
            RecipeError: a stage, loss or transfer of another package is not registered, see `tfopt.extend.register`.
        """
        return {
            "name": self.name,
            "max_drop": self.max_drop,
            "stages": [{"stage": registered_name(type(stage)), **dataclasses.asdict(stage)} for stage in self.stages],
            "training": dataclasses.asdict(self.training),
            "export": dataclasses.asdict(self.export),
            "distillation": self.distillation.to_dict() if self.distillation else None,
            "transfer": self.transfer.to_dict() if self.transfer else None,
            **({"preprocessing": self.preprocessing.to_dict()} if self.preprocessing else {}),
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON that ends in a newline."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Return the recipe whose `values` `to_dict` wrote. Raise RecipeError for unknown stages, keys and values."""
        if not isinstance(values, dict):
            raise RecipeError(f"A recipe must be a JSON object with 'stages'; got {type(values).__name__}.")
        stages = values.get("stages")
        if not isinstance(stages, list | tuple):
            raise RecipeError(f"A recipe needs a list of 'stages'; got {stages!r}.")
        values = {**values, "stages": tuple(_stage(stage) for stage in stages)}
        if isinstance(values.get("distillation"), dict):
            mean = values["distillation"].get("kind") == "MeanTeacher"
            kind = MeanTeacher if mean else Distillation
            values["distillation"] = kind.from_dict(values["distillation"])
        if isinstance(values.get("preprocessing"), dict):
            values["preprocessing"] = _preprocessing(values["preprocessing"])
        if isinstance(values.get("transfer"), dict):
            values["transfer"] = _transfer(values["transfer"])
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise RecipeError(f"Unknown key {', '.join(sorted(unknown))} in the recipe.")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Return the recipe whose `text` `to_json` wrote. Raise RecipeError for anything else."""
        with reading(lambda why: RecipeError(f"The recipe is not valid JSON: {why}.")):
            values = parse_json(text)
        with reading(lambda why: RecipeError(f"The recipe has a value that no recipe accepts: {why}.")):
            return cls.from_dict(values)

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Return the recipe in the file `path`, a `recipe.json`. Raise RecipeError for anything else."""
        try:
            with reading(lambda why: RecipeError(f"{why}.")):
                text = Path(path).read_text(encoding="utf-8")
            return cls.from_json(text)
        except RecipeError as error:
            raise RecipeError(f"Cannot read the recipe {path}: {error}") from error


def as_recipe(recipe: object) -> Recipe:
    """Return `recipe`, or one of the stage or stages that it is. Raise `RecipeError` for anything else."""
    if isinstance(recipe, Recipe):
        return recipe
    stages = tuple(recipe) if isinstance(recipe, list | tuple) else (recipe,)
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise RecipeError(
            f"Expected a tfopt.Recipe, a stage or a list of stages; got a {type(recipe).__name__}. Recipe.load reads a "
            "recipe.json."
        )
    return Recipe(stages=stages)


def require_json(recipe: Recipe) -> None:
    """Raise `RecipeError` if a recipe.json cannot hold `recipe`, or would hold another one."""
    try:
        text = recipe.to_json()
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"The recipe '{recipe.name}' cannot be written as JSON: {error}. Settings must be numbers, texts, "
            "booleans, None, or tuples and dicts of these."
        ) from error
    if Recipe.from_json(text).to_json() != text:
        raise RecipeError(
            f"The recipe '{recipe.name}' changes when it is read from its JSON. Settings of a stage, loss or transfer "
            "must be numbers, texts, booleans, None, or tuples and dicts of these."
        )


def _transfer(values: dict[str, Any]) -> Transfer:
    return TRANSFERS.named(values.get("kind"))(**{key: value for key, value in values.items() if key != "kind"})


def _preprocessing(values: dict[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_dict(values)
    except DataError as error:
        raise RecipeError(f"The recipe states a preprocessing that cannot be read: {error}") from error


def _stage(values: Any) -> Stage:
    if isinstance(values, Stage):
        return values
    if not isinstance(values, dict):
        raise RecipeError(f"Unknown stage {values!r}. Known: {', '.join(kind.__name__ for kind in STAGES)}.")
    rest = {key: value for key, value in values.items() if key != "stage"}
    return STAGES.named(values.get("stage"))(**rest)
