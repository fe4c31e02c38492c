"""Every form of a .tflite: its contents, read by LiteRT's own interpreter, and its outputs."""

import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, ModelError, PromiseError, RecipeError
from tfopt.evaluate.inspect import inspect_file
from tfopt.tflite.prove import types
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write import export
from tfopt.tflite.write.calibration import Calibration

RNG = np.random.default_rng(3)
X = RNG.uniform(-1, 1, size=(64, 8, 8, 3)).astype("float32")


def net(*middle):
    """`middle` between a convolution and a Dense; outputs of about 1, with known spread."""
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(2)
    return tf_keras().Sequential(
        [
            tf_keras().Input((8, 8, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="stem"),
            *middle,
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(5, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def nets():
    layers = tf_keras().layers
    return {
        "conv": net(layers.Conv2D(12, 3, activation="relu", name="inner")),
        "depthwise": net(
            layers.DepthwiseConv2D(3, activation="relu", name="depth"), layers.Conv2D(12, 1, name="point")
        ),
    }


# settings; dtypes of conv and dense kernels, of the depthwise one; dtype of a computed tensor; of inputs and outputs;
# bits that dominate the error
FORMS = {
    "float32": ({"weights": "float32", "activations": "float32"}, "float32", "float32", "float32", "float32", 20),
    "float16": ({"weights": "float16", "activations": "float32"}, "float16", "float16", "float32", "float32", 10),
    "dynamic 4": ({"weights": "int4", "activations": "float32"}, "int4", "int8", "float32", "float32", 4),
    "weights 8": ({"activations": "float32", "weight_only": True}, "int8", "int8", "float32", "float32", 8),
    "weights 4": (
        {"weights": "int4", "activations": "float32", "weight_only": True}, "int4", "int8", "float32", "float32", 4,
    ),
    "int8": ({}, "int8", "int8", "int8", "int8", 8),
    "int8, uint8": ({"io": "uint8"}, "int8", "int8", "int8", "uint8", 8),
    "int8, float32": ({"io": "float32"}, "int8", "int8", "int8", "float32", 8),
    "int16": ({"activations": "int16"}, "int8", "int8", "int16", "int16", 8),
    "int16, float32": ({"activations": "int16", "io": "float32"}, "int8", "int8", "int16", "float32", 8),
    "4 x 8": ({"weights": "int4"}, "int4", "int8", "int8", "int8", 4),
    "4 x 8, uint8": ({"weights": "int4", "io": "uint8"}, "int4", "int8", "int8", "uint8", 4),
    "4 x 8, float32": ({"weights": "int4", "io": "float32"}, "int4", "int8", "int8", "float32", 4),
    "4 x 16": ({"weights": "int4", "activations": "int16"}, "int4", "int8", "int16", "int16", 4),
}  # fmt: skip


def opened(data):
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    return interpreter


def dtype_of(detail):
    return np.dtype(detail["dtype"]).name


def stored_types(data):
    """The type of each tensor, by the flatbuffer's own accessors, since the interpreter reports int4 as int8."""
    tensors = schema.Model.GetRootAs(data).Subgraphs(0)
    names = {number: name.lower() for name, number in vars(schema.TensorType).items() if name.isupper()}
    return [names[tensors.Tensors(index).Type()] for index in range(tensors.TensorsLength())]


def kernels_of(data):
    """{shape as in the file: type} of tensors with more than one dimension."""
    interpreter, types = Interpreter(model_content=data), stored_types(data)
    computed = {index for op in interpreter._get_ops_details() for index in op["outputs"]}
    inputs = {detail["index"] for detail in interpreter.get_input_details()}
    return {
        tuple(detail["shape"]): types[detail["index"]]
        for detail in interpreter.get_tensor_details()
        if detail["index"] not in computed | inputs and len(detail["shape"]) > 1
    }


def run_by_hand(data, x):
    """Outputs in real units, from the numbers of the file only: q = x / scale + zero, x = (q - zero) scale."""
    interpreter = opened(data)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for sample in x:
        if np.issubdtype(source["dtype"], np.integer):
            scale, zero = source["quantization"]
            limits = np.iinfo(source["dtype"])
            sample = np.clip(np.round(sample / np.float32(scale)) + zero, limits.min, limits.max)
        interpreter.set_tensor(source["index"], sample[None].astype(source["dtype"]))
        interpreter.invoke()
        row = interpreter.get_tensor(target["index"])[0]
        if np.issubdtype(target["dtype"], np.integer):
            scale, zero = target["quantization"]
            row = (row.astype("float32") - zero) * np.float32(scale)
        rows.append(row)
    return np.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_each_form_is_in_the_file_and_computes_what_its_bits_allow(kind, form, nets):
    settings, kernel, spared, computed, border, bits = FORMS[form]
    data = X if settings.get("activations", "int8") != "float32" else None
    lite = export.build_file(nets[kind], Export(**settings, compact=False, allow_drift=True), data)
    for file in (lite, LiteModel(tfopt.tflite.write.compact.compact(lite.data))):
        interpreter = opened(file.data)
        ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
        assert {dtype_of(end) for end in ends} == {border}
        expected = nets[kind](X).numpy()
        # Steps of the weights' or activations' range, over three layers whose errors add up.
        tolerance = 3 * np.abs(expected).max() / 2 ** (bits - 1)
        got = run_by_hand(file.data, X)
        assert np.abs(got - expected).max() < tolerance
        np.testing.assert_allclose(file.predict(X), got, atol=2 * max(ends[1]["quantization"][0], 1e-6))
    held = kernels_of(lite.data)
    inner = {"conv": {(12, 3, 3, 8): kernel}, "depthwise": {(1, 3, 3, 8): spared, (12, 1, 1, 8): kernel}}[kind]
    assert held == {(8, 3, 3, 3): kernel, (5, 12): kernel, **inner}
    told = " ".join(lite.notes)
    assert ("depth (DEPTHWISE_CONV_2D)" in told) == (kernel == "int4" and kind == "depthwise")
    activations = {
        dtype_of(detail)
        for detail in opened(lite.data).get_tensor_details()
        if detail["name"].startswith("sequential")
        and "pool/Mean" in detail["name"]
        and "reduction" not in detail["name"]
    }
    assert activations == {computed}
    runner = opened(lite.data).get_signature_runner("serving_default")
    assert list(runner.get_input_details()) == ["image"]
    assert list(runner.get_output_details()) == ["head"]


def test_dynamic_int8_is_of_large_kernels_and_says_what_it_leaves(nets):
    layers = tf_keras().layers
    model = net(layers.Conv2D(24, 3, name="large"))
    lite = export.build_file(model, Export(activations="float32"))
    assert kernels_of(lite.data) == {(8, 3, 3, 3): "float32", (24, 3, 3, 8): "int8", (5, 24): "float32"}
    assert any("float32 weights left" in note and "stem" in note and "head" in note for note in lite.notes)
    assert np.abs(lite.predict(X) - model(X)).max() < 3 * np.abs(model(X)).max() / 2**7


# What the file cannot hold ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weights": "float32"}, "int8 activations need int8 or int4 weights; got float32"),
        ({"weights": "float16", "activations": "int16"}, "int16 activations need int8 or int4"),
        ({"weight_only": True}, "weight_only needs int8 or int4 weights and float32 activations"),
        ({"weights": "float16", "activations": "float32", "weight_only": True}, "got float16 weights"),
        ({"activations": "float32", "io": "uint8"}, "uint8 inputs and outputs need int8 activations.*float32"),
        ({"io": "int16"}, "int16 inputs and outputs need int16 activations.*int8 or uint8 or float32"),
        ({"activations": "int16", "io": "uint8"}, "uint8 inputs and outputs.*int16 or float32"),
        ({"weights": "int4", "sparse": True}, "sparse=True needs.*int4"),
        ({"weights": "int2"}, "Export.weights = 'int2'"),
    ],
)
def test_what_contradicts_itself_is_refused(settings, told):
    with pytest.raises(RecipeError, match=told) as caught:
        Export(**settings)
    assert "\n" not in str(caught.value)


def test_recipes_of_before_still_load():
    old = {"weights": "int8", "activations": "int8", "io": None, "calibration_samples": 9, "compact": True}
    recipe = tfopt.Recipe.from_dict({"stages": [], "export": old})
    assert recipe.export == Export(calibration_samples=9)
    new = tfopt.Recipe(stages=(), export=Export(weights="int4", activations="int16", io="float32"))
    assert tfopt.Recipe.from_json(new.to_json()) == new


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, r"Float operators: wave \(SIN\)"),
        ({"weights": "int4"}, r"Float operators: wave \(SIN\)"),
        ({"activations": "int16"}, "no operator SIN for int16 activations.* in wave"),
    ],
)
def test_operators_without_an_integer_form_stay_in_float_unless_mixed_is_off(settings, told):
    model = net(tf_keras().layers.Lambda(sine, name="wave"))
    lite = tfopt.export_tflite(model, export=tfopt.Export(**settings, allow_drift=True), representative_data=X)
    kind = settings.get("activations", "int8")
    note = f"float operators in the file: wave (SIN); left in float: wave (LiteRT has no {kind} operator for it)"
    assert note in lite.notes and {port.dtype for port in (*lite.inputs, *lite.outputs)} == {kind}
    with pytest.raises((PromiseError, ModelError), match=told) as caught:
        tfopt.export_tflite(model, export=tfopt.Export(**settings, mixed=False), representative_data=X)
    assert "\n" not in str(caught.value)


def sine(x):
    import tensorflow as tf

    return tf.math.sin(x)


def test_a_model_trained_for_int8_takes_no_other_integers(nets):
    stage = tfopt.Quantize()
    aware = stage.apply(nets["conv"], steps=0)
    stage.calibrate(aware, X)
    for settings in ({"weights": "int4"}, {"activations": "int16"}, {"activations": "float32", "weight_only": True}):
        with pytest.raises(RecipeError, match="trained for int8"):
            tfopt.export_tflite(aware, export=tfopt.Export(**settings), representative_data=X)
    lite = tfopt.export_tflite(aware, export=tfopt.Export(io="uint8"))
    assert {port.dtype for port in (*lite.inputs, *lite.outputs)} == {"uint8"}


def test_a_file_of_other_types_is_refused(nets, monkeypatch):
    convert = export.convert
    for made, asked, told in [
        ({"weights": "int4"}, {"weights": "int8", "io": "float32"}, "float32 inputs and outputs were promised"),
        ({"activations": "int16"}, {}, "int8 activations were promised, but .*stem.* produce int16"),
        ({"activations": "int16"}, {"weights": "int4", "activations": "int16"}, "no operator of the file.*stem"),
        ({"weights": "float16", "activations": "float32"}, {"weights": "float32", "activations": "float32"}, "float16"),
        ({"activations": "float32", "weight_only": True}, {"weights": "int4", "activations": "float32"}, "no operator"),
    ]:
        data = convert(nets["conv"], Export(**made), None if "float32" in made.values() else X)
        monkeypatch.setattr(export, "convert", lambda *args, data=data, **_: data)
        with pytest.raises(PromiseError, match=told):
            tfopt.export_tflite(nets["conv"], export=tfopt.Export(**asked), representative_data=X)


# Sparse -------------------------------------------------------------------------------------------


def pruned(model, share=0.8):
    rng, weights = np.random.default_rng(1), model.get_weights()
    for weight in weights:
        weight[(rng.random(weight.shape) < share) & (weight.ndim > 1)] = 0
    model.set_weights(weights)
    return model


def test_sparse_kernels_are_smaller_run_and_are_read_back():
    layers = tf_keras().layers
    model = pruned(net(layers.Conv2D(32, 1, name="wide"), layers.Conv2D(32, 1, name="point")))
    dense = tfopt.export_tflite(model, export=tfopt.Export(weights="float32", activations="float32"))
    lite = export.build_file(model, Export(weights="float32", activations="float32", sparse=True))
    assert lite.size < 0.8 * dense.size
    np.testing.assert_allclose(run_by_hand(lite.data, X), model(X), atol=1e-5)
    assert any(note.startswith("stored sparsely") and "point" in note for note in lite.notes)
    stored = [weight for weight in lite.weights() if weight.tensor.sparse]
    assert stored
    for weight, full in zip(lite.weights(), dense.weights(), strict=True):
        np.testing.assert_array_equal(weight.values, full.values)


def test_sparse_kernels_that_litert_does_not_run_are_one_clear_error():
    layers = tf_keras().layers
    model = pruned(tf_keras().Sequential([tf_keras().Input((64,)), layers.Dense(64), layers.Dense(32)]), 0.9)
    x = RNG.normal(size=(64, 64)).astype("float32")
    with pytest.raises(ModelError, match="cannot run the file with sparse weights; remove sparse=True") as caught:
        tfopt.export_tflite(model, export=tfopt.Export(sparse=True), representative_data=x)
    assert "\n" not in str(caught.value)


# Calibration, labels, contents --------------------------------------------------------------------


def test_the_number_of_samples_is_reported_and_few_are_noted(nets):
    told, _ = export.build_file(nets["conv"], Export(), X).notes
    assert told == "activation ranges from 64 training samples"
    told, _ = export.build_file(nets["conv"], Export(), X[:5]).notes
    assert "5 training samples (few, below 32" in told
    with pytest.raises(DataError, match="has no samples"):
        tfopt.export_tflite(nets["conv"], representative_data=X[:0])


def test_ranges_that_clip_held_out_values_are_reported(nets):
    """Of held-out inputs spread evenly over -3..3, two thirds are outside the range -1..1."""
    wide = np.random.default_rng(0).uniform(-3, 3, X[:32].shape).astype("float32")
    for settings in ({}, {"io": "float32"}, {"weights": "int4"}):
        settings = Export(calibration_samples=64, allow_drift=True, **settings)
        notes = export.build_file(nets["conv"], settings, np.concatenate([X, wide])).notes
        (told,) = [note for note in notes if "out of range" in note]
        share = float(told.split("image ")[1].split("%")[0])
        assert share == pytest.approx(100 * 2 / 3, abs=2)
        assert "head" in told


def test_samples_are_read_in_parts(nets):
    """A tf.data of 10,000 batches, of which only the needed ones are read."""
    import tensorflow as tf

    read = []

    def batches():
        for number in range(10_000):
            read.append(number)
            yield X[:8]

    data = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((None, 8, 8, 3), tf.float32))
    calibration = Calibration(data, 20).bind(nets["conv"])
    assert [sample["image"].shape for sample in calibration] == [(1, 8, 8, 3)] * 20
    assert max(read) < 10
    dataset = tfopt.load_data(((X, np.arange(64) % 5), (X, np.arange(64) % 5)), validation=0.2)
    parts = list(dataset.representative_batches(30, 8))
    assert [len(part) for part in parts] == [8, 8, 8, 6]
    np.testing.assert_array_equal(np.concatenate(parts), dataset.representative(30))


def test_class_names_are_in_the_file_and_its_signature_stays(nets, tmp_path):
    names = ["Ähre", "b", "c", "d", "e"]
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(64) % 5, class_names=names)
    data = tfopt.load_data(tmp_path / "d.npz", validation=0.2)
    for settings in ({}, {"weights": "int4"}):
        lite = tfopt.export_tflite(
            nets["conv"], tmp_path / "m.tflite", tfopt.Export(**settings), representative_data=data
        )
        assert list(lite.labels) == names
        with zipfile.ZipFile(tmp_path / "m.tflite") as archive:
            assert archive.read("labels.txt").decode().split() == names
        assert opened(lite.data).get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["head"]}}
        inspected = inspect_file(tmp_path / "m.tflite").table().title
        assert "Ähre" in inspected and "image int8 (1, 8, 8, 3)" in inspected
    assert tfopt.export_tflite(nets["conv"], representative_data=X).labels == ()


def test_contents_count_what_is_there(nets):
    held = types.contents(
        tfopt.export_tflite(nets["depthwise"], export=tfopt.Export(weights="int4"), representative_data=X)
    )
    assert held.weights == {"int4": 8 * 27 + 12 * 8 + 60, "int8": 72}
    assert held.operators == {"int8": 5}
    assert held.inputs[0].startswith("image int8 (1, 8, 8, 3) x 0.0078")


@pytest.mark.parametrize(
    "settings", [{"weights": "int4"}, {"activations": "float32", "weight_only": True}], ids=["int4", "weight-only"]
)
def test_weights_of_a_quarter_of_a_mebibyte(settings):
    """litert-quantizer stores larger buffers behind the flatbuffer."""
    tf_keras().utils.set_random_seed(0)
    layers = tf_keras().layers
    model = tf_keras().Sequential([tf_keras().Input((512,)), layers.Dense(1100, "relu"), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(64, 512)).astype("float32")
    lite = tfopt.export_tflite(model, None, tfopt.Export(**settings), representative_data=x)
    want = model.predict(x, verbose=0)
    assert np.mean((lite.predict(x) - want) ** 2) < 0.05 * np.var(want)
    assert max(weight.values.size for weight in lite.weights()) == 512 * 1100
    assert lite.size < 512 * 1100 * (0.55 if settings.get("weights") == "int4" else 1.05)


@pytest.mark.parametrize("settings", [{}, {"activations": "int16"}], ids=["int8", "int16"])
def test_an_input_that_must_be_float_makes_the_ends_float(settings):
    """The mask is cast to bool, which integers with a scale cannot be."""
    keras = tf_keras()
    values, mask = keras.Input((6, 4)), keras.Input((6,))
    chosen = keras.layers.Lambda(lambda given: where(*given))([keras.layers.Dense(4)(values), mask])
    model = keras.Model([values, mask], chosen)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(64, 6, 4)).astype("float32"), (rng.normal(size=(64, 6)) > 0).astype("float32")]
    lite = tfopt.export_tflite(model, None, tfopt.Export(**settings), representative_data=x)
    want = model.predict(x, verbose=0)
    if settings:  # int8 has an operator for the choice
        assert {port.dtype for port in (*lite.inputs, *lite.outputs)} == {"float32"}
    assert np.mean((lite.predict(x) - want) ** 2) < 2e-3 * np.var(want)


def where(values, mask):
    import tensorflow as tf

    return tf.where(tf.cast(mask, "bool")[..., None], values, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "wide"),
    [("LeakyReLU", 0), ("Softplus", 0), ("Maximum", 0), ("GRU", 2 * 8 * 24), ("LSTM", 2 * 8 * 32)],
)
def test_4_bits_where_litert_quantizer_lacks_an_operator(layer, wide):
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(0)
    made = {
        "LeakyReLU": lambda: layers.LeakyReLU(),
        "Softplus": lambda: layers.Activation("softplus"),
        "Maximum": lambda: layers.GlobalMaxPooling1D(),
        "GRU": lambda: layers.GRU(8),
        "LSTM": lambda: layers.LSTM(8),
    }[layer]()
    model = tf_keras().Sequential([tf_keras().Input((6, 4)), layers.Dense(8), made, layers.Flatten(), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(96, 6, 4)).astype("float32")
    lite = tfopt.export_tflite(model, None, tfopt.Export(weights="int4"), representative_data=x)
    want = model.predict(x, verbose=0)
    assert not lite.float_tensors() and np.mean((lite.predict(x) - want) ** 2) < 0.1 * np.var(want)
    sizes = [(weight.values.size, weight.tensor.dtype) for weight in lite.weights()]
    assert sum(dtype == "int4" for _, dtype in sizes) == 2, "the two Dense layers"
    assert sum(size for size, dtype in sizes if dtype == "int8") >= wide
    assert any("weights in 8 bits" in note for note in lite.notes) == bool(wide)


def test_a_product_of_a_constant_stays_float_where_activations_are():
    """Learned queries, as of a Perceiver: LiteRT multiplies float by integers, not integers by float."""
    layers, rng = keras.layers, np.random.default_rng(0)
    queries = rng.normal(size=(1, 5, 8)).astype("float32")
    inputs = keras.Input((6, 8))
    keys = layers.Dense(8, name="keys")(inputs)
    scores = keras.ops.matmul(queries, keras.ops.transpose(keys, (0, 2, 1)))
    model = keras.Model(inputs, layers.Dense(3, name="head")(scores))
    x = rng.normal(size=(64, 6, 8)).astype("float32")
    lite = tfopt.export_tflite(model, None, Export(weights="int4", activations="float32"), representative_data=x)
    (product,) = [op for op in lite.ops() if op.name == "BATCH_MATMUL"]
    tensors = {tensor.index: tensor for tensor in lite.tensors()}
    assert {tensors[end].dtype for end in product.inputs} == {"float32"}
    assert "int4" in types.contents(lite).weights
    assert any("float32 weights left" in note and "BATCH_MATMUL" in note for note in lite.notes), lite.notes
    want = np.asarray(model(x))
    assert np.mean((lite.predict(x) - want) ** 2) < 0.05 * np.var(want)
