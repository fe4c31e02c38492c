"""Round weights during training while keeping zeros and clusters.

Rounding is plain arithmetic, and the converter gets the results as constants. They lie on the grid that it would choose
itself, with one scale per output channel, for every operator that has an int8 form. TF-MOT's FakeQuant operators work
for only some of these (not for Conv1D, and for depthwise convolutions only with one scale for all channels). Clustered
kernels keep a single scale: their integers are written to the file after the conversion (`integers`). Kernels whose
operator has a single scale anyway use FakeQuant.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras, tfmot
from tfopt.base.replicas import assign_in_each
from tfopt.stages.quantize.rounding import ROUNDINGS, USUAL, Precision, Rounding

# int8 weights without -128, as TFLite's specification requires.
LEVELS = 127


@dataclass(frozen=True)
class Scheme:
    """A scheme of quantization-aware training: its name and what it preserves in a kernel."""

    name: str
    zeros: bool
    clusters: bool


@dataclass(frozen=True)
class Structure:
    """The zeros and clusters of a kernel when quantization begins.

    Attributes:
        mask: 1.0 where the weight may differ from zero, else 0.0; None if zeros need not be kept.
        centroids: the different values, shape (k,), or (channels, k) for clusters per channel, padded by repeating a
            value; None if clusters need not be kept.
    """

    mask: np.ndarray | None = None
    centroids: np.ndarray | None = None


@dataclass(frozen=True)
class Scales:
    """How the weights of a kernel share scales in the file.

    Attributes:
        axes: the axes (negative) whose indices have separate scales; () for one scale for the whole kernel.
        view: the shape to which the axes refer; () for the kernel's own shape.
        name: a description for reports.
        told_by_operator: whether a single scale must be passed to the file if separate ones are usual there.
        certain: whether the operator has this many scales; that of a layer of another package may have more.
    """

    axes: tuple[int, ...] = ()
    view: tuple[int, ...] = ()
    name: str = "per channel"
    told_by_operator: bool = True
    certain: bool = True


def structure_of(kernel: np.ndarray, scheme: Scheme, *, output_channels_last: bool) -> Structure:
    """Return the zeros and clusters of `kernel` that `scheme` preserves."""
    mask = (kernel != 0).astype(np.float32) if scheme.zeros and np.any(kernel == 0) else None
    centroids = _centroids(kernel, output_channels_last) if scheme.clusters else None
    return Structure(mask, centroids)


def _centroids(kernel: np.ndarray, output_channels_last: bool) -> np.ndarray | None:
    whole = np.unique(kernel)
    channels = [np.unique(channel) for channel in np.moveaxis(kernel, -1, 0)]
    most = max(len(values) for values in channels)
    # More values than half the weights are not worth keeping as clusters; more than int8 has cannot be kept.
    in_whole = len(whole) <= min(2 * LEVELS + 1, kernel.size // 2)
    in_channels = output_channels_last and most <= min(2 * LEVELS + 1, kernel[..., 0].size // 2)
    # Channels share the values of whole-kernel clusters, but hardly ever those of clusters per channel.
    own = np.count_nonzero(whole) > 0.9 * sum(np.count_nonzero(values) for values in channels)
    if in_whole and not (in_channels and own):
        return whole
    if in_channels:
        return np.stack([np.pad(values, (0, most - len(values)), mode="edge") for values in channels])
    return None


@functools.cache
def kernel_quantizer() -> Any:
    """Return the class `KernelQuantizer`. Created on first use, because importing TF-MOT takes seconds."""
    import tensorflow as tf

    base = tfmot().quantization.keras.quantizers.Quantizer
    constant = tf_keras().initializers.Constant

    class KernelQuantizer(base):  # type: ignore[misc, valid-type]
        """Symmetric quantization of a kernel that keeps its zeros and clusters.

        During training, a clustered kernel takes the nearest trained centroid for each weight. The gradient reaches the
        centroids and, straight through, the latent weights (as in TF-MOT). The layer's kernel variable always holds the
        current values, so inference, the converter and `strip` do not depend on clusters.

        Args:
            scales: which weights share a scale.
            structure: the zeros and clusters to keep.
            start: the kernel when training begins.
            precision: how finely to round; if it is not the usual one, the steps must be written to the file.
            kernel: the name of the kernel in its layer.
            fixed: see `Rounding`.
        """

        def __init__(
            self,
            scales: "Scales",
            structure: Structure,
            start: np.ndarray,
            precision: Precision = USUAL,
            kernel: str = "kernel",
            fixed: np.ndarray | None = None,
        ) -> None:
            self._fixed = fixed
            self.scales, self.structure, self.start = scales, structure, start
            # Whether its layer computes in float, so that nothing is rounded.
            self.in_float: Callable[[], bool] = lambda: False
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
                # The latent weights are trained instead of the kernel, whose gradient is zero, not missing.
                kernel = self._clustered(weights["latent"], weights["centroids"]) + 0.0 * inputs
            if "mask" in weights:
                kernel = kernel * weights["mask"]
            if training and "centroids" in weights:
                assign_in_each(inputs, kernel)
            if self.in_float():
                return kernel
            if self.needs_operator():
                high = tf.reduce_max(tf.abs(tf.stop_gradient(kernel)))
                return tf.quantization.fake_quant_with_min_max_vars(kernel, -high, high, narrow_range=True)
            round_ = self.rounding.in_training if training else self.rounding.rounded
            return tf.reshape(round_(self._view(kernel), weights), kernel.shape)

        @functools.cached_property
        def rounding(self) -> Rounding:
            axes = () if self.keeps_one_scale() else self.scales.axes
            return ROUNDINGS[self.precision.weight_steps](self.precision, axes, self._view(self.start), self._fixed)

        def _view(self, kernel: Any) -> Any:
            """Return `kernel` in the shape in which scales are shared along whole axes."""
            if not self.scales.view:
                return kernel
            return (np if isinstance(kernel, np.ndarray) else tf).reshape(kernel, self.scales.view)

        def keeps_one_scale(self) -> bool:
            """Return whether the kernel has a single scale; separate scales per channel would multiply its clusters."""
            centroids = self.structure.centroids
            return not self.scales.axes or (centroids is not None and centroids.ndim == 1)

        def needs_operator(self) -> bool:
            """Return whether FakeQuant passes the scale to the converter, since the operator has a single scale."""
            one_scale = not self.scales.axes and self.scales.told_by_operator and self.precision.usual
            return one_scale and not self.in_float()

        def needs_integers(self) -> bool:
            """Return whether the converter would choose other integers, so that these must be written to the file."""
            several = bool(self.scales.axes) or (not self.scales.certain and self.structure.centroids is not None)
            one_scale = several and self.keeps_one_scale() and self.scales.told_by_operator
            return (one_scale or not self.precision.usual) and not self.in_float()

        def keeps_scale(self) -> bool:
            """Return whether the file has the trained scale, times the factor of a folded BatchNorm per channel."""
            return self.precision.usual and (self.needs_operator() or self.needs_integers())

        def describe(self) -> str:
            """Return a description for the table of decisions."""
            usual = self.precision.usual
            kind, steps = ("int8", "") if usual else (f"{self.precision.bits}-bit", f", {self.rounding.words}")
            return f"{kind} weights {'with one scale' if self.keeps_one_scale() else self.scales.name}{steps}"

        def integers(self, kernel: Any, weights: dict[str, Any]) -> np.ndarray:
            """Return the weights of `kernel` rounded, in steps; int8 of the same shape."""
            kernel = kernel * weights["mask"] if "mask" in weights else kernel
            view = self._view(tf.convert_to_tensor(kernel))
            found = self.rounding.integers(view, self.rounding.steps(view, weights))
            return np.asarray(found).astype(np.int8).reshape(kernel.shape)

        def _clustered(self, latent: Any, centroids: Any) -> Any:
            if self.structure.mask is not None:  # pruned weights share a centroid, which stays at zero
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
            return value + (latent - tf.stop_gradient(latent))  # this order gives exactly `value`

        def get_config(self) -> dict[str, Any]:
            """Return what `quantizer_from` needs besides the weights of the wrapper."""
            mask, centroids, fixed = self.structure.mask, self.structure.centroids, self.rounding.fixed
            return {
                "kernel": self.kernel,
                "shape": list(self.start.shape),
                "scales": dataclasses.asdict(self.scales),
                "precision": dataclasses.asdict(self.precision),
                "mask": mask is not None,
                "centroids": None if centroids is None else list(centroids.shape),
                "fixed": None if fixed is None else np.asarray(fixed).tolist(),
            }

    return KernelQuantizer


def quantizer_from(config: Mapping[str, Any]) -> Any:
    """Return a quantizer like the one that gave `config`; the values of its kernel come with the weights."""
    shape = tuple(config["shape"])
    mask = np.ones(shape, np.float32) if config["mask"] else None
    centroids = None if config["centroids"] is None else np.zeros(config["centroids"], np.float32)
    structure, start = Structure(mask, centroids), np.ones(shape, np.float32)
    if "scales" not in config:
        return held_weight()(structure, start, config["kernel"])
    fixed = None if config["fixed"] is None else np.asarray(config["fixed"], np.float32)
    saved = config["scales"]
    scales = Scales(**{**saved, "axes": tuple(saved["axes"]), "view": tuple(saved["view"])})
    precision = Precision(**config["precision"])
    return kernel_quantizer()(scales, structure, start, precision, config["kernel"], fixed)


@functools.cache
def held_weight() -> Any:
    """Return the class `HeldWeight`, the quantizer of weights that stay in float. Created on first use."""
    base = tfmot().quantization.keras.quantizers.Quantizer

    class HeldWeight(base):  # type: ignore[misc, valid-type]
        """No rounding: clustered weights do not change; in others, zeros stay zero."""

        def __init__(self, structure: Structure, start: np.ndarray, kernel: str) -> None:
            self.structure, self.start, self.kernel = structure, start, kernel

        def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
            key, value = ("mask", self.structure.mask) if self.structure.centroids is None else ("start", self.start)
            initial = tf_keras().initializers.Constant(value)
            return {key: layer.add_weight(f"{name}_{key}", shape=tensor_shape, initializer=initial, trainable=False)}

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            del training, kwargs
            if "mask" in weights:
                return inputs * weights["mask"]
            return weights["start"] + 0.0 * inputs  # its gradient is zero, not missing

        def needs_operator(self) -> bool:
            return False

        keeps_scale = needs_operator

        def describe(self) -> str:
            """Return a description for the table of decisions."""
            return "zeros kept" if self.structure.centroids is None else "weights frozen to keep their clusters"

        def get_config(self) -> dict[str, Any]:
            mask, centroids = self.structure.mask, self.structure.centroids
            return {
                "kernel": self.kernel,
                "shape": list(self.start.shape),
                "mask": mask is not None,
                "centroids": None if centroids is None else list(centroids.shape),
            }

    return HeldWeight
