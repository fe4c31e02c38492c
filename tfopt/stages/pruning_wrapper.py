"""TF-MOT's pruning wrapper with a choice of importance, exact masks, and zeros that can be held."""

import functools
from typing import Any

import numpy as np

from tfopt.legacy import tf_keras, tfmot, tfmot_module
from tfopt.stages.kernels import kernel, kernel_index
from tfopt.stages.stage import inner, kernel_layers

# A step that no training reaches, as int64.
NEVER = 2**62


def wrap_for_pruning(legacy: Any, settings: dict[str, dict[str, Any]]) -> Any:
    """A copy of `legacy` whose layers named in `settings` are wrapped; weights copied."""
    wrapped = tf_keras().models.clone_model(
        legacy, clone_function=lambda layer: wrapped_copy(layer, settings.get(layer.name))
    )
    for source, target in zip(legacy.layers, wrapped.layers, strict=True):
        target.set_weights(source.get_weights())  # the wrapper passes them to the layer inside
    return wrapped


def wrapped_copy(layer: Any, settings: dict[str, Any] | None) -> Any:
    """A new layer like `layer`, in a pruning wrapper unless `settings` is None. Its weights are not copied."""
    copy = layer.__class__.from_config(layer.get_config())
    if settings is None:
        return copy
    # TF-MOT's registry knows few layers; one that brings this method is taken as it is.
    copy.get_prunable_weights = lambda: [kernel(copy)]
    return scored_pruning()(copy, **settings)


def masked_weights(layer: Any) -> list[np.ndarray]:
    """Weights of a layer, wrapped or not; the last step of training may have moved masked ones off zero."""
    weights = [np.asarray(weight) for weight in inner(layer).get_weights()]
    if hasattr(layer, "pruning_vars"):
        (_, mask, _), *_ = layer.pruning_vars  # one kernel a layer
        weights[kernel_index(layer.layer)] *= mask.numpy()
    return weights


def pruned_layers(model: Any) -> list[Any]:
    """The pruning wrappers of `model`."""
    return [layer for layer in model.layers if hasattr(layer, "pruning_vars")]


def zeros_held(legacy: Any) -> dict[str, dict[str, Any]]:
    """Settings by layer name, for `wrapped_copy`: wrappers that leave their masks alone, where there are zeros."""
    never = tfmot().sparsity.keras.ConstantSparsity(0.5, begin_step=NEVER, end_step=NEVER, frequency=1)
    return {
        layer.name: {"pruning_schedule": never} for layer in kernel_layers(legacy) if np.any(kernel(layer).numpy() == 0)
    }


def hold_zeros(wrapped: Any, *, scheduled: bool) -> None:
    """Every kernel weight in a pruning wrapper that is zero now stays zero during `fit`.

    `scheduled`: some wrapper still waits for TF-MOT's callback to start its schedule.
    """
    for layer in pruned_layers(wrapped):
        weight, mask, _ = layer.pruning_vars[0]
        layer.pruning_obj.held = (weight.numpy() != 0).astype(mask.dtype.as_numpy_dtype)
        mask.assign(layer.pruning_obj.held)
        if not scheduled:
            layer.pruning_step.assign(1)  # TF-MOT's wrapper refuses to train before its callback set it going


@functools.cache
def scored_pruning() -> Any:
    """TF-MOT's pruning wrapper with a choice of importance. Made late: importing TF-MOT takes seconds."""
    import tensorflow as tf

    wrapper = tfmot_module("sparsity.keras.pruning_wrapper").PruneLowMagnitude
    pruning = tfmot_module("sparsity.keras.pruning_impl").Pruning

    class ScoredPruning(pruning):  # type: ignore[misc, valid-type]
        """Decides by `importance` which weights fall; the schedule decides how many.

        `held` is 0.0 where a weight stays zero in any case, else 1.0; None where no such weight is.
        """

        importance = "magnitude"
        threshold: float | None = None
        seed = 0
        held: np.ndarray | None = None

        @tf.autograph.experimental.do_not_convert
        def _update_mask(self, weights: Any) -> Any:
            if self.importance == "threshold":
                mask = tf.cast(tf.abs(weights) >= self.threshold, weights.dtype)
                return tf.cast(self.threshold, weights.dtype), mask
            if self.importance == "random":
                # The same scores every time, so that a weight which fell once stays down as sparsity grows.
                weights = tf.random.stateless_uniform(weights.shape, (self.seed, weights.shape.num_elements()))
            # TF-MOT keeps all weights that equal the last one kept: in a kernel with many equal weights too many.
            scores = tf.reshape(tf.abs(weights), [-1])
            sparsity = tf.cast(self._pruning_schedule(self._step_fn())[1], tf.float64)
            number = tf.maximum(tf.round(scores.shape[0] * (1 - sparsity)), 1)
            values, kept = tf.math.top_k(scores, k=tf.cast(number, tf.int32))
            mask = tf.scatter_nd(kept[:, tf.newaxis], tf.ones_like(values), scores.shape)
            return values[-1], tf.reshape(mask, weights.shape)

        def _maybe_update_block_mask(self, weights: Any) -> Any:
            blocks = self._block_size != [1, 1]
            threshold, mask = self._block_mask(weights) if blocks else super()._maybe_update_block_mask(weights)
            return threshold, mask if self.held is None else mask * self.held

        @tf.autograph.experimental.do_not_convert
        def _block_mask(self, weights: Any) -> Any:
            # TF-MOT pads on all sides to pool, but at the far ends to mask: where a kernel is no multiple of the
            # block, it would judge other blocks than fall.
            (rows, columns), (height, width) = weights.shape, self._block_size
            tiles = (-(-rows // height), height, -(-columns // width), width)

            def tiled(values: Any) -> Any:
                return tf.reshape(tf.pad(values, [[0, -rows % height], [0, -columns % width]]), tiles)

            magnitudes = tiled(tf.abs(weights))
            if self._block_pooling_type == "MAX":
                pooled = tf.reduce_max(magnitudes, axis=(1, 3))
            else:
                sizes = tf.reduce_sum(tiled(tf.ones_like(weights)), axis=(1, 3))
                pooled = tf.reduce_sum(magnitudes, axis=(1, 3)) / sizes
            threshold, mask = self._update_mask(pooled)
            return threshold, tf.repeat(tf.repeat(mask, height, axis=0), width, axis=1)[:rows, :columns]

    class PruneByScore(wrapper):  # type: ignore[misc, valid-type]
        """`PruneLowMagnitude` with `importance`, `threshold` and `seed`."""

        def __init__(
            self,
            layer: Any,
            importance: str = "magnitude",
            threshold: float | None = None,
            seed: int = 0,
            sparsity_m_by_n: Any = None,
            **kwargs: Any,
        ) -> None:
            super().__init__(layer, sparsity_m_by_n=sparsity_m_by_n, **kwargs)
            self.importance, self.threshold, self.seed = importance, threshold, seed

        def build(self, input_shape: Any) -> None:
            super().build(input_shape)
            self.pruning_obj.__class__ = ScoredPruning
            self.pruning_obj.importance = self.importance
            self.pruning_obj.threshold = self.threshold
            self.pruning_obj.seed = self.seed

        def get_config(self) -> dict[str, Any]:
            return {
                **super().get_config(),
                "sparsity_m_by_n": self.sparsity_m_by_n,  # which TF-MOT's own get_config forgets
                "importance": self.importance,
                "threshold": self.threshold,
                "seed": self.seed,
            }

    return PruneByScore
