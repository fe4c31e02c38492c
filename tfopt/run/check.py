"""check: report what a recipe will do to each layer of a model, before any training."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tfopt import bridge
from tfopt.base.finite_json import json_text
from tfopt.base.notebook import table_html
from tfopt.base.terminal import plain, rendered
from tfopt.bridge.check import runnable_batch
from tfopt.errors import TfoptError
from tfopt.graph.walk import walk
from tfopt.models.sources import model_from
from tfopt.run.dry_run import dry_run, established_before, resized, samples_of
from tfopt.run.recipe import Recipe, as_recipe
from tfopt.run.requirements import why_by_hand
from tfopt.stages import Cluster, Prune, Quantize, Stage
from tfopt.surgery.channels.groups import channels_of
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.layer_names import LayerNames

# Schedules need a number of steps, which depends on the data; a check runs without data.
STEPS_PER_EPOCH = 1000


@dataclass(frozen=True)
class CheckedLayer:
    """One layer of the caller's model.

    Attributes:
        path: "outer/inner/layer".
        kind: its class.
        bridged: how it becomes a tf_keras layer.
        stages: for each stage of the recipe, what it does with the layer, or why it does nothing.
        file: the operators of the `.tflite` that compute it, with their types; "" for none, None if the file could not
            be made or was not requested.
    """

    path: str
    kind: str
    bridged: str
    stages: tuple[str, ...]
    file: str | None


@dataclass(frozen=True)
class Check:
    """The result of `check`. `str(check)` is a table.

    Attributes:
        model: name of the model.
        stages: class names of the recipe's stages, the columns of `CheckedLayer.stages`.
        layers: the layers in calling order.
        problems: why the recipe cannot be carried out; empty if it can.
        notes: other findings, e.g. operators that stay in float.
        by_hand: True if `optimize` does not train such models, so the stages must be applied by hand.

    Examples:
        >>> found = tfopt.check(model, tfopt.PruneChannels(final_ratio=0.5, round_to=4), convert=False)
        >>> isinstance(found, tfopt.Check), found.problems
        (True, ())
        >>> print(found)
        sequential...: 4 layers; the recipe can run
        ...
    """

    model: str
    stages: tuple[str, ...]
    layers: tuple[CheckedLayer, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    by_hand: bool = False

    @property
    def ok(self) -> bool:
        """True if the recipe can be carried out; see `by_hand` for how."""
        return not self.problems

    def to_json(self) -> str:
        """Return all fields and `ok` as indented JSON that ends in a newline."""
        return json_text({**asdict(self), "ok": self.ok})

    def table(self) -> Any:
        """Return the layers as a `rich.table.Table`."""
        from rich.table import Table

        table = Table(title=f"{self.model}: {len(self.layers)} layers; {self._verdict}", title_justify="left")
        for name in ("layer", "class", "bridged", *self.stages):
            table.add_column(name, overflow="fold")
        with_file = any(layer.file is not None for layer in self.layers)
        if with_file:
            table.add_column(".tflite", overflow="fold")
        for layer in self.layers:
            row = [layer.path, layer.kind, layer.bridged, *layer.stages]
            table.add_row(*row, *([layer.file or ""] if with_file else []))
        return table

    @property
    def _verdict(self) -> str:
        if not self.ok:
            return "the recipe cannot run"
        return "the stages can be applied by hand" if self.by_hand else "the recipe can run"

    def _repr_html_(self) -> str:
        """Return the table, the problems and the notes for a notebook."""
        return table_html(self.table(), self._lines)

    @property
    def _lines(self) -> list[str]:
        return [f"problem: {line}" for line in self.problems] + [f"note: {line}" for line in self.notes]

    def __str__(self) -> str:
        return "\n".join([rendered(self.table(), 160), *map(plain, self._lines)])


def check(model: Any, recipe: Recipe | Stage | Sequence[Stage] | None = None, *, convert: bool = True) -> Check:
    """Report what `recipe` will do to each layer of `model`. Nothing is trained, and `model` is not changed.

    This is a dry run: every stage is applied to the untrained flat model of `model`, and the `.tflite` is made with
    ranges from random inputs, so that the last column shows the contents of a real file.

    Args:
        model: a Keras 3 or tf_keras model, or the path of one.
        recipe: or a stage, or a list of stages; the default prunes, clusters and quantizes with the stages' defaults.
        convert: False skips the `.tflite`, which takes seconds to minutes.

    Returns:
        The report.

    Raises:
        ModelError: `model` is not a model, or a file that cannot be loaded. Problems of the recipe itself are in
            `Check.problems`.

    Examples:
        >>> found = tfopt.check(model, (tfopt.Prune(final_sparsity=0.6), tfopt.Quantize()), convert=False)
        >>> found.ok
        True
        >>> for layer in found.layers:
        ...     print(layer.path, *layer.stages, sep=" | ")
        first | 60 % zeros | int8 weights per channel, int8 output
        second | 60 % zeros | int8 weights per channel, int8 output
        global_average_pooling2d... |  | int8 output
        head | 60 % zeros | int8 weights per channel, int8 before its activation (TFLite fixes the range of softmax)
    """
    default = Recipe(stages=(Prune(), Cluster(), Quantize()), name="default")
    recipe = default if recipe is None else as_recipe(recipe)
    model = model_from(model)
    crossings = bridge.crossings(model)
    problems: list[str] = []
    notes: list[str] = []
    cells: list[dict[str, str]] = []
    lite, by_hand = None, ""
    try:
        flat_model = bridge.to_tf_keras(model)
    except TfoptError as error:
        problems.append(str(error))
    else:
        by_hand = "" if recipe.transfer else why_by_hand(flat_model)  # a transfer makes another model
        cells = _decided(flat_model, recipe, problems, notes)
        if convert and not problems:
            lite = _dry_run(flat_model, recipe, problems, notes, model)
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
    notes = [by_hand, *notes] if by_hand else notes
    return Check(model.name, stages, layers, tuple(dict.fromkeys(problems)), tuple(notes), bool(by_hand))


def _decided(flat_model: Any, recipe: Recipe, problems: list[str], notes: list[str]) -> list[dict[str, str]]:
    """Return, for each stage, its decisions in words, by flat layer name; add to `notes` what resizing saves."""
    columns = []
    samples = samples_of(runnable_batch((flat_model,), walk(flat_model))[0])
    for stage, keep in zip(recipe.stages, established_before(recipe), strict=True):
        try:
            decisions = stage.decisions(flat_model, keep)
            smaller = resized(stage, flat_model, keep, samples)
            if stage.resizes:
                notes.append(f"{type(stage).__name__}, by the weights as they are: {_saving(flat_model, smaller)}")
            flat_model = smaller
        except TfoptError as error:
            problems.append(f"{type(stage).__name__}: {error}")
            decisions = {}
        columns.append({name: _in_words(decision) for name, decision in decisions.items()})
    return columns


def _saving(before: Any, after: Any) -> str:
    macs, parameters = zip(*((channels_of(each).macs(), each.count_params()) for each in (before, after)), strict=True)
    return (
        f"MACs {macs[0]:,} -> {macs[1]:,} ({macs[0] / max(1, macs[1]):.2f}x fewer), parameters {parameters[0]:,} -> "
        f"{parameters[1]:,}"
    )


def _in_words(decision: Any) -> str:
    if decision.does and decision.why:
        return f"{decision.does} ({decision.why})"
    return decision.does or (f"no: {decision.why}" if decision.why else "")


def _dry_run(flat_model: Any, recipe: Recipe, problems: list[str], notes: list[str], like: Any) -> LiteModel | None:
    # Tensor names show which layer an operator belongs to.
    named = replace(recipe, export=replace(recipe.export, compact=False))
    try:
        samples = samples_of(runnable_batch((flat_model,), walk(flat_model))[0])
        lite = dry_run(flat_model, named, STEPS_PER_EPOCH, samples, like=like)
    except TfoptError as error:
        problems.append(str(error))
        return None
    notes.extend(lite.notes)
    return lite


def operators_of(lite: LiteModel, layer: str) -> str:
    """Return the operators of `lite` that carry the name of the flat `layer`, by type: "int8 CONV_2D, RELU".

    An operator carries the names of the layers whose output or weights it has. Shape arithmetic is omitted.
    """
    tensors = {(tensor.subgraph, tensor.index): tensor for tensor in lite.tensors()}
    names = LayerNames(lite, [layer])
    found: dict[str, dict[str, None]] = {}
    for op in lite.ops():
        if names.of(op):
            found.setdefault(tensors[op.subgraph, op.outputs[0]].dtype, {})[op.name] = None
    kinds = {dtype: ops for dtype, ops in found.items() if dtype not in ("int32", "int64", "bool")} or found
    return "; ".join(f"{dtype} {', '.join(ops)}" for dtype, ops in kinds.items())
