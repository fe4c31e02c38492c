"""Cluster. Expected centroids come from scikit-learn and from hand computation."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.cluster import KMeans

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import RecipeError
from tfopt.stages import Cluster, Prune
from tfopt.stages.cluster.cluster import folded_clusters, lloyd, number_that_fits
from tfopt.stages.kernels.promise import Clusters

KERNELS = ("stem", "inline", "apart", "conv", "head")
INITS = ["kmeans++", "linear", "density-based", "random"]


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(keras)


@pytest.fixture(scope="module")
def sparse(model):
    stage = Prune(final_sparsity=0.6, schedule="one-shot")
    return stage.strip(stage.apply(model, steps=0))


def kernels(model):
    return {n: layer.get_weights()[0] for n, layer, _ in bridge.flat_layers(model) if n in {*KERNELS, "depth"}}


def dense(kernel, name="d", trainable=True):
    layers, kernel = keras_compat.tf_keras().layers, np.asarray(kernel, "float32")
    layer = layers.Dense(kernel.shape[1], name=name, trainable=trainable)
    model = keras_compat.tf_keras().Sequential([layers.Input(kernel.shape[:1]), layer])
    layer.set_weights([kernel, np.arange(kernel.shape[1])])
    return model


def fitted(stage, model, samples, keep=()):
    wrapped = stage.apply(model, steps=4, keep=keep)
    wrapped.compile(keras_compat.tf_keras().optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    wrapped.fit(samples[0][:64], samples[1][:64], batch_size=16, callbacks=stage.callbacks(), verbose=0)
    return wrapped


def untrained(stage, model, keep=()):
    return stage.strip(stage.apply(model, steps=0, keep=keep))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("init", "keep"), [(INITS[0], ()), *((init, ("sparsity",)) for init in INITS)], ids=lambda value: str(value)
)
def test_few_values_are_left_after_training_and_zeros_stay(init, keep, model, sparse, samples):
    stage = Cluster(number_of_clusters=6, cluster_centroids_init=init)
    start = kernels(sparse if keep else model)
    after = kernels(stage.strip(fitted(stage, sparse if keep else model, samples, keep)))
    untouched = kernels(untrained(stage, sparse if keep else model, keep))
    for name in KERNELS:
        assert 2 <= np.unique(after[name]).size <= 6, name
        if keep:
            np.testing.assert_array_equal(after[name][start[name] == 0], 0, err_msg=name)
            assert np.any(after[name] > 0) and np.any(after[name] < 0), name
    assert not np.array_equal(np.unique(after["conv"]), np.unique(untouched["conv"]))  # centroids are trained
    assert np.unique(after["depth"]).size == after["depth"].size


def test_without_preserving_zeros_are_lost(sparse):
    stage = Cluster(number_of_clusters=6, cluster_centroids_init="linear", lloyd_iterations=0, preserve_sparsity=False)
    after = kernels(untrained(stage, sparse, {"sparsity"}))
    assert not np.any(after["conv"] == 0)


def test_zeros_can_be_preserved_although_no_stage_made_them(sparse):
    before, after = kernels(sparse), kernels(untrained(Cluster(number_of_clusters=6, preserve_sparsity=True), sparse))
    assert all(np.all(after[name][before[name] == 0] == 0) for name in KERNELS)


@pytest.mark.slow
def test_layers_left_alone_keep_their_zeros_too(sparse, samples):
    stage = Cluster(number_of_clusters=6, layers=(("head", False), ("stem", False)))
    before, after = kernels(sparse), kernels(stage.strip(fitted(stage, sparse, samples, {"sparsity"})))
    for name in KERNELS:
        np.testing.assert_array_equal(after[name][before[name] == 0], 0, err_msg=name)
    assert np.unique(after["head"]).size > 6
    assert not np.array_equal(after["head"], before["head"])
    assert stage.notes(bridge.to_tf_keras(sparse)) == [
        "not clustered: stem (by rule)",
        "not clustered: depth (spared by default because it costs accuracy)",
        "not clustered: head (by rule)",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [(), ("sparsity",)], ids=["dense", "sparse"])
def test_clusters_per_channel(keep, model, sparse, samples):
    stage = Cluster(number_of_clusters=4, cluster_per_channel=True)
    start = kernels(sparse if keep else model)
    after = kernels(stage.strip(fitted(stage, sparse if keep else model, samples, keep)))
    for name in ("stem", "inline", "apart", "conv"):
        counts = [np.unique(channel).size for channel in np.moveaxis(after[name], -1, 0)]
        assert max(counts) <= 4
        assert np.unique(after[name]).size > 8, "each channel has centroids of its own"
        if keep:
            np.testing.assert_array_equal(after[name][start[name] == 0], 0, err_msg=name)
    assert np.unique(after["head"]).size <= 4  # a Dense kernel is clustered as a whole


def test_rules_set_the_number_of_clusters(model):
    stage = Cluster(number_of_clusters=8, layers=(("stem", 3), ("Dense", False), ("c*", True)))
    after = kernels(untrained(stage, model))
    assert [np.unique(after[name]).size for name in ("stem", "inline", "conv", "head")] == [3, 8, 8, 32]


def test_depthwise_kernels_are_spared_and_the_notes_say_so(model):
    noted = ["not clustered: depth (spared by default because it costs accuracy)"]
    assert Cluster().notes(bridge.to_tf_keras(model)) == noted


def test_depthwise_kernels_are_clustered_where_a_rule_asks(model):
    after = kernels(untrained(Cluster(layers=(("depth", 4),)), model))
    assert np.unique(after["depth"]).size == 4


def test_a_frozen_layer_is_clustered(samples):
    kernel = np.random.default_rng(0).normal(size=(9, 7))
    model = dense(kernel, trainable=False)
    stripped = untrained(Cluster(number_of_clusters=4), model)
    assert np.unique(stripped.get_layer("d").get_weights()[0]).size == 4
    np.testing.assert_array_equal(stripped.get_layer("d").get_weights()[1], np.arange(7))
    assert not stripped.get_layer("d").trainable


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("keep", [(), ("sparsity",)], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param([[0.3]], id="one weight"),
        pytest.param([[0.3], [-0.2]], id="two weights"),
        pytest.param(np.full((4, 3), 0.7), id="one value"),
        pytest.param([[0.0, 0.3], [0.3, 0.0]], id="zero and another"),
        pytest.param(np.zeros((3, 2)), id="zeros only"),
        pytest.param([[0.0, -1.0, 2.0], [2.0, 3.0, 0.0]], id="four values"),
    ],
)
def test_more_clusters_than_values_change_nothing(init, keep, kernel):
    stripped = untrained(Cluster(number_of_clusters=16, cluster_centroids_init=init), dense(kernel), keep)
    after = stripped.get_layer("d").get_weights()[0]
    if init == "kmeans++" or np.unique(kernel).size <= 2:
        np.testing.assert_allclose(after, kernel, atol=1e-6)
    assert np.unique(after).size <= np.unique(kernel).size
    if keep:
        assert np.all(after[np.asarray(kernel) == 0] == 0)


def test_pointwise_convolutions_with_one_input_cluster_per_channel():
    layers = keras_compat.tf_keras().layers
    model = keras_compat.tf_keras().Sequential([layers.Input((4, 4, 1)), layers.Conv2D(6, 1, name="c")])
    before = model.get_weights()[0]
    stripped = untrained(Cluster(cluster_per_channel=True, number_of_clusters=4), model)
    np.testing.assert_allclose(stripped.get_weights()[0], before, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "per_channel", "expected"),
    [([[1, 2], [1, 3]], False, 3), ([[1, 2], [1, 3]], True, 1), ([[1, 2], [4, 3], [5, 6], [7, 7]], True, 4)],
)
def test_number_that_fits(values, per_channel, expected):
    assert number_that_fits(np.array(values), 4, per_channel) == expected


# Lloyd -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_lloyd_is_scikit_learns_from_the_same_start(iterations):
    rng = np.random.default_rng(iterations)
    values, start = rng.normal(size=500), rng.uniform(-2, 2, 7)  # unordered
    peer = KMeans(7, init=start[:, np.newaxis], n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
    peer.fit(values[:, np.newaxis])
    np.testing.assert_allclose(lloyd(values, start, iterations, False), peer.cluster_centers_[:, 0], atol=1e-9)


def test_lloyd_by_hand():
    values = np.array([0.0, 0.1, 0.9, 1.0, 5.0])
    np.testing.assert_allclose(lloyd(values, [0.2, 2.0, -9.0], 1, False), [0.5, 5.0, -9.0])
    # 0.04 represents pruned weights; 0.9, 1.0 and 5.0 are nearer to the other.
    np.testing.assert_allclose(lloyd(values, [0.04, 0.6], 1, True), [0.0, 6.9 / 3])
    np.testing.assert_array_equal(lloyd(values, [3.0, 1.0], 0, False), [3.0, 1.0])


def test_refined_centroids_minimise_the_error_where_no_step_improves_it():
    kernel = np.random.default_rng(5).normal(size=(30, 20))
    stage = Cluster(number_of_clusters=5, cluster_centroids_init="linear", lloyd_iterations=300)
    after = untrained(stage, dense(kernel)).get_layer("d").get_weights()[0]
    for value in np.unique(after):  # a fixed point: each centroid is the mean of its weights
        assert value == pytest.approx(kernel[after == value].mean(), abs=1e-5)
    start = np.linspace(kernel.min(), kernel.max(), 5)
    peer = KMeans(5, init=start[:, np.newaxis], n_init=1, max_iter=300, tol=0).fit(kernel.reshape(-1, 1))
    np.testing.assert_allclose(np.unique(after), np.sort(peer.cluster_centers_[:, 0]), atol=1e-4)


def test_without_refinement_linear_centroids_are_evenly_spaced():
    kernel = np.random.default_rng(5).normal(size=(30, 20))
    stage = Cluster(number_of_clusters=5, cluster_centroids_init="linear", lloyd_iterations=0)
    after = untrained(stage, dense(kernel)).get_layer("d").get_weights()[0]
    np.testing.assert_allclose(np.unique(after), np.linspace(kernel.min(), kernel.max(), 5), atol=1e-5)


def test_refinement_per_channel_and_with_a_zero_centroid():
    rng = np.random.default_rng(6)
    kernel = rng.normal(size=(3, 3, 8, 4)) * [1, 10, 0.1, 1]
    kernel[np.abs(kernel) < 0.4 * np.abs(kernel).mean(axis=(0, 1, 2))] = 0
    layers = keras_compat.tf_keras().layers
    model = keras_compat.tf_keras().Sequential([layers.Input((4, 4, 8)), layers.Conv2D(4, 3, name="c", use_bias=False)])
    model.set_weights([kernel])
    stage = Cluster(number_of_clusters=5, cluster_per_channel=True, lloyd_iterations=100)
    after = untrained(stage, model, {"sparsity"}).get_weights()[0]
    for channel in range(4):
        ours, theirs = after[..., channel], kernel[..., channel]
        assert np.all(ours[theirs == 0] == 0)
        for value in set(np.unique(ours)) - {0.0}:
            assert value == pytest.approx(theirs[ours == value].mean(), rel=1e-4)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (("nothing", 4),)}, "matches no layer"),
        ({"layers": (("stem", 1),)}, "expected at least 2 clusters; got 1"),
        ({"layers": (("stem", 3.5),)}, r"expected a whole number of clusters; got 3\.5"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(settings, message, model):
    with pytest.raises(RecipeError, match=message):
        Cluster(**settings).apply(model, steps=1)


@pytest.mark.parametrize("settings", [{"number_of_clusters": 2}, {"layers": (("head", 2),)}])
def test_two_clusters_with_zeros_to_keep_are_refused_before_training(settings, model):
    with pytest.raises(RecipeError, match="at least 3 clusters"):
        Cluster(**settings).apply(model, steps=1, keep={"sparsity"})
    Cluster(**settings).apply(model, steps=1)


def test_channels_of_nearly_zero_weights_stay_dead():
    """BatchNormalization multiplies a dead channel by up to 1 / sqrt(epsilon): no centroid may be its weight."""
    package = keras_compat.tf_keras()
    layers = package.layers
    model = package.Sequential(
        [package.Input((6, 6, 8)), layers.Conv2D(16, 3, use_bias=False, name="conv"), layers.BatchNormalization()]
    )
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 8, 16)).astype("float32")
    kernel[..., 3] = rng.normal(size=(3, 3, 8)) * 1e-6
    model.get_layer("conv").set_weights([kernel])
    clustered = untrained(Cluster(number_of_clusters=16), model).get_layer("conv").get_weights()[0]
    assert not clustered[..., 3].any()
    assert len(np.unique(clustered)) <= 16
    far = np.mean(np.square(clustered - kernel)) / np.var(kernel)
    assert far < 0.02  # 16 levels at best: 0.0095 (Max 1960)
    alive = untrained(Cluster(number_of_clusters=16, preserve_sparsity=False), model).get_layer("conv").get_weights()[0]
    assert np.abs(alive[..., 3]).max() > 1e-3


def test_a_kernel_without_many_small_weights_gets_no_cluster_at_zero():
    package = keras_compat.tf_keras()
    model = package.Sequential([package.Input((40,)), package.layers.Dense(30, name="dense")])
    kernel = np.random.default_rng(0).choice([-1.0, 1.0], (40, 30)) * np.linspace(0.5, 1, 30)
    model.get_layer("dense").set_weights([kernel, np.zeros(30)])
    assert untrained(Cluster(number_of_clusters=4), model).get_layer("dense").get_weights()[0].all()


def test_distinct_weights_of_a_folded_float_file_are_explained():
    """Only where a kernel has more values than clusters, and no kernel without clusters is large enough for them."""
    model, promise = dense(np.arange(8).reshape(4, 2)), Clusters("d", at_most=3, weight="kernel")
    (note,) = folded_clusters(model, [promise], 7)
    assert note.startswith("7 distinct weights in a kernel of this float file, 3 clusters at most")
    assert folded_clusters(model, [promise], 3) == folded_clusters(model, [], 7) == []
    assert folded_clusters(model, [dataclasses.replace(promise, per_channel=True)], 7) == []
    assert folded_clusters(model, [dataclasses.replace(promise, weight="another")], 7) == []
