"""Plan which layers to quantize and how, on the flat graph, by what TFLite's int8 operators fuse and require.

A linear layer, a BatchNormalization after it and a ReLU after that become one operator, so only the last of them rounds
its output. Layers that only move or select values have the same range for input and output and do not round.
"""

import collections
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfopt.base.keras_compat import tf_keras, tfmot_module
from tfopt.errors import RecipeError
from tfopt.graph.index_values import index_values
from tfopt.graph.layer_facts import OWN_RANGE, facts_of
from tfopt.graph.types import Call, Graph, Ref, refs_in
from tfopt.stages.kernels.folding import scales_channels
from tfopt.stages.kernels.layer_kinds import (
    FUSED,
    activation_of,
    has_float_output,
    is_fused_activation,
    is_linear_layer,
)
from tfopt.stages.kernels.rules import Setting
from tfopt.stages.kernels.table import Kernel, kernels
from tfopt.stages.quantize.int8_equivalents import always_averages_all
from tfopt.stages.quantize.quantizers import Scales

# Operations, carried or wrapped by tf_keras (`TFOpLambda`), that only move or select values; lower case.
PASSING_OPERATIONS = (
    "getitem", "strided_slice", "slice", "reshape", "transpose", "split", "expand_dims", "expanddims", "squeeze",
    "pad", "gather", "take", "tile", "repeat", "broadcast_to", "swapaxes", "moveaxis", "identity", "ravel", "flip",
    "roll", "stop_gradient", "max", "min", "amax", "amin", "reduce_max", "reduce_min", "unstack", "arraysplit",
    "rot90", "image.resize", "resize",
)  # fmt: skip
# Operations whose quantized form the converter refuses.
_WITHOUT_INT8 = ("one_hot", "onehot")
_SHARED = "range of "
# Settings of rules besides True and False.
WEIGHTS, OUTPUT = "weights", "output"
# Allowed bits per weight; a .tflite stores them in 8, 4 or 2.
BITS = range(2, 9)


@dataclass(frozen=True)
class Treatment:
    """What happens to one layer.

    Attributes:
        weights: whether its kernels are rounded.
        bits: bits per weight; None for the stage's setting.
        before: whether the values between its linear part and its activation are rounded.
        output: whether its output is rounded.
        inner: attributes of inner layers whose outputs are also rounded.
        shares_with: the next layer, which rounds the output instead; "" for none. If that layer stays in float after
            all, this one rounds its output itself.
        config: registered name of the user's QuantizeConfig, which replaces the settings above.
        in_float: whether the layer stays in float although it could be quantized.
        why: the reason, "" if there is none to report.
    """

    weights: bool = False
    bits: int | None = None
    before: bool = False
    output: bool = False
    inner: tuple[str, ...] = ()
    shares_with: str = ""
    config: str = ""
    in_float: bool = False
    why: str = ""

    @property
    def quantizes(self) -> bool:
        """Whether anything in the layer is rounded."""
        return self.weights or self.before or self.output or bool(self.inner) or bool(self.config)


def plan(graph: Graph, settings: Mapping[str, Setting]) -> dict[str, Treatment]:
    """Return the treatment of each layer of a flat tf_keras model.

    Args:
        graph: of a flat tf_keras model.
        settings: by layer name: True, False, a number of bits for its weights, "weights", "output" or the registered
            name of a QuantizeConfig.

    Returns:
        Treatments by layer name.

    Raises:
        RecipeError: a setting is none of these.
    """
    for name, setting in settings.items():
        _check_setting(name, setting)
    return _Planner(graph, settings).run()


class _Planner:
    def __init__(self, graph: Graph, settings: Mapping[str, Setting]) -> None:
        self.graph, self.settings = graph, settings
        self.indices = index_values(graph)
        self.calls: dict[str, list[Call]] = collections.defaultdict(list)
        self.consumers: dict[Ref, list[Call | None]] = collections.defaultdict(list)  # None: an output of the model
        self.made_by: dict[Ref, Call] = {}
        for call in graph.calls:
            self.calls[call.leaf.name].append(call)
            self.made_by.update(dict.fromkeys(call.outputs, call))
            for ref in refs_in([call.args, call.kwargs]):
                self.consumers[ref].append(call)
        for ref in refs_in(graph.outputs_struct):
            self.consumers[ref].append(None)

    def run(self) -> dict[str, Treatment]:
        return {leaf.name: self._treatment(leaf.name, leaf.layer) for leaf in self.graph.leaves}

    def _treatment(self, name: str, layer: Any) -> Treatment:
        setting = self.settings.get(name, True)
        usual = self._usual(name, layer)
        if setting is True:
            return usual
        if not isinstance(setting, bool | str):
            return replace(usual, bits=int(setting))
        if setting is False:
            return Treatment(in_float=usual.quantizes, inner=usual.inner, why="by rule")
        if setting == WEIGHTS:
            return Treatment(weights=bool(kernels(layer)), inner=usual.inner, why="weights only, by rule")
        if setting == OUTPUT:
            output = has_float_output(layer)
            return Treatment(before=usual.before, output=output, inner=usual.inner, why="output only, by rule")
        return Treatment(config=str(setting), why="by rule")

    def _usual(self, name: str, layer: Any) -> Treatment:
        facts = facts_of(layer)
        if facts.no_int8:
            return Treatment(in_float=True, why=facts.no_int8)
        if operation_of(layer).rpartition(".")[2] in _WITHOUT_INT8:
            return Treatment(in_float=True, why="the converter refuses its int8 form; what reads it computes in float")
        if any(self.indices.intersection(call.outputs) for call in self.calls[name]):
            return Treatment(in_float=True, why="its values become indices")
        if facts.family == "embedding":
            return Treatment(weights=True, why="its output has the range of its weights")
        if facts.family == "recurrent":
            return Treatment(weights=bool(kernels(layer)), why="other ranges come from representative data")
        if _passes(layer) or facts.absent or not has_float_output(layer):
            return Treatment()
        weights, activation = bool(kernels(layer)), activation_of(layer)
        if why := self._joined(name):
            next_layer = why.removeprefix(_SHARED) if why.startswith(_SHARED) else ""
            return Treatment(weights=weights, shares_with=next_layer, why=why)
        if activation in OWN_RANGE:
            before = is_linear_layer(layer)
            return Treatment(weights=weights, before=before, why=f"TFLite fixes the range of {activation}")
        before = is_linear_layer(layer) and activation not in (*FUSED, "linear")
        return Treatment(weights=weights, before=before, output=True, inner=self._sole_readers(name, layer))

    def _sole_readers(self, name: str, layer: Any) -> tuple[str, ...]:
        """Return the inner layers that are the only readers of a tensor, such as the query's in cross-attention.

        The converter hands them the integers of that tensor although they have neither integer weights nor a range
        for their output, and LiteRT refuses the file. With two readers it converts back to float in between.
        """
        parts = {part.strip("/"): attribute for part, attribute in facts_of(layer).parts.items()}
        found: dict[str, None] = {}
        for call in self.calls[name] if "query" in parts else ():
            given = inspect.signature(layer.call).bind(*call.args, **call.kwargs).arguments
            given["key"] = given["value"] if given.get("key") is None else given["key"]
            read = {part: given[part] for part in parts if part in given}
            for part, ref in read.items():
                others = [after for after in self.consumers[ref] if after is not call]
                if not others and list(read.values()).count(ref) == 1:
                    found[parts[part]] = None
        return tuple(found)

    def _joined(self, name: str) -> str:
        """Return why the layer needs no separate range, "" if it does: it shares an operator or range with the next."""
        reasons = {self._joined_call(call) for call in self.calls[name]}
        return reasons.pop() if len(reasons) == 1 else ""

    def _joined_call(self, call: Call) -> str:
        if len(call.outputs) != 1 or len(self.consumers[call.outputs[0]]) != 1:
            return ""
        (after,) = self.consumers[call.outputs[0]]
        if after is None or self.settings.get(after.leaf.name, True) not in (True, OUTPUT, *BITS):
            return ""
        layer, follower = call.leaf.layer, after.leaf
        if self._folds(after):
            return f"folded with {follower.name}"
        if self._fuses(call) and is_fused_activation(follower.layer):
            return f"fused with {follower.name}"
        if facts_of(follower.layer).joins_ranges and not _has_own_range(layer):
            return f"{_SHARED}{follower.name}"
        return ""

    def _folds(self, call: Call) -> bool:
        """Return whether `call` is a BatchNormalization that the converter folds into the preceding linear layer."""
        if facts_of(call.leaf.layer).family != "batch_norm" or len(self.calls[call.leaf.name]) != 1:
            return False
        (given,) = refs_in([call.args, call.kwargs])
        before = self.made_by.get(given)
        if before is None:
            return False
        facts = facts_of(before.leaf.layer)
        return (
            facts.folds_batch_norm
            and activation_of(before.leaf.layer) == "linear"
            and scales_channels(call.leaf.layer)
            and len(self.consumers[given]) == 1
            and len(self.calls[before.leaf.name]) == 1
        )

    def _fuses(self, call: Call) -> bool:
        """Return whether TFLite fuses a ReLU after `call` into its operator."""
        layer = call.leaf.layer
        linear = is_linear_layer(layer) and activation_of(layer) == "linear"
        return linear or facts_of(layer).fuses_activation


def looked_up(graph: Graph) -> dict[Ref, bool]:
    """Return the tensors that are looked up in a table, whatever their dtype, and whether they are nothing but indices.

    What a Discretization reads are numbers, and so is what layers without a table read as well.
    """
    readers: dict[Ref, list[bool]] = collections.defaultdict(list)
    found: dict[Ref, None] = {}
    for call in graph.calls:
        facts, read = facts_of(call.leaf.layer), refs_in([call.args, call.kwargs])
        found.update(dict.fromkeys(read if facts.looks_up else ()))
        for ref in read:
            readers[ref].append(facts.looks_up and facts.takes_indices)
    return {ref: all(readers[ref]) for ref in found}


def scales_of(kernel: Kernel) -> Scales:
    """Return the scales that TFLite's operator has for a kernel."""
    facts = facts_of(kernel.owner)
    if kernel.attribute == "depthwise_kernel":
        return Scales((-2, -1))
    if facts.scales == "equation":
        return Scales(_output_axes(kernel.owner.equation, len(kernel.shape)))
    if facts.scales == "gate":
        shape = (kernel.shape[0], facts.gates, kernel.owner.units)
        return Scales((-2,), shape, "per gate", told_by_operator=False)
    if facts.scales == "loop":
        return Scales((-1,), told_by_operator=False)  # FakeQuant of weights inside a loop does not convert
    if facts.scales == "channel":
        return Scales((kernel.channel_axis,))
    return Scales(certain=bool(facts.kernels))


def _output_axes(equation: str, rank: int) -> tuple[int, ...]:
    inputs, rest = equation.replace(" ", "").replace("...", "").split(",")
    weight, output = rest.split("->")
    axes = tuple(axis - rank for axis, letter in enumerate(weight) if letter in output and letter not in inputs)
    shared = any(letter in output and letter in inputs for letter in weight)  # one matrix per batch: a single scale
    return () if shared or len(weight) != rank else axes


def _passes(layer: Any) -> bool:
    facts = facts_of(layer)
    if facts.family == "average_pooling":
        return not always_averages_all(layer)
    if facts.passes:
        return True
    if facts.family == "activation":
        return activation_of(layer) == "linear"
    operation = operation_of(layer)
    return operation in PASSING_OPERATIONS or operation.rpartition(".")[2].strip("_") in PASSING_OPERATIONS


def operation_of(layer: Any) -> str:
    """Return the name of the operation that a layer carries, lower case, e.g. "reshape"; "" for an ordinary layer."""
    kind = type(layer).__name__
    if kind == "SlicingOpLambda":
        return "getitem"
    if kind == "TFOpLambda":
        return str(layer.get_config()["function"]).lower()
    if kind == "Carried":
        return type(layer.operation).__name__.lower()
    return ""


def _has_own_range(layer: Any) -> bool:
    return activation_of(layer) in OWN_RANGE


def _check_setting(name: str, setting: Setting) -> None:
    if isinstance(setting, bool) or setting in (WEIGHTS, OUTPUT, *BITS):
        return
    if isinstance(setting, str) and config_class(setting) is not None:
        return
    own = "".join(f", {known!r}" for known in registered_configs())
    raise RecipeError(
        f"Quantize has no setting {setting!r} for layer '{name}'. Known: True, False, 'weights', 'output', {BITS[0]} "
        f"to {BITS[-1]} (bits of weights){own}. Register your own QuantizeConfig with "
        "@tf_keras.saving.register_keras_serializable(package)."
    )


def config_class(name: str) -> Any:
    """Return the user's QuantizeConfig class registered as `name` ("Package>Class"), or None."""
    return registered_configs().get(name)


def registered_configs() -> dict[str, Any]:
    """Return the QuantizeConfig classes registered with tf_keras, by registered name."""
    base = tfmot_module("quantization.keras.quantize_config").QuantizeConfig
    known: Iterable[tuple[str, Any]] = tf_keras().saving.get_custom_objects().items()
    return {name: cls for name, cls in known if isinstance(cls, type) and issubclass(cls, base)}
