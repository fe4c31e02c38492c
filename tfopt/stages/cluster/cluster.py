"""Cluster: limit the number of different weights per kernel (Han et al. 2015, arXiv:1510.00149, section 3)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt
from typing_extensions import override

from tfopt.base.config import config
from tfopt.base.keras_compat import tf_keras, tfmot
from tfopt.errors import RecipeError
from tfopt.graph.layer_facts import facts_of
from tfopt.stages.cluster.wrapper import cluster_kernels, clustered_weights
from tfopt.stages.kernels.choice import SPARED, Choice, Decision, choose_kernels, decisions_on_kernels, notes_on
from tfopt.stages.kernels.folding import make_scales_positive
from tfopt.stages.kernels.layer_copies import built_copy
from tfopt.stages.kernels.promise import Clusters, Promise
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import kernels, require_kernels
from tfopt.stages.prune.wrapper import hold_zeros, masked_weights, wrapped_copy, zeros_held
from tfopt.stages.stage import Stage

# Weights up to this fraction of the largest one are nearly zero.
NEAR_ZERO = 1e-3
# A kernel with at least this fraction of such weights, or with a channel of nothing else, gets a cluster at zero.
NOISE = 0.05


@config
class Cluster(Stage):
    """Weight sharing with TF-MOT's clustering wrapper.

    Frozen layers are clustered too, and their clusters are trained; their biases do not change.

    Attributes:
        number_of_clusters: maximum number of different values in each kernel; zero counts as one of them if sparsity is
            kept. A rule `(pattern, number)` in `layers` replaces it. A kernel with fewer different weights gets one
            cluster for each of them.
        cluster_centroids_init: "kmeans++", "linear" (evenly between the extremes; Han et al. found it best),
            "density-based" (evenly over the distribution) or "random" (uniform between the extremes).
        cluster_per_channel: use `number_of_clusters` for each output channel of a Conv2D instead of for the whole
            kernel: more accurate at the same number, but with far more different values for the entropy coder.
        lloyd_iterations: k-means steps from the initial centroids before training; 0 trains the initial ones.
        preserve_sparsity: give zeros a cluster, and weights that are nearly zero too, if a kernel has many of them or a
            channel without others. None does so in kernels with at least 3 clusters; True refuses fewer.

    Examples:
        >>> stage = tfopt.Cluster(number_of_clusters=8)
        >>> clustered = stage.apply(model, steps=7 * 2)
        >>> history = clustered.fit(x, y, epochs=2, verbose=0)
        >>> shared = stage.strip(clustered)
        >>> len(np.unique(shared.get_layer("second").kernel.numpy())) <= 8
        True
    """

    min_steps: NonNegativeInt = 100
    number_of_clusters: int = Field(default=16, ge=2)
    cluster_centroids_init: Literal["kmeans++", "linear", "density-based", "random"] = "kmeans++"
    cluster_per_channel: bool = False
    lloyd_iterations: NonNegativeInt = 20
    preserve_sparsity: bool | None = None

    establishes: ClassVar[str | None] = "clusters"
    preserves: ClassVar[frozenset[str]] = frozenset({"sparsity"})

    @property
    @override
    def _with_lower_target(self) -> "Cluster":
        rules = tuple((name, rule if isinstance(rule, bool) else 2 * rule) for name, rule in self.layers)
        return replace(self, number_of_clusters=2 * self.number_of_clusters, layers=rules, retry="never")

    @override
    def holds_after(self, steps: int) -> int:
        return 0

    @override
    def promises(self, model: Any) -> list[Promise]:
        choices, numbers = self._choices(model)
        return [
            Clusters(layer=key[0], weight=key[1], at_most=number, per_channel=self._per_channel(choices[key].layer))
            for key, number in numbers.items()
        ]

    @override
    def decisions(self, model: Any, keep: frozenset[str] = frozenset()) -> dict[str, Decision]:
        del keep
        choices, numbers = self._choices(model)
        does = {}
        for key, number in numbers.items():
            per_channel = self._per_channel(choices[key].layer)
            fitting = number_that_fits(choices[key].kernel.values, number, per_channel)
            few = "" if fitting == number else f" (of {number} requested: it has no more different weights)"
            does[key] = f"{fitting} clusters" + (" per channel" if per_channel else "") + few
        return decisions_on_kernels(model, does, {key: choice.why for key, choice in choices.items()})

    @override
    def notes(self, model: Any, keep: frozenset[str] = frozenset()) -> list[str]:
        return notes_on(model, "clustered", self.decisions(model, keep))

    def _choices(self, model: Any) -> tuple[dict[Key, Choice], dict[Key, int]]:
        """Return the choice for each kernel, and the number of clusters of the clustered ones."""
        require_kernels(model, "cluster")
        choices = choose_kernels(self.layers, model, lambda _, kernel: SPARED if kernel.spared else "")
        numbers = {
            key: self.number_of_clusters if choice.setting is True else choice.setting
            for key, choice in choices.items()
            if choice.setting is not False
        }
        for (layer, _), number in numbers.items():
            if number < 2:
                raise RecipeError(f"Layer '{layer}': expected at least 2 clusters; got {number}.")
            if number != int(number):
                raise RecipeError(f"Layer '{layer}': expected a whole number of clusters; got {number}.")
        if not numbers:
            raise RecipeError("Cluster would leave every layer unchanged: its rules exclude all of them.")
        return choices, {key: int(number) for key, number in numbers.items()}

    def _per_channel(self, layer: Any) -> bool:
        return self.cluster_per_channel and facts_of(layer).clusters_per_channel

    def _wrap(self, flat_model: Any, steps: int, keep: frozenset[str]) -> Any:
        del steps
        _, numbers = self._choices(flat_model)
        preserve = self.preserve_sparsity is not False
        if (self.preserve_sparsity or (preserve and "sparsity" in keep)) and min(numbers.values()) < 3:
            raise RecipeError(
                "To keep zeros, TF-MOT needs at least 3 clusters: zero, one below and one above it; got 2. Allow more "
                "clusters, or set preserve_sparsity=False."
            )
        make_scales_positive(flat_model)
        clusters: dict[str, dict[str, Any]] = {}
        for (layer, weight), number in numbers.items():
            clusters.setdefault(layer, {})[weight] = number
        if preserve:
            _zero_what_is_nearly(flat_model, numbers)
        held = zeros_held(flat_model) if preserve else {}

        def wrap(layer: Any) -> Any:
            zeros = held.get(layer.name)
            if layer.name not in clusters:
                return wrapped_copy(layer, zeros)
            return self._wrapped(layer, clusters[layer.name], preserve, zeros["schedules"] if zeros else {})

        clustered = tf_keras().models.clone_model(flat_model, clone_function=wrap)
        for source, target in zip(flat_model.layers, clustered.layers, strict=True):
            if source.name in clusters:
                refine_centroids(target, self.lloyd_iterations)
            else:
                target.set_weights(source.get_weights())
        hold_zeros(clustered, scheduled=False)
        return clustered

    def _wrapped(self, layer: Any, numbers: dict[str, int], preserve: bool, zeros: Iterable[str]) -> Any:
        """Return a copy of `layer` in the clustering wrapper; kernels named in `zeros` keep theirs if not clustered."""
        values = {kernel.name: kernel.values for kernel in kernels(layer)}
        clusters = {name: self._settings(layer, values[name], number, preserve) for name, number in numbers.items()}
        held = tuple(name for name in zeros if name not in clusters)
        return cluster_kernels()(built_copy(layer), clusters, held, self._per_channel(layer))

    def _settings(self, layer: Any, values: np.ndarray, number: int, preserve: bool) -> dict[str, Any]:
        """Return TF-MOT's settings for one kernel."""
        preserve = preserve and number > 2 and bool(np.any(values == 0))
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
            "cluster_centroids_init": methods[self.cluster_centroids_init if fitting > 1 else "linear"].value,
            "preserve_sparsity": preserve,
        }

    def _trained_weights(self, layer: Any, flat_layer: Any) -> list[np.ndarray]:
        del flat_layer
        return clustered_weights(layer) if hasattr(layer, "cluster_centroids") else masked_weights(layer)


def _zero_what_is_nearly(flat_model: Any, numbers: Mapping[Key, int]) -> None:
    """Set the near-zero weights of kernels to be clustered to zero, in place, where they are more than noise.

    Otherwise they move to the nearest centroid. The channels of a dead BatchNormalization have no others, and it
    multiplies them by up to 1 / sqrt(epsilon): a model whose dead channels come alive fails.
    """
    for layer in flat_model.layers:
        for kernel in kernels(layer) if any(name == layer.name for name, _ in numbers) else ():
            if numbers.get((layer.name, kernel.name), 0) < 3:
                continue
            tiny = np.abs(kernel.values) <= NEAR_ZERO * np.abs(kernel.values).max()
            rest = tuple(axis for axis in range(tiny.ndim) if axis != kernel.channel_axis % tiny.ndim)
            if np.all(tiny, axis=rest).any() or tiny.mean() >= NOISE:
                kernel.variable.assign(np.where(tiny, 0, kernel.values))


def folded_clusters(flat_model: Any, promises: Sequence[Promise], distinct: int) -> list[str]:
    """Return a note if the float file of a model has more `distinct` weights in a kernel than clusters."""
    clusters = {(each.layer, each.weight): each for each in promises if isinstance(each, Clusters)}
    most = max((promise.at_most for promise in clusters.values()), default=0)
    others = [
        kernel.values.size
        for layer in flat_model.layers
        for kernel in kernels(layer)
        if (layer.name, kernel.name) not in clusters
    ]
    if not most or distinct <= max([most, *others]) or any(promise.per_channel for promise in clusters.values()):
        return []
    return [
        f"{distinct:,} distinct weights in a kernel of this float file, {most:,} clusters at most in the model: "
        "BatchNormalization is folded into kernels, a factor for each channel. An int8 file holds the clusters"
    ]


def number_that_fits(values: np.ndarray, number: int, per_channel: bool) -> int:
    """Return `number`, or less if the kernel has fewer different weights, on which k-means++ fails."""
    groups = np.moveaxis(values, -1, 0) if per_channel else [values]
    return min(number, *(len(np.unique(group)) for group in groups))


def refine_centroids(wrapper: Any, iterations: int) -> None:
    """Run Lloyd's k-means from the wrapper's initial centroids, in place.

    Each centroid moves to the mean of its nearest weights; the zero centroid of pruned weights does not move.
    """
    for name, weight in wrapper.original_clusterable_weights.items():
        values, centroids = weight.numpy(), wrapper.cluster_centroids[name].numpy()
        if wrapper.cluster_per_channel:
            channels = np.moveaxis(values, -1, 0)
            refined = np.stack(
                [
                    lloyd(channel.ravel(), start, iterations, wrapper.keeps_zeros(name))
                    for channel, start in zip(channels, centroids, strict=True)
                ]
            )
        else:
            refined = lloyd(values.ravel(), centroids, iterations, wrapper.keeps_zeros(name))
        wrapper.cluster_centroids[name].assign(refined.astype(centroids.dtype))
        indices = wrapper.clustering_algorithms[name].get_pulling_indices(weight)
        wrapper.pulling_indices[name].assign(indices)


def lloyd(values: np.ndarray, centroids: np.ndarray, iterations: int, keep_zero: bool) -> np.ndarray:
    """Return `centroids` after `iterations` steps of k-means on 1-D `values`.

    A centroid without values does not move; neither does the one nearest to zero, which becomes 0, with `keep_zero`.
    """
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
