"""Blocks: the repeatable parts of a graph, whose output has the shape of their input."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Graph, Ref, flatten, is_layer, map_leaves, refs_in
from tfopt.surgery.classifier import classifier

# Layers that belong to the kernel after them.
_LEADING = ("depthwise", "padding")
# Settings in which equal blocks may differ: dropout rates often grow from block to block.
_OWN = ("name", "seed", "trainable", "rate", "drop_path_rate", "build_config", "batch_input_shape")


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """The calls between two consecutive cut tensors; may contain parallel branches."""

    calls: list[Call]
    before: Ref | None
    after: Ref

    @property
    def keeps_shape(self) -> bool:
        """True if the block's output has the shape of its input, so that it can be repeated."""
        before, after = self.before, self.after
        return before is not None and (before.shape, before.dtype) == (after.shape, after.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The blocks of a stage; `ends` are the tensors before the first of them and after each."""

    blocks: list[Segment]
    ends: list[Ref]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape between the blocks, without the batch axis."""
        return (self.ends[0].shape or ())[1:]


def _joined(segments: list[Segment]) -> Segment:
    return Segment([call for part in segments for call in part.calls], segments[0].before, segments[-1].after)


def _segments(graph: Graph) -> list[Segment]:
    """Return `graph` cut wherever later calls need only a single tensor."""
    until = {ref: number for number, call in enumerate(graph.calls) for ref in refs_in([call.args, call.kwargs])}
    until |= dict.fromkeys(flatten(graph.outputs_struct), len(graph.calls))
    live = {spec.ref for spec in graph.inputs}
    segments: list[Segment] = []
    before, calls = next(iter(live)) if len(live) == 1 else None, list[Call]()
    for number, call in enumerate(graph.calls):
        calls.append(call)
        live = {ref for ref in (*live, *call.outputs) if until.get(ref, -1) > number}
        if len(live) == 1:
            (after,) = live
            segments.append(Segment(calls, before, after))
            before, calls = after, []
    return segments


def runs(graph: Graph) -> list[Run]:
    """Return the stages of `graph` from input to output."""
    units = _units(_segments(graph))
    heads, calls_of = classifier(graph).heads, _calls_of(graph)

    def repeatable(unit: Segment) -> bool:
        own = {id(call) for call in unit.calls}
        leaves = {id(call.leaf): call.leaf for call in unit.calls}.values()
        alone = all(own >= {id(call) for call in calls_of[id(leaf)]} for leaf in leaves)
        return unit.keeps_shape and alone and not any(leaf in heads for leaf in leaves)

    stages: list[list[Segment]] = []
    for unit in filter(repeatable, units):
        if stages and stages[-1][-1].after == unit.before:
            stages[-1].append(unit)
        else:
            stages.append([unit])
    return [run for stage in stages for run in _repeats(stage)]


def _calls_of(graph: Graph) -> dict[int, list[Call]]:
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(id(call.leaf), []).append(call)
    return calls


def _units(segments: list[Segment]) -> list[Segment]:
    """Return the kernels of a chain, each with its layers before (padding, depthwise) and after it (activation)."""
    cores: list[tuple[list[Segment], list[Segment]]] = []
    leading: list[Segment] = []
    adjacent = False  # whether the previous segment belongs to the last core
    for segment in segments:
        if _has_kernel(segment):
            cores.append(([*leading, segment], []))
            leading, adjacent = [], True
        elif leading or facts_of(segment.calls[0].leaf.layer).family in _LEADING:
            leading = [*leading, segment] if segment.keeps_shape or _leads(segment) else []
            adjacent = False
        elif adjacent and segment.keeps_shape and not _pools(segment):
            cores[-1][1].append(segment)
        else:
            adjacent = False
    return _trimmed(cores)


def _leads(segment: Segment) -> bool:
    return all(facts_of(call.leaf.layer).family in _LEADING for call in segment.calls)


def _pools(segment: Segment) -> bool:
    return any("Pooling" in type(call.leaf.layer).__name__ for call in segment.calls)


def _trimmed(cores: list[tuple[list[Segment], list[Segment]]]) -> list[Segment]:
    """Return each core with the layers after it that belong to the block and not to the end of its stage."""
    units: list[Segment] = []
    follows: dict[str, list[str]] = {}  # what follows the first core of a kind
    for core, behind in cores:
        if len(core[-1].calls) > 1 and _has_norm(core[-1]):  # a norm after such a residual block belongs to the next
            behind = list(itertools.takewhile(lambda segment: not _has_weights(segment), behind))
        kind, signs = _signature(_joined(core)), [_signature(segment) for segment in behind]
        usual = follows.setdefault(kind, signs)
        if signs[: len(usual)] == usual:
            behind = behind[: len(usual)]
        units.append(_joined([*core, *behind]))
    return units


def _has_weights(segment: Segment) -> bool:
    return any(is_layer(call.leaf.layer) and call.leaf.layer.weights for call in segment.calls)


def _has_norm(segment: Segment) -> bool:
    return any(type(call.leaf.layer).__name__.endswith("Normalization") for call in segment.calls)


def _has_kernel(segment: Segment) -> bool:
    """Return True if it mixes channels; False if that only scales the input, as in an SE block."""
    last = segment.calls[-1]
    if type(last.leaf.layer).__name__ == "Multiply" and segment.before in set(refs_in([last.args, last.kwargs])):
        return False
    layers = [call.leaf.layer for call in segment.calls if is_layer(call.leaf.layer) and call.leaf.layer.weights]
    return any(facts_of(layer).mixes_channels for layer in layers)


def _signature(segment: Segment) -> str:
    """Return a string that is equal for segments with the same computation and other weights."""
    places: dict[Ref, Any] = {} if segment.before is None else {segment.before: "before"}
    rows = []
    for number, call in enumerate(segment.calls):
        layer, given = call.leaf.layer, rewired(call, places)
        shapes = [ref.shape for ref in call.outputs]
        rows.append((type(layer).__name__, _settings(layer), given.args, given.kwargs, shapes))
        places |= {ref: f"{number}.{place}" for place, ref in enumerate(call.outputs)}
    return repr(rows)


def _settings(layer: Any) -> Any:
    """Return what a layer or an operation computes, without its name and its initializers."""
    if is_layer(layer):
        return _plain(layer.get_config())
    simple = (bool, int, float, str, tuple, list, type(None))
    settings = {key: value for key, value in vars(layer).items() if isinstance(value, simple)}
    return {key: value for key, value in settings.items() if key != "name" and not key.startswith("_")}


def _plain(config: Any) -> Any:
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in _OWN and not key.endswith("_initializer")}
        return {key: _plain(value) for key, value in sorted(kept.items())}
    return [_plain(part) for part in config] if isinstance(config, list | tuple) else config


def _repeats(stage: list[Segment]) -> list[Run]:
    """Return the units of a stage as blocks: what repeats, else everything before the next repetition."""
    signs = [_signature(unit) for unit in stage]
    runs, single, start = list[Run](), list[Segment](), 0
    while start < len(stage):
        period, times = _longest(signs[start:])
        if times == 1:
            single.append(stage[start])
            start += 1
            continue
        runs += [_run([single])] if single else []
        runs.append(_run([stage[at : at + period] for at in range(start, start + period * times, period)]))
        single, start = [], start + period * times
    return runs + ([_run([single])] if single else [])


def _longest(signs: list[str]) -> tuple[int, int]:
    """Return (period, times) of the longest repetition at the start of `signs`; the shortest period wins ties."""
    found = (1, 1)
    for period in range(1, len(signs) // 2 + 1):
        times = 1
        while signs[times * period : (times + 1) * period] == signs[:period]:
            times += 1
        if times > 1 and period * times > found[0] * found[1]:
            found = (period, times)
    return found


def _run(blocks: list[list[Segment]]) -> Run:
    joined = [_joined(block) for block in blocks]
    assert joined[0].before is not None  # its units keep the shape
    return Run(joined, [joined[0].before, *(block.after for block in joined)])


def rewired(call: Call, places: Mapping[Ref, Any]) -> Call:
    """Return `call` with the arguments in `places` replaced."""
    args, kwargs = map_leaves(
        lambda part: places.get(part, part) if isinstance(part, Ref) else part, (call.args, call.kwargs)
    )
    return dataclasses.replace(call, args=args, kwargs=kwargs)
