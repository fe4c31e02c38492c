"""Which weights of a tf_keras layer the stages work on: its kernels, by attribute name."""

from typing import Any

import numpy as np

from tfopt.errors import ModelError

# The attribute that holds the large weight. Layers that are not named here keep their weights untouched;
# those with weights of rank 2 or more are reported, see `unknown_kernels`.
KERNELS: dict[str, str] = {
    "Dense": "kernel",
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "Conv3D": "kernel",
    "Conv1DTranspose": "kernel",
    "Conv2DTranspose": "kernel",
    "Conv3DTranspose": "kernel",
    "DepthwiseConv1D": "depthwise_kernel",
    "DepthwiseConv2D": "depthwise_kernel",
    "SeparableConv1D": "pointwise_kernel",
    "SeparableConv2D": "pointwise_kernel",
    "Embedding": "embeddings",
}

# One filter of k x k weights a channel: a few weights that every pixel passes through. TF-MOT leaves them
# alone for the accuracy they cost ("big unrecoverable accuracy loss"), and so do the stages unless a rule asks.
SPARED_BY_DEFAULT = ("DepthwiseConv1D", "DepthwiseConv2D")


def has_kernel(layer: Any) -> bool:
    """True when `layer` has a kernel that can be pruned or clustered."""
    return type(layer).__name__ in KERNELS


def kernel(layer: Any) -> Any:
    """The kernel variable of a built layer."""
    return getattr(layer, KERNELS[type(layer).__name__])


def kernel_index(layer: Any) -> int:
    """Position of the kernel in `layer.get_weights()`."""
    wanted = kernel(layer)
    return next(i for i, weight in enumerate(layer.weights) if weight is wanted)


def kernel_values(model: Any) -> dict[str, np.ndarray]:
    """Kernels of a plain, flat tf_keras model by layer name."""
    return {layer.name: kernel(layer).numpy() for layer in model.layers if has_kernel(layer)}


def channel_axis(layer: Any) -> int:
    """The axis of the kernel that runs over output channels.

    A depthwise kernel (h, w, channels, multiplier) has its channels on axis 2, a transposed convolution
    (h, w, out, in) on the last but one; all others have them last.
    """
    name = type(layer).__name__
    return -2 if "Transpose" in name or name.startswith("Depthwise") else -1


def unknown_kernels(model: Any) -> list[str]:
    """Names of layers that hold matrices or larger weights which no stage knows how to compress."""
    return [
        layer.name
        for layer in model.layers
        if not has_kernel(layer) and any(len(weight.shape) >= 2 for weight in layer.trainable_weights)
    ]


def require_kernels(model: Any, purpose: str) -> None:
    """Raise `ModelError` when `model` has nothing to work on."""
    if not any(has_kernel(layer) for layer in model.layers):
        raise ModelError(
            f"Nothing to {purpose}: the model '{model.name}' has no layer with a kernel. "
            f"Expected at least one of {', '.join(KERNELS)}."
        )
