"""The metadata that apps read: expected values are read by hand from the schema's field numbers, or follow from it."""

import dataclasses
import io
import json
import zipfile

import keras
import numpy as np
import pytest

import tfopt
from tfopt.data import Preprocessing
from tfopt.data.beside import fed_as_beside
from tfopt.errors import ModelError
from tfopt.evaluate.compare import compare_files
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import packed, unpacked
from tfopt.tflite.read.metadata import NAME
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.metadata import with_entry

RNG = np.random.default_rng(0)
NAMES = ("rose", "tülip", "daisy flower")


def photos(preprocessing, channels=3, names=NAMES):
    x = RNG.integers(60, 190, (200, 8, 10, channels)).astype("uint8")
    data = tfopt.load_data((x, np.arange(200) % 3), preprocessing=Preprocessing.named(preprocessing))
    return dataclasses.replace(data, class_names=names)


def model_of(shape=(8, 10, 3)):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(6, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    classes = keras.layers.Dense(3, activation="softmax", name="classes")
    model = keras.Sequential([keras.Input(shape, name="photo"), *layers, classes])
    classes.kernel.assign(4 * classes.kernel)  # so that the answers differ by more than an int8 step
    return model


def entry_of(data):
    model = unpacked(data[: data.rfind(b"PK\x03\x04")])
    (entry,) = [entry for entry in model.metadata if entry.name == NAME]
    return np.asarray(model.buffers[entry.buffer].data, np.uint8).tobytes()


@pytest.mark.parametrize(
    ("preprocessing", "mean", "std"), [("raw", 0.0, 1.0), ("unit", 0.0, 255.0), ("symmetric", 127.5, 127.5)]
)
def test_apps_find_names_and_normalization(preprocessing, mean, std):
    data = photos(preprocessing)
    lite = tfopt.export_tflite(model_of(), None, FLOAT, representative_data=data)
    assert lite.labels == NAMES
    with zipfile.ZipFile(io.BytesIO(lite.data)) as archive:
        (file,) = archive.infolist()
        assert (file.filename, file.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read(file).decode() == "rose\ntülip\ndaisy flower\n"
    stored = entry_of(lite.data)
    assert stored[4:8] == b"M001"
    floats = {np.float32(value).tobytes() for value in (mean, std)} - {b"\0\0\0\0"}
    assert all(value in stored for value in floats)
    assert (8).to_bytes(4, "little") in stored and (10).to_bytes(4, "little") in stored and b"1.0.0" in stored
    assert lite.preprocessing.scale == pytest.approx(1 / std) and lite.preprocessing.offset == pytest.approx(
        -mean / std
    )
    x = data.test.x()
    np.testing.assert_allclose(LiteModel(lite.data).predict(x), lite.predict(x))


def test_channels_may_differ():
    lite = tfopt.export_tflite(model_of(), None, FLOAT, representative_data=photos("torch"))
    torch = Preprocessing.named("torch")
    np.testing.assert_allclose(lite.preprocessing.scale, torch.scale, rtol=1e-6)
    np.testing.assert_allclose(lite.preprocessing.offset, torch.offset, rtol=1e-6)


def test_what_the_schema_cannot_say_is_left_out():
    assert tfopt.export_tflite(model_of(), None, FLOAT, representative_data=photos("caffe")).preprocessing is None
    values = RNG.normal(size=(90, 8, 10, 3)).astype("float32")
    numbers = tfopt.load_data((values, np.arange(90) % 3))
    assert NAME not in tfopt.export_tflite(model_of(), None, FLOAT, representative_data=numbers).data


@pytest.mark.parametrize(
    ("preprocessing", "scale", "zero"), [("raw", 1.0, 0), ("unit", 1 / 255, 0), ("symmetric", 1 / 127.5, 127)]
)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_photos_go_in_as_bytes(preprocessing, scale, zero, weights):
    """Pixels from 60 to 190 in the samples: the scale is that of a pixel, not of what the samples happen to hold."""
    data = photos(preprocessing)
    (port,) = tfopt.export_tflite(model_of(), None, tfopt.Export(weights=weights), representative_data=data).inputs
    assert port.dtype == "uint8"
    assert port.scales[0] == pytest.approx(scale, rel=1e-3) and port.zero_points[0] == zero


def test_bytes_and_values_mean_the_same():
    from ai_edge_litert.interpreter import Interpreter

    data = photos("unit")
    lite = tfopt.export_tflite(model_of(), None, representative_data=data)
    interpreter = Interpreter(model_content=lite.data)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], data.test.inputs[:1])
    interpreter.invoke()
    scale, zero = made["quantization"]
    scores = (interpreter.get_tensor(made["index"]).astype(float) - zero) * scale
    np.testing.assert_allclose(scores, lite.predict(data.test.x()[:1]), atol=1e-6)
    assert made["dtype"] == np.uint8


@pytest.mark.parametrize("io", ["int8", "float32", "uint8"])
def test_who_asks_for_a_type_gets_it(io):
    lite = tfopt.export_tflite(model_of(), None, tfopt.Export(io=io), representative_data=photos("unit"))
    assert (lite.inputs[0].dtype, lite.outputs[0].dtype) == (io, io)


def test_channels_that_differ_stay_int8():
    lite = tfopt.export_tflite(model_of(), None, representative_data=photos("torch"))
    assert lite.inputs[0].dtype == "int8" and lite.labels == NAMES


def test_a_trained_model_takes_bytes():
    data, stage = photos("symmetric"), tfopt.Quantize()
    wrapped = stage.apply(model_of(), steps=1)
    stage.calibrate(wrapped, data.train.x())
    lite = tfopt.export_tflite(wrapped, None, representative_data=data)
    assert lite.inputs[0].dtype == "uint8" and lite.inputs[0].scales[0] == pytest.approx(1 / 127.5, rel=1e-3)


def test_the_same_model_makes_the_same_file():
    data = photos("unit")
    first, second = (tfopt.export_tflite(model_of(), None, representative_data=data).data for _ in range(2))
    assert first == second


def test_images_are_fed_as_the_file_says(tmp_path, write_photos, capsys):
    """Without a data.json beside them: the notes say where it comes from."""
    write_photos(tmp_path / "photos", 20)
    data = tfopt.load_data(tmp_path / "photos", preprocessing="symmetric")
    model = keras.Sequential([keras.Input(data.input_shape), keras.layers.Flatten(), keras.layers.Dense(2)])
    path = tmp_path / "model.tflite"
    tfopt.export_tflite(model, path, representative_data=data)
    compare_files(path, path, tmp_path / "photos")
    assert "as the file itself says" in capsys.readouterr().err


def test_damaged_metadata_is_one_error():
    lite = tfopt.export_tflite(model_of(), None, FLOAT, representative_data=photos("unit"))
    plain = lite.data[: lite.data.rfind(b"PK\x03\x04")]
    assert LiteModel(plain).labels == () and LiteModel(plain).preprocessing is not None  # the archive is gone
    model = unpacked(plain)
    stored = bytearray(entry_of(lite.data))
    model.metadata = [entry for entry in model.metadata if entry.name != NAME]
    bare, archive = packed(model, len(plain)), lite.data[len(plain) :]
    rng = np.random.default_rng(1)
    for _ in range(400):
        damaged = bytearray(stored)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(0, 256)
        lite = LiteModel(with_entry(bare, NAME, bytes(damaged)) + archive)
        try:
            assert isinstance(lite.labels, tuple)
        except ModelError as error:
            assert "cannot be read" in str(error)


def test_one_tensor_as_two_outputs():
    inputs = keras.Input((8, 10, 3))
    outputs = model_of()(inputs)
    lite = tfopt.export_tflite(keras.Model(inputs, [outputs, outputs]), None, representative_data=photos("unit"))
    assert lite.inputs[0].dtype == "uint8" and {port.dtype for port in lite.outputs} == {"uint8"}


@pytest.mark.parametrize("preprocessing", ["torch", "caffe"])
def test_what_is_fed_by_channel_is_told(preprocessing):
    lite = tfopt.export_tflite(model_of(), None, tfopt.Export(io="uint8"), representative_data=photos(preprocessing))
    assert any("uint8 input takes values of" in note and "not bytes of pixels" in note for note in lite.notes)


def test_names_as_windows_writes_them():
    lite = tfopt.export_tflite(model_of(), None, FLOAT, representative_data=photos("unit"))
    stream = io.BytesIO(lite.data[: lite.data.rfind(b"PK\x03\x04")])
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("labels.txt", "\ufeffrose\r\ntülip\r\ndaisy flower\r\n")
    assert LiteModel(stream.getvalue()).labels == NAMES


def test_a_file_and_a_data_json_that_say_the_same_agree(tmp_path):
    """The file states it in float32."""
    lite = tfopt.export_tflite(model_of(), None, FLOAT, representative_data=photos("torch"))
    (tmp_path / "data.json").write_text(json.dumps({"preprocessing": Preprocessing.named("torch").to_dict()}))
    _, note = fed_as_beside(photos("raw"), [tmp_path / "model.tflite", lite], asked=False)
    assert "data.json beside" in note and "otherwise" not in note
    _, note = fed_as_beside(photos("raw"), [tmp_path / "model.tflite", photos_of_another_kind()], asked=False)
    assert "the file itself says otherwise" in note


def photos_of_another_kind():
    return tfopt.export_tflite(model_of(), None, FLOAT, representative_data=photos("unit"))
