"""Cluster: few different weights in each kernel (Han et al. 2015, arXiv:1510.00149, section 3)."""

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from tfopt.config import config
from tfopt.errors import RecipeError
from tfopt.legacy import tf_keras, tfmot, tfmot_module
from tfopt.stages.folding import make_scales_positive
from tfopt.stages.kernels import SPARED_BY_DEFAULT, kernel, require_kernels, unknown_kernels
from tfopt.stages.promise import Clusters, Promise
from tfopt.stages.pruning_wrapper import hold_zeros, masked_weights, wrapped_copy, zeros_held
from tfopt.stages.rules import Setting, choose
from tfopt.stages.stage import Stage, kernel_layers


@config
class Cluster(Stage):
    """Weight sharing through TF-MOT's clustering wrapper.

    A frozen layer is clustered too, and its clusters are trained; its bias stays as it is.

    Attributes:
        number_of_clusters: different values in each kernel, at most; zero counts as one of them where
            sparsity is kept. A rule `(pattern, number)` in `layers` replaces it. A kernel with fewer
            different weights than that gets as many clusters as it has weights.
        cluster_centroids_init: "kmeans++", "linear" (evenly between the extremes; Han et al. found it best),
            "density-based" (evenly over the distribution) or "random" (uniform between the extremes).
        cluster_per_channel: `number_of_clusters` in each output channel of a Conv2D instead of in the whole
            kernel: more accurate at the same number, but far more different values for the entropy coder.
        lloyd_iterations: k-means steps from those first centroids, before training (0: train them as they are).
        preserve_sparsity: None keeps zeros when an earlier stage made them; True or False decides.
    """

    number_of_clusters: int = Field(default=16, ge=2)
    cluster_centroids_init: Literal["kmeans++", "linear", "density-based", "random"] = "kmeans++"
    cluster_per_channel: bool = False
    lloyd_iterations: NonNegativeInt = 20
    preserve_sparsity: bool | None = None

    establishes: ClassVar[str | None] = "clusters"
    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    def promises(self, model: Any) -> list[Promise]:
        layers = {layer.name: layer for layer in model.layers}
        return [
            Clusters(layer=name, at_most=number, per_channel=self._per_channel(layers[name]))
            for name, number in self._chosen(model).items()
        ]

    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        del keep
        chosen = self._chosen(model)
        alone = [layer.name for layer in kernel_layers(model) if layer.name not in chosen]
        return [f"not clustered: {name}" for name in [*alone, *unknown_kernels(model)]]

    def _chosen(self, model: Any) -> dict[str, int]:
        """Number of clusters by layer name, for the layers that are clustered."""
        require_kernels(model, "cluster")
        registry = tfmot_module("clustering.keras.clustering_registry").ClusteringRegistry
        layers = kernel_layers(model)
        default: dict[str, Setting] = {
            layer.name: type(layer).__name__ not in SPARED_BY_DEFAULT and registry.supports(layer) for layer in layers
        }
        chosen = {
            name: self.number_of_clusters if setting is True else setting
            for name, setting in choose(self.layers, layers, default).items()
            if setting is not False
        }
        for layer in layers:
            if layer.name not in chosen:
                continue
            if not registry.supports(layer) or type(layer).__name__ in SPARED_BY_DEFAULT:
                raise RecipeError(
                    f"Layer '{layer.name}' ({type(layer).__name__}) cannot be clustered: TF-MOT has no clustering "
                    "for it. Take it out of the rules."
                )
            if chosen[layer.name] < 2:
                raise RecipeError(f"Layer '{layer.name}': expected 2 clusters or more, got {chosen[layer.name]}.")
            if chosen[layer.name] != int(chosen[layer.name]):
                raise RecipeError(f"Layer '{layer.name}': expected a whole number, got {chosen[layer.name]} clusters.")
        if not chosen:
            raise RecipeError("Cluster would leave every layer alone: its rules switch all of them off.")
        return {name: int(number) for name, number in chosen.items()}

    def _per_channel(self, layer: Any) -> bool:
        return self.cluster_per_channel and type(layer).__name__ == "Conv2D"

    def _wrap(self, legacy: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps
        preserve = "sparsity" in keep if self.preserve_sparsity is None else self.preserve_sparsity
        chosen = self._chosen(legacy)
        wrapper = tfmot_module("clustering.keras.cluster_wrapper").ClusterWeights

        if preserve and min(chosen.values()) < 3:
            raise RecipeError(
                "Where zeros are kept, TF-MOT needs 3 clusters or more: zero, one below and one above; got 2."
            )
        make_scales_positive(legacy)
        held = zeros_held(legacy) if preserve else {}

        def wrap(layer: Any) -> Any:
            copy = wrapped_copy(layer, None if layer.name in chosen else held.get(layer.name))
            if layer.name not in chosen:
                return copy
            # The wrapper reads the kernel when it is built, which happens while the model is cloned. It would find
            # none in a frozen layer.
            copy.trainable = True
            copy.build(layer.get_input_shape_at(0))
            copy.set_weights(layer.get_weights())
            return wrapper(copy, **self._settings(layer, chosen[layer.name], preserve))

        clustered = tf_keras().models.clone_model(legacy, clone_function=wrap)
        for source, target in zip(legacy.layers, clustered.layers, strict=True):
            if source.name in chosen:
                target.trainable = source.trainable
                refine_centroids(target, self.lloyd_iterations)
            else:
                target.set_weights(source.get_weights())
        hold_zeros(clustered, scheduled=False)
        return clustered

    def _settings(self, layer: Any, number: int, preserve: bool) -> dict[str, Any]:
        """Keyword arguments of TF-MOT's clustering wrapper for one layer."""
        values = kernel(layer).numpy()
        preserve = preserve and bool(np.any(values == 0))
        fitting = number_that_fits(values, number, self._per_channel(layer))
        init = tfmot().clustering.keras.CentroidInitialization
        methods = {
            "kmeans++": init.KMEANS_PLUS_PLUS,
            "linear": init.LINEAR,
            "density-based": init.DENSITY_BASED,
            "random": init.RANDOM,
        }
        return {
            "number_of_clusters": max(fitting, 3 if preserve else 2),
            # k-means++ cannot draw two centroids from one weight.
            "cluster_centroids_init": methods[self.cluster_centroids_init if fitting > 1 else "linear"],
            "cluster_per_channel": self._per_channel(layer),
            "preserve_sparsity": preserve,
        }

    def _trained_weights(self, layer: Any, plain: Any) -> list[np.ndarray]:
        del plain
        return clustered_weights(layer) if hasattr(layer, "cluster_centroids") else masked_weights(layer)


def number_that_fits(values: np.ndarray, number: int, per_channel: bool) -> int:
    """`number`, or fewer where a kernel has fewer different weights (k-means++ dies on those)."""
    groups = np.moveaxis(values, -1, 0) if per_channel else [values]
    return min(number, *(len(np.unique(group)) for group in groups))


def refine_centroids(wrapper: Any, iterations: int) -> None:
    """Lloyd's k-means from the wrapper's first centroids: each moves to the mean of the weights nearest to it.

    A centroid at zero that stands for pruned weights stays where it is.
    """
    for name, weight in wrapper.original_clusterable_weights.items():
        values, centroids = weight.numpy(), wrapper.cluster_centroids[name].numpy()
        if wrapper.cluster_per_channel:
            channels = np.moveaxis(values, -1, 0)
            refined = np.stack(
                [
                    lloyd(channel.ravel(), start, iterations, wrapper.preserve_sparsity)
                    for channel, start in zip(channels, centroids, strict=True)
                ]
            )
        else:
            refined = lloyd(values.ravel(), centroids, iterations, wrapper.preserve_sparsity)
        wrapper.cluster_centroids[name].assign(refined.astype(centroids.dtype))
        indices = wrapper.clustering_algorithms[name].get_pulling_indices(weight)
        wrapper.pulling_indices[name].assign(indices)


def lloyd(values: np.ndarray, centroids: np.ndarray, iterations: int, keep_zero: bool) -> np.ndarray:
    """`iterations` steps of k-means on 1-D `values`; a centroid without values stays where it is."""
    centroids = np.array(centroids, np.float64)
    zero = int(np.argmin(np.abs(centroids))) if keep_zero else None
    for _ in range(iterations):
        order = np.argsort(centroids)
        borders = (centroids[order][1:] + centroids[order][:-1]) / 2
        nearest = order[np.searchsorted(borders, values)]
        counts = np.bincount(nearest, minlength=len(centroids))
        sums = np.bincount(nearest, weights=values, minlength=len(centroids))
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centroids)
        if zero is not None:
            moved[zero] = 0.0
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def clustered_weights(wrapper: Any) -> list[np.ndarray]:
    """Weights of the wrapped layer, in Keras order, each clusterable one replaced by its centroids."""
    wrapper.update_clustered_weights_associations()
    weights = [np.asarray(weight) for weight in wrapper.layer.get_weights()]  # without the clustered ones
    for position, name in wrapper.position_original_weights.items():
        weights.insert(position, wrapper.get_weight_from_layer(name).numpy())
    return weights
