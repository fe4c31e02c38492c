"""The check at every conversion: run two models that should be equal on the same small batch."""

import collections
import contextlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfopt.base.terminal import keras_message, plain
from tfopt.bridge import policy, samples
from tfopt.bridge.plans import Arguments, Plan
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Graph, Ref, flatten, is_layer, is_nested, map_leaves, pack, refs_in
from tfopt.graph.variables import unchanged
from tfopt.graph.walk import graph_network

PlansOf = Callable[[Graph], dict[int, Plan]]  # the plan of each leaf of a graph, by its `id`

TOLERANCE = 1e-4  # relative to max(1, largest output); float32 flat models differ by 1e-7 to 1e-5
HALF_TOLERANCE = 2e-2  # if one side computes in float16 or bfloat16 (8 to 11 bits of mantissa)
_NUDGE = 1e-6  # a relative error that float32 may accumulate halfway through a deep model
_LONGEST_REASON = 300
_CHANNELS = re.compile("NHWC|NCHW|NDHWC|NCDHW|channels_last|channels_first")
_SQUASHING = ("softmax", "sigmoid", "tanh", "hard_sigmoid", "keras3_hard_sigmoid")


def check_equal(graph: Graph, model: Any, converted: dict[str, Any], other: Any, plans_of: PlansOf) -> None:
    """Raise ModelError unless `model` (with the flat graph `graph`) and `other` give equal outputs.

    Both run in inference mode on 2 seeded samples (see `runnable_batch`) and may differ by 1e-4 of
    max(1, largest output). Where a layer squashes the output (softmax, sigmoid), its input is compared too: 1e-4 of a
    probability says little. `converted` maps flat names to layers of `other`, to find the first layer that differs;
    `plans_of` returns their plans. If all layers agree and only the outputs differ, because `model` itself amplifies
    rounding errors, a warning is issued instead; a model that is random even in inference is compared by layer only.
    """
    with unchanged(model):
        _check_equal(graph, model, converted, other, plans_of)


def _check_equal(graph: Graph, model: Any, converted: dict[str, Any], other: Any, plans_of: PlansOf) -> None:
    batch, (expected, got) = runnable_batch((model, other), graph)
    halves = any(policy.is_half(leaf.layer) for leaf in graph.leaves) or any(
        policy.is_half_type(ref.dtype) for call in graph.calls for ref in call.outputs
    )
    tolerance = HALF_TOLERANCE if halves else TOLERANCE
    if len(expected) != len(got):
        raise ModelError(f"Model '{graph.name}' has {len(expected)} outputs, its conversion has {len(got)}.")
    sides = [(expected, got), *_before_squashing(graph, converted, batch, plans_of)]
    found = [words for side in sides for a, b in zip(*side, strict=True) if (words := _excess(a, b, tolerance))]
    if not found or _agree_in_graph(model, batch, got, tolerance):
        return
    where = _first_difference(graph, converted, batch, tolerance, plans_of)
    if where is None and _is_noise(model, batch, expected, got, found[0]):
        return
    raise ModelError(
        f"The conversion of model '{graph.name}' gives different outputs, {found[0]}. First difference: "
        f"{where or 'in no single layer, only in their sum'}. Replace that layer, leave it out or register a twin for "
        "it (tfopt.bridge.register_twin), and please report it."
    )


def _agree_in_graph(model: Any, batch: list[Any], got: list[np.ndarray], tolerance: float) -> bool:
    """Return whether a model of integers computes what its conversion does as it does in `predict`, in a graph.

    Keras 3 resizes integers with rounding in an eager call, and without in a graph, as files do.
    """
    if all(_is_float(x) for x in batch):
        return False
    expected = run(model, batch, call=in_graph(model))
    return not any(_excess(a, b, tolerance) for a, b in zip(expected, got, strict=True))


def _is_noise(model: Any, batch: list[Any], expected: list[Any], got: list[Any], found: str) -> bool:
    """Return whether `model` differs from itself as much: it draws random numbers or amplifies rounding errors."""
    tiny = 10 * np.finfo(np.float32).eps
    again = run(model, batch)
    if max(map(_difference, expected, again)) > tiny * max(map(_largest, expected)):
        return True  # random in inference: only its layers could be compared
    nudged = [x * (1 + np.float32(_NUDGE)) if _is_float(x) else x for x in batch]
    drift = max(map(_difference, expected, run(model, nudged)))
    if max(map(_difference, expected, got)) > 10 * drift:
        return False
    warnings.warn(
        f"the outputs of '{plain(model.name)}' and of its conversion differ {found}, although each layer alone gives "
        f"equal outputs: the model amplifies rounding errors (a relative change of its input by {_NUDGE:g} changes its "
        f"output by {drift:.3g})",
        stacklevel=4,
    )
    return True


def runnable_batch(
    models: Sequence[Any], graph: Graph, count: int = 2, seed: int = 0
) -> tuple[list[Any], list[list[np.ndarray]]]:
    """Return `samples.sample_batch(graph, count, seed)`, or small numbers if one of the `models` fails for that.

    Where a model fails for both when it is called, as with integers that Keras 3 resizes, it runs in a graph.

    Returns:
        The batch, and what each model gives for it.

    Raises:
        ModelError: one fails for both.
    """
    reason: Exception | None = None
    for small, wrapped in ((False, False), (True, False), (False, True)):
        batch = samples.sample_batch(graph, count, seed, small=small)
        try:
            return batch, [run(model, batch, call=in_graph(model) if wrapped else None) for model in models]
        except Exception as error:
            reason = error if reason is None or small else reason
    raise ModelError(_why_it_fails(graph, reason)) from reason


def _why_it_fails(graph: Graph, reason: Exception | None) -> str:
    if is_nested(graph.inputs_struct):
        return (
            f"The inputs of '{graph.name}' are nested; expected one tensor, a list, or a dict of them. Use one flat "
            "dict."
        )
    said = plain(keras_message(reason)[:_LONGEST_REASON]) if reason else ""
    text = f"Model '{graph.name}' fails for made-up inputs: {said}"
    first = [leaf for leaf in graph.leaves if getattr(leaf.layer, "data_format", None) == "channels_first"]
    if first and _CHANNELS.search(said):
        text = f"{text.rstrip('.')}. " + (
            f'The layers {", ".join(leaf.layer.name for leaf in first)} have data_format="channels_first", which '
            "TensorFlow computes on GPUs only: build the model with channels_last. The weights are the same, other "
            "than those behind a Flatten."
        )
    return text


def in_graph(model: Any) -> Callable[..., Any]:
    """Return `model` as a `tf.function`, as `predict` calls it."""
    import tensorflow as tf

    function: Callable[..., Any] = tf.function(model, reduce_retracing=True)
    return function


def run(model: Any, batch: list[Any], *, call: Callable[..., Any] | None = None) -> list[np.ndarray]:
    """Return the outputs of `model` in inference mode, flattened, as NumPy arrays.

    Args:
        model: of either Keras. States that it carries from one call to the next are reset before.
        batch: an array for each input.
        call: calls it, such as `in_graph(model)`; None for the model itself.

    Variables that layers assign in the call, other than random seeds, get their values back.
    """
    for layer in keras_internals.sublayers(model, recursive=True):
        reset = getattr(layer, "reset_state", None) or getattr(layer, "reset_states", None)
        if getattr(layer, "stateful", False) and reset is not None:
            reset()
    struct, _ = keras_internals.structs(graph_network(model))
    if not all(isinstance(part, np.ndarray) for part in batch):  # strings, beside which Keras 3 refuses arrays
        import tensorflow as tf

        batch = [tf.convert_to_tensor(part) for part in batch]
    with unchanged(model, seeds=False):
        return [_numpy(output) for output in flatten((call or model)(pack(struct, list(batch)), training=False))]


def _numpy(tensor: Any) -> np.ndarray:
    if type(tensor).__module__.startswith("torch"):
        tensor = tensor.detach().cpu()
    return np.asarray(tensor)


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _largest(a: np.ndarray) -> float:
    finite = a[np.isfinite(a)] if a.dtype.kind in "fc" else np.zeros(0)
    return float(np.abs(finite).max()) if finite.size else 0.0


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape or a.dtype.kind not in "fiub" or not a.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(a.astype(np.float64) - b.astype(np.float64))).max())


def _excess(a: np.ndarray, b: np.ndarray, tolerance: float) -> str:
    """Describe how much `b` differs from `a`; "" if it is within `tolerance` of max(1, largest |a|)."""
    if a.shape != b.shape:
        return f"of shape {b.shape} where {a.shape} was expected"
    if a.dtype.kind in "OSU":
        return "" if np.array_equal(a, b) else "in their strings"
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return "not finite where finite numbers were expected, or vice versa"
    if not finite.any():
        return ""
    allowed = tolerance * max(1.0, float(np.abs(a[finite]).max()))
    difference = float(np.abs(a[finite] - b[finite]).max())
    return f"by up to {difference:.3g} (allowed: {allowed:.1g})" if difference > allowed else ""


def _first_difference(
    graph: Graph, converted: dict[str, Any], batch: list[Any], tolerance: float, plans_of: PlansOf
) -> str | None:
    """Compare layer by layer, feeding both sides the left side's values, so that only the culprit differs."""
    planned = plans_of(graph)
    values: dict[Ref, Any] = {spec.ref: array for spec, array in zip(graph.inputs, batch, strict=True)}
    for call in graph.calls:
        layer, arguments = call.leaf.layer, (call.args, call.kwargs)
        outputs = _call(layer, arguments, values)
        other = converted.get(call.leaf.name)
        if other is not None:
            theirs = _call(other, planned[id(call.leaf)].arguments(call), values)
            for a, b, again in zip(outputs, theirs, _call(layer, arguments, values), strict=True):
                random = _difference(a, again) > 0
                if (excess := _excess(a, b, tolerance)) and not random:
                    return f"{policy.describe(call.leaf)}, {excess}"
        values.update(zip(call.outputs, outputs, strict=True))
    return None


def _before_squashing(
    graph: Graph, converted: dict[str, Any], batch: list[Any], plans_of: PlansOf
) -> list[tuple[list[Any], list[Any]]]:
    """Return the inputs of the squashing output layers on both sides; nothing if a converted layer is missing."""
    outputs = set(refs_in(graph.outputs_struct))
    wanted: list[Ref] = []
    for call in graph.calls:
        if outputs.intersection(call.outputs) and _squashes(call.leaf.layer):
            wanted += [ref for ref in refs_in(call.args) if "float" in ref.dtype]
    planned = plans_of(graph) if wanted else {}
    if not wanted or any(type(converted.get(leaf.name)).__name__ != planned[id(leaf)].twin for leaf in graph.leaves):
        return []
    ours = _values(graph, batch, wanted, lambda call: (call.leaf.layer, (call.args, call.kwargs)))
    theirs = _values(
        graph, batch, wanted, lambda call: (converted[call.leaf.name], planned[id(call.leaf)].arguments(call))
    )
    return [(ours, theirs)]


def _squashes(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return type(layer).__name__ in ("Softmax", "Sigmoid") or getattr(activation, "__name__", "") in _SQUASHING


def _values(graph: Graph, batch: list[Any], wanted: list[Ref], side: Any) -> list[np.ndarray]:
    """Return the values of the tensors `wanted`, computed call by call; others are freed as early as possible."""
    uses = collections.Counter(ref for call in graph.calls for ref in set(refs_in([call.args, call.kwargs])))
    uses.update(wanted)
    values: dict[Ref, Any] = {spec.ref: array for spec, array in zip(graph.inputs, batch, strict=True)}
    for call in graph.calls:
        layer, arguments = side(call)
        values.update(zip(call.outputs, _call(layer, arguments, values, keep=True), strict=True))
        for ref in set(refs_in([call.args, call.kwargs])):
            uses[ref] -= 1
            if not uses[ref]:
                del values[ref]
        if all(ref in values for ref in wanted):
            break
    return [_numpy(values[ref]) for ref in wanted]


def _call(layer: Any, arguments: Arguments, values: dict[Ref, Any], keep: bool = False) -> list[Any]:
    """Return the outputs of one call in inference mode, as arrays, or with `keep` unchanged, with their masks."""
    import tensorflow as tf

    ours = policy.is_tf_keras(layer)

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        return tf.convert_to_tensor(values[leaf]) if ours else values[leaf]  # tf_keras rejects arrays as states

    args, kwargs = map_leaves(value, arguments)
    if is_layer(layer) and (keras_internals.takes_training(layer) or not ours):  # every Keras 3 layer takes it
        kwargs = {"training": False, **kwargs}  # augmentation layers called without it are random
    with unchanged(layer, seeds=False) if is_layer(layer) else contextlib.nullcontext():
        return [output if keep else _numpy(output) for output in flatten(layer(*args, **kwargs))]
