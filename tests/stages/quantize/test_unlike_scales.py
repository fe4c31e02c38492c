"""Values for which one int8 scale is not enough stay in float, in training and in the file."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base.keras_compat import tf_keras, unwrapped
from tfopt.errors import PromiseError
from tfopt.stages.quantize.trained import layers_left_in_float
from tfopt.stages.quantize.wrapper import gives_float
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

RNG = np.random.default_rng(3)
SIZES, OFFSETS = np.array([90, 0.05, 40]), np.array([50, 0.3, 180])
RAW = (RNG.normal(size=(400, 3)) * SIZES + OFFSETS).astype("float32")
FINE = RNG.normal(size=(400, 3)).astype("float32")
NAMED = Export(compact=False)


def noise(want, got):
    """Of the worst channel, relative to its variance."""
    axes = tuple(range(want.ndim - 1))
    return float(np.max(np.mean(np.square(want.astype(float) - got), axis=axes) / want.astype(float).var(axis=axes)))


def standardizing(units=8):
    """The weights of a Dense layer that standardizes the columns of RAW before it mixes them."""
    kernel = RNG.normal(size=(3, units))
    return [kernel / SIZES[:, None], -(OFFSETS / SIZES) @ kernel]


def quantized(model, samples):
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, samples)
    return stage, wrapped


def float_operators(lite):
    tensors = {tensor.index: tensor for tensor in lite.tensors()}
    return [op.name for op in lite.ops() if op.name != "DEQUANTIZE" and tensors[op.outputs[0]].dtype == "float32"]


def raw_dense():
    inputs = keras.Input((3,), name="raw")
    first = keras.layers.Dense(8, "relu", name="first")
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(first(inputs)))
    first.set_weights(standardizing())
    return model


def raw_normalization():
    inputs = keras.Input((3,), name="raw")
    norm = keras.layers.Normalization(mean=OFFSETS, variance=SIZES**2, name="norm")
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(8, "relu")(norm(inputs))))


def raw_columns():
    """Each column is scaled by itself; the slices only move values."""
    inputs = keras.Input((3,), name="raw")
    parts = [inputs[:, k : k + 1] * (1 / SIZES[k]) for k in range(3)]
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(parts)))


@pytest.mark.slow
@pytest.mark.parametrize("build", [raw_dense, raw_normalization, raw_columns])
@pytest.mark.parametrize("given", [False, True], ids=["trained ranges", "samples too"])
def test_raw_features_stay_in_float(build, given):
    keras.utils.set_random_seed(1)
    model = build()
    stage, wrapped = quantized(model, RAW)
    [line] = stage.summary(wrapped)
    assert line.startswith("left in float: raw (")
    lite = tfopt.export_tflite(wrapped, None, NAMED, representative_data=RAW if given else None)
    want = model.predict(RAW, verbose=0)
    assert noise(want, lite.predict(RAW)) < 0.02  # with a step of 600 / 255 for all columns it is above 10
    assert noise(wrapped.predict(RAW, verbose=0), lite.predict(RAW)) < 1e-3
    assert {port.dtype for port in (*lite.inputs, *lite.outputs)} == {"float32"}
    assert any("inputs and outputs are float32, since as int8" in note for note in lite.notes)
    assert any("left in float: raw (its channels" in note for note in lite.notes)
    dtypes = [tensor.dtype for tensor in lite.tensors() if not tensor.constant]
    assert "int8" in dtypes, "what follows is int8 again"
    assert not any(op.name == "CAST" for op in lite.ops())


def test_what_a_normalization_scales_stays_in_float():
    """The values become unlike inside the model: the input itself has one scale for all columns."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,), name="fine")
    raw = keras.layers.Rescaling(SIZES.tolist(), OFFSETS.tolist(), name="raw")(inputs)
    norm = keras.layers.Normalization(mean=OFFSETS, variance=SIZES**2, name="norm")(raw)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(8, "relu")(norm)))
    _, wrapped = quantized(model, FINE)
    lite = tfopt.export_tflite(wrapped, None, NAMED, representative_data=FINE)
    assert noise(model.predict(FINE, verbose=0), lite.predict(FINE)) < 0.02
    assert any("left in float: raw (its channels" in note for note in lite.notes)


def test_the_kernel_that_reads_raw_features_is_not_rounded():
    model = raw_dense()
    stage, wrapped = quantized(model, RAW)
    plain = stage.strip(wrapped)
    before, after = (each.get_layer("first").get_weights()[0] for each in (model, plain))
    np.testing.assert_array_equal(before, after)
    last = plain.get_layer("last").get_weights()[0]
    steps = last / (np.abs(last).max(axis=0) / 127)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_inputs_of_like_scale_and_columns_that_do_not_matter_are_rounded():
    stage, wrapped = quantized(raw_dense(), FINE)
    assert not stage.summary(wrapped) and not layers_left_in_float(wrapped)
    assert not tfopt.export_tflite(wrapped, representative_data=FINE).float_tensors()
    blind = raw_dense()
    kernel, bias = blind.get_layer("first").get_weights()
    kernel[1] = 0  # the small column is not read
    blind.get_layer("first").set_weights([kernel, bias])
    stage, wrapped = quantized(blind, RAW)
    assert not stage.summary(wrapped)


def head(api, join):
    """Boxes in pixels and scores, joined into one output of six channels."""
    layers = api.layers
    inputs = api.Input((8, 8, 1))
    hidden = layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    boxes = layers.Rescaling(640.0)(layers.Conv2D(4, 1, activation="sigmoid")(hidden))
    scores = layers.Conv2D(2, 1, activation="sigmoid")(hidden)
    return api.Model(inputs, join([layers.Reshape((9, 4))(boxes), layers.Reshape((9, 2))(scores)]))


def concatenated(parts):
    import tensorflow as tf

    return tf.concat(parts, -1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Concatenate", "tf.concat", "two stages"])
@pytest.mark.parametrize("given", [False, True], ids=["trained ranges", "samples too"])
def test_a_detection_head_stays_in_float(kind, given):
    images = RNG.normal(size=(128, 8, 8, 1)).astype("float32")
    api = tf_keras() if kind == "tf.concat" else keras
    api.utils.set_random_seed(2)

    def twice(parts):
        inner = keras.layers.Concatenate()([parts[0][..., :2], parts[1]])
        return keras.layers.Concatenate()([parts[0][..., 2:], inner])

    join = {"Concatenate": keras.layers.Concatenate(), "tf.concat": concatenated, "two stages": twice}[kind]
    model = head(api, join)
    stage, wrapped = quantized(model, images)
    assert stage.summary(wrapped)
    lite = tfopt.export_tflite(wrapped, None, NAMED, representative_data=images if given else None)
    assert noise(model.predict(images, verbose=0), lite.predict(images)) < 0.02
    assert set(float_operators(lite)) <= {"CONCATENATION", "STRIDED_SLICE"}
    assert float_operators(lite).count("CONCATENATION") in (1, 2)


@pytest.mark.parametrize("given", [False, True], ids=["trained ranges", "samples too"])
def test_layers_that_shared_the_range_of_a_concatenation_round_with_their_own(given):
    keras.utils.set_random_seed(4)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(8, "relu")(inputs)
    parts = [keras.layers.Dense(4, name=name)(hidden) for name in ("large", "small")]
    joined = keras.layers.Concatenate(name="joined")(parts)
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(joined))
    kernel, bias = model.get_layer("large").get_weights()
    model.get_layer("large").set_weights([kernel * 1000, bias])
    kernel, bias = model.get_layer("last").get_weights()
    kernel[:4] /= 1000
    model.get_layer("last").set_weights([kernel, bias])
    stage, wrapped = quantized(model, FINE)
    assert [line.split(" (")[0] for line in stage.summary(wrapped)] == ["left in float: joined"]
    lite = tfopt.export_tflite(wrapped, None, NAMED, representative_data=FINE if given else None)
    assert noise(model.predict(FINE, verbose=0), lite.predict(FINE)) < 0.02
    tensors = {tensor.index: tensor for tensor in lite.tensors()}
    kinds = [(op.name, tensors[op.outputs[0]].dtype) for op in lite.ops() if op.name == "FULLY_CONNECTED"]
    assert sorted(kinds) == [("FULLY_CONNECTED", "float32"), *[("FULLY_CONNECTED", "int8")] * 3]


def test_targets_of_unlike_scale_stay_in_float():
    model = raw_dense()
    kernel, bias = model.get_layer("last").get_weights()
    model.get_layer("last").set_weights([kernel * [1000, 1], bias])
    _, wrapped = quantized(model, (FINE * SIZES + OFFSETS).astype("float32"))
    lite = tfopt.export_tflite(wrapped)
    assert noise(model.predict(RAW, verbose=0), lite.predict(RAW)) < 0.02


def test_training_goes_on_with_the_same_places_in_float():
    model = raw_dense()
    stage, wrapped = quantized(model, RAW)
    wrapped.compile(tf_keras().optimizers.Adam(0.01), "mse")
    targets = np.tanh(FINE[:, :2])
    before = wrapped.evaluate(FINE * SIZES + OFFSETS, targets, verbose=0)
    wrapped.fit(FINE * SIZES + OFFSETS, targets, epochs=10, verbose=0, callbacks=stage.callbacks())
    assert wrapped.evaluate(FINE * SIZES + OFFSETS, targets, verbose=0) < 0.7 * before
    assert list(layers_left_in_float(wrapped)) == ["raw"]
    x = (FINE * SIZES + OFFSETS).astype("float32")
    assert noise(wrapped.predict(x, verbose=0), tfopt.export_tflite(wrapped).predict(x)) < 1e-3


def test_weights_alone_carry_the_decision_to_another_session(tmp_path):
    model = raw_dense()
    _, wrapped = quantized(model, RAW)
    wrapped.save_weights(tmp_path / "w.weights.h5")
    again = tfopt.Quantize().apply(model, steps=4)
    again.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(again.predict(RAW, verbose=0), wrapped.predict(RAW, verbose=0))
    assert layers_left_in_float(again) == layers_left_in_float(wrapped)


def test_zeros_and_clusters_hold_in_a_float_kernel():
    model, keep, promises = raw_dense(), set(), []
    for stage in (tfopt.Prune(final_sparsity=0.5, schedule="one-shot"), tfopt.Cluster(number_of_clusters=6)):
        model = stage.strip(stage.apply(model, steps=0, keep=keep))
        keep.add(stage.establishes)
        promises += stage.promises(bridge.to_tf_keras(model))
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=4, keep=keep)
    stage.calibrate(wrapped, RAW)
    flat_model = bridge.to_tf_keras(stage.strip(wrapped))
    lite = build_file(wrapped, NAMED, RAW, promises, flat_model)
    [kernel] = [each for each in lite.weights() if each.tensor.dtype == "float32" and each.values.shape == (8, 3)]
    assert np.unique(kernel.values).size <= 6
    assert np.mean(kernel.values == 0) >= 0.5


def test_int8_inputs_can_not_be_had_then_and_the_error_says_so():
    _, wrapped = quantized(raw_dense(), RAW)
    with pytest.raises(PromiseError, match=r"'raw' is float32 in the file. Export with io=\"float32\""):
        tfopt.export_tflite(wrapped, None, Export(io="int8"))


def test_an_lstm_reads_raw_features():
    keras.utils.set_random_seed(5)
    steps = (RNG.normal(size=(400, 5, 3)) * SIZES + OFFSETS).astype("float32")
    inputs = keras.Input((5, 3), name="raw")
    lstm = keras.layers.LSTM(6)
    model = keras.Model(inputs, keras.layers.Dense(2)(lstm(inputs)))
    kernel, recurrent, bias = lstm.get_weights()
    lstm.set_weights([kernel / SIZES[:, None], recurrent, bias - (OFFSETS / SIZES) @ kernel])
    _, wrapped = quantized(model, steps)
    lite = tfopt.export_tflite(wrapped, None, NAMED, representative_data=steps)
    assert noise(wrapped.predict(steps, verbose=0), lite.predict(steps)) < 1e-3
    assert noise(model.predict(steps, verbose=0), lite.predict(steps)) < 0.1


def test_a_batch_normalization_that_is_not_folded_computes_as_in_training():
    """Its product has another range than its sum, for which nothing is trained: with it, the noise is above 0.2."""
    keras.utils.set_random_seed(6)
    inputs = keras.Input((3,))
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Model(inputs, keras.layers.Dense(2)(norm(keras.layers.Dense(8, "relu")(inputs))))
    hidden = np.maximum(FINE @ model.layers[1].get_weights()[0] + model.layers[1].get_weights()[1], 0)
    # Channel 0 is nearly constant: 400 deviations from zero.
    kernel, bias = model.layers[1].get_weights()
    kernel[:, 0] /= 400
    bias[0] = 1.0
    model.layers[1].set_weights([kernel, bias])
    hidden = np.maximum(FINE @ kernel + bias, 0)
    norm.set_weights([np.ones(8), np.zeros(8), hidden.mean(axis=0), hidden.var(axis=0)])
    _, wrapped = quantized(model, FINE)
    lite = tfopt.export_tflite(wrapped, None, NAMED, representative_data=FINE)
    assert noise(wrapped.predict(FINE, verbose=0), lite.predict(FINE)) < 0.02
    assert noise(model.predict(FINE, verbose=0), lite.predict(FINE)) < 0.1


@pytest.mark.slow
def test_many_residual_blocks_without_ranges_are_walked_once():
    """Each block doubles the number of ways back to the input: of 60 blocks nobody could walk them all."""
    values = inputs = keras.Input((3,), name="raw")
    for number in range(60):
        values = keras.layers.Add(name=f"add{number}")([values, keras.layers.Dense(3, name=f"dense{number}")(values)])
    model = keras.Model(inputs, values)
    stage = tfopt.Quantize(layers=(("add*", False), ("dense*", "weights")))
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, RAW)
    sources = {unwrapped(layer).name: layer.sources for layer in wrapped.layers if hasattr(layer, "sources")}
    assert {unwrapped(layer).name for layer in sources["add30"]} == {"add29", "dense30"}
    assert [len(found) for found in sources.values()] == [1, 2] * 60
    assert not gives_float(*wrapped.layers)
