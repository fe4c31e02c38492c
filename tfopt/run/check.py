"""check: what a recipe will do to each layer of a model, said before anything is trained."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tfopt import bridge, models
from tfopt.base.terminal import plain, rendered
from tfopt.bridge.check import sample_batch
from tfopt.errors import TfoptError
from tfopt.graph.walk import walk
from tfopt.run.dry_run import dry_run, established_before, resized, samples_of
from tfopt.run.recipe import Recipe
from tfopt.stages import Cluster, Prune, Quantize
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames

# Schedules need steps to fit into; how many there will be depends on the data, which a check does without.
STEPS_PER_EPOCH = 1000


@dataclass(frozen=True)
class CheckedLayer:
    """One layer of the caller's model.

    Attributes:
        path: where it is, "outer/inner/layer".
        kind: its class.
        bridged: how it becomes a tf_keras layer.
        stages: for each stage of the recipe, what it does with the layer, or why nothing.
        file: the operators of the `.tflite` that compute it, with their types; "" where there is none, None
            where the file could not be made or was not asked for.
    """

    path: str
    kind: str
    bridged: str
    stages: tuple[str, ...]
    file: str | None


@dataclass(frozen=True)
class Check:
    """What `check` found. `str(check)` is a table.

    Attributes:
        model: name of the model.
        stages: class names of the recipe's stages, the columns of `CheckedLayer.stages`.
        layers: the layers in calling order.
        problems: why the recipe cannot be carried out; empty when it can.
        notes: what else is worth knowing, e.g. operators that stay in float.
    """

    model: str
    stages: tuple[str, ...]
    layers: tuple[CheckedLayer, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when the recipe can be carried out."""
        return not self.problems

    def to_json(self) -> str:
        """Return all fields and `ok` as indented JSON that ends in a newline."""
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2) + "\n"

    def table(self) -> Any:
        """As a `rich.table.Table`."""
        from rich.table import Table

        verdict = "the recipe can be carried out" if self.ok else "the recipe cannot be carried out"
        table = Table(title=f"{self.model}: {len(self.layers)} layers; {verdict}", title_justify="left")
        for name in ("layer", "class", "bridged", *self.stages):
            table.add_column(name, overflow="fold")
        with_file = any(layer.file is not None for layer in self.layers)
        if with_file:
            table.add_column(".tflite", overflow="fold")
        for layer in self.layers:
            row = [layer.path, layer.kind, layer.bridged, *layer.stages]
            table.add_row(*row, *([layer.file or ""] if with_file else []))
        return table

    def __str__(self) -> str:
        lines = [f"problem: {line}" for line in self.problems] + [f"note: {line}" for line in self.notes]
        return "\n".join([rendered(self.table(), 160), *map(plain, lines)])


def check(model: Any, recipe: Recipe | None = None, *, convert: bool = True) -> Check:
    """What `recipe` will do to each layer of `model`. Nothing is trained, and `model` is not changed.

    The recipe is run dry: every stage is applied to the untrained flat model of `model`, and the `.tflite` is made
    with ranges from random inputs, so that the last column tells what a real file holds.

    Args:
        model: a Keras 3 or tf_keras model, or the path of one.
        recipe: the default prunes, clusters and quantizes with the stages' own defaults.
        convert: False leaves out the `.tflite`, which takes seconds to minutes.

    Raises:
        ModelError: `model` is no model, or a file that cannot be loaded. What stops the recipe itself is
            in `Check.problems`.
    """
    model = models.load_model(model) if isinstance(model, str | Path) else model
    recipe = recipe or Recipe(stages=(Prune(), Cluster(), Quantize()), name="default")
    crossings = bridge.crossings(model)
    problems: list[str] = []
    notes: list[str] = []
    cells: list[dict[str, str]] = []
    lite = None
    try:
        flat_model = bridge.to_tf_keras(model)
    except TfoptError as error:
        problems.append(str(error))
    else:
        cells = _decided(flat_model, recipe, problems)
        if convert and not problems:
            lite = _dry_run(flat_model, recipe, problems, notes)
    try:
        recipe.to_dict()
    except TfoptError as error:
        problems.append(str(error))
    layers = tuple(
        CheckedLayer(
            path=crossing.path,
            kind=crossing.kind,
            bridged=crossing.how,
            stages=tuple(column.get(crossing.name, "") for column in cells) or ("",) * len(recipe.stages),
            file=None if lite is None else operators_of(lite, crossing.name),
        )
        for crossing in crossings
    )
    stages = tuple(type(stage).__name__ for stage in recipe.stages)
    return Check(model.name, stages, layers, tuple(dict.fromkeys(problems)), tuple(notes))


def _decided(flat_model: Any, recipe: Recipe, problems: list[str]) -> list[dict[str, str]]:
    """For each stage, its decisions in words, by flat layer name."""
    columns = []
    samples = samples_of(sample_batch(walk(flat_model)))
    for stage, keep in zip(recipe.stages, established_before(recipe), strict=True):
        try:
            decisions = stage.decisions(flat_model, keep)
            flat_model = resized(stage, flat_model, keep, samples)
        except TfoptError as error:
            problems.append(f"{type(stage).__name__}: {error}")
            decisions = {}
        columns.append({name: _in_words(decision) for name, decision in decisions.items()})
    return columns


def _in_words(decision: Any) -> str:
    if decision.does and decision.why:
        return f"{decision.does} ({decision.why})"
    return decision.does or (f"no: {decision.why}" if decision.why else "")


def _dry_run(flat_model: Any, recipe: Recipe, problems: list[str], notes: list[str]) -> LiteModel | None:
    # The names of tensors are what tells whose operator it is.
    named = replace(recipe, export=replace(recipe.export, compact=False))
    try:
        lite, found = dry_run(flat_model, named, STEPS_PER_EPOCH, samples_of(sample_batch(walk(flat_model))))
    except TfoptError as error:
        problems.append(str(error))
        return None
    notes.extend(found)
    return lite


def operators_of(lite: LiteModel, layer: str) -> str:
    """The operators of `lite` that bear the name of the flat `layer`, by type: "int8 CONV_2D, RELU".

    An operator bears the names of the layers whose output or weights it has. Arithmetic on shapes is left out.
    """
    tensors = {(tensor.subgraph, tensor.index): tensor for tensor in lite.tensors()}
    names = LayerNames(lite, [layer])
    found: dict[str, dict[str, None]] = {}
    for op in lite.ops():
        if names.of(op):
            found.setdefault(tensors[op.subgraph, op.outputs[0]].dtype, {})[op.name] = None
    kinds = {dtype: ops for dtype, ops in found.items() if dtype not in ("int32", "int64", "bool")} or found
    return "; ".join(f"{dtype} {', '.join(ops)}" for dtype, ops in kinds.items())
