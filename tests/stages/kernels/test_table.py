"""All kinds of layers with kernels: which weights those are, and pruning, clustering and fine-tuning of each."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError, RecipeError
from tfopt.stages import Cluster, FineTune, Prune
from tfopt.stages.kernels.table import has_kernel, kernels, named_kernel

SPARED = "spared by default because it costs accuracy"


def bilinear():
    """A custom layer with two kernels and TF-MOT's hook."""
    tf_keras = keras_compat.tf_keras()

    class Bilinear(tf_keras.layers.Layer):
        def build(self, shape):
            self.left = self.add_weight(name="left", shape=(shape[-1], 5))
            self.right = self.add_weight(name="right", shape=(5, 3))
            super().build(shape)

        def call(self, inputs):
            return inputs @ self.left @ self.right

        def get_prunable_weights(self):
            return [self.left, self.right]

    return Bilinear


def each_layer():
    """Name -> layer, input shape without the batch axis, and kernels: name -> shape."""
    tf_keras = keras_compat.tf_keras()
    layers = tf_keras.layers
    line, image, volume = (6, 4), (6, 6, 3), (3, 6, 6, 1)
    two = tf_keras.Sequential([layers.Input((4,)), layers.Dense(6, name="a"), layers.BatchNormalization(),
                               layers.Dense(5, name="b")])  # fmt: skip
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3, reset_after=False)])
    return {
        "wide": (layers.Dense(7), line, {"kernel": (4, 7)}),
        "product": (layers.EinsumDense("abc,cde->abde", (None, 3, 4)), line, {"kernel": (4, 3, 4)}),
        "conv_line": (layers.Conv1D(5, 3), line, {"kernel": (3, 4, 5)}),
        "conv_image": (layers.Conv2D(5, 3), image, {"kernel": (3, 3, 3, 5)}),
        "conv_volume": (layers.Conv3D(3, 3), volume, {"kernel": (3, 3, 3, 1, 3)}),
        "up_line": (layers.Conv1DTranspose(5, 3), line, {"kernel": (3, 5, 4)}),
        "up_image": (layers.Conv2DTranspose(4, 3), image, {"kernel": (3, 3, 4, 3)}),
        "up_volume": (layers.Conv3DTranspose(3, 2), volume, {"kernel": (2, 2, 2, 3, 1)}),
        "deep_line": (layers.DepthwiseConv1D(3), line, {"depthwise_kernel": (3, 4, 1)}),
        "deep_image": (layers.DepthwiseConv2D(3), image, {"depthwise_kernel": (3, 3, 3, 1)}),
        "apart_line": (layers.SeparableConv1D(5, 3), line,
                       {"depthwise_kernel": (3, 4, 1), "pointwise_kernel": (1, 4, 5)}),
        "apart_image": (layers.SeparableConv2D(5, 3), image,
                  {"depthwise_kernel": (3, 3, 3, 1), "pointwise_kernel": (1, 1, 3, 5)}),
        "simple": (layers.SimpleRNN(5), line, {"kernel": (4, 5), "recurrent_kernel": (5, 5)}),
        "memory": (layers.LSTM(5, dropout=0.1), line, {"kernel": (4, 20), "recurrent_kernel": (5, 20)}),
        "gated": (layers.GRU(5), line, {"kernel": (4, 15), "recurrent_kernel": (5, 15)}),
        "stack": (layers.RNN(cells), line, {"0/kernel": (4, 16), "0/recurrent_kernel": (4, 16),
                                              "1/kernel": (4, 9), "1/recurrent_kernel": (3, 9)}),
        "conv_lstm": (layers.ConvLSTM2D(3, 3), volume,
                      {"kernel": (3, 3, 1, 12), "recurrent_kernel": (3, 3, 3, 12)}),
        "both": (layers.Bidirectional(layers.LSTM(4)), line,
                 {"forward/kernel": (4, 16), "forward/recurrent_kernel": (4, 16),
                  "backward/kernel": (4, 16), "backward/recurrent_kernel": (4, 16)}),
        "each": (layers.TimeDistributed(layers.Dense(5)), line, {"kernel": (4, 5)}),
        "each_model": (layers.TimeDistributed(two), line, {"a/kernel": (4, 6), "b/kernel": (6, 5)}),
        "attention": (layers.MultiHeadAttention(2, 3), line,
                      {"query/kernel": (4, 2, 3), "key/kernel": (4, 2, 3), "value/kernel": (4, 2, 3),
                       "attention_output/kernel": (2, 3, 4)}),
        "custom": (bilinear()(), line, {"left": (4, 5), "right": (5, 3)}),
        "table": (layers.Embedding(20, 8, mask_zero=True), (5,), {"embeddings": (20, 8)}),
        "norm": (layers.LayerNormalization(), line, {}),
        "slopes": (layers.PReLU(), line, {}),
        "each_flat": (layers.TimeDistributed(layers.Flatten()), (3, 2, 2), {}),
    }  # fmt: skip


def zoo():
    """One model with all of them side by side, plus `encoder` and `decoder`, which pass on state and mask."""
    layers = keras_compat.tf_keras().layers
    inputs = {
        shape: layers.Input(shape, dtype="int32" if shape == (5,) else "float32")
        for shape in ((6, 4), (6, 6, 3), (3, 6, 6, 1), (5,), (3, 2, 2))
    }
    masked = layers.Masking(name="masking")(inputs[6, 4])
    outputs = []
    for name, (layer, shape, _) in each_layer().items():
        layer._name = name
        if name == "table":
            sequence, *state = layers.LSTM(6, return_sequences=True, return_state=True, name="encoder")(
                layer(inputs[5,])
            )
            made = layers.LSTM(6, name="decoder")(layers.Dense(7, name="between")(sequence), initial_state=state)
        elif name == "attention":
            made = layer(masked, value=inputs[shape], use_causal_mask=True)
        else:
            made = layer(inputs[shape])
        outputs.append(layers.Flatten()(made) if len(made.shape) > 2 else made)
    head = layers.Dense(3, activation="softmax", name="head")(layers.Concatenate()(outputs))
    model = keras_compat.tf_keras().Model(list(inputs.values()), head, name="zoo")
    model.get_layer("both").backward_layer.trainable = False
    model.get_layer("each_model").layer.layers[0].trainable = False
    return model


def all_kernels(model):
    """(layer, kernel) -> values, for a flat unwrapped model."""
    return {(layer.name, kernel.name): kernel.values for layer in model.layers for kernel in kernels(layer)}


@pytest.fixture(scope="module")
def model():
    return zoo()


@pytest.fixture(scope="module")
def flat_model(model):
    return bridge.to_tf_keras(model)


@pytest.fixture(scope="module")
def sizes(flat_model):
    """(layer, kernel) -> number of weights, from the shapes written above."""
    found = {(name, kernel): int(np.prod(shape)) for name, (_, _, shapes) in each_layer().items()
             for kernel, shape in shapes.items()}  # fmt: skip
    return found | {
        ("encoder", "kernel"): 8 * 24,
        ("encoder", "recurrent_kernel"): 6 * 24,
        ("decoder", "kernel"): 7 * 24,
        ("decoder", "recurrent_kernel"): 6 * 24,
        ("between", "kernel"): 6 * 7,
        ("head", "kernel"): flat_model.get_layer("head").kernel.shape[0] * 3,
    }


@pytest.fixture(scope="module")
def data(model):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(24, *each.shape[1:])).astype("float32") for each in model.inputs]
    x[0][:, 4:] = 0  # masked steps
    x[3] = rng.integers(1, 20, (24, 5)).astype("int32")
    x[3][:, 3:] = 0
    return x, rng.integers(0, 3, 24)


def fitted(stage, model, data, keep=(), eager=False):
    """After two steps; `eager` because tracing so many layers would take minutes: `small` trains in a graph."""
    wrapped = stage.apply(model, steps=2, keep=keep)
    optimizer = keras_compat.tf_keras().optimizers.Adam(0.01)
    wrapped.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=eager)
    wrapped.fit(*data, batch_size=12, callbacks=stage.callbacks(), verbose=0)
    stripped = stage.strip(wrapped)
    same = stripped(data[0], training=False).numpy()
    # The wrapped model masks, passes states and computes like the original.
    np.testing.assert_allclose(wrapped(data[0], training=False), same, atol=1e-6)
    assert np.ptp(same, axis=0).max() > 1e-3
    return stripped


@pytest.fixture(scope="module")
def sparse(flat_model, data):
    return fitted(Prune(final_sparsity=0.6), flat_model, data, eager=True)


@pytest.fixture(scope="module")
def clustered(sparse, data):
    return fitted(Cluster(number_of_clusters=5), sparse, data, {"sparsity"}, eager=True)


# Which weights -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_kernels_of_each_layer(flat_model):
    for name, (_, _, expected) in each_layer().items():
        layer = flat_model.get_layer(name)
        found = kernels(layer)
        assert {kernel.name: kernel.shape for kernel in found} == expected
        assert has_kernel(layer) == bool(expected)
        before = layer.get_weights()
        for number, kernel in enumerate(found):
            kernel.variable.assign(np.full(kernel.shape, number + 1))
        assert [np.unique(layer.get_weights()[kernel.index]).tolist() for kernel in found] == [
            [number + 1] for number in range(len(found))
        ]
        layer.set_weights(before)


@pytest.mark.parametrize(
    ("kind", "axis"),
    [("Dense", -1), ("Conv2D", -1), ("Conv2DTranspose", -2), ("Conv3DTranspose", -2), ("DepthwiseConv2D", -2)],
)
def test_the_axis_of_output_channels(kind, axis):
    layers = keras_compat.tf_keras().layers
    arguments = {"Dense": (7,), "DepthwiseConv2D": (3,)}.get(kind, (7, 3))
    layer, inputs = getattr(layers, kind)(*arguments), layers.Input((5, 5, 5, 4) if "3D" in kind else (5, 5, 4))
    layer(inputs)
    (kernel,) = kernels(layer)
    assert kernel.channel_axis == axis
    assert kernel.shape[axis] == (4 if "Depthwise" in kind else 7)


def test_frozen_parts_change_the_positions_not_the_kernels(model):
    layer = model.get_layer("both")  # the backward part is frozen, which puts those weights last
    assert [kernel.index for kernel in kernels(layer)] == [0, 1, 3, 4]
    layer = model.get_layer("each_model")  # its first Dense is frozen; order: b, norm, then a and the statistics
    a, b = kernels(layer)
    assert b.index == 2 and a.index > b.index
    for kernel in (a, b):
        np.testing.assert_array_equal(layer.get_weights()[kernel.index], kernel.values)


def test_a_kernel_is_found_by_name_or_missed_with_the_names_there_are(model):
    layer = model.get_layer("memory")
    assert named_kernel(layer, "recurrent_kernel").variable is layer.cell.recurrent_kernel
    with pytest.raises(ModelError, match=r"'memory' \(LSTM\) has no kernel 'bias'; it has: kernel, recurrent_kernel"):
        named_kernel(layer, "bias")


def test_a_hook_that_returns_something_other_than_an_attribute_is_refused():
    class Hidden(keras_compat.tf_keras().layers.Layer):
        def build(self, shape):
            self.all = {"one": self.add_weight(name="one", shape=(shape[-1], 2))}

        def call(self, inputs):
            return inputs @ self.all["one"]

        def get_prunable_weights(self):
            return list(self.all.values())

    layer = Hidden()
    layer(keras_compat.tf_keras().Input((3,)))
    with pytest.raises(ModelError, match="is not an attribute of the layer"):
        kernels(layer)


# Training ----------------------------------------------------------------------------------------


def depthwise(key):
    return key[1] == "depthwise_kernel"


@pytest.mark.slow
def test_every_kernel_reaches_its_sparsity(sparse, sizes):
    found = {key: np.count_nonzero(values == 0) for key, values in all_kernels(sparse).items()}
    assert found == {key: 0 if depthwise(key) else size - max(1, round(size * 0.4)) for key, size in sizes.items()}


@pytest.mark.slow
def test_every_kernel_gets_its_clusters_and_keeps_its_zeros(sparse, clustered, sizes):
    before, after = (all_kernels(each) for each in (sparse, clustered))
    assert set(after) == set(sizes)
    for key, values in after.items():
        if depthwise(key):
            assert np.unique(values).size == values.size
            continue
        assert 3 <= np.unique(values).size <= 5, key
        np.testing.assert_array_equal(values[before[key] == 0], 0, err_msg=str(key))


@pytest.mark.minutes
@pytest.mark.slow
def test_the_centroids_of_every_kernel_are_trained(sparse, clustered):
    stage = Cluster(number_of_clusters=5)
    start = all_kernels(stage.strip(stage.apply(sparse, steps=0, keep={"sparsity"})))
    after = all_kernels(clustered)
    still = {key for key, values in after.items() if np.array_equal(np.unique(values), np.unique(start[key]))}
    # Attention over a causal mask of masked values may not reach all of its kernels; all others must change.
    assert not {key for key in still if key[0] != "attention"}


@pytest.fixture(scope="module")
def small():
    """An LSTM and a Bidirectional GRU with half of their weights zero."""
    layers = keras_compat.tf_keras().layers
    both = layers.Bidirectional(layers.GRU(4), name="both")
    model = keras_compat.tf_keras().Sequential(
        [layers.Input((4, 5)), layers.LSTM(5, return_sequences=True, name="memory"), both, layers.Dense(3, name="last")]
    )
    stage = Prune(schedule="one-shot")
    return stage.strip(stage.apply(model, steps=0))


def small_data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(16, 4, 5)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")


def trained(stage, model):
    wrapped = stage.apply(model, steps=2, keep={"sparsity"})
    wrapped.compile(keras_compat.tf_keras().optimizers.Adam(0.01), "mse")
    wrapped.fit(*small_data(), batch_size=8, callbacks=stage.callbacks(), verbose=0)
    return all_kernels(stage.strip(wrapped))


@pytest.mark.minutes
@pytest.mark.slow
def test_fine_tuning_keeps_the_zeros_of_every_kernel(small):
    before, after = all_kernels(small), trained(FineTune(), small)
    for key, values in after.items():
        np.testing.assert_array_equal(values == 0, before[key] == 0, err_msg=str(key))
        assert np.count_nonzero(values != before[key]) > 0.4 * values.size


@pytest.mark.minutes
@pytest.mark.slow
def test_a_kernel_left_alone_in_a_clustered_layer_keeps_its_zeros(small):
    stage = Cluster(number_of_clusters=5, layers=(("memory/kernel", False), ("both/*/kernel", 4)))
    before, after = all_kernels(small), trained(stage, small)
    numbers = {key: np.unique(values).size for key, values in after.items()}
    assert numbers.pop(("memory", "kernel")) > 40
    assert numbers == {
        ("memory", "recurrent_kernel"): 5, ("last", "kernel"): 5,
        ("both", "forward/kernel"): 4, ("both", "forward/recurrent_kernel"): 5,
        ("both", "backward/kernel"): 4, ("both", "backward/recurrent_kernel"): 5,
    }  # fmt: skip
    for key in before:
        np.testing.assert_array_equal(after[key][before[key] == 0], 0, err_msg=str(key))
    assert np.count_nonzero(after["memory", "kernel"] != before["memory", "kernel"]) > 40


@pytest.mark.slow
def test_pruning_one_kernel_of_a_layer_holds_the_zeros_of_the_other(small):
    stage = Prune(final_sparsity=0.8, layers=(("memory/kernel", True), ("*", False)))
    before, after = all_kernels(small), trained(stage, small)
    shares = {key: np.mean(values == 0) for key, values in after.items()}
    assert shares.pop(("memory", "kernel")) == 0.8
    assert shares == {key: np.mean(before[key] == 0) for key in shares}


def one_shot(model, **settings):
    stage = Prune(schedule="one-shot", **settings)
    return all_kernels(stage.strip(stage.apply(model, steps=0)))


def two_alike():
    layers = keras_compat.tf_keras().layers
    memory = [layers.LSTM(5, return_sequences=True, name=name) for name in ("first", "second")]
    model = keras_compat.tf_keras().Sequential([layers.Input((4, 5)), *memory, layers.Dense(5, name="last")])
    model.get_layer("last").set_weights([np.ones((5, 5)), np.zeros(5)])
    return model


@pytest.mark.slow
def test_random_importance_draws_another_mask_for_each_kernel():
    found = one_shot(two_alike(), importance="random")
    masks = [found[layer, name] == 0 for layer in ("first", "second") for name in ("kernel", "recurrent_kernel")]
    for one in range(4):
        for other in range(one):
            assert not np.array_equal(masks[one], masks[other])
    again = one_shot(two_alike(), importance="random")
    assert all(np.array_equal(again[key] == 0, values == 0) for key, values in found.items())


def test_erk_shares_out_among_kernels_by_their_shapes():
    # Two LSTMs with (5, 20) kernels, 100 weights each, and a Dense (5, 5): of 425 weights, 170 remain at 60 %.
    # Densities a * 25/100 and a * 10/25: a * (4 * 25 + 10) = 170.
    found = one_shot(two_alike(), distribution="erk", final_sparsity=0.6)
    zeros = {key: np.count_nonzero(values == 0) for key, values in found.items()}
    assert zeros.pop(("last", "kernel")) == 25 - round(10 * 170 / 110)
    assert set(zeros.values()) == {100 - round(25 * 170 / 110)}


def test_m_by_n_runs_along_the_inputs_of_recurrent_kernels():
    found = one_shot(two_alike(), sparsity_m_by_n=(1, 5))
    for values in found.values():
        np.testing.assert_array_equal(np.count_nonzero(values == 0, axis=0), 1)


def test_blocks_fall_in_recurrent_kernels():
    found = one_shot(two_alike(), block_size=(5, 1), final_sparsity=0.5)["first", "recurrent_kernel"]
    columns = np.all(found == 0, axis=0)
    assert columns.sum() == 10 and np.all(found[:, ~columns] != 0)


# Rules and decisions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((("memory/recurrent_kernel", True), ("*", False)), {("memory", "recurrent_kernel")}),
        ((("LSTM", True), ("*", False)), {(name, kernel) for name in ("memory", "encoder", "decoder")
                                          for kernel in ("kernel", "recurrent_kernel")}),
        ((("*/backward/*", 0.5), ("*", False)), {("both", "backward/kernel"), ("both", "backward/recurrent_kernel")}),
        ((("apart_line", True), ("*", False)), {("apart_line", "pointwise_kernel")}),
        ((("*/depthwise_kernel", True), ("*", False)),
         {(name, "depthwise_kernel") for name in ("deep_line", "deep_image", "apart_line", "apart_image")}),
        ((("deep_line", True), ("*", False)), {("deep_line", "depthwise_kernel")}),
    ],
)  # fmt: skip
def test_rules_name_layers_or_single_kernels(rules, expected, flat_model):
    assert {(promise.layer, promise.weight) for promise in Prune(layers=rules).promises(flat_model)} == expected


def decided(stage, flat_model, name):
    decision = stage.decisions(flat_model)[name]
    return decision.layer, decision.does, decision.why


def test_what_prune_says_of_each_layer(flat_model):
    stage = Prune(final_sparsity=0.6, layers=(("memory/kernel", False), ("gated", 0.25), ("head", 0)))
    expected = {
        "wide": ("60 % zeros", ""),
        "memory": ("60 % zeros in recurrent_kernel", "kernel: by rule"),
        "gated": ("25 % zeros in kernel, recurrent_kernel", ""),
        "apart_image": ("60 % zeros in pointwise_kernel", f"depthwise_kernel: {SPARED}"),
        "deep_image": ("", SPARED),
        "head": ("", "by rule"),
        "norm": ("", "no kernel"),
        "slopes": ("", "no known kernel; a custom class can name its kernels in get_prunable_weights()"),
    }
    assert {name: decided(stage, flat_model, name)[1:] for name in expected} == expected
    decisions = stage.decisions(flat_model)
    assert list(decisions) == [layer.name for layer in flat_model.layers if layer.weights]
    assert all(decision.does or decision.why for decision in decisions.values())
    noted = {note.split(" ")[2]: note for note in stage.notes(flat_model)}
    assert set(noted) == {"memory", "apart_line", "apart_image", "deep_line", "deep_image", "head", "slopes"}
    assert noted["memory"] == "not pruned: memory (kernel: by rule)"


def test_what_cluster_says_of_each_layer(flat_model):
    stage = Cluster(number_of_clusters=64, cluster_per_channel=True, layers=(("memory", 4),))
    expected = {
        "wide": ("28 clusters (of 64 requested: it has no more different weights)", ""),
        "memory": ("4 clusters in kernel, recurrent_kernel", ""),
        "conv_image": ("27 clusters per channel (of 64 requested: it has no more different weights)", ""),
        "table": ("64 clusters", ""),
        "deep_line": ("", SPARED),
    }
    assert {name: decided(stage, flat_model, name)[1:] for name in expected} == expected


def test_patterns_that_do_not_fit_are_reported(flat_model):
    assert decided(Prune(block_size=(2, 2)), flat_model, "conv_image")[1:] == ("", "block_size does not fit it")
    assert decided(Prune(sparsity_m_by_n=(2, 4)), flat_model, "wide")[1] == "2 zeros in 4 weights"
    assert decided(Prune(sparsity_m_by_n=(2, 4)), flat_model, "table")[1:] == ("", "sparsity_m_by_n does not fit it")
    threshold = Prune(importance="threshold", threshold=0.01)
    assert decided(threshold, flat_model, "wide")[1] == "zeros below 0.01"


def test_decisions_refuse_what_apply_refuses(flat_model):
    with pytest.raises(RecipeError, match="matches no layer"):
        Prune(layers=(("memory/bias", 0.5),)).decisions(flat_model)
    assert {d.does for d in FineTune().decisions(flat_model).values()} == {""}
