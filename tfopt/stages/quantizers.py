"""Weight quantizers for TF-MOT's wrappers that keep zeros and clusters while the 8-bit ranges are trained.

TF-MOT has such quantizers too, but its cluster-preserving one gives every channel of a Conv2D a scale of
its own, and treats clusters of a whole kernel as clusters per channel whenever the channels use about
equally many: the int8 file then holds several times as many different values as the kernel has clusters.
Here clusters of a whole kernel share one scale.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.legacy import tf_keras, tfmot

# int8 weights without -128, as TFLite's specification asks for.
LEVELS = 127


@dataclass(frozen=True)
class Scheme:
    """A way to train for int8: by name, and what of a kernel it preserves."""

    name: str
    zeros: bool
    clusters: bool


@dataclass(frozen=True)
class Structure:
    """What a kernel looks like when quantization begins.

    Attributes:
        mask: 1.0 where the weight may differ from zero, else 0.0; None when zeros need not be kept.
        centroids: the different values, shape (k,), or (channels, k) for clusters per channel, padded by
            repeating a value; None when clusters need not be kept.
    """

    mask: np.ndarray | None = None
    centroids: np.ndarray | None = None


def structure_of(kernel: np.ndarray, scheme: Scheme, *, output_channels_last: bool) -> Structure:
    """The zeros and clusters of `kernel` that `scheme` preserves."""
    mask = (kernel != 0).astype(np.float32) if scheme.zeros and np.any(kernel == 0) else None
    centroids = _centroids(kernel, output_channels_last) if scheme.clusters else None
    return Structure(mask, centroids)


def _centroids(kernel: np.ndarray, output_channels_last: bool) -> np.ndarray | None:
    whole = np.unique(kernel)
    channels = [np.unique(channel) for channel in np.moveaxis(kernel, -1, 0)]
    most = max(len(values) for values in channels)
    # Half as many values as weights is no clustering worth keeping, and more than int8 has none can be kept.
    in_whole = len(whole) <= min(2 * LEVELS + 1, kernel.size // 2)
    in_channels = output_channels_last and most <= min(2 * LEVELS + 1, kernel[..., 0].size // 2)
    # Clusters of the whole kernel are values that channels have in common; clusters per channel are hardly ever.
    own = np.count_nonzero(whole) > 0.9 * sum(np.count_nonzero(values) for values in channels)
    if in_whole and not (in_channels and own):
        return whole
    if in_channels:
        return np.stack([np.pad(values, (0, most - len(values)), mode="edge") for values in channels])
    return None


@functools.cache
def preserving_quantizer() -> Any:
    """The quantizer class. Made late: importing TF-MOT takes seconds."""
    import tensorflow as tf

    base = tfmot().quantization.keras.quantizers.LastValueQuantizer
    constant = tf_keras().initializers.Constant

    class PreservingQuantizer(base):  # type: ignore[misc, valid-type]
        """8-bit symmetric fake quantization of a kernel whose zeros and clusters stay.

        While training, a clustered kernel is the nearest of the trained centroids for each weight; the
        gradient reaches the centroids and, straight through, the weights behind them (as in TF-MOT). The
        layer's own kernel variable always holds the current values, so that inference, the converter and
        `strip` need to know nothing of clusters.
        """

        def __init__(self, per_axis: bool, structure: Structure) -> None:
            super().__init__(num_bits=8, per_axis=per_axis, symmetric=True, narrow_range=True)
            self.structure = structure

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            variables = {}
            channels = (tensor_shape[-1],) if self.per_axis else None
            for key, start in (("min_var", -6.0), ("max_var", 6.0)):
                variables[key] = layer.add_weight(
                    f"{name}_{key[:3]}", shape=channels, initializer=constant(start), trainable=False
                )
            if self.structure.mask is not None:
                variables["mask"] = layer.add_weight(
                    f"{name}_mask",
                    shape=tensor_shape,
                    initializer=constant(self.structure.mask),
                    trainable=False,
                )
            if self.structure.centroids is not None:
                centroids = self.structure.centroids
                variables["centroids"] = layer.add_weight(
                    f"{name}_centroids",
                    shape=centroids.shape,
                    initializer=constant(centroids),
                    trainable=True,
                )
                variables["latent"] = layer.add_weight(f"{name}_latent", shape=tensor_shape, trainable=True)
                variables["latent"].assign(getattr(layer.layer, name))
            return variables

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            del kwargs
            kernel = inputs
            if training and "centroids" in weights:
                # The latent weights are trained in the kernel's place; its own gradient is zero, not missing.
                kernel = self._clustered(weights["latent"], weights["centroids"]) + 0.0 * inputs
            if "mask" in weights:
                kernel = kernel * weights["mask"]
            if training and "centroids" in weights:
                inputs.assign(kernel)
            return self._fake_quantize(kernel, training, weights)

        def _clustered(self, latent: Any, centroids: Any) -> Any:
            if self.structure.mask is not None:  # pruned weights share a centroid, which stays zero
                nearest_zero = tf.argmin(tf.abs(centroids), axis=-1)
                centroids = centroids * (1.0 - tf.one_hot(nearest_zero, centroids.shape[-1]))
            centroids = tf.sort(centroids, axis=-1)
            borders = (centroids[..., 1:] + centroids[..., :-1]) / 2
            if len(centroids.shape) == 1:
                value = tf.gather(centroids, tf.searchsorted(borders, tf.reshape(latent, [-1])))
                value = tf.reshape(value, latent.shape)
            else:  # channels first, one row each
                rows = tf.reshape(tf.experimental.numpy.moveaxis(latent, -1, 0), (centroids.shape[0], -1))
                value = tf.gather(centroids, tf.searchsorted(borders, rows), batch_dims=1)
                value = tf.experimental.numpy.moveaxis(tf.reshape(value, (-1, *latent.shape[:-1])), 0, -1)
            return value + (latent - tf.stop_gradient(latent))  # in this order, exactly `value`

        def _fake_quantize(self, kernel: Any, training: bool, weights: dict[str, Any]) -> Any:
            low, high = weights["min_var"], weights["max_var"]
            if training:
                axes = list(range(len(kernel.shape) - 1)) if self._own_scale_per_channel() else None
                largest = tf.reduce_max(tf.abs(kernel), axis=axes)
                high.assign(tf.broadcast_to(largest, high.shape))
                low.assign(-high)
            quantize = (
                tf.quantization.fake_quant_with_min_max_vars_per_channel
                if self.per_axis
                else tf.quantization.fake_quant_with_min_max_vars
            )
            return quantize(kernel, low, high, num_bits=self.num_bits, narrow_range=self.narrow_range)

        def _own_scale_per_channel(self) -> bool:
            # The converter folds a BatchNorm into a convolution only when its scales are per channel, so clusters
            # of the whole kernel use the per-channel op with the same scale for all channels.
            centroids = self.structure.centroids
            return self.per_axis and (centroids is None or centroids.ndim == 2)

    return PreservingQuantizer
