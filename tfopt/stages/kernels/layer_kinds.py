"""Properties of layers that stages depend on."""

from typing import Any

from tfopt.graph.layer_facts import facts_of
from tfopt.stages.kernels.table import kernels

# Activations that TFLite fuses into the preceding operator.
FUSED = ("relu", "relu6")


def is_linear_layer(layer: Any) -> bool:
    """Return whether `layer` itself owns a kernel; it may end with an activation."""
    return any(kernel.owner is layer for kernel in kernels(layer))


def activation_of(layer: Any) -> str:
    """Return the name of the activation that `layer` is or ends with; "linear" for none."""
    facts = facts_of(layer)
    if facts.family != "activation" and not is_linear_layer(layer):
        return "linear"
    if facts.activation == "relu":
        config = layer.get_config()
        plain = not config["negative_slope"] and not config["threshold"]
        largest = config["max_value"]
        known = {None: "relu", 6.0: "relu6"}
        return known.get(largest if largest is None else float(largest), "clip") if plain else "leaky"
    if facts.activation:
        return facts.activation
    activation = getattr(layer, "activation", None)
    return str(getattr(activation, "__name__", type(activation).__name__)) if activation is not None else "linear"


def is_fused_activation(layer: Any) -> bool:
    """Return whether `layer` is nothing but a ReLU or ReLU6."""
    return facts_of(layer).family == "activation" and activation_of(layer) in FUSED


def has_float_output(layer: Any) -> bool:
    """Return whether every call of `layer` returns only float tensors."""
    import tensorflow as tf

    outputs = [tensor for node in layer.inbound_nodes for tensor in tf.nest.flatten(node.outputs)]
    return bool(outputs) and all(tensor.dtype.is_floating for tensor in outputs)
