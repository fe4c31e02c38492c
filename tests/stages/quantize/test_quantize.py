"""Quantize. The contents of the file are read back from the `.tflite`; ranges come from the float model itself."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError, PromiseError, RecipeError
from tfopt.stages import Cluster, Prune, Quantize
from tfopt.stages.kernels.folding import make_scales_positive
from tfopt.stages.kernels.promise import Clusters
from tfopt.stages.quantize.activation_ranges import set_ranges
from tfopt.stages.quantize.quantization_aware import SCHEMES
from tfopt.stages.quantize.ranges import range_quantizer, set_range
from tfopt.stages.quantize.wrapper import Point
from tfopt.tflite.prove.kernels import match_kernels
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

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
    wrapped.compile(keras_compat.tf_keras().optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    wrapped.fit(samples[0][:64], samples[1][:64], batch_size=16, callbacks=stage.callbacks(), verbose=0)
    return wrapped


def shrunk(model, *stages):
    """The result of `stages` without training, and their promises."""
    keep, promises = set(), []
    for stage in stages:
        model = stage.strip(stage.apply(model, steps=0, keep=keep))
        keep.add(stage.establishes)
        promises += stage.promises(bridge.to_tf_keras(model))
    return model, promises


def findings(lite):
    """The notes of a file, without the figures of its proof, and without that on the states of an LSTM."""
    return [note for note in lite.notes if not note.startswith(("compared with the model", "LiteRT goes on from"))]


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
    lite = build_file(wrapped, INT8, None, promises, bridge.to_tf_keras(after))
    return before, wrapped, after, lite, lite.notes


# Which kernels are quantized, and how ------------------------------------------------------------


def test_the_schemes_are_named_as_in_tfmots_collaborative_optimization():
    assert {"+".join(sorted(keep)): scheme.name for keep, scheme in SCHEMES.items()} == {
        "": "QAT", "sparsity": "PQAT", "clusters": "CQAT", "clusters+sparsity": "PCQAT"
    }  # fmt: skip
    assert set(SCHEMES) == {frozenset(keep) for keep in ((), ("sparsity",), ("clusters",), BOTH)}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain_case", "whole_case"])
def test_every_kernel_lies_on_an_int8_grid_after_strip(case, request):
    plain = request.getfixturevalue(case)[2]
    for name, kernel in kernels(plain).items():
        axes = (0, 1) if name == "depth" else tuple(range(kernel.ndim - 1))  # a scale per output channel
        if case == "whole_case" and name != "depth":
            axes = None  # clusters of the whole kernel have one
        steps = kernel / (np.abs(kernel).max(axis=axes, keepdims=axes is not None) / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3, err_msg=name)
        assert np.unique(np.round(steps)).size > (20 if case == "plain_case" else 4), name


def test_zeros_and_clusters_stay_through_training(whole_case):
    before, _, after, _, _ = whole_case
    old, new = kernels(before), kernels(after)
    for name in KERNELS:
        np.testing.assert_array_equal(new[name][old[name] == 0], 0, err_msg=name)
        assert np.unique(new[name]).size <= 6, name
        assert not np.array_equal(np.unique(new[name]), np.unique(old[name])), name
    assert np.unique(new["depth"]).size > 6


def test_the_file_holds_the_zeros_and_few_integers_in_the_whole_kernel_with_batch_norm_too(whole_case):
    before, _, after, lite, _ = whole_case
    assert not findings(lite)
    assert not lite.float_tensors()
    flat_model = bridge.to_tf_keras(after)
    found = match_kernels(lite, [flat_model.get_layer(name) for name in KERNELS])
    assert len({weight.tensor.name for weight in found.values()}) == 5
    old = kernels(before)
    for name, weight in found.items():
        assert weight.values.dtype == np.int8
        assert np.unique(weight.values).size <= 6, name
        assert np.count_nonzero(weight.values == 0) >= np.count_nonzero(old[name] == 0), name
    # A kernel without BatchNorm after it is the same, integer by integer.
    kernel = np.moveaxis(kernels(after)["apart"], -1, 0)
    scale = np.abs(kernel).max() / 127
    np.testing.assert_array_equal(found["apart"].values, np.round(kernel / scale))


def test_the_file_computes_what_the_trained_model_does(whole_case, samples):
    _, wrapped, _, lite, _ = whole_case
    np.testing.assert_allclose(lite.predict(samples[0]), wrapped.predict(samples[0], verbose=0), atol=0.03)


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_structure_is_kept_only_on_request(model):
    before, _ = shrunk(model, SPARSE, Cluster(number_of_clusters=6))
    for keep in SCHEMES:
        [(_, quantizer, _)] = wrapper(Quantize().apply(before, steps=1, keep=keep), "conv")._weight_vars
        structure = quantizer.structure
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
        flat_model = bridge.to_tf_keras(whole_case[2])
        outputs = flat_model(samples[0][:32], training=True)
        loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(samples[1][:32], outputs))
    wanted = np.abs(tape.gradient(loss, flat_model.get_layer("conv").kernel).numpy())
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
    # Close, not equal: the kernels are already rounded.
    # Where TF-MOT rounds: the input, after each ReLU, after pooling, and before the softmax.
    flat = bridge.to_tf_keras(model)
    ends = ["stem_relu", "inline", "apart_relu", "conv_relu", "depth_relu", "pool"]
    values = keras_compat.tf_keras().Model(flat.inputs, [flat.get_layer(name).output for name in ends])(
        samples[0][:200]
    )
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
            found += [getattr(layer, "quantizer", None), *(point.quantizer for point in getattr(layer, "points", []))]
            found += [quantizer for _, quantizer, _ in getattr(layer, "_weight_vars", [])]
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
    """What stock QAT refuses or leaves in float: BatchNorm in unusual places, layers that only need an output range."""
    layers = keras_compat.tf_keras().layers
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
    model = keras_compat.tf_keras().Model(inputs, layers.Dense(4, name="head")(x))
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
    lite = build_file(wrapped, INT8, x, promises, bridge.to_tf_keras(after))
    assert not lite.float_tensors()
    expected = sparse.predict(x, verbose=0)
    assert np.abs(lite.predict(x) - expected).mean() < 0.1 * np.abs(expected).mean()


def chained(shape, *layers, dtype=None):
    inputs = x = keras_compat.tf_keras().Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return keras_compat.tf_keras().Model(inputs, x)


def lines(layers):
    return chained(
        (16, 4),
        layers.Conv1D(6, 3, padding="causal", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv1D(3, activation="relu"),
        layers.SeparableConv1D(6, 3, padding="causal", activation="elu"),
        layers.Conv1DTranspose(4, 3, strides=2),
        layers.ELU(0.5),
        layers.GlobalAveragePooling1D(),
        layers.Dense(4),
    )


def maps(layers):
    inputs = layers.Input((8, 8, 4))
    x = layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 1.0, 2.0])(inputs)
    x = layers.SeparableConv2D(6, 3, padding="same", use_bias=False)(x)
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    y = layers.Conv2DTranspose(4, 3, strides=2, activation="relu")(layers.MaxPooling2D()(x))
    y = layers.Cropping2D(((0, 1), (0, 1)))(y)
    x = layers.Concatenate()([y, layers.PReLU(shared_axes=[1, 2])(x)])
    x = layers.GroupNormalization(2)(layers.Conv2D(4, 1, activation="hard_sigmoid")(x))
    x = layers.Conv2D(4, 1, activation="gelu")(layers.LeakyReLU(0.1)(x))
    x = layers.Conv2D(4, 1, activation="selu")(x)
    return keras_compat.tf_keras().Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def attention(layers):
    inputs = layers.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = layers.LayerNormalization()(layers.Add()([inputs, x]))
    x = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4), bias_axes="de", activation="relu")(x)
    x = layers.TimeDistributed(layers.Dense(3))(layers.Reshape((6, 8))(x))
    return keras_compat.tf_keras().Model(inputs, x)


def cross_attention(layers, key=False, residual=False):
    """Six steps look into five others. Each tensor has one reader, except a value that is the key, too."""
    query, value = layers.Input((6, 8), name="query"), layers.Input((5, 8), name="value")
    given = [query, value, *([layers.Input((5, 8), name="key")] if key else [])]
    x = layers.MultiHeadAttention(2, 4)(*given)
    x = layers.Add()([query, x]) if residual else x
    return keras_compat.tf_keras().Model(given, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def masked_cross_attention(layers):
    query, value = layers.Input((6, 8), name="query"), layers.Input((5, 8), name="value")
    x, scores = layers.MultiHeadAttention(2, 4)(
        layers.Dense(8, activation="relu")(query), value, use_causal_mask=True, return_attention_scores=True
    )
    return keras_compat.tf_keras().Model([query, value], [layers.Dense(3)(x), scores])


def table(layers):
    x = (layers.Embedding(300, 8), layers.GlobalAveragePooling1D(), layers.Dense(4))
    return chained((12,), *x)  # from float32 inputs; int8 could not distinguish the rows


def two_inputs(layers):
    image, numbers = layers.Input((6, 6, 2), name="image"), layers.Input((5,), name="numbers")
    shared = layers.Dense(4, activation="relu", name="shared")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, activation="relu")(image))
    x = layers.Concatenate()([shared(x), shared(numbers)])
    return keras_compat.tf_keras().Model(
        [numbers, image], [layers.Dense(3, name="one")(x), layers.Dense(2, name="two")(x)]
    )


def memory(layers):
    return chained((5, 4), layers.LSTM(6), layers.Dense(3))


def gates(layers):
    return chained((4, 3), layers.GRU(4), layers.Dense(3))


def inputs_of(model, number=48):
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=(number, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    return drawn if len(drawn) > 1 else drawn[0]


# The model; the largest difference of the file from the trained model, relative to the outputs' spread: training does
# not see what LiteRT's int8 operators round inside (normalizations, unusual activations, cells).
LAYERS = {
    "lines": (lines, 0.05),
    "maps": (maps, 0.1),
    "attention": (attention, 0.1),
    "query and value": (cross_attention, 0.03),
    "query, value and key": (functools.partial(cross_attention, key=True), 0.03),
    "query with a residual": (functools.partial(cross_attention, key=True, residual=True), 0.03),
    "query and value, masked": (masked_cross_attention, 0.1),
    "table": (table, 0.05),
    "two inputs": (two_inputs, 0.03),
    "memory": (memory, 0.1),
    "gates": (gates, 0.1),
}


@pytest.mark.parametrize("rule", [False, "weights", "output"])
def test_cross_attention_that_a_rule_excludes_has_a_file(rule):
    model = cross_attention(keras_compat.tf_keras().layers)
    stage, x = Quantize(layers=(("multi_head*", rule),)), inputs_of(model)
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    lite = build_file(wrapped, INT8, x)
    assert not lite.float_tensors()
    trained = wrapped.predict(x, verbose=0)
    got = lite.predict(dict(zip(model.input_names, x, strict=True)))
    assert np.abs(got - trained).max() < 0.03 * np.ptp(trained)


def test_cross_attention_trains_and_strips_and_the_file_follows_the_trained_model():
    """The class depends on which of five steps the query asks for, so both inputs have to be learned."""
    rng = np.random.default_rng(3)
    asked, value = rng.integers(0, 5, 384), rng.normal(size=(384, 5, 8)).astype("float32")
    value[:, :, :5] = np.eye(5)  # the key: which step it is
    query = np.zeros((384, 6, 8), np.float32)
    query[:, :, :5] = np.eye(5)[asked][:, None]
    y = (value[np.arange(384), asked, 7] > 0).astype(int)
    api = keras_compat.tf_keras()
    api.utils.set_random_seed(0)
    model = cross_attention(api.layers)
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(api.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    model.fit([query, value], y, epochs=12, batch_size=32, verbose=0)
    before = model.evaluate([query, value], y, verbose=0)[1]
    stage = Quantize()
    wrapped = stage.apply(model, steps=36)
    stage.calibrate(wrapped, [query, value])
    wrapped.compile(api.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    kernel = next(w for w in wrapped.weights if "query/kernel" in w.name).numpy()
    wrapped.fit([query, value], y, epochs=3, batch_size=32, verbose=0, callbacks=stage.callbacks())
    after = next(w for w in wrapped.weights if "query/kernel" in w.name).numpy()
    assert (kernel != after)[:5].all()  # the other features of the query are 0
    trained = wrapped.predict([query, value], verbose=0)
    lite = build_file(wrapped, INT8, [query, value])
    got = lite.predict({"query": query, "value": value})
    assert not lite.float_tensors() and not findings(lite)
    assert before > 0.9 and (got.argmax(axis=1) == y).mean() > before - 0.02
    assert np.square(got - trained).mean() < 1e-3 * trained.var()  # 30 dB
    stripped = stage.strip(wrapped)
    kinds = {type(layer).__name__ for layer in stripped.layers}
    assert "MultiHeadAttention" in kinds and not any("Wrapper" in kind for kind in kinds)
    plain = stripped.predict([query, value], verbose=0)
    assert np.square(plain - trained).mean() < 1e-2 * trained.var()  # it holds the rounded kernels, not the ranges


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_all_kinds_of_layers_become_int8_and_the_file_computes_what_was_trained(kind):
    make, tolerance = LAYERS[kind]
    model = make(keras_compat.tf_keras().layers)
    rng = np.random.default_rng(4)
    for weight in model.weights:
        if "gamma" in weight.name or "variance" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "embeddings" in weight.name:
            weight.assign(rng.normal(size=weight.shape))
    x = rng.integers(0, 300, (48, 12)).astype("float32") if kind == "table" else inputs_of(model)
    wrapped = Quantize().apply(model, steps=1)
    Quantize().calibrate(wrapped, x)
    lite = build_file(wrapped, INT8, x)
    assert not lite.float_tensors()
    assert not findings(lite)
    trained, plain = as_list(wrapped.predict(x, verbose=0)), as_list(model.predict(x, verbose=0))
    got = as_list(lite.predict(dict(zip(model.input_names, x, strict=True)) if isinstance(x, list) else x))
    for of_file, of_training, of_float in zip(got, trained, plain, strict=True):
        spread = np.ptp(of_float)
        assert np.abs(of_file - of_training).max() < tolerance * spread
        assert np.abs(of_training - of_float).mean() < 0.05 * spread


def as_list(outputs):
    return outputs if isinstance(outputs, list) else [outputs]


def test_depthwise_channels_of_unlike_sizes_each_keep_their_precision():
    # One scale for all channels, as TF-MOT has it, would round the small ones to zero.
    layers = keras_compat.tf_keras().layers
    model = chained((6, 6, 3), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depth"))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 2)) * np.array([[1, 1e-3], [1e2, 1e-1], [10, 1e-2]])
    model.set_weights([kernel])
    wrapped = Quantize().apply(model, steps=1)
    stripped = Quantize().strip(wrapped).get_weights()[0]
    step = np.abs(kernel).max(axis=(0, 1)) / 127
    assert np.all(np.abs(stripped - kernel) <= step / 2 * 1.001)
    x = np.random.default_rng(1).normal(size=(32, 6, 6, 3)).astype("float32")
    set_ranges(wrapped, lambda: [x])  # `calibrate` would leave such outputs, and so the convolution, in float
    lite = build_file(wrapped, INT8, x)
    [weight] = lite.weights()
    np.testing.assert_allclose(sorted(weight.tensor.scales), sorted(step.ravel()), rtol=1e-4)


def test_what_a_relu_cuts_off_costs_no_precision():
    # Rounded before the ReLU, the range would reach down to -100 and a step would be 0.4 instead of 0.004.
    layers = keras_compat.tf_keras().layers
    model = chained((1,), layers.Dense(1, use_bias=False, name="dense"), layers.ReLU(name="relu"))
    model.set_weights([np.ones((1, 1))])
    wrapped = Quantize().apply(model, steps=1)
    x = np.linspace(-100, 1, 203, dtype="float32")[:, np.newaxis]
    Quantize().calibrate(wrapped, x)
    [point] = wrapper(wrapped, "relu").points
    assert (point.variables["min_var"].numpy(), point.variables["max_var"].numpy()) == (0.0, 1.0)
    assert wrapper(wrapped, "dense").points == []


def test_frozen_layers_stay_as_they_are(model, samples):
    frozen = bridge.to_tf_keras(model)
    frozen.get_layer("conv").trainable = frozen.get_layer("conv_norm").trainable = False
    wrapped = fitted(Quantize(), frozen, samples, learning_rate=0.1)
    np.testing.assert_array_equal(wrapper(wrapped, "conv").layer.get_weights(), frozen.get_layer("conv").get_weights())
    assert not wrapper(wrapped, "conv").trainable_weights
    clustered, _ = shrunk(frozen, Cluster(number_of_clusters=6))
    assert not wrapper(Quantize().apply(clustered, steps=1, keep={"clusters"}), "conv").trainable_weights
    after = wrapper(wrapped, "apart").layer.get_weights()[0]
    assert np.abs(after - frozen.get_layer("apart").get_weights()[0]).max() > 0.01


@pytest.mark.slow
def test_layers_left_in_float_by_rule_keep_zeros_and_clusters(model, samples):
    before, _ = shrunk(model, SPARSE)
    stage = Quantize(layers=(("conv", False),))
    after = kernels(stage.strip(fitted(stage, before, samples, {"sparsity"})))["conv"]
    old = kernels(before)["conv"]
    np.testing.assert_array_equal(after[old == 0], 0)
    assert np.any(after[old != 0] != old[old != 0])
    assert np.unique(np.round(after, 7)).size > 255  # in float
    before, _ = shrunk(model, SPARSE, Cluster(number_of_clusters=6))
    after = kernels(stage.strip(fitted(stage, before, samples, BOTH)))["conv"]
    np.testing.assert_array_equal(after, kernels(before)["conv"])
    decision = stage.decisions(bridge.to_tf_keras(before), BOTH)["conv"]
    assert (decision.does, decision.why) == ("weights frozen to keep their clusters", "left in float: by rule")
    assert stage.notes(bridge.to_tf_keras(before), BOTH)[1:] == ["left in float: conv (by rule)"]


def test_a_layer_without_int8_operator_trains_and_is_noted_in_the_file(samples):
    layers = keras_compat.tf_keras().layers
    net = chained((4, 4, 4, 2), layers.Conv3D(3, 2, name="cube"), layers.ReLU(), layers.Flatten(), layers.Dense(2))
    wrapped = Quantize().apply(net, steps=1)
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 4, 2)).astype("float32")
    Quantize().calibrate(wrapped, x)
    (note,) = findings(build_file(wrapped, INT8, x))
    assert "CONV_3D" in note
    assert "cube (LiteRT has no int8 operator for it)" in note
    assert Quantize().decisions(net)["cube"].why == "left in float: LiteRT has no int8 operator for it"
    assert note in build_file(net, INT8, x).notes, "as after training"
    with pytest.raises(PromiseError, match="float"):
        build_file(net, dataclasses.replace(INT8, mixed=False), x)


def test_decisions_say_what_is_rounded(model):
    decisions = Quantize().decisions(bridge.to_tf_keras(model))
    assert (decisions["stem"].does, decisions["stem"].why) == ("int8 weights per channel", "folded with stem_norm")
    assert (decisions["stem_relu"].does, decisions["stem_relu"].why) == ("int8 output", "")
    assert decisions["head"].does == "int8 weights per channel, int8 before its activation"
    assert decisions["drop"].why == "nothing to round"
    assert set(decisions) == {name for name, _, _ in bridge.flat_layers(model)}


def test_a_quantize_config_of_the_users_own_is_named_by_a_rule():
    tfmot = keras_compat.tfmot().quantization.keras

    @keras_compat.tf_keras().saving.register_keras_serializable("mine")
    class Coarse(tfmot.QuantizeConfig):
        """Weights in 4 bits."""

        def get_weights_and_quantizers(self, layer):
            bits = tfmot.quantizers.LastValueQuantizer(num_bits=4, per_axis=False, symmetric=True, narrow_range=True)
            return [(layer.kernel, bits)]

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            layer.kernel = quantize_weights[0]

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    net = chained((8,), keras_compat.tf_keras().layers.Dense(6, name="dense"))
    stage = Quantize(layers=(("dense", "mine>Coarse"),))
    wrapped = stage.apply(net, steps=1)
    wrapped.compile("sgd", "mse")
    wrapped.fit(np.ones((4, 8)), np.ones((4, 6)), verbose=0)
    assert np.unique(stage.strip(wrapped).get_weights()[0]).size <= 15
    assert stage.decisions(net)["dense"].does == "mine>Coarse"
    with pytest.raises(RecipeError, match=r"'mine>Fine' for layer 'dense'. Known: .*'mine>Coarse'"):
        Quantize(layers=(("dense", "mine>Fine"),)).apply(net, steps=1)


@pytest.mark.slow
def test_masks_reach_the_layers_that_ask_for_them():
    layers = keras_compat.tf_keras().layers
    net = chained((6,), layers.Embedding(5, 4, mask_zero=True), layers.Dense(4), layers.LSTM(3), dtype="int32")
    wrapped = Quantize().apply(net, steps=1)
    rows = np.array([[1, 2, 3, 0, 0, 0], [1, 2, 3, 0, 0, 0], [4, 3, 2, 1, 2, 3]])
    Quantize().calibrate(wrapped, rows)
    np.testing.assert_allclose(wrapped.predict(rows, verbose=0), net.predict(rows, verbose=0), atol=0.03)


class WordsAndPlaces(keras.layers.Layer):
    """Embeds words, and gives the mask itself, as in Keras's tutorial on transformers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = keras.layers.Embedding(5, 4, mask_zero=True)

    def call(self, inputs):
        return self.words(inputs)

    def compute_mask(self, inputs, mask=None):
        return self.words.compute_mask(inputs)


def test_masks_of_own_layers_pass():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    averages = keras.layers.GlobalAveragePooling1D()(WordsAndPlaces(name="words")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(averages))
    model.layers[1].words.set_weights([np.random.default_rng(0).normal(size=(5, 4))])
    wrapped = Quantize().apply(model, steps=1)
    rows = np.array([[1, 2, 3, 0, 0, 0], [1, 2, 0, 0, 0, 0], [4, 3, 2, 1, 2, 3]])
    Quantize().calibrate(wrapped, rows)
    np.testing.assert_allclose(wrapped.predict(rows, verbose=0), model.predict(rows, verbose=0), atol=0.05)
    lite = build_file(wrapped, INT8, np.repeat(rows, 20, axis=0))
    np.testing.assert_allclose(lite.predict(rows), model.predict(rows, verbose=0), atol=0.05)


def test_regularizers_of_layers_keep_working():
    layers = keras_compat.tf_keras().layers
    net = chained((4,), layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l1", name="dense"))
    wrapped = Quantize().apply(net, steps=1)
    x = np.ones((2, 4), "float32")
    net(x)
    wrapped(x)
    assert len(wrapped.losses) == 2
    np.testing.assert_allclose(sum(wrapped.losses), sum(net.losses), rtol=0.05)


def test_half_precision_models_train_in_float32():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dtype=policy, name="c")])
    wrapped = Quantize().apply(model, steps=1)
    assert {weight.dtype.name for weight in wrapped.weights if weight.dtype.is_floating} == {"float32"}
    assert wrapped.compute_dtype == "float32"


# Kernels and the file's tensors ------------------------------------------------------------------


def two_alike(gamma):
    """Two convolutions of equal shape, each with BatchNorm, the first with the scale `gamma`; random weights."""
    layers = keras_compat.tf_keras().layers
    rng = np.random.default_rng(11)
    model = keras_compat.tf_keras().Sequential(
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
def test_kernels_of_equal_shape_are_distinguished_after_folding(weights):
    model = two_alike(SIGNS)
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 8)).astype("float32")
    lite = build_file(model, Export(weights=weights, activations=weights), x)
    found = match_kernels(lite, [model.get_layer("second"), model.get_layer("first")])
    for name, weight in found.items():
        gamma, _, _, variance = model.get_layer(f"{name}_norm").get_weights()
        folded = model.get_layer(name).get_weights()[0] * gamma / np.sqrt(variance + 1e-3)
        np.testing.assert_allclose(weight.dequantized, np.moveaxis(folded, -1, 0), atol=0.02, err_msg=name)


def test_a_kernel_that_is_not_in_the_file_is_missed_by_name():
    model, other = two_alike(SIGNS), two_alike(SIGNS)
    other.get_layer("first").set_weights([np.random.default_rng(5).normal(size=(3, 3, 8, 8))])
    lite = build_file(model, Export(weights="float32", activations="float32"))
    with pytest.raises(PromiseError, match="kernel of layer 'first' was not found"):
        match_kernels(lite, [other.get_layer("first")])


def test_negative_batch_norm_scales_do_not_double_the_clusters_of_the_file():
    # Folding turns a channel's c into -c if the scale is negative: 5 clusters would become up to 10 integers.
    model, promises = shrunk(two_alike(SIGNS), Cluster(number_of_clusters=5))
    wrapped = Quantize().apply(model, steps=1, keep={"clusters"})
    Quantize().calibrate(wrapped, np.random.default_rng(0).normal(size=(64, 6, 6, 8)).astype("float32"))
    stripped = bridge.to_tf_keras(Quantize().strip(wrapped))
    lite = build_file(wrapped, INT8, None, promises, stripped)
    assert [p for p in promises if p.layer == "first"] == [Clusters("first", 5)]
    assert np.unique(match_kernels(lite, [stripped.get_layer("first")])["first"].values).size <= 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU", "ConvLSTM1D"])
@pytest.mark.parametrize("first", [SPARSE, Cluster(number_of_clusters=6)], ids=["sparsity", "clusters"])
def test_recurrent_kernels_keep_their_promises_in_the_file(kind, first):
    keras.utils.set_random_seed(0)
    shape = (3, 5, 2) if "Conv" in kind else (3, 4)
    recurrent = getattr(keras.layers, kind)(*((4, 3) if "Conv" in kind else (6,)))
    model = keras.Sequential([keras.Input(shape), recurrent, keras.layers.Flatten(), keras.layers.Dense(3)])
    model, promises = shrunk(model, first)
    assert {p.weight for p in promises} == {"kernel", "recurrent_kernel"}
    wrapped = Quantize().apply(model, steps=1, keep={first.establishes})
    Quantize().calibrate(wrapped, np.random.default_rng(0).normal(size=(64, *shape)).astype("float32"))
    stripped = bridge.to_tf_keras(Quantize().strip(wrapped))
    build_file(
        wrapped, INT8, None, promises, stripped
    )  # raises for a kernel that is not in the file, or not as promised


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


def test_the_report_names_the_scheme_and_what_it_keeps():
    model = two_alike(SIGNS)
    assert Quantize().notes(model) == ["QAT"]
    assert Quantize().notes(model, BOTH) == ["PCQAT, keeps clusters and sparsity"]


def masked_by_hand(api, far):
    """One head of attention over 8 words, with a mask in the caller's own operations, as in BERT."""
    layers, words = api.layers, 8
    given, mask = api.Input((words, 12), name="x"), api.Input((words,), name="y")
    query, key, value = (layers.Dense(12)(layers.LayerNormalization()(given)) for _ in range(3))
    scores = layers.Dot(axes=(2, 2))([query, key]) / 3.5 + layers.Reshape((1, words))((1.0 - mask) * far)
    attended = layers.Dot(axes=(2, 1))([layers.Softmax()(scores), value])
    return api.Model([given, mask], layers.Dense(2)(layers.Flatten()(attended)))


@pytest.mark.slow
@pytest.mark.parametrize("far", [-1e4, -1e9])
@pytest.mark.parametrize("api", [keras, keras_compat.tf_keras()], ids=["keras", "tf_keras"])
def test_masks_by_hand_do_not_take_the_scale_of_the_scores(api, far, tmp_path):
    model, stage = masked_by_hand(api, far), Quantize()
    rng = np.random.default_rng(0)
    kept = np.arange(8) < rng.integers(2, 9, (256, 1))
    x = [rng.normal(size=(256, 8, 12)).astype("float32"), kept.astype("float32")]
    wanted = model.predict(x, verbose=0)
    wrapped = stage.apply(model, steps=16)
    stage.calibrate(wrapped, x)

    def noise(values):
        return np.mean((values - wanted) ** 2) / wanted.var()

    assert noise(wrapped.predict(x, verbose=0)) < 0.01  # 0.3 to 0.5 with one scale
    wrapped.compile("adam", "mse")
    wrapped.fit(x, wanted, epochs=2, verbose=0)
    ranges = {w.name: np.asarray(w) for w in wrapped.weights if "add" in w.name and "min" in w.name}
    assert ranges and all(value > -100 for value in ranges.values())  # training left them alone
    lite = tfopt.export_tflite(wrapped, None, INT8)
    assert noise(lite.predict(dict(zip("xy", x, strict=True)))) < 0.01
    assert not lite.float_tensors()
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = tfopt.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), wrapped.predict(x, verbose=0))


@pytest.mark.parametrize("spread", [1.0, 0.2])
def test_distances_as_scores_are_no_masks(spread):
    """softmax(-|x - c|^2), as in networks of prototypes: scores far below -1,000, or on both sides of it."""
    rng = np.random.default_rng(0)
    centers, kinds = rng.uniform(0, 255 * spread, (5, 8)).astype("float32"), rng.integers(0, 5, 400)
    x = (centers[kinds] + rng.normal(0, 40 * spread, (400, 8))).astype("float32")
    given = keras.Input((8,))
    squares = keras.ops.sum(keras.ops.square(given), axis=-1, keepdims=True)
    products = keras.layers.Dense(5, name="products")(given)
    model = keras.Model(given, keras.ops.softmax(keras.ops.subtract(products, squares)))
    model.get_layer("products").set_weights([2 * centers.T, -(centers**2).sum(axis=1)])
    stage = Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    wanted, found = (net.predict(x, verbose=0).argmax(axis=-1) for net in (model, wrapped))
    assert np.mean(wanted == found) > 0.97  # 0.2 as masks


def test_a_rescaling_that_turns_bytes_around():
    inputs = keras.Input((4,), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Rescaling(-1.0, 255.0)(inputs)))
    x = np.random.default_rng(0).integers(0, 256, (64, 4)).astype("uint8")
    stage = Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    wanted = model.predict(x, verbose=0)
    assert np.mean((wrapped.predict(x, verbose=0) - wanted) ** 2) < 1e-3 * wanted.var()


def test_a_range_of_masked_scores_begins_where_softmax_gives_nothing():
    """Scores from -2 to 3 over 8 keys: from -2 - ln(512 * 8) to 3, and the mask from -(3 + 2 + ln(512 * 8)) to 0."""
    layers = keras_compat.tf_keras().layers
    scores, mask = layers.Input((8,), name="x"), layers.Input((8,), name="y")
    model = keras_compat.tf_keras().Model([scores, mask], layers.Softmax()(layers.Add(name="sum")([scores, mask])))
    stage = Quantize()
    wrapped = stage.apply(model, steps=1)
    x = np.tile(np.array([-2, 3, 0, 0, 1, 1, 1, 1], "float32"), (16, 1))
    y = np.where(np.arange(8) < 6, 0, -1e9).astype("float32") * np.ones((16, 1), "float32")
    stage.calibrate(wrapped, [x, y])
    low = -2 - np.log(512 * 8)
    added = wrapper(wrapped, "sum").after[0].variables
    assert (float(added["min_var"]), float(added["max_var"])) == (pytest.approx(low), 3.0)
    given = [layer.quantizer_vars for layer in wrapped.layers if getattr(layer, "quantizer_vars", None)]
    assert [float(each["min_var"]) for each in given] == [-2.0, pytest.approx(low - 3)]
    probabilities = wrapped.predict([x, y], verbose=0)
    assert probabilities[:, 6:].max() < 1 / 512 and probabilities[:, :6].sum(axis=1) == pytest.approx(1, abs=1 / 256)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_clusters_in_a_layer_of_the_users_stay_in_the_file(shape):
    class FeedForward(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.Dense(16, activation="relu", name="first")
            self.last = keras.layers.Dense(16, name="last")

        def call(self, x):
            return x + self.last(self.first(x))

    hidden = FeedForward(name="own")(keras.layers.Dense(16)(inputs := keras.Input(shape)))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(hidden)))
    model, promises = shrunk(model, SPARSE, Cluster(number_of_clusters=8))
    assert "own" in {promise.layer for promise in promises}
    wrapped = Quantize().apply(model, steps=1, keep=BOTH)
    Quantize().calibrate(wrapped, np.random.default_rng(0).normal(size=(64, *shape)).astype("float32"))
    build_file(wrapped, INT8, None, promises, bridge.to_tf_keras(Quantize().strip(wrapped)))


def test_a_model_that_cannot_be_rebuilt_is_refused_before_training():
    class NoKwargs(keras.layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units))

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(2)(NoKwargs(4)(inputs)))
    with pytest.raises(ModelError, match=r"cannot be rebuilt from its config.*NoKwargs.*passes \*\*kwargs on"):
        Prune().apply(model, steps=1)
    assert any(
        "cannot be rebuilt" in problem for problem in tfopt.check(model, tfopt.Recipe(stages=[Prune()])).problems
    )


def test_one_hot_words_stay_in_float_and_the_file_is_right(tmp_path):
    import keras

    words = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Dense(8, "relu")(keras.ops.one_hot(words, 10))
    model = keras.Model(words, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(hidden)))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).integers(0, 10, (32, 6)).astype("int32")
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    wrapped.fit(x, x[:, :3] / 10, verbose=0)
    lite = tfopt.export_tflite(wrapped, tmp_path / "words.tflite", representative_data=x)
    np.testing.assert_allclose(lite.predict(x), wrapped.predict(x, verbose=0), atol=0.02)
    assert any(op.name == "ONE_HOT" for op in lite.ops())
    assert any("one_hot" in note and "refuses its int8 form" in note for note in stage.notes(bridge.to_tf_keras(model)))


@pytest.mark.parametrize(("passes", "gradient"), [(True, [1, 1, 1]), (False, [0, 1, 0])])
def test_values_beyond_the_range_of_an_output_have_a_gradient(passes, gradient):
    """Outputs that all lie beyond it would never come back."""
    quantizer = range_quantizer()
    point = Point(quantizer, quantizer.build(None, "output", keras_compat.tf_keras().layers.Layer()))
    set_range(point.variables, -1.0, 1.0)
    point.held, point.passes = True, passes
    x = tf.constant([-3.0, 0.5, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        rounded = point(x, True)
    np.testing.assert_allclose(rounded, [-1, 0.5, 1], atol=2 / 255)
    assert tape.gradient(rounded, x).numpy().tolist() == gradient
    assert point(x, False).numpy().tolist() == pytest.approx(rounded.numpy().tolist(), abs=1e-6)


def test_only_outputs_of_the_model_have_it():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    stage = Quantize(epochs=1)
    trained = stage.apply(bridge.to_tf_keras(model), steps=1)
    trained(np.ones((2, 4), "float32"), training=True)
    found = {layer.layer.name: layer.after[0].passes for layer in trained.layers if getattr(layer, "after", ())}
    assert list(found.values()) == [False, True]
