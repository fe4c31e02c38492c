"""TF-MOT's pruning wrapper, extended: a choice of importance, exact masks, several kernels per layer, fixed zeros."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfopt.base.decorators import not_converted
from tfopt.base.keras_compat import tf_keras, tfmot, tfmot_module, unwrapped
from tfopt.base.overrides import override_attributes
from tfopt.graph.keras_internals import own_variables
from tfopt.stages.kernels.layer_copies import KeepsCallContract, built_copy, call_of, restored, unbuilt_copy
from tfopt.stages.kernels.table import kernel_layers, kernels, named_kernel

# A step, as int64, that no training reaches.
NEVER = 2**62

Settings = dict[str, dict[str, Any]]
"""Keyword arguments of `PruneByScore` by layer name."""


def wrap_for_pruning(flat_model: Any, settings: Settings) -> Any:
    """Return a copy of `flat_model`, weights included, in which the layers named in `settings` are wrapped."""
    wrapped = tf_keras().models.clone_model(
        flat_model, clone_function=lambda layer: wrapped_copy(layer, settings.get(layer.name))
    )
    for source, target in zip(flat_model.layers, wrapped.layers, strict=True):
        target.set_weights(source.get_weights())  # a wrapper passes them to the inner layer
    return wrapped


def wrapped_copy(layer: Any, settings: dict[str, Any] | None) -> Any:
    """Return a copy of `layer` in a pruning wrapper, or a plain copy without weights if `settings` is None."""
    return unbuilt_copy(layer) if settings is None else scored_pruning()(built_copy(layer), **settings)


def masked_weights(layer: Any) -> list[np.ndarray]:
    """Return the weights of a layer, wrapped or not, masked again: the last training step may have moved zeros."""
    inside = unwrapped(layer)
    weights = [np.asarray(weight) for weight in inside.get_weights()]
    positions = {id(weight): index for index, weight in enumerate(inside.weights)}
    for weight, mask, _ in getattr(layer, "pruning_vars", []):
        weights[positions[id(weight)]] *= mask.numpy()
    return weights


def pruned_layers(model: Any) -> list[Any]:
    """Return the pruning wrappers of `model`."""
    return [layer for layer in model.layers if hasattr(layer, "pruning_vars")]


def zeros_held(flat_model: Any) -> Settings:
    """Return wrapper settings that keep the masks of all kernels with zeros unchanged."""
    held: Settings = {}
    for layer in kernel_layers(flat_model):
        if names := [kernel.name for kernel in kernels(layer) if np.any(kernel.values == 0)]:
            held[layer.name] = {"schedules": dict.fromkeys(names)}
    return held


def hold_zeros(wrapped: Any, *, scheduled: bool) -> None:
    """Keep every weight that is zero now, of kernels in pruning wrappers, at zero during `fit`.

    Args:
        wrapped: a model with pruning wrappers; changed in place.
        scheduled: whether TF-MOT's callback will still start the schedule of a wrapper.
    """
    for layer in pruned_layers(wrapped):
        for number, (weight, mask, _) in enumerate(layer.pruning_vars):
            held = (weight.numpy() != 0).astype(mask.dtype.as_numpy_dtype)
            layer.hold(number, held)
            mask.assign(held)
        if not scheduled:
            layer.pruning_step.assign(1)  # TF-MOT's wrapper refuses to train until its callback has started it


def _saved(schedule: Any) -> dict[str, Any] | None:
    """Return the settings of a schedule of TF-MOT, without "class_name": a model file may name layers only."""
    return None if schedule is None else {"kind": type(schedule).__name__, **schedule.get_config()["config"]}


def _schedule(saved: Mapping[str, Any] | None) -> Any:
    if saved is None:
        return None
    sparsity = tfmot().sparsity.keras
    kinds = {kind.__name__: kind for kind in (sparsity.ConstantSparsity, sparsity.PolynomialDecay)}
    settings = dict(saved)
    return kinds[settings.pop("kind")].from_config(settings)


@functools.cache
def scored_pruning() -> Any:
    """Return the wrapper class `PruneByScore`. Created on first use, because importing TF-MOT takes seconds."""
    import tensorflow as tf

    wrapper = tfmot_module("sparsity.keras.pruning_wrapper").PruneLowMagnitude
    pruning = tfmot_module("sparsity.keras.pruning_impl").Pruning

    class ScoredPruning(pruning):  # type: ignore[misc, valid-type]
        """Pruning that selects weights by `importance`; the schedule of each kernel decides how many.

        Attributes:
            importance: see `Prune`.
            threshold: see `Prune`.
            schedules: one per kernel; None for a kernel whose mask does not change.
            held: per kernel, 0.0 where a weight must stay zero, else 1.0; None for a kernel without such weights.
            seeds: of the random importance, per kernel.
        """

        importance: str
        threshold: float | None
        schedules: list[Any]
        held: list[Any]
        seeds: list[tuple[int, int]]

        @not_converted
        def _maybe_update_block_mask(self, weights: Any) -> Any:
            number = next(i for i, (weight, _, _) in enumerate(self._pruning_vars) if weight is weights)
            held = self.held[number]
            if self.schedules[number] is None:
                return tf.zeros([], weights.dtype), tf.ones_like(weights) if held is None else held
            if self._sparsity_m_by_n:
                threshold, mask = super()._maybe_update_block_mask(weights)
            elif self._block_size != [1, 1]:
                threshold, mask = self._block_mask(weights, number)
            else:
                threshold, mask = self._mask(weights, number)
            return threshold, mask if held is None else mask * held

        @not_converted
        def _mask(self, weights: Any, number: int) -> Any:
            if self.importance == "threshold":
                mask = tf.cast(tf.abs(weights) >= self.threshold, weights.dtype)
                return tf.cast(self.threshold, weights.dtype), mask
            if self.importance == "random":
                # The same scores every time, so that a pruned weight stays pruned as sparsity grows.
                weights = tf.random.stateless_uniform(weights.shape, self.seeds[number])
            # TF-MOT keeps all weights equal to the last one kept: too many in a kernel with many equal weights.
            scores = tf.reshape(tf.abs(weights), [-1])
            sparsity = tf.cast(self.schedules[number](self._step_fn())[1], tf.float64)
            kept = tf.maximum(tf.round(scores.shape[0] * (1 - sparsity)), 1)
            values, indices = tf.math.top_k(scores, k=tf.cast(kept, tf.int32))
            mask = tf.scatter_nd(indices[:, tf.newaxis], tf.ones_like(values), scores.shape)
            return values[-1], tf.reshape(mask, weights.shape)

        @not_converted
        def _block_mask(self, weights: Any, number: int) -> Any:
            # TF-MOT pads on all sides to pool, but only at the far ends to mask. If the kernel's size is not a multiple
            # of the block's, it would score other blocks than it prunes.
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
            threshold, mask = self._mask(pooled, number)
            return threshold, tf.repeat(tf.repeat(mask, height, axis=0), width, axis=1)[:rows, :columns]

    @tf_keras().saving.register_keras_serializable("tfopt")
    class PruneByScore(KeepsCallContract, wrapper):  # type: ignore[misc, valid-type]
        """`PruneLowMagnitude` for several kernels, each with its own schedule.

        Args:
            layer: a built layer.
            schedules: TF-MOT schedules by kernel name, all with the same steps; None keeps the kernel's mask.
            importance: see `Prune`.
            threshold: see `Prune`.
            seed: see `Prune`.
            position: a number unique to this layer's kernels, for the random importance.
            sparsity_m_by_n: see `Prune`.
            held: the numbers of the kernels for which `hold` will be called; their zeros are a weight of this layer.
            **kwargs: passed to `PruneLowMagnitude`.
        """

        def __init__(
            self,
            layer: Any,
            schedules: Mapping[str, Any],
            importance: str = "magnitude",
            threshold: float | None = None,
            seed: int = 0,
            position: int = 0,
            sparsity_m_by_n: Any = None,
            held: Sequence[int] = (),
            **kwargs: Any,
        ) -> None:
            # TF-MOT's registry knows few layers; it accepts any layer with this method.
            layer.get_prunable_weights = lambda: [named_kernel(layer, name).variable for name in schedules]
            never = tfmot().sparsity.keras.ConstantSparsity(0.5, begin_step=NEVER, end_step=NEVER, frequency=1)
            due = next((schedule for schedule in schedules.values() if schedule is not None), never)
            super().__init__(layer, pruning_schedule=due, sparsity_m_by_n=sparsity_m_by_n, **kwargs)
            self._name = layer.name  # as the caller knows it
            self.schedules = dict(schedules)
            self.importance, self.threshold, self.seed, self.position = importance, threshold, seed, position
            self._held = list(held)
            self.adopt_call_contract()

        def build(self, input_shape: Any) -> None:
            super().build(input_shape)
            pruning = self.pruning_obj
            pruning.__class__ = ScoredPruning
            pruning.importance, pruning.threshold = self.importance, self.threshold
            pruning.schedules = list(self.schedules.values())
            pruning.held = [None] * len(self.schedules)
            pruning.seeds = [(self.seed, self.position + number) for number in range(len(self.schedules))]
            for number in self._held:
                self.hold(number, np.ones(self.pruning_vars[number][1].shape, np.float32))

        def add_weight(self, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
            # TF-MOT calls the masks of all kernels "mask"; HDF5 needs different names.
            taken = {weight.name.rpartition("/")[2].partition(":")[0] for weight in own_variables(self)}
            free = (f"{name}_{number}" if number else name for number in itertools.count())
            return super().add_weight(next(each for each in free if each not in taken), *args, **kwargs)

        def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
            step = self.pruning_step
            if not (tf.executing_eagerly() and training and int(step) < 0):
                return super().call(inputs, training=training, **kwargs)
            # A call in training mode before `fit`, to look at augmentation or dropout, which TF-MOT refuses.
            with override_attributes([(self.pruning_obj, "conditional_mask_update", tf.no_op)]):
                before = int(step)
                step.assign(0)
                try:
                    return super().call(inputs, training=training, **kwargs)
                finally:
                    step.assign(before)

        def hold(self, number: int, held: np.ndarray) -> None:
            """Keep weights of a kernel at zero: those for which `held` is 0.0 instead of 1.0."""
            masks = self.pruning_obj.held
            if masks[number] is None:
                masks[number] = self.add_weight(
                    f"held_{number}", held.shape, self.pruning_vars[number][1].dtype, trainable=False
                )
                self._held = sorted({*self._held, number})
            masks[number].assign(held)

        def get_config(self) -> dict[str, Any]:
            config = super().get_config()
            del config["pruning_schedule"]  # one of `schedules`
            return {
                **config,
                "sparsity_m_by_n": self.sparsity_m_by_n,  # missing in TF-MOT's get_config
                "schedules": {name: _saved(plan) for name, plan in self.schedules.items()},
                "held": list(self._held),
                "importance": self.importance,
                "threshold": self.threshold,
                "seed": self.seed,
                "position": self.position,
                "call": call_of(self),
            }

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            config = dict(config)
            schedules = {name: _schedule(plan) for name, plan in config["schedules"].items()}
            layer = restored(config.pop("layer"), config.pop("call"))
            return cls(**{**config, "schedules": schedules, "layer": layer})

    return PruneByScore
