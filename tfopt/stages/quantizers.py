"""How weights are rounded while they are trained, and what of them stays: zeros and clusters.

The rounding is plain arithmetic, and the converter is given its results as constants: weights on the very grid
that it would choose itself, one scale per output channel, for every operator that has an int8 form.
TF-MOT's FakeQuant operators reach only some of them (not Conv1D, a depthwise convolution only with one
scale for all channels). Where one scale must hold for a whole kernel, FakeQuant says so to the converter.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.legacy import tf_keras, tfmot

# int8 weights without -128, as TFLite's specification asks for.
LEVELS = 127
# Where the steps of a kernel come from; "learned" is LSQ (Esser et al. 2020, arXiv:1902.08153).
LEARNED = "learned"


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
        told_by_operator: whether the converter must be told of one scale where others would be usual.
    """

    axes: tuple[int, ...] = ()
    view: tuple[int, ...] = ()
    name: str = "per channel"
    told_by_operator: bool = True


@dataclass(frozen=True)
class Precision:
    """How finely a kernel is rounded.

    Attributes:
        bits: 8 or fewer; step * k for integers |k| <= 2^(bits - 1) - 1.
        ranges: where the steps come from: "max" (the largest weight, at every step of the training), "mse" or "octav"
            (of the kernel that training begins with, see `tfopt.posttraining.ranges`), "learned" (trained along).
    """

    bits: int = 8
    ranges: str = "max"

    @property
    def levels(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    @property
    def usual(self) -> bool:
        """True for the rounding that the converter itself would choose."""
        return self.bits == 8 and self.ranges == "max"


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


USUAL = Precision()


@functools.cache
def kernel_quantizer() -> Any:
    """The quantizer class. Made late: importing TF-MOT takes seconds."""
    import tensorflow as tf

    from tfopt.posttraining.ranges import steps as steps_of

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
            if self.precision.ranges == LEARNED:
                # Relative to where it starts, so that an optimizer's steps are as small for it as they should be.
                shape = self._first_steps.shape
                variables["step"] = layer.add_weight(f"{name}_step", shape=shape, initializer="ones")
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
                return self._one_scale(kernel)
            if self.precision.ranges == LEARNED and training:
                return self._on_learned_grid(kernel, weights["step"])
            steps, levels = self._steps(kernel, weights), self.precision.levels
            view = tf.reshape(tf.stop_gradient(kernel), self.scales.view or kernel.shape)
            rounded = tf.clip_by_value(tf.round(view / steps), -levels, levels) * steps
            rounded = tf.reshape(rounded, kernel.shape)
            return kernel + tf.stop_gradient(rounded - kernel) if training else rounded

        def keeps_one_scale(self) -> bool:
            """True where the file must not give each channel its own scale, or clusters would multiply."""
            centroids = self.structure.centroids
            return not self.scales.axes or (centroids is not None and centroids.ndim == 1)

        def needs_operator(self) -> bool:
            """True where only FakeQuant tells the converter of the scale."""
            return self.keeps_one_scale() and self.scales.told_by_operator and self.precision.usual

        def told(self) -> str:
            """In words, for the table of decisions."""
            precision = self.precision
            kind = "int8" if precision.usual else f"{precision.bits}-bit"
            steps = "" if precision.usual else f", {precision.ranges} steps"
            return f"{kind} weights {'of one scale' if self.keeps_one_scale() else self.scales.name}{steps}"

        def integers(self, kernel: Any, weights: dict[str, Any]) -> np.ndarray:
            """int8, of the shape of `kernel`: what its weights are rounded to, in steps."""
            steps = np.asarray(self._steps(kernel, weights))
            rounded = np.asarray(self(kernel, False, weights)).reshape(self.scales.view or kernel.shape)
            return np.rint(rounded / steps).astype(np.int8).reshape(kernel.shape)

        def _steps(self, kernel: Any, weights: dict[str, Any]) -> Any:
            """Of the kernel in the view of its scales, 1 along the axes that share one."""
            if self.precision.ranges == LEARNED:
                return self._first_steps * tf.abs(weights["step"])
            if self.precision.ranges != "max":
                return self._first_steps
            view = tf.reshape(tf.stop_gradient(kernel), self.scales.view or kernel.shape)
            others = [axis for axis in range(len(view.shape)) if axis - len(view.shape) not in self._axes()]
            largest = tf.reduce_max(tf.abs(view), axis=others, keepdims=True)
            return tf.maximum(largest / self.precision.levels, np.finfo(np.float32).tiny)  # a channel may be all zero

        def _axes(self) -> tuple[int, ...]:
            return () if self.keeps_one_scale() else self.scales.axes

        @functools.cached_property
        def _first_steps(self) -> np.ndarray:
            view = np.reshape(self.start, self.scales.view or self.start.shape)
            if self.precision.ranges != LEARNED:
                found = steps_of(view, self.precision.bits, self._axes(), self.precision.ranges)
                return np.asarray(found, np.float32)
            # Esser et al. 2020, section 2.1: 2 <|w|> / sqrt(levels).
            others = tuple(axis for axis in range(view.ndim) if axis - view.ndim not in self._axes())
            mean = np.mean(np.abs(view), axis=others, keepdims=True)
            return np.maximum(2 * mean / np.sqrt(self.precision.levels), np.finfo(np.float32).tiny).astype(np.float32)

        def _on_learned_grid(self, kernel: Any, relative: Any) -> Any:
            """LSQ, equations 1 to 3 and 5: the gradient of the step, and of weights within the range only."""
            levels = float(self.precision.levels)
            view = tf.reshape(kernel, self.scales.view or kernel.shape)
            weights_a_step = view.shape.num_elements() / relative.shape.num_elements()
            factor = float(1.0 / np.sqrt(weights_a_step * levels))
            relative = factor * relative + tf.stop_gradient((1 - factor) * relative)  # its gradient times the factor
            steps = self._first_steps * tf.abs(relative)
            inside = tf.clip_by_value(view / steps, -levels, levels)
            rounded = inside + tf.stop_gradient(tf.round(inside) - inside)
            return tf.reshape(rounded * steps, kernel.shape)

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

        def _one_scale(self, kernel: Any) -> Any:
            high = tf.reduce_max(tf.abs(tf.stop_gradient(kernel)))
            if len(kernel.shape) != 4 or self.scales.axes != (
                -1,
            ):  # of other ranks, the converter transposes FakeQuant of one scale only
                return tf.quantization.fake_quant_with_min_max_vars(kernel, -high, high, narrow_range=True)
            # The converter folds a BatchNorm into a convolution only when its scales are per channel: the
            # per-channel operator with the same scale for all channels.
            high = tf.fill((kernel.shape[-1],), high)
            return tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, -high, high, narrow_range=True)

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

        def told(self) -> str:
            """In words, for the table of decisions."""
            return "zeros held" if self.structure.centroids is None else "weights frozen, to keep their clusters"

        def get_config(self) -> dict[str, Any]:
            return {"structure": self.structure, "start": self.start}

    return HeldWeight
