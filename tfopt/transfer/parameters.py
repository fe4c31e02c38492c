"""transfer_weights: copy the weights of one model into another for a different task."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tfopt import bridge
from tfopt.bridge import weights
from tfopt.bridge.state import finalize
from tfopt.errors import ModelError
from tfopt.graph.layer_facts import facts_named
from tfopt.graph.lookup import named
from tfopt.graph.types import Graph, Leaf, is_layer, refs_in
from tfopt.graph.walk import walk
from tfopt.surgery.classifier import classifier
from tfopt.transfer.matching import Pair, by_mapping, by_name, by_order, kind, weights_of, weighty
from tfopt.transfer.weight_report import Move, TransferredWeights

Match = Literal["name", "order"] | Mapping[str, str]


def transfer_weights(
    source: Any,
    target: Any,
    *,
    match: Match = "name",
    first: int | str | None = None,
    adapt: bool = True,
    strict: bool = True,
) -> TransferredWeights:
    """Return a new model like `target` with the weights of `source` wherever they fit.

    The models may use different Kerases and nesting: their layers are compared one by one. A layer takes all of its
    weights or, if a shape differs, none. All other weights stay as in `target`.

    Args:
        source: a built Keras 3 or tf_keras model. It is not changed.
        target: a built model that receives the weights. It is not changed.
        match: "name": layers with the same path, or the same name if it is unique; generated names (`conv2d_7`) match
            by rank, unless both models start at the same number. "order": the k-th layer of a class with weights to the
            k-th of that class. Or a mapping from paths, or names, of layers in `target` to those in `source`.
        first: transfer only the first `first` layers with weights, or those up to and including the layer with that
            path or name, in calling order.
        adapt: adapt the first convolution to a different number of input channels, see `fitted_channels`.
        strict: raise if nothing fits, or if a pair of a mapping does not.

    Returns:
        The model, with the Keras, nesting, compile settings and `trainable` flags of `target`; and a `Move` for each
        weight of `target`, including the moving statistics of BatchNormalization.

    Raises:
        ModelError: models that are not built, an unknown layer (the message suggests the nearest names), `first` out of
            range, or a mismatch that `strict` forbids.

    Examples:
        >>> moved = tfopt.transfer.transfer_weights(teacher, network(16), match="order")
        >>> moved.counts
        {'matched': 6, 'adapted': 0, 'skipped': 0}
    """
    ours, theirs = walk(target), walk(source)
    plan = _Plan(theirs, ours, match, _chosen(ours, first), adapt)
    moves = tuple(step.move for step in plan.steps)
    if strict:
        plan.check_mapped()
        if all(move.status == "skipped" for move in moves):
            raise plan.nothing_fits()
    return TransferredWeights(_filled(target, ours, plan.steps), moves)


def fitted_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return a kernel (..., inputs, outputs) for `channels` inputs, with equal output if all input channels are equal.

    With fewer inputs, each gets the sum of the channels it replaces in turn, so a gray image gives the same output as
    its three-channel copy; with more, the given channels repeat in turn, each divided by its number of copies. timm,
    which does this with RGB weights (Wightman 2019, doi:10.5281/zenodo.4414861), scales all by one ratio; the two agree
    if one number of channels divides the other.
    """
    given = kernel.shape[-2]
    if channels <= given:
        return np.stack([kernel[..., start::channels, :].sum(-2) for start in range(channels)], axis=-2)
    turn = np.arange(channels) % given
    return kernel[..., turn, :] / np.bincount(turn)[turn, None]


@dataclass(frozen=True)
class _Step:
    """A move, the target weight, and its new value; None to keep it."""

    move: Move
    variable: Any
    value: np.ndarray | None = None


class _Plan:
    """The new value of every weight of `ours`, the target, from `theirs`."""

    def __init__(self, theirs: Graph, ours: Graph, match: Match, chosen: set[int], adapt: bool) -> None:
        self.theirs, self.ours, self.match, self.chosen, self.adapt = theirs, ours, match, chosen, adapt
        self.heads = {id(leaf) for graph in (ours, theirs) for leaf in classifier(graph).heads}
        self.entries = _entries(ours) | _entries(theirs)
        self.steps = [step for pair in self._pairs() for step in self._steps(pair)]

    def _pairs(self) -> list[Pair]:
        if isinstance(self.match, Mapping):
            return by_mapping(self.theirs, self.ours, self.match)
        if self.match not in ("name", "order"):
            raise ModelError(
                f"Expected match='name', match='order' or a mapping from layers to layers; got {self.match!r}."
            )
        return (by_name if self.match == "name" else by_order)(self.theirs, self.ours)

    def _steps(self, pair: Pair) -> list[_Step]:
        leaf, source = pair.target, pair.source
        own = weights_of(leaf.layer)
        if id(leaf) not in self.chosen:
            return _skipped(leaf, None, own, "after the requested layers")
        if source is None:
            return _skipped(leaf, None, own, pair.note)
        if kind(leaf) != kind(source) and isinstance(self.match, str):
            return _skipped(leaf, source, own, f"a {kind(source)} in the source, a {kind(leaf)} here")
        pairs, left = _side_by_side(own, weights_of(source.layer))
        unlike = [name for name, ours, theirs in pairs if theirs is not None and _shape(ours) != _shape(theirs)]
        if unlike and not self._adaptable(leaf, source, unlike):
            return _skipped(leaf, source, own, self._difference(leaf, source, pairs))
        note = "; ".join(filter(None, (pair.note, left)))
        return [_taken(leaf, source, *row, note) for row in pairs]

    def _adaptable(self, leaf: Leaf, source: Leaf, unlike: list[str]) -> bool:
        """Return True if only the number of input channels of the first convolution differs."""
        if not self.adapt or unlike != ["kernel"] or not self.entries >= {id(leaf), id(source)}:
            return False
        ours, theirs = (_shape(dict(weights_of(each.layer))["kernel"]) for each in (leaf, source))
        return len(ours) == len(theirs) and ours[:-2] == theirs[:-2] and ours[-1] == theirs[-1]

    def _difference(self, leaf: Leaf, source: Leaf, pairs: list[tuple[str, Any, Any]]) -> str:
        """Return a description of the first shape that differs."""
        name, ours, theirs = next(
            (name, _shape(a), _shape(b)) for name, a, b in pairs if b is not None and _shape(a) != _shape(b)
        )
        if self.heads >= {id(leaf), id(source)} and ours[:-1] == theirs[:-1]:
            return f"a different number of outputs: {ours[-1]} here, {theirs[-1]} in the source"
        return f"{name} is {ours} here, {theirs} in the source"

    def check_mapped(self) -> None:
        """Raise ModelError if a pair of a mapping does not fit."""
        if isinstance(self.match, str):
            return
        for move in (step.move for step in self.steps):
            if move.status == "skipped" and move.source:
                raise ModelError(
                    f"'{move.layer}' of '{self.ours.name}' does not take the weights of '{move.source}' of "
                    f"'{self.theirs.name}': {move.weight}: {move.note}. Leave the pair out of the mapping, or pass "
                    "strict=False."
                )

    def nothing_fits(self) -> ModelError:
        """Return the error for an empty transfer: the closest pair, and what else to try."""
        near = next((step.move for step in self.steps if step.move.source), None)
        if near is not None:
            closest = f"'{near.layer}' and '{near.source}' correspond, but {near.note}"
        else:
            closest = _closest(weighty(self.ours), weighty(self.theirs))
        hint = "Name pairs of layers in a mapping"
        if self.match == "name":
            other = _Plan(self.theirs, self.ours, "order", self.chosen, self.adapt)
            fits = sum(step.value is not None for step in other.steps)
            hint = f"match='order' would take {fits} of {len(self.steps)} weights; a mapping names pairs of layers"
        return ModelError(
            f"No weight of '{self.theirs.name}' fits '{self.ours.name}'; closest: {closest}. {hint}; or pass "
            "strict=False."
        )


def _chosen(graph: Graph, first: int | str | None) -> set[int]:
    """Return the ids of the leaves that should receive weights."""
    leaves = weighty(graph)
    if isinstance(first, str):
        last = named(graph, first, graph.name)
        return {id(leaf) for leaf in graph.leaves[: graph.leaves.index(last) + 1]}
    if first is not None and not 1 <= first <= len(leaves):
        raise ModelError(f"'{graph.name}' has {len(leaves)} layers with weights; got first={first}.")
    return {id(leaf) for leaf in leaves[:first]}


def _skipped(leaf: Leaf, source: Leaf | None, own: list[tuple[str, Any]], note: str) -> list[_Step]:
    where = "" if source is None else source.path
    return [_Step(Move(leaf.path, name, where, "skipped", note), variable) for name, variable in own]


def _taken(leaf: Leaf, source: Leaf, name: str, ours: Any, theirs: Any, note: str) -> _Step:
    if theirs is None:
        return _skipped(leaf, source, [(name, ours)], f"'{source.path}' has none")[0]
    value = np.asarray(theirs)
    if value.shape == _shape(ours):
        return _Step(Move(leaf.path, name, source.path, "matched", note), ours, value)
    said = "; ".join(filter(None, (note, f"input channels: {_shape(ours)[-2]} here, {value.shape[-2]} in the source")))
    return _Step(Move(leaf.path, name, source.path, "adapted", said), ours, fitted_channels(value, _shape(ours)[-2]))


def _side_by_side(ours: list[tuple[str, Any]], theirs: list[tuple[str, Any]]) -> tuple[list[tuple[str, Any, Any]], str]:
    """Return (name, weight, the source's or None) for all of `ours`, and a description of the unmatched `theirs`.

    Match by name, and by order among equal names; match by order if the names differ and all shapes are equal, as in
    wrappers around layers with different names.
    """
    if [_shape(weight) for _, weight in ours] == [_shape(weight) for _, weight in theirs]:
        names = [name for name, _ in ours]
        if sorted(names) != sorted(name for name, _ in theirs):
            return [(name, a, b) for (name, a), (_, b) in zip(ours, theirs, strict=True)], ""
    of_name: dict[str, list[Any]] = {}
    for name, weight in theirs:
        of_name.setdefault(name, []).append(weight)
    pairs = [(name, weight, of_name[name].pop(0) if of_name.get(name) else None) for name, weight in ours]
    left = [name for name, weights_left in of_name.items() if weights_left]
    return pairs, f"no place here for the source's {', '.join(left)}" if left else ""


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.shape)


def _entries(graph: Graph) -> set[int]:
    """Return the ids of the ungrouped convolutions that read the channels of an input."""
    raw, found = {spec.ref for spec in graph.inputs}, set()
    for call in graph.calls:
        refs, leaf = list(refs_in([call.args, call.kwargs])), call.leaf
        if len(refs) != 1 or refs[0] not in raw:
            continue
        if facts_named(kind(leaf)).family == "convolution" and leaf.layer.groups == 1:
            found.add(id(leaf))
        elif kind(leaf) == "Normalization" or not (is_layer(leaf.layer) and leaf.layer.weights):
            shapes = [ref.shape[-1:] for ref in (refs[0], *call.outputs) if ref.shape]
            raw.update(call.outputs if len(set(shapes)) == 1 else ())
    return found


def _closest(ours: list[Leaf], theirs: list[Leaf]) -> str:
    """Return a description of the two layers of one class with the most similar names."""
    alike = [
        (difflib.SequenceMatcher(None, a.layer.name, b.layer.name).quick_ratio(), place, a, b)
        for place, (a, b) in enumerate(itertools.product(ours, theirs))
        if kind(a) == kind(b)
    ]
    if not alike:
        return "none, because they have no layer class in common"
    _, _, a, b = max(alike, key=lambda row: (row[0], -row[1]))
    return f"the names '{a.path}' and '{b.path}' ({kind(a)})"


def _filled(target: Any, graph: Graph, steps: list[_Step]) -> Any:
    """Return a new model like `target` after `steps`."""
    values = {id(step.variable): step.value for step in steps if step.value is not None}
    flat_model = bridge.to_tf_keras(target)
    for leaf in graph.leaves:
        if is_layer(leaf.layer):
            for variable, flat_variable in weights.pairs(leaf.layer, flat_model.get_layer(leaf.name)):
                if id(variable) in values:
                    flat_variable.assign(values[id(variable)])
    finalize(flat_model)
    return bridge.to_keras(flat_model, like=target)
