"""TF-MOT's clustering wrapper, extended to any layer and to several kernels, each with its own clusters."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras, tfmot_module
from tfopt.base.replicas import override_in_replica
from tfopt.graph.keras_internals import takes_training
from tfopt.stages.kernels.layer_copies import KeepsCallContract, call_of, restored
from tfopt.stages.kernels.table import named_kernel


@functools.cache
def cluster_kernels() -> Any:
    """Return the wrapper class `ClusterKernels`. Created on first use, because importing TF-MOT takes seconds."""
    wrapper = tfmot_module("clustering.keras.cluster_wrapper").ClusterWeights
    init_of = tfmot_module("clustering.keras.cluster_config").CentroidInitialization

    @tf_keras().saving.register_keras_serializable("tfopt")
    class ClusterKernels(KeepsCallContract, wrapper):  # type: ignore[misc, valid-type]
        """`ClusterWeights` for layers that TF-MOT's registry does not know.

        While the layer runs, its kernel attributes hold the clustered tensors; afterward they hold the variables
        again. TF-MOT's wrapper leaves the tensors there, so the layer loses these weights.

        Args:
            layer: a built layer with its weights.
            clusters: by kernel name, the settings `number_of_clusters`, `cluster_centroids_init` (a value of TF-MOT's
                enumeration) and `preserve_sparsity`.
            held: names of other kernels, whose zeros stay zero.
            cluster_per_channel: for a Conv2D only.
            **kwargs: passed to `ClusterWeights`.
        """

        def __init__(
            self,
            layer: Any,
            clusters: Mapping[str, Mapping[str, Any]],
            held: tuple[str, ...] = (),
            cluster_per_channel: bool = False,
            **kwargs: Any,
        ) -> None:
            _make_clusterable(layer)
            most = max(settings["number_of_clusters"] for settings in clusters.values())
            super().__init__(layer, number_of_clusters=most, cluster_per_channel=cluster_per_channel, **kwargs)
            self._name = layer.name  # as the caller knows it
            self.clusters = {name: dict(settings) for name, settings in clusters.items()}
            self.held = tuple(held)
            self.held_masks: dict[str, Any] = {}
            self.adopt_call_contract()

        def build(self, input_shape: Any) -> None:
            self.layer.clusterable_in_turn = self._in_turn
            super().build(input_shape)
            # Weights of this layer, so that files hold them.
            self.held_masks = {
                name: self._constant(f"held_{name}", named_kernel(self.layer, name).values != 0, np.float32)
                for name in self.held
            }
            for name, mask in self.sparsity_masks.items():
                self.sparsity_masks[name] = self._constant(f"mask_{name}", mask, np.float32)
            for name, place in self.zero_idx.items():
                self.zero_idx[name] = self._constant(f"zero_{name}", place, np.int64)

        def _constant(self, name: str, values: Any, dtype: Any) -> Any:
            array = np.asarray(values).astype(dtype)
            constant = tf_keras().initializers.Constant(array)
            return self.add_weight(name, array.shape, dtype, initializer=constant, trainable=False)

        @property
        def trainable_weights(self) -> list[Any]:
            return _once(super().trainable_weights)  # TF-MOT lists a kernel twice

        @property
        def non_trainable_weights(self) -> list[Any]:
            return _once(super().non_trainable_weights)

        def _in_turn(self) -> Iterator[tuple[str, Any]]:
            """Yield each kernel after setting TF-MOT's attributes for it, which TF-MOT reads kernel by kernel."""
            for name, settings in self.clusters.items():
                self.number_of_clusters = settings["number_of_clusters"]
                self.cluster_centroids_init = init_of(settings["cluster_centroids_init"])
                self.preserve_sparsity = settings["preserve_sparsity"]
                yield name, named_kernel(self.layer, name).variable

        def get_weight_from_layer(self, name: str) -> Any:
            return named_kernel(self.layer, name).variable

        def keeps_zeros(self, name: str) -> bool:
            return bool(self.clusters[name]["preserve_sparsity"])

        def clustered(self, name: str) -> Any:
            """Return the kernel `name` with each weight replaced by its nearest centroid."""
            algorithm, weight = self.clustering_algorithms[name], self.original_clusterable_weights[name]
            if self.keeps_zeros(name):
                self._pin_zero_centroid(name)
                weight = weight * self.sparsity_masks[name]
            indices = algorithm.get_pulling_indices(weight)
            self.pulling_indices[name].assign(indices)
            return algorithm.get_clustered_weight(indices, weight)

        def _pin_zero_centroid(self, name: str) -> None:
            import tensorflow as tf

            centroids = self.cluster_centroids[name]
            others = 1 - tf.one_hot(self.zero_idx[name], centroids.shape[-1], dtype=centroids.dtype)
            centroids.assign(centroids * others)

        def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
            if takes_training(self.layer):
                kwargs["training"] = training
            with override_in_replica(list(self._overrides())):
                return self.layer.call(inputs, **kwargs)

        def _overrides(self) -> Iterator[tuple[Any, str, Any]]:
            """Yield the tensor that replaces each kernel during a call; Keras would drop the variable if told."""
            for name in (*self.clusters, *self.held_masks):
                place, held = named_kernel(self.layer, name), self.held_masks.get(name)
                yield place.owner, place.attribute, self.clustered(name) if held is None else place.variable * held

        def get_config(self) -> dict[str, Any]:
            config = tf_keras().layers.Wrapper.get_config(self)
            own = {"clusters": self.clusters, "held": self.held, "cluster_per_channel": self.cluster_per_channel}
            return {**config, **own, "call": call_of(self)}

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            config = dict(config)
            # Centroids come from the file; k-means fails on kernels that have no values yet.
            linear = {"cluster_centroids_init": init_of.LINEAR.value}
            config["clusters"] = {name: {**settings, **linear} for name, settings in config["clusters"].items()}
            layer = restored(config.pop("layer"), config.pop("call"))
            return cls(**{**config, "layer": layer})

    return ClusterKernels


def _once(weights: list[Any]) -> list[Any]:
    return list({id(weight): weight for weight in weights}.values())


def _make_clusterable(layer: Any) -> None:
    """Make TF-MOT's wrapper accept `layer`: give its class TF-MOT's interface as a second base."""
    interface = tfmot_module("clustering.keras.clusterable_layer").ClusterableLayer
    kind = type(layer)
    body = {
        "get_clusterable_weights": lambda self: self.clusterable_in_turn(),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    }
    layer.__class__ = type(kind.__name__, (kind, interface), body)


def clustered_weights(wrapper: Any) -> list[np.ndarray]:
    """Return the weights of the wrapped layer, in Keras order, with each clustered kernel replaced by its centroids."""
    weights = [np.asarray(weight) for weight in wrapper.layer.get_weights()]
    for name in wrapper.clusters:
        weights[named_kernel(wrapper.layer, name).index] = np.asarray(wrapper.clustered(name))
    for name, mask in wrapper.held_masks.items():
        weights[named_kernel(wrapper.layer, name).index] *= mask.numpy()
    return weights
