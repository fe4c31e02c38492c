"""Promises in the file, for each way in which the converter stores kernels. Expected values: those of the model."""

import numpy as np
import pytest

from tfopt.base import keras_compat
from tfopt.errors import PromiseError
from tfopt.stages.kernels.promise import Clusters, MByN, Sparsity
from tfopt.stages.kernels.table import kernels
from tfopt.tflite.prove.kernels import find_kernels
from tfopt.tflite.prove.promises import verify_promises
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write import export

FLOAT = Export(weights="float32", activations="float32")


def models():
    """Models with a batch of one: a fused LSTM, a GRU in a loop, matrix products, and the rest."""
    tf_keras = keras_compat.tf_keras()
    layers = tf_keras.layers
    line = layers.Input(batch_shape=(1, 6, 4), name="line")
    ids = layers.Input(batch_shape=(1, 5), dtype="int32", name="ids")
    clip = layers.Input(batch_shape=(1, 3, 6, 6, 2), name="clip")
    cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])
    outputs = [
        layers.LSTM(5, name="memory")(line),
        layers.LSTM(5, unroll=True, name="unrolled")(line),
        layers.Bidirectional(layers.LSTM(5), name="both")(line),
        layers.GRU(5, name="gated")(line),
        layers.GRU(5, reset_after=False, name="reset_first")(line),
        layers.RNN(cells, name="stack")(line),
        layers.ConvLSTM2D(3, 3, name="conv_memory")(clip),
        layers.MultiHeadAttention(2, 3, name="attention")(line, value=line),
        layers.EinsumDense("abc,cde->abde", (None, 3, 5), name="inputs_first")(line),
        layers.EinsumDense("abc,dc->abd", (None, 7), name="inputs_last")(line),
        layers.EinsumDense("abc,bcd->abd", (None, 9), name="each_step")(line),
        layers.Conv1D(5, 3, name="conv_line")(line),
        layers.Conv1DTranspose(5, 3, name="up_line")(line),
        layers.DepthwiseConv1D(3, depth_multiplier=2, name="deep_line")(line),
        layers.SeparableConv1D(6, 2, name="apart_line")(line),
        layers.TimeDistributed(layers.Conv2D(4, 3), name="each_image")(clip),
        layers.TimeDistributed(layers.Dense(8), name="each")(line),
        layers.Embedding(20, 8, name="table")(ids),
        layers.Conv3D(3, 2, name="conv_clip")(clip),
        layers.Conv3DTranspose(3, 2, name="up_clip")(clip),
    ]
    return tf_keras.Model([line, ids, clip], outputs)


@pytest.fixture(scope="module")
def model():
    """Kernels of multiples of 1/64, from -1 to 1: exact in float32, and a third of them zero."""
    made = models()
    rng = np.random.default_rng(0)
    for layer in made.layers:
        weights = layer.get_weights()
        for kernel in kernels(layer):
            values = rng.integers(-64, 65, kernel.shape) / 64
            values[rng.random(kernel.shape) < 1 / 3] = 0
            weights[kernel.index] = values
        layer.set_weights(weights)
    return made


@pytest.fixture(scope="module")
def lite(model):
    return LiteModel(export.convert(model, FLOAT))


def in_channels(kernel):
    """The kernel with its output channels first and the rest flat, sorted within each channel."""
    values = kernel.values
    if kernel.name.endswith("depthwise_kernel"):
        values = values.reshape(*values.shape[:-2], -1)
        return np.sort(np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1), axis=1)
    axis = kernel.channel_axis
    return np.sort(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1), axis=1)


@pytest.mark.slow
def test_every_kernel_is_found_whole(model, lite):
    layers = [layer for layer in model.layers if layer.weights]
    found = find_kernels(lite, layers)
    assert set(found) == {(layer.name, kernel.name) for layer in layers for kernel in kernels(layer)}
    for layer in layers:
        for kernel in kernels(layer):
            values = found[layer.name, kernel.name].values
            assert values.size == kernel.values.size
            if layer.name == "attention":  # the converter divides a kernel by the square root of the size of the keys
                assert np.count_nonzero(values == 0) == np.count_nonzero(kernel.values == 0)
                continue
            if layer.name in ("inputs_first", "inputs_last"):
                np.testing.assert_array_equal(np.sort(values, axis=None), np.sort(kernel.values, axis=None))
                continue
            rows = np.sort(values.reshape(len(values), -1), axis=1)
            np.testing.assert_array_equal(rows, in_channels(kernel), err_msg=f"{layer.name}, {kernel.name}")


def test_the_gates_of_a_fused_lstm_are_put_together_in_the_order_of_keras(model, lite):
    (kernel, recurrent), found = kernels(model.get_layer("memory")), find_kernels(lite, [model.get_layer("memory")])
    np.testing.assert_array_equal(found["memory", "kernel"].values, kernel.values.T)
    np.testing.assert_array_equal(found["memory", "recurrent_kernel"].values, recurrent.values.T)
    assert len(found["memory", "kernel"].parts) == 4


@pytest.mark.parametrize("name", ["memory", "both", "gated", "table", "attention", "each_step", "conv_clip"])
def test_sparsity_and_clusters_are_counted_in_every_kernel(model, lite, name):
    for kernel in kernels(model.get_layer(name)):
        values = kernel.values
        zeros, unique = np.mean(values == 0), np.unique(values).size
        held = [Sparsity(name, zeros, weight=kernel.name), Clusters(name, unique, weight=kernel.name)]
        assert verify_promises(lite, model, held, trained_ranges=True) == []
        place = f"layer '{name}'" + ("" if kernel.name == "kernel" else f", {kernel.name}")
        for broken in (Sparsity(name, zeros + 0.03, weight=kernel.name),
                       Clusters(name, 3, weight=kernel.name)):  # fmt: skip
            with pytest.raises(PromiseError, match=f"breaks a promise: {place}, tensor"):
                verify_promises(lite, model, [broken], trained_ranges=False)


def test_m_by_n_is_seen_along_the_inputs_of_fused_gates(model):
    layers = keras_compat.tf_keras().layers
    small = keras_compat.tf_keras().Sequential([layers.Input(batch_shape=(1, 3, 8)), layers.LSTM(4, name="memory")])
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=weight.shape) for weight in small.get_weights()]
    weights[0][[0, 1, 4, 5]] = 0  # 2 of 4 inputs
    small.set_weights(weights)
    lite = LiteModel(export.convert(small, FLOAT))
    assert verify_promises(lite, small, [MByN("memory", 2, 4)], trained_ranges=True) == []
    with pytest.raises(PromiseError, match="fewer than 3 zeros"):
        verify_promises(lite, small, [MByN("memory", 3, 4)], trained_ranges=True)


def test_a_kernel_of_another_model_is_missed_by_layer_and_name(lite, model):
    other = models()
    with pytest.raises(PromiseError, match=r"The (recurrent_)?kernel of layer 'memory' was not found"):
        find_kernels(lite, [other.get_layer("memory")])
    # One kernel of two is enough to break the promise.
    kernel, _ = kernels(other.get_layer("memory"))
    kernel.variable.assign(kernels(model.get_layer("memory"))[0].values)
    with pytest.raises(PromiseError, match="The recurrent_kernel of layer 'memory' was not found"):
        find_kernels(lite, [other.get_layer("memory")])
    assert find_kernels(lite, [other.get_layer("memory")], {("memory", "kernel")})


def test_int8_gates_have_scales_of_their_own_so_clusters_hold_in_each_channel_only():
    layers = keras_compat.tf_keras().layers
    small = keras_compat.tf_keras().Sequential([layers.Input(batch_shape=(1, 3, 8)), layers.LSTM(16, name="memory")])
    rng = np.random.default_rng(1)
    weights = [rng.choice([-1.0, 0.0, 0.3], weight.shape) for weight in small.get_weights()]
    for gate in range(4):  # a different largest value, so a different scale
        block = weights[1][:, 16 * gate : 16 * gate + 16]
        block[block < 0] = [-1.0, -0.5, -2.0, -0.7][gate]
    small.set_weights(weights)
    x = rng.normal(size=(16, 3, 8)).astype("float32")
    lite = LiteModel(export.convert(small, Export(), x))
    found = find_kernels(lite, [small.get_layer("memory")])["memory", "recurrent_kernel"]
    assert found.values.dtype == np.int8 and np.count_nonzero(found.values == 0) == np.count_nonzero(weights[1] == 0)
    promise = Clusters("memory", 6, weight="recurrent_kernel")  # -1, -0.5, -2, -0.7, 0, 0.3
    assert np.unique(found.values).size > 3
    assert verify_promises(lite, small, [promise], trained_ranges=True) == []
    few = Clusters("memory", 3, weight="recurrent_kernel")
    (note,) = verify_promises(lite, small, [few], trained_ranges={"other"})
    assert note.startswith("memory, recurrent_kernel: the promise is kept within each output channel")
    with pytest.raises(PromiseError, match="layer 'memory', recurrent_kernel"):
        verify_promises(lite, small, [few], trained_ranges={"memory"})


def test_zeros_of_a_table_with_a_zero_point_are_zeros():
    from tfopt.tflite.prove.kernels import FileKernel
    from tfopt.tflite.read import Tensor, Weight

    tensor = Tensor(0, "t", (2, 3), "int8", (0.5,), (7,), None, True, 6)
    stored = np.array([[7, 8, 7], [-128, 7, 127]], np.int8)
    weight = Weight(tensor, "GATHER", stored, (stored.astype("float32") - 7) / 2, 1)
    np.testing.assert_array_equal(FileKernel((weight,), (1,)).values, [[0, -135], [1, 0], [0, 120]])
