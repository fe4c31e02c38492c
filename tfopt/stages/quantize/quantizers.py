"""How weights are rounded while they are trained, and what of them stays: zeros and clusters.

The rounding is plain arithmetic, and the converter is given its results as constants: weights on the very grid
that it would choose itself, one scale per output channel, for every operator that has an int8 form.
TF-MOT's FakeQuant operators reach only some of them (not Conv1D, a depthwise convolution only with one
scale for all channels). Clustered kernels keep one scale: the file gets their integers after the conversion
(`integers`). Kernels whose operator has one scale anyway are told by FakeQuant.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras, tfmot
from tfopt.stages.quantize.rounding import ROUNDINGS, USUAL, Precision, Rounding

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


@dataclass(frozen=True)
class Scales:
    """Which weights of a kernel share a scale in the file.

    Attributes:
        axes: the axes (negative) of which each index has a scale of its own; () for one scale in all.
        view: a shape in which the kernel has those axes; () for its own.
        name: in words.
        told_by_operator: whether the file must hear of one scale where others would be usual.
    """

    axes: tuple[int, ...] = ()
    view: tuple[int, ...] = ()
    name: str = "per channel"
    told_by_operator: bool = True


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
def kernel_quantizer() -> Any:
    """The quantizer class. Made late: importing TF-MOT takes seconds."""
    import tensorflow as tf

    base = tfmot().quantization.keras.quantizers.Quantizer
    constant = tf_keras().initializers.Constant

    class KernelQuantizer(base):  # type: ignore[misc, valid-type]
        """Symmetric quantization of a kernel whose zeros and clusters stay.

        While training, a clustered kernel is the nearest of the trained centroids for each weight; the
        gradient reaches the centroids and, straight through, the weights behind them (as in TF-MOT). The
        layer's own kernel variable always holds the current values, so that inference, the converter and
        `strip` need to know nothing of clusters.

        Args:
            scales: which weights share a scale.
            structure: what to keep.
            start: the kernel when training begins.
            precision: how finely it is rounded; other than usual, the file has to be told of the steps.
            kernel: its name in the layer.
        """

        def __init__(
            self,
            scales: "Scales",
            structure: Structure,
            start: np.ndarray,
            precision: Precision = USUAL,
            kernel: str = "kernel",
        ) -> None:
            self.scales, self.structure, self.start = scales, structure, start
            self.precision, self.kernel = precision, kernel

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            variables = {}
            if self.structure.mask is not None:
                mask = constant(self.structure.mask)
                variables["mask"] = layer.add_weight(
                    f"{name}_mask", shape=tensor_shape, initializer=mask, trainable=False
                )
            if self.structure.centroids is not None:
                for key, value in (("centroids", self.structure.centroids), ("latent", self.start)):
                    variables[key] = layer.add_weight(f"{name}_{key}", shape=value.shape, initializer=constant(value))
            for key, value in self.rounding.variables().items():
                variables[key] = layer.add_weight(f"{name}_{key}", shape=value.shape, initializer=constant(value))
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
            if self.needs_operator():
                high = tf.reduce_max(tf.abs(tf.stop_gradient(kernel)))
                return tf.quantization.fake_quant_with_min_max_vars(kernel, -high, high, narrow_range=True)
            round_ = self.rounding.in_training if training else self.rounding.rounded
            return tf.reshape(round_(self._view(kernel), weights), kernel.shape)

        @functools.cached_property
        def rounding(self) -> Rounding:
            axes = () if self.keeps_one_scale() else self.scales.axes
            return ROUNDINGS[self.precision.weight_steps](self.precision, axes, self._view(self.start))

        def _view(self, kernel: Any) -> Any:
            """`kernel` in the shape in which scales are shared along whole axes."""
            if not self.scales.view:
                return kernel
            return (np if isinstance(kernel, np.ndarray) else tf).reshape(kernel, self.scales.view)

        def keeps_one_scale(self) -> bool:
            """True where the file must not give each channel its own scale, or clusters would multiply."""
            centroids = self.structure.centroids
            return not self.scales.axes or (centroids is not None and centroids.ndim == 1)

        def needs_operator(self) -> bool:
            """True where FakeQuant tells the converter of the scale: its operator has only one."""
            return not self.scales.axes and self.scales.told_by_operator and self.precision.usual

        def needs_integers(self) -> bool:
            """True where the converter would choose other integers, so that the file is given these."""
            one_scale = bool(self.scales.axes) and self.keeps_one_scale() and self.scales.told_by_operator
            return one_scale or not self.precision.usual

        def keeps_scale(self) -> bool:
            """True where the file has one scale for the kernel, or that times what BatchNorm does to a channel."""
            return self.precision.usual and (self.needs_operator() or self.needs_integers())

        def describe(self) -> str:
            """In words, for the table of decisions."""
            usual = self.precision.usual
            kind, steps = ("int8", "") if usual else (f"{self.precision.bits}-bit", f", {self.rounding.words}")
            return f"{kind} weights {'of one scale' if self.keeps_one_scale() else self.scales.name}{steps}"

        def integers(self, kernel: Any, weights: dict[str, Any]) -> np.ndarray:
            """int8, of the shape of `kernel`: what its weights are rounded to, in steps."""
            kernel = kernel * weights["mask"] if "mask" in weights else kernel
            view = self._view(tf.convert_to_tensor(kernel))
            found = self.rounding.integers(view, self.rounding.steps(view, weights))
            return np.asarray(found).astype(np.int8).reshape(kernel.shape)

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

        def get_config(self) -> dict[str, Any]:
            names = ("scales", "structure", "start", "precision", "kernel")
            return {name: getattr(self, name) for name in names}

    return KernelQuantizer


@functools.cache
def held_weight() -> Any:
    """The quantizer class of a weight that stays in float. Made late, as above."""
    import tensorflow as tf

    base = tfmot().quantization.keras.quantizers.Quantizer

    class HeldWeight(base):  # type: ignore[misc, valid-type]
        """No rounding: a clustered weight stays as it is, zeros of any other stay zero."""

        def __init__(self, structure: Structure, start: np.ndarray) -> None:
            self.structure, self.start = structure, start

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            del tensor_shape, name, layer
            return {}

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            del training, weights, kwargs
            if self.structure.centroids is None:
                return inputs * self.structure.mask
            return tf.constant(self.start) + 0.0 * inputs  # its gradient is zero, not missing

        def needs_operator(self) -> bool:
            return False

        keeps_scale = needs_operator

        def describe(self) -> str:
            """In words, for the table of decisions."""
            return "zeros held" if self.structure.centroids is None else "weights frozen, to keep their clusters"

        def get_config(self) -> dict[str, Any]:
            return {"structure": self.structure, "start": self.start}

    return HeldWeight
