"""Low-rank factors: one kernel as the product of two smaller ones, in two layers."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.bridge.build import build, plans_of
from tfopt.bridge.edited import FACTOR
from tfopt.errors import ModelError
from tfopt.graph.edit import Neighbor, as_neighbor, with_neighbors
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.walk import walk


@dataclass(frozen=True, eq=False)
class Matrix:
    """A kernel as a matrix (inputs, outputs), float64, to be split between both.

    Attributes:
        layer: flat tf_keras.
        values: for a convolution, the inputs are all numbers of a window.
    """

    layer: Any
    values: np.ndarray

    @functools.cached_property
    def singular_values(self) -> np.ndarray:
        """The singular values, largest first."""
        return np.asarray(np.linalg.svd(self.values, compute_uv=False))

    def rank_for(self, energy: float) -> int:
        """Return the smallest rank that keeps this share of the sum of squares (Eckart and Young 1936)."""
        squares = self.singular_values**2
        total = squares.sum()
        return 1 if not total else int(np.searchsorted(np.cumsum(squares) / total, energy - 1e-12)) + 1

    def energy_of(self, rank: int) -> float:
        """Return the share of the sum of squares that a rank keeps."""
        squares = self.singular_values**2
        return float(squares[:rank].sum() / squares.sum()) if squares.any() else 1.0

    @property
    def break_even(self) -> int:
        """The largest rank at which both factors together have fewer numbers than the kernel; 0 for none."""
        rows, columns = self.values.shape
        return int((rows * columns - 1) // (rows + columns))

    def split(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors (inputs, rank) and (rank, outputs) with the smallest squared error, of equal norms."""
        left, sizes, right = np.linalg.svd(self.values, full_matrices=False)
        root = np.sqrt(sizes[:rank])
        return left[:, :rank] * root, root[:, None] * right[:rank]


def matrix_of(layer: Any) -> Matrix | None:
    """Return the kernel of a flat tf_keras layer that two layers can replace; None for other layers.

    Those are Dense layers, Embeddings without a mask, convolutions without groups, and the inputs of LSTM, GRU and
    SimpleRNN, whose recurrent kernels stay.

    Raises:
        ModelError: the kernel is not finite.
    """
    found = _matrix_of(layer)
    if found is not None and not np.isfinite(found.values).all():
        raise ModelError(f"The kernel of '{layer.name}' holds NaN or infinity. Train the model again.")
    return found


def _matrix_of(layer: Any) -> Matrix | None:
    facts, config = facts_of(layer), layer.get_config()
    if facts.family == "dense":
        return Matrix(layer, np.asarray(layer.kernel, np.float64))
    if facts.family == "embedding" and not config.get("mask_zero"):
        return Matrix(layer, np.asarray(layer.embeddings, np.float64))
    if facts.family == "convolution" and config.get("groups", 1) == 1:
        kernel = np.asarray(layer.kernel, np.float64)
        return Matrix(layer, kernel.reshape(-1, kernel.shape[-1]))
    if facts.family == "recurrent" and facts.width == "units":
        return Matrix(layer, np.asarray(layer.cell.kernel, np.float64))
    return None


def factored(flat_model: Any, ranks: Mapping[str, int]) -> Any:
    """Return a new flat tf_keras model in which layers are two: the new one is named NAME_factor.

    A Dense layer without bias comes before a Dense or recurrent layer, a convolution with the same window before one of
    1 x 1, and a Dense layer after an Embedding.

    Args:
        flat_model: flat tf_keras.
        ranks: by layer name.
    """
    graph = walk(flat_model, keep_names=True)
    neighbors, changes, values = dict[str, Neighbor](), dict[str, dict[str, Any]](), dict[str, list[np.ndarray]]()
    for call in graph.calls:
        name = call.leaf.name
        if name in ranks and name not in neighbors:
            parts = _parts(call, ranks[name])
            neighbors[name], changes[name] = parts.neighbor, parts.changes
            values |= {name: parts.own, name + FACTOR: parts.new}
    result = with_neighbors(graph, neighbors)
    return build(result, plans_of(result), changes={k: v for k, v in changes.items() if v}, values=values)


@dataclass(frozen=True, eq=False)
class _Parts:
    neighbor: Neighbor
    changes: dict[str, Any]
    own: list[np.ndarray]
    new: list[np.ndarray]


def _parts(call: Any, rank: int) -> _Parts:
    """Return the new layer beside that of `call`, and what changes in it."""
    layer, name = call.leaf.layer, call.leaf.name
    family, config = facts_of(layer).family, layer.get_config()
    matrix = matrix_of(layer)
    assert matrix is not None  # checked by the stage
    first, second = matrix.split(rank)
    old = [np.asarray(weight) for weight in layer.weights]
    given, made = call.args[0], call.outputs[0]
    dense: Any = tf_keras().layers.Dense
    new_name = {"name": name + FACTOR, "use_bias": False, "dtype": layer.dtype_policy.name}
    if family == "embedding":
        new = dense(layer.output_dim, **new_name)
        return _Parts(_beside(new, call, "after", made.shape), {"output_dim": rank}, [first], [second])
    if family == "convolution":
        window = {key: config[key] for key in ("kernel_size", "strides", "padding", "data_format", "dilation_rate")}
        new = type(layer)(rank, **window, **new_name)
        ones = tuple(1 for _ in config["kernel_size"])
        channels = 1 if config["data_format"] == "channels_first" else len(made.shape) - 1
        shape = tuple(rank if axis == channels else size for axis, size in enumerate(made.shape))
        changes = {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
        kernels = first.reshape(*layer.kernel.shape[:-1], rank), second.reshape(*ones, rank, -1)
        return _Parts(_beside(new, call, "before", shape), changes, [kernels[1], *old[1:]], [kernels[0]])
    new = dense(rank, **new_name)
    own = [second, *old[1:]]  # the kernel is the first weight
    return _Parts(_beside(new, call, "before", (*given.shape[:-1], rank)), {}, own, [first])


def _beside(layer: Any, call: Any, side: Any, shape: Any) -> Neighbor:
    layer.trainable = call.leaf.trainable
    return as_neighbor(layer, side, shape)
