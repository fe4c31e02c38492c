"""Quantize. What the file holds is read back from the `.tflite`; ranges come from the float model itself."""

import keras
import numpy as np
import pytest

from tfopt import bridge, legacy
from tfopt.errors import ModelError, PromiseError, RecipeError
from tfopt.export import Export, build
from tfopt.proof import match_kernels
from tfopt.stages import Cluster, Prune, Quantize
from tfopt.stages.folding import make_scales_positive
from tfopt.stages.promise import Clusters
from tfopt.stages.quantize import SCHEMES, _structures

KERNELS = ("stem", "inline", "apart", "conv", "head")
INT8 = Export(weights="int8", activations="int8")
BOTH = frozenset({"sparsity", "clusters"})


def kernels(model):
    return {n: layer.get_weights()[0] for n, layer, _ in bridge.flat_layers(model) if n in {*KERNELS, "depth"}}


def wrapper(model, name):
    """The TF-MOT wrapper around the layer `name`."""
    return next(layer for layer in model.layers if getattr(getattr(layer, "layer", None), "name", None) == name)


def fitted(stage, model, samples, keep=(), learning_rate=0.003):
    wrapped = stage.apply(model, steps=4, keep=keep)
    stage.calibrate(wrapped, samples[0])
    wrapped.compile(legacy.tf_keras().optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    wrapped.fit(samples[0][:64], samples[1][:64], batch_size=16, callbacks=stage.callbacks(), verbose=0)
    return wrapped


def shrunk(model, *stages):
    """After `stages` without training, and what they promise."""
    keep, promises = set(), []
    for stage in stages:
        model = stage.strip(stage.apply(model, steps=0, keep=keep))
        keep.add(stage.establishes)
        promises += stage.promises(bridge.to_tf_keras(model))
    return model, promises


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(keras)


SPARSE = Prune(final_sparsity=0.5, schedule="one-shot")


@pytest.fixture(scope="module")
def plain_case(model, samples):
    """(before, trained, stripped) with nothing to keep."""
    wrapped = fitted(Quantize(), model, samples)
    return model, wrapped, Quantize().strip(wrapped)


@pytest.fixture(scope="module")
def whole_case(model, samples):
    """The same with zeros and clusters of whole kernels, the promises, and the file."""
    before, promises = shrunk(model, SPARSE, Cluster(number_of_clusters=6))
    wrapped = fitted(Quantize(), before, samples, BOTH)
    after = Quantize().strip(wrapped)
    lite, notes = build(wrapped, INT8, None, promises, bridge.to_tf_keras(after))
    return before, wrapped, after, lite, notes


# Which kernels are quantized, and how ------------------------------------------------------------


def test_the_schemes_are_named_as_in_tfmots_collaborative_optimization():
    assert {"+".join(sorted(keep)): scheme.name for keep, scheme in SCHEMES.items()} == {
        "": "QAT", "sparsity": "PQAT", "clusters": "CQAT", "clusters+sparsity": "PCQAT"
    }  # fmt: skip
    assert set(SCHEMES) == {frozenset(keep) for keep in ((), ("sparsity",), ("clusters",), BOTH)}


@pytest.mark.parametrize("case", ["plain_case", "whole_case"])
def test_every_kernel_lies_on_an_int8_grid_after_strip(case, request):
    _, wrapped, plain, *_ = request.getfixturevalue(case)
    for name, kernel in kernels(plain).items():
        axes = tuple(range(kernel.ndim - 1)) if kernel.ndim == 4 and name != "depth" else None
        [(_, _, variables)] = wrapper(wrapped, name)._weight_vars
        scale = variables["max_var"].numpy() / 127
        steps = kernel / scale
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4, err_msg=name)
        assert np.abs(steps).max() <= 127.001
        largest = np.abs(kernel).max(axis=axes)  # the range is the kernel's own, not TF-MOT's first guess of 6
        np.testing.assert_allclose(np.max(largest / scale), 127, rtol=0.02, err_msg=name)


def test_zeros_and_clusters_stay_through_training(whole_case):
    before, _, after, _, _ = whole_case
    old, new = kernels(before), kernels(after)
    for name in KERNELS:
        np.testing.assert_array_equal(new[name][old[name] == 0], 0, err_msg=name)
        assert np.unique(new[name]).size <= 6, name
        assert not np.array_equal(np.unique(new[name]), np.unique(old[name])), name
    assert np.unique(new["depth"]).size > 6


def test_the_file_holds_the_zeros_and_few_integers_in_the_whole_kernel_with_batch_norm_too(whole_case):
    before, _, after, lite, notes = whole_case
    assert not notes
    assert not lite.float_tensors()
    legacy_model = bridge.to_tf_keras(after)
    found = match_kernels(lite, [legacy_model.get_layer(name) for name in KERNELS])
    assert len({weight.tensor.name for weight in found.values()}) == 5
    old = kernels(before)
    for name, weight in found.items():
        assert weight.values.dtype == np.int8
        assert np.unique(weight.values).size <= 6, name
        assert np.count_nonzero(weight.values == 0) >= np.count_nonzero(old[name] == 0), name
    # A kernel without BatchNorm behind it is the same one, integer by integer.
    kernel = np.moveaxis(kernels(after)["apart"], -1, 0)
    scale = np.abs(kernel).max() / 127
    np.testing.assert_array_equal(found["apart"].values, np.round(kernel / scale))


def test_the_file_computes_what_the_trained_model_does(whole_case, samples):
    _, wrapped, _, lite, _ = whole_case
    np.testing.assert_allclose(lite.predict(samples[0]), wrapped.predict(samples[0], verbose=0), atol=0.03)


@pytest.mark.parametrize("keep", [frozenset({"clusters"}), BOTH], ids=["CQAT", "PCQAT"])
def test_clusters_per_channel_stay_per_channel(keep, model, samples):
    stages = [SPARSE] * ("sparsity" in keep) + [Cluster(number_of_clusters=4, cluster_per_channel=True)]
    before, _ = shrunk(model, *stages)
    wrapped = fitted(Quantize(), before, samples, keep)
    after = kernels(Quantize().strip(wrapped))
    for name in ("inline", "apart", "conv"):
        grid = np.round(after[name] / (np.abs(after[name]).max(axis=(0, 1, 2)) / 127))
        assert max(np.unique(channel).size for channel in np.moveaxis(grid, -1, 0)) <= 4
        assert np.unique(after[name]).size > 8
        if "sparsity" in keep:
            assert np.all(after[name][kernels(before)[name] == 0] == 0)


def test_zeros_stay_through_training_when_there_are_no_clusters(model, samples):
    before, promises = shrunk(model, SPARSE)
    after = Quantize().strip(fitted(Quantize(), before, samples, {"sparsity"}))
    old, new = kernels(before), kernels(after)
    for name in KERNELS:
        np.testing.assert_array_equal(new[name][old[name] == 0], 0, err_msg=name)
    assert len(promises) == 5
    SPARSE.verify(after)
    lost = kernels(Quantize().strip(fitted(Quantize(), before, samples)))  # with nothing to keep
    assert all(np.any(lost[name][old[name] == 0]) for name in KERNELS)


def test_a_structure_is_kept_only_where_asked_for(model):
    before, _ = shrunk(model, SPARSE, Cluster(number_of_clusters=6))
    flat = bridge.to_tf_keras(before)
    for keep in SCHEMES:
        structure = _structures(flat, SCHEMES[keep])["conv"]
        assert (structure.mask is not None) == ("sparsity" in keep)
        assert (structure.centroids is not None) == ("clusters" in keep)


# Gradients ---------------------------------------------------------------------------------------


def test_gradients_reach_centroids_and_latent_weights_but_no_pruned_weight(whole_case, samples):
    import tensorflow as tf

    wrapped = whole_case[1]
    [(kernel, _, variables)] = wrapper(wrapped, "conv")._weight_vars
    with tf.GradientTape() as tape:
        outputs = wrapped(samples[0][:32], training=True)
        loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(samples[1][:32], outputs))
    centroids, latent, own = tape.gradient(loss, [variables["centroids"], variables["latent"], kernel])
    zero = np.argmin(np.abs(variables["centroids"].numpy()))
    assert np.all(np.delete(centroids.numpy(), zero) != 0)
    assert centroids.numpy()[zero] == 0
    mask = variables["mask"].numpy()
    with tf.GradientTape() as tape:  # dead ReLUs stop the gradient of some weights in the float model too
        plain = bridge.to_tf_keras(whole_case[2])
        outputs = plain(samples[0][:32], training=True)
        loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(samples[1][:32], outputs))
    wanted = np.abs(tape.gradient(loss, plain.get_layer("conv").kernel).numpy())
    alive = (wanted > 0.05 * wanted.max()) & (mask == 1)
    assert np.count_nonzero(alive) > 20
    assert np.mean(latent.numpy()[alive] != 0) > 0.9
    assert np.all(latent.numpy()[mask == 0] == 0)
    assert np.all(own.numpy() == 0)


# Calibration -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(model, samples):
    wrapped = Quantize(calibration_samples=200).apply(model, steps=4)
    Quantize(calibration_samples=200).calibrate(wrapped, samples[0])
    return wrapped


def test_ranges_are_those_of_the_float_model_on_the_first_samples(calibrated, model, samples):
    # Close, not equal: the kernels are rounded already.
    # Where TF-MOT rounds: the input, after each ReLU, after pooling, and before the softmax.
    flat = bridge.to_tf_keras(model)
    ends = ["stem_relu", "inline", "apart_relu", "conv_relu", "depth_relu", "pool"]
    values = legacy.tf_keras().Model(flat.inputs, [flat.get_layer(name).output for name in ends])(samples[0][:200])
    head = flat.get_layer("head")
    values.append(values[-1] @ head.kernel + head.bias)
    expected = sorted((min(float(v.numpy().min()), 0), float(v.numpy().max())) for v in values)
    expected.append((float(samples[0][:200].min()), float(samples[0][:200].max())))

    low_high = {}
    for layer in calibrated.layers:
        for weight in layer.weights:
            place, name = weight.name.rsplit("/", 1)
            if "kernel" not in name and name.endswith(("_min:0", "_max:0")):
                low_high.setdefault(f"{place}/{name[:-6]}", {})[name[-5:-2]] = float(weight.numpy())
    found = [(pair["min"], pair["max"]) for pair in low_high.values()]
    for pair in expected:
        assert any(np.allclose(pair, other, rtol=0.03, atol=0.06) for other in found), (pair, found)


def test_ranges_of_the_weights_are_set(calibrated, model):
    for name, kernel in kernels(model).items():
        [(_, _, variables)] = wrapper(calibrated, name)._weight_vars
        axes = tuple(range(kernel.ndim - 1)) if np.ndim(variables["max_var"]) else None
        np.testing.assert_allclose(variables["max_var"].numpy(), np.abs(kernel).max(axis=axes), rtol=1e-5)
        np.testing.assert_array_equal(variables["min_var"].numpy(), -variables["max_var"].numpy())


def test_calibration_alone_brings_the_model_close_to_the_float_one(calibrated, model, samples):
    ours, theirs = calibrated.predict(samples[0], verbose=0), model.predict(samples[0], verbose=0)
    assert np.abs(ours - theirs).mean() < 0.01
    assert np.abs(ours - theirs).max() < 0.05
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) > 0.95


def test_calibration_changes_ranges_only_and_leaves_nothing_behind(model, samples):
    stage = Quantize()
    wrapped = stage.apply(model, steps=4)

    def inside():
        found = []
        for layer in wrapped.layers:
            found += [getattr(layer, "quantizer", None), *(getattr(layer, "_output_quantizers", None) or [])]
            found += [quantizer for _, quantizer, _ in getattr(layer, "_weight_vars", [])]
            found += [activation.quantizer for activation in getattr(layer, "_quantize_activations", [])]
        return [id(part) for part in found if part is not None]

    ranges = ("_min:0", "_max:0", "min_var:0", "max_var:0")
    before = {w.name: w.numpy() for w in wrapped.weights if not w.name.endswith(ranges)}
    quantizers, count = inside(), len(wrapped.weights)
    stage.calibrate(wrapped, samples[0])
    assert inside() == quantizers
    assert len(wrapped.weights) == count
    assert all(np.array_equal(before[w.name], w.numpy()) for w in wrapped.weights if w.name in before)
    with pytest.raises(Exception, match=r"shape|incompatible|dimension"):
        stage.calibrate(wrapped, np.zeros((4, 5, 5, 2), "float32"))  # images that do not fit
    assert inside() == quantizers


# Layers ------------------------------------------------------------------------------------------


def patterns():
    """What stock QAT refuses or leaves in float: BatchNorm in odd places, layers that only need an output range."""
    layers = legacy.tf_keras().layers
    inputs = layers.Input((8, 8, 4))
    x = layers.Rescaling(0.5, name="rescaling")(inputs)
    x = layers.BatchNormalization(name="norm_first")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="relu_inside")(x)
    x = layers.BatchNormalization(name="norm_after_relu")(x)
    y = layers.Conv2D(8, 3, padding="same", name="linear")(x)
    y = layers.ReLU()(y)
    y = layers.BatchNormalization(name="norm_after_relu_layer")(y)
    x = layers.Add()([x, y])
    x = layers.BatchNormalization(name="norm_after_add")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Concatenate()([layers.Multiply()([x, y]), layers.Average()([x, y]), layers.Maximum()([x, y])])
    x = layers.BatchNormalization(name="norm_after_concat")(x)
    x = layers.AveragePooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(8, use_bias=False, name="dense")(x)
    x = layers.BatchNormalization(name="norm_after_dense")(x)
    x = layers.ReLU()(x)
    model = legacy.tf_keras().Model(inputs, layers.Dense(4, name="head")(x))
    rng = np.random.default_rng(2)
    drawn = [rng.normal(0, 0.3, w.shape) if w.ndim > 1 else rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()]
    model.set_weights([value.astype("float32") for value in drawn])
    return model


def test_awkward_layers_are_quantized_to_the_last_tensor_and_keep_zeros():
    model = patterns()
    before = {layer.name: layer.get_weights() for layer in model.layers}
    sparse, promises = shrunk(model, SPARSE)
    wrapped = Quantize().apply(sparse, steps=1, keep={"sparsity"})
    x = np.random.default_rng(3).normal(size=(64, 8, 8, 4)).astype("float32")
    Quantize().calibrate(wrapped, x)
    after = Quantize().strip(wrapped)
    assert {layer.name for layer in after.layers} == set(before)
    lite, _ = build(wrapped, INT8, x, promises, bridge.to_tf_keras(after))
    assert not lite.float_tensors()
    expected = sparse.predict(x, verbose=0)
    assert np.abs(lite.predict(x) - expected).mean() < 0.1 * np.abs(expected).mean()


@pytest.mark.parametrize(
    ("shape", "layer", "name"),
    [
        ((8, 3), keras.layers.Conv1D(4, 3, name="line"), r"'\w*line' \(Conv1D\)"),
        ((8, 8, 3), keras.layers.SeparableConv2D(4, 3, name="split"), r"'\w*split' \(SeparableConv2D\)"),
        ((8,), keras.layers.Embedding(5, 4, name="table"), r"'\w*table' \(Embedding\)"),
        ((8, 8, 3), keras.layers.Conv2D(4, 3, activation="elu", name="elu_conv"), r"elu_conv' \(.*activation elu\)"),
    ],
)
def test_an_unsupported_layer_is_refused_by_name(shape, layer, name):
    model = keras.Sequential([keras.Input(shape), layer])
    with pytest.raises(ModelError, match=rf"cannot handle: .*{name}"):
        Quantize().apply(model, steps=1)


def test_a_relu_that_is_not_alone_behind_its_convolution_is_refused_by_name():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="shared_conv")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([x, keras.layers.ReLU()(x)]))
    try:
        wrapped = Quantize().apply(model, steps=1)
    except ModelError as error:
        assert "shared_conv" in str(error)
    else:
        assert wrapper(wrapped, "shared_conv")._weight_vars


def test_half_precision_models_train_in_float32():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dtype=policy, name="c")])
    wrapped = Quantize().apply(model, steps=1)
    assert {weight.dtype.name for weight in wrapped.weights if weight.dtype.is_floating} == {"float32"}
    assert wrapped.compute_dtype == "float32"


def test_layer_rules_are_refused():
    with pytest.raises(RecipeError, match="takes no layer rules"):
        Quantize(layers=(("head", False),))


# Kernels and the file's tensors ------------------------------------------------------------------


def two_alike(gamma):
    """Two convolutions of equal shape, each with BatchNorm, the first with the scale `gamma`; weights by chance."""
    layers = legacy.tf_keras().layers
    rng = np.random.default_rng(11)
    model = legacy.tf_keras().Sequential(
        [
            layers.Input((6, 6, 8)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(name="first_norm"),
            layers.ReLU(),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="second"),
            layers.BatchNormalization(name="second_norm"),
        ]
    )
    for name in ("first", "second"):
        model.get_layer(name).set_weights([rng.normal(0, 0.2, (3, 3, 8, 8)).astype("float32")])
        ones = rng.uniform(0.5, 1.5, 8)
        model.get_layer(f"{name}_norm").set_weights([ones * (gamma if name == "first" else 1), ones, ones - 1, ones])
    return model


SIGNS = np.array([1, -1, 1, 1, -1, 1, 1, 1])


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_kernels_of_equal_shape_are_told_apart_after_folding(weights):
    model = two_alike(SIGNS)
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 8)).astype("float32")
    lite, _ = build(model, Export(weights=weights, activations=weights), x)
    found = match_kernels(lite, [model.get_layer("second"), model.get_layer("first")])
    for name, weight in found.items():
        gamma, _, _, variance = model.get_layer(f"{name}_norm").get_weights()
        folded = model.get_layer(name).get_weights()[0] * gamma / np.sqrt(variance + 1e-3)
        np.testing.assert_allclose(weight.dequantized, np.moveaxis(folded, -1, 0), atol=0.02, err_msg=name)


def test_a_kernel_that_is_not_in_the_file_is_missed_by_name():
    model, other = two_alike(SIGNS), two_alike(SIGNS)
    other.get_layer("first").set_weights([np.random.default_rng(5).normal(size=(3, 3, 8, 8))])
    lite, _ = build(model, Export(weights="float32", activations="float32"))
    with pytest.raises(PromiseError, match="kernel of layer 'first' was not found"):
        match_kernels(lite, [other.get_layer("first")])


def test_negative_batch_norm_scales_do_not_double_the_clusters_of_the_file():
    # Folding turns a channel's c into -c where the scale is negative: 5 clusters would become up to 10 integers.
    model, promises = shrunk(two_alike(SIGNS), Cluster(number_of_clusters=5))
    wrapped = Quantize().apply(model, steps=1, keep={"clusters"})
    Quantize().calibrate(wrapped, np.random.default_rng(0).normal(size=(64, 6, 6, 8)).astype("float32"))
    plain = bridge.to_tf_keras(Quantize().strip(wrapped))
    lite, _ = build(wrapped, INT8, None, promises, plain)
    assert [p for p in promises if p.layer == "first"] == [Clusters("first", 5)]
    assert np.unique(match_kernels(lite, [plain.get_layer("first")])["first"].values).size <= 5


def test_scales_turned_positive_compute_the_same():
    model = two_alike(SIGNS)
    x = np.random.default_rng(1).normal(size=(4, 6, 6, 8)).astype("float32")
    before = model(x, training=False).numpy()
    make_scales_positive(model)
    assert np.all(model.get_layer("first_norm").gamma.numpy() > 0)
    np.testing.assert_allclose(model(x, training=False).numpy(), before, atol=1e-5)


def test_without_any_training_the_stripped_kernels_are_those_of_the_model_rounded_to_their_own_range():
    # TF-MOT's weight ranges begin at -6..6, a grid of 0.047: most small weights would become zero.
    model = two_alike(SIGNS)
    stripped = Quantize().strip(Quantize().apply(model, steps=0))
    for name in ("first", "second"):
        before, after = model.get_layer(name).get_weights()[0], stripped.get_layer(name).get_weights()[0]
        step = np.abs(before).max(axis=(0, 1, 2)) / 127
        assert np.all(np.abs(after - before) <= step / 2 + 1e-6)


def test_the_report_is_told_the_scheme_and_what_it_keeps():
    assert Quantize().notes(None) == ["QAT"]
    assert Quantize().notes(None, BOTH) == ["PCQAT, keeps clusters and sparsity"]
