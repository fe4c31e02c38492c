"""What kind of layer it is, as far as stages care."""

from typing import Any

from tfopt.stages.kernels.table import kernels

# Activations that TFLite computes inside the operator before.
FUSED = ("relu", "relu6")


def is_linear_layer(layer: Any) -> bool:
    """True for a layer that multiplies with a kernel of its own, and may end with an activation."""
    return any(kernel.owner is layer for kernel in kernels(layer))


def activation_of(layer: Any) -> str:
    """Name of the activation that `layer` is or ends with: "linear" for none."""
    kind = type(layer).__name__
    if kind != "Activation" and kind not in ("ReLU", "Softmax") and not is_linear_layer(layer):
        return "linear"
    if kind == "ReLU":
        config = layer.get_config()
        plain = not config["negative_slope"] and not config["threshold"]
        largest = config["max_value"]
        known = {None: "relu", 6.0: "relu6"}
        return known.get(largest if largest is None else float(largest), "clip") if plain else "leaky"
    if kind == "Softmax":
        return "softmax"
    activation = getattr(layer, "activation", None)
    return str(getattr(activation, "__name__", type(activation).__name__)) if activation is not None else "linear"


def is_fused_activation(layer: Any) -> bool:
    """True for a layer that is nothing but a ReLU or ReLU6."""
    return type(layer).__name__ in ("ReLU", "Activation") and activation_of(layer) in FUSED


def has_float_output(layer: Any) -> bool:
    """True when every call of `layer` gives float tensors only."""
    import tensorflow as tf

    outputs = [tensor for node in layer.inbound_nodes for tensor in tf.nest.flatten(node.outputs)]
    return bool(outputs) and all(tensor.dtype.is_floating for tensor in outputs)
