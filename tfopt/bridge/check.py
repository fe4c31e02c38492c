"""The check at every crossing: two models that should be equal are run on the same small batch."""

from typing import Any

import numpy as np

from tfopt import legacy
from tfopt.bridge import layers
from tfopt.bridge.graph import Call, Graph, GraphInput, Ref, flatten, graph_network, map_leaves, pack, refs_in
from tfopt.errors import ModelError

TOLERANCE = 1e-4  # of max(1, largest output); float32 twins differ by 1e-7 to 1e-5
HALF_TOLERANCE = 2e-2  # where one side computes in float16 or bfloat16 (8 to 11 bits of mantissa)
_FREE_AXIS = 32  # size taken where a shape says None
_SAMPLES = 2


def check_equal(graph: Graph, model: Any, twins: dict[str, Any], other: Any) -> None:
    """Raises ModelError unless `model` (of which `graph` is the flat graph) and `other` give equal outputs.

    Both run in inference mode on 2 seeded samples (standard normal, small integers for integer inputs);
    they may differ by 1e-4 of max(1, largest output). `twins` maps flat names to the layers of `other`,
    to find the first layer that differs.
    """
    batch = sample_batch(graph)
    expected, got = run(model, batch), run(other, batch)
    tolerance = HALF_TOLERANCE if any(layers.is_half(leaf.layer) for leaf in graph.leaves) else TOLERANCE
    if len(expected) != len(got):
        raise ModelError(f"model '{graph.name}' has {len(expected)} outputs, its twin has {len(got)}")
    found = [_excess(a, b, tolerance) for a, b in zip(expected, got, strict=True)]
    if not any(found):
        return
    where = _first_difference(graph, twins, batch, tolerance) or "no single layer does, only their sum"
    raise ModelError(
        f"the twin of model '{graph.name}' gives other outputs, {next(filter(None, found))}. "
        f"First to differ: {where}. Replace that layer or leave it out, and please report it"
    )


def sample_batch(graph: Graph) -> list[np.ndarray]:
    """One seeded array per input, [2, ...] in the input's dtype; free axes get size 32."""
    rng = np.random.default_rng(0)
    looked_up = {
        ref for call in graph.calls if type(call.leaf.layer).__name__ == "Embedding" for ref in refs_in(call.args)
    }
    return [_sample(rng, spec, spec.ref in looked_up) for spec in graph.inputs]


def _sample(rng: np.random.Generator, spec: GraphInput, index: bool) -> np.ndarray:
    shape = [spec.shape[0] or _SAMPLES, *(size or _FREE_AXIS for size in spec.shape[1:])]
    dtype = layers.float_policy(spec.dtype)
    if index or not dtype.startswith("float"):
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def run(model: Any, batch: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of `model` in inference mode, flattened, as NumPy arrays."""
    network = graph_network(model)
    struct = network._inputs_struct if legacy.is_keras3_model(network) else network._nested_inputs
    return [_numpy(output) for output in flatten(model(pack(struct, list(batch)), training=False))]


def _numpy(tensor: Any) -> np.ndarray:
    if type(tensor).__module__.startswith("torch"):
        tensor = tensor.detach().cpu()
    return np.asarray(tensor)


def _excess(a: np.ndarray, b: np.ndarray, tolerance: float) -> str:
    """By how much `b` differs from `a`, in words; "" where it is within `tolerance` of max(1, largest |a|)."""
    if a.shape != b.shape:
        return f"of shape {b.shape} where {a.shape} was expected"
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return "not finite where finite numbers were expected, or the other way round"
    if not finite.any():
        return ""
    allowed = tolerance * max(1.0, float(np.abs(a[finite]).max()))
    difference = float(np.abs(a[finite] - b[finite]).max())
    return f"by up to {difference:.3g} (allowed: {allowed:.1g})" if difference > allowed else ""


def _first_difference(graph: Graph, twins: dict[str, Any], batch: list[np.ndarray], tolerance: float) -> str | None:
    """Runs layer by layer, feeding both sides what the left side gave, so that the culprit alone differs."""
    values: dict[Ref, Any] = {spec.ref: array for spec, array in zip(graph.inputs, batch, strict=True)}
    for call in graph.calls:
        outputs = _call(call, call.leaf.layer, values)
        values.update(zip(call.outputs, outputs, strict=True))
        twin = twins.get(call.leaf.name)
        if twin is None or _fused(call.leaf.layer, twin):
            continue
        for a, b in zip(outputs, _call(call, twin, values), strict=True):
            if excess := _excess(a, b, tolerance):
                return f"{layers.describe(call.leaf)}, {excess}"
    return None


def _call(call: Call, layer: Any, values: dict[Ref, Any]) -> list[np.ndarray]:
    args, kwargs = map_leaves(lambda leaf: values[leaf] if isinstance(leaf, Ref) else leaf, (call.args, call.kwargs))
    return [_numpy(output) for output in flatten(layer(*args, **kwargs))]


def _fused(layer: Any, twin: Any) -> bool:
    """True where a ReLU layer was moved into `twin`: it differs by itself, not in the whole."""
    names = [getattr(getattr(side, "activation", None), "__name__", "") for side in (layer, twin)]
    return names == ["linear", "relu"]
