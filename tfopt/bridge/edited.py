"""Apply to the caller's graph the layers that stages removed or added."""

from collections.abc import Mapping
from typing import Any

from tfopt.graph.edit import Neighbor, as_neighbor, skipped, with_neighbors
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Graph, is_layer

FACTOR = "_factor"
"""Suffix of an added factor: `NAME_factor` stands beside `NAME`."""
_SETTINGS = (
    "units", "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "use_bias", "name",
)  # fmt: skip


def edited(graph: Graph, sources: Mapping[str, Any], package: Any) -> Graph:
    """Return `graph`, or a new one without the layers that are missing in `sources`, and with factors that are new.

    Args:
        graph: of the caller's model, named as its flat model.
        sources: the layers of a flat tf_keras model by name.
        package: the Keras of the caller's model.
    """
    missing = {leaf.name for leaf in graph.leaves if leaf.name not in sources}
    weighty = any(is_layer(leaf.layer) and leaf.layer.weights for leaf in graph.leaves if leaf.name in missing)
    if weighty:
        graph = skipped(graph, missing)
    names = {leaf.name for leaf in graph.leaves}
    new = {name: sources[name + FACTOR] for name in names if name + FACTOR in sources and name + FACTOR not in names}
    if not new:
        return graph
    leaves = {leaf.name: leaf for leaf in graph.leaves}
    return with_neighbors(
        graph, {name: _neighbor(layer, sources[name], leaves[name].layer, package) for name, layer in new.items()}
    )


def _neighbor(layer: Any, other: Any, own: Any, package: Any) -> Neighbor:
    """Return the place of `layer`, the other factor of the flat layer `other`, beside `own`, the caller's."""
    config = layer.get_config()
    settings = {key: config[key] for key in _SETTINGS if key in config}
    settings |= {"trainable": layer.trainable, "dtype": own.dtype_policy.name}
    twin = getattr(package.layers, type(layer).__name__)(**settings)
    return as_neighbor(twin, "after" if facts_of(other).family == "embedding" else "before", layer.output.shape)
