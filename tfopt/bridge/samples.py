"""Sample inputs for a model, derived from its graph alone."""

from typing import Any

import numpy as np

from tfopt.bridge import policy
from tfopt.graph.indices import index_inputs, moved_from
from tfopt.graph.types import Graph, GraphInput, Ref, refs_in

_FREE_AXIS = 32  # size used for None in a shape
_SAMPLES = 2
MASKS = ("mask", "attention_mask")
"""Arguments of layers that take 1 to keep and 0 to mask."""


def sample_batch(graph: Graph, count: int = _SAMPLES, seed: int = 0, *, small: bool = False) -> list[Any]:
    """Return one seeded array per input, [count, ...] in the input's dtype; free axes get size 32.

    If an input has a batch size, it replaces `count`, since all inputs have equally many samples.

    Floats are standard normal; before a Rescaling that shrinks values they are pixels (0 to 255), before a
    Normalization they have the mean and variance it expects, before a Discretization they lie around its bins. Before a
    Masking, one step is padded; what is passed as a mask is 0 and 1. Indices, also those of a float dtype, are valid
    for every table that they reach. Strings come from a vocabulary in the model plus one unknown word, as a TensorFlow
    tensor. With `small`, all numbers are 1 or 2, for models that compute indices from them.
    """
    rng = np.random.default_rng(seed)
    count = next((size for spec in graph.inputs if (size := spec.shape[0] or 1) > 1), count)
    return [_sample(rng, graph, spec, count, small) for spec in graph.inputs]


def _sample(rng: np.random.Generator, graph: Graph, spec: GraphInput, count: int, small: bool) -> Any:
    shape = [spec.shape[0] or count, *(size or _FREE_AXIS for size in spec.shape[1:])]
    first = [call.leaf.layer for call in graph.calls if spec.ref in _taken(call.args)]
    if spec.dtype == "string":
        return _texts(rng, graph, shape)
    dtype = policy.float_policy(spec.dtype)
    if words := [layer for layer in first if type(layer).__name__ == "IntegerLookup"]:
        known = words[0].get_vocabulary(include_special_tokens=False)
        if words[0].num_oov_indices or words[0].mask_token == 0:
            known = [0, *known]
        return rng.choice(np.asarray(known), shape).astype(dtype)
    masks = {ref for call in graph.calls for ref in refs_in([call.kwargs.get(name) for name in MASKS])}
    if masks & moved_from(graph, spec.ref):
        return rng.integers(0, 2, shape).astype(dtype)
    if small:
        return rng.integers(1, 3, shape).astype(dtype)
    if found := index_inputs(graph).get(spec.ref):
        low, high = (0, found.entries) if found.unchanged else (1, max(2, found.entries // 2))
        indices = rng.integers(low, high, shape)
        if found.unchanged:
            indices.reshape(shape[0], -1)[0, -1] = 0  # a padded word, where there is a mask
        return indices.astype(dtype)
    if not dtype.startswith("float"):
        return rng.integers(0, _entries(graph), shape).astype(dtype)
    values = _rounded(_floats(rng, first, shape), spec.dtype).astype(dtype)
    for layer in first:
        if type(layer).__name__ == "Masking" and values.ndim > 2:
            values[0, -1] = layer.mask_value  # one padded step, so that masks count
    return values


def _taken(args: list[Any]) -> set[Ref]:
    return set(refs_in(args))


def _floats(rng: np.random.Generator, first: list[Any], shape: list[int]) -> np.ndarray:
    for layer in first:
        if type(layer).__name__ == "Rescaling" and 0 < np.max(np.abs(layer.scale)) < 0.1:
            return rng.uniform(0, 255, shape)
        if type(layer).__name__ == "Discretization" and layer.bin_boundaries is not None:
            low, high = min(layer.bin_boundaries), max(layer.bin_boundaries)
            return np.asarray(rng.uniform(low - 1, high + 1, shape))
        if type(layer).__name__ == "Normalization" and getattr(layer, "mean", None) is not None:
            try:
                mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
                return np.asarray(mean + np.sqrt(variance) * rng.standard_normal(shape))
            except (TypeError, ValueError):
                continue
    return rng.standard_normal(shape)


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return `values` that a dtype of half precision holds: the model rounds its inputs to it."""
    if not policy.is_half_type(dtype):
        return values
    import ml_dtypes

    return values.astype(getattr(np, dtype, None) or getattr(ml_dtypes, dtype))


def _entries(graph: Graph) -> int:
    """Return how many integers from 0 are valid entries of every table of the model; 2 if it has no table."""
    sizes = [
        int(size)
        for leaf in graph.leaves
        for name in ("input_dim", "num_tokens")
        if (size := getattr(leaf.layer, name, None)) is not None and isinstance(size, (int, np.integer))
    ]
    return max(1, min(sizes, default=2))


def _texts(rng: np.random.Generator, graph: Graph, shape: list[int]) -> Any:
    import tensorflow as tf

    words = ["something unknown"]
    for leaf in graph.leaves:
        if type(leaf.layer).__name__ in ("StringLookup", "TextVectorization"):
            words += [str(word) for word in leaf.layer.get_vocabulary(include_special_tokens=False)[:50]]
    return tf.constant(rng.choice(np.asarray(words, object), shape))
