"""Small files that would expand to huge ones are refused, naming the limit, before the memory is taken."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import zstandard

import tfopt
from tfopt import models
from tfopt.base import archives, limits
from tfopt.base.packing import pack, unpack, unpacked_head
from tfopt.base.reading import parse_json
from tfopt.data.image_files import read_images
from tfopt.errors import DataError, ModelError, RecipeError, TfoptError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import packed as as_flatbuffer
from tfopt.tflite.read.flatbuffer import unpacked as from_flatbuffer

HEAD = b"\x1c\x00\x00\x00TFL3"
MIB = 2**20
BRACKETS = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def keras_model():
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2)])


@pytest.fixture
def keras_file(keras_model, tmp_path):
    keras_model.save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


@pytest.fixture(scope="module")
def tflite(keras_model):
    return tfopt.export_tflite(keras_model, export=tfopt.Export(weights="float32", activations="float32")).data


@pytest.fixture
def memory():
    """A function that returns the peak of bytes allocated by Python and NumPy since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def rewrite(path, member, content):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[member] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


# Packed files ------------------------------------------------------------------------------------


def zstd_bomb():
    """10 GiB in 160 frames, 320 kB."""
    return zstandard.compress(HEAD) + 160 * zstandard.ZstdCompressor(level=1).compress(bytes(64 * MIB))


def gzip_bomb():
    """320 MiB in 4 members, 320 kB; DEFLATE cannot compress further."""
    return gzip.compress(HEAD) + 4 * gzip.compress(bytes(80 * MIB), 9)


@pytest.mark.parametrize("bomb", [zstd_bomb, gzip_bomb])
def test_a_packed_file_that_grows_without_measure_is_refused(bomb, tmp_path, memory):
    path = tmp_path / "model.tflite"
    path.write_bytes(bomb())
    assert path.stat().st_size < MIB
    before = memory()
    with pytest.raises(ModelError, match=rf"{path} would grow from .* to more than 268,435,456 bytes"):
        LiteModel(path)
    assert memory() - before < 3 * limits.HARMLESS_BYTES
    assert models.kind(path) == "tflite"  # the first bytes are enough


def test_all_frames_and_members_are_unpacked():
    data = HEAD + np.random.default_rng(0).integers(0, 256, 300_000, dtype="uint8").tobytes()
    halves = data[:100_000], data[100_000:]
    for compress in (gzip.compress, zstandard.compress):
        assert unpack(b"".join(map(compress, halves))) == data
        assert unpacked_head(compress(data))[4:8] == b"TFL3"


def test_the_limit_is_exact_and_what_would_not_be_unpacked_is_not_packed(monkeypatch):
    monkeypatch.setattr(limits, "HARMLESS_BYTES", 2**16)
    zeros = HEAD + bytes(2**16 - len(HEAD))
    assert unpack(pack(zeros).data) == zeros
    for compress in (gzip.compress, zstandard.compress):
        assert unpack(compress(zeros)) == zeros
        with pytest.raises(ModelError, match="more than 65,536 bytes"):
            unpack(compress(zeros + b"x"))
    with pytest.raises(ModelError, match="may unpack to at most 65,536"):
        pack(zeros + b"x")
    noise = HEAD + np.random.default_rng(0).integers(0, 256, 2**17, dtype="uint8").tobytes()
    assert unpack(pack(noise).data) == noise  # above 64 kB, but less than the allowed ratio


# Arrays ------------------------------------------------------------------------------------------


def npy(header, values=b""):
    text = repr(header) if isinstance(header, dict) else header
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + values


def npz(path, claimed=None, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
        for info in archive.infolist() if claimed else ():
            info.file_size = claimed  # the size that the directory states
    return path


def header(shape, descr="<f4"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (npy(header((2**40, 4))), "claims float32 of shape"),
        (npy(header((2**60,), "|S0")), "claims"),
        (npy(header((-1, -(2**40))), bytes(16)), "claims"),
        (npy(header((2,), "<U99999999"), bytes(8)), "claims"),
        (npy(header((3, 4), "|O"), b"x" * 96), "Python objects"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 4500 + ",)}"), "npz file of plain arrays"),
        (npy("-" * 9000 + "1"), "npz file of plain arrays"),
        (npy("(" * 5000 + ")" * 5000), "npz file of plain arrays"),
        (npy("[" * 90 + "]" * 90), "npz file of plain arrays"),
        (npy(header((3, 4), [("a", [("b", "<f4")])]), bytes(48)), "numbers"),
        (b"\x93NUMPY\x09\x00", "version"),
        (b"no array", "npz file of plain arrays"),
        (b"", "npz file of plain arrays"),
    ],
)
def test_headers_that_lie_or_attack_are_refused(x, words, tmp_path, memory):
    path = npz(tmp_path / "a.npz", x=x, y=npy(header((3,), "<i8"), bytes(24)))
    with pytest.raises(DataError, match=words) as raised:
        tfopt.load_data(path)
    assert str(path) in str(raised.value)
    assert memory() < 50 * MIB


def test_more_than_the_limit_of_data_is_refused_before_it_is_read(tmp_path, memory):
    nine = 9 * limits.GIB
    path = npz(tmp_path / "a.npz", claimed=nine + 1000, x=npy(header((nine // 4, 1))), y=npy(header((1,))))
    with pytest.raises(DataError, match=r"its arrays take 9.0 GiB, over the limit of 8 GiB"):
        tfopt.load_data(path)
    assert memory() < 50 * MIB


def test_the_limit_of_arrays_is_exact_and_counts_all_of_them(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1000, "float32"), b=np.zeros(1000, "uint8"))
    assert {name: array.nbytes for name, array in archives.read_npz(tmp_path / "a.npz", 5000).items()} == {
        "a": 4000, "b": 1000,
    }  # fmt: skip
    for read in (archives.read_npz, archives.npz_headers):
        with pytest.raises(ValueError, match="over the limit"):
            read(tmp_path / "a.npz", 4999)


def test_zeros_that_were_compressed_still_load(tmp_path):
    x, y = np.zeros((40, 2**19), "uint8"), np.arange(40) % 4
    np.savez_compressed(tmp_path / "zeros.npz", x=x, y=y)
    assert (tmp_path / "zeros.npz").stat().st_size < x.nbytes / 900
    assert tfopt.load_data(tmp_path / "zeros.npz").input_shape == (2**19,)


def test_other_files_in_an_npz_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((10, 3)), y=np.arange(10) % 2)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "hello")
    assert set(archives.read_npz(tmp_path / "a.npz")) == {"x", "y"}


# Labels ------------------------------------------------------------------------------------------


def test_class_numbers_without_measure_are_refused(memory):
    x = np.ones((10, 3), "float32")
    for largest in (2_000_000_000, 2**63 - 1, limits.MOST_CLASSES):
        with pytest.raises(DataError, match=rf"class numbers below 1,048,576, got {largest:,}"):
            tfopt.load_data((x, np.array([0, 1] * 4 + [0, largest])))
    assert memory() < 50 * MIB
    data = tfopt.load_data((np.repeat(x, 4, 0), np.array([0, limits.MOST_CLASSES - 1] * 20)))
    assert data.num_classes == limits.MOST_CLASSES


def test_scores_of_a_class_for_each_sample_are_refused():
    from tfopt.transfer.scores import logme

    with pytest.raises(DataError, match="at most 8 GiB"):
        logme(np.ones((100_000, 2)), np.arange(100_000))


# HDF5 --------------------------------------------------------------------------------------------


def hdf5(path, change):
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        change(file)
    return path


def cycle(file):
    inner = file.create_group("a/b")
    inner["up"], inner["top"] = file["a"], file["/"]


def soft_cycle(file):
    import h5py

    file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")


def deep(file):
    for _ in range(3000):
        file = file.create_group("g")


def huge_attribute(file):
    """3,000 strings that share one of 1 MB, so 1 MB of file reads as 3 GB; h5py cannot write this, see `forged`."""
    file.attrs["texts"] = [*("a" * 2999), "b" * MIB]


def forged(path):
    data = bytearray(path.read_bytes())
    last = data.index(struct.pack("<I", MIB))  # length, address of the heap, index in the heap: 16 bytes each
    data[last - 2999 * 16 : last] = data[last : last + 16] * 2999
    path.write_bytes(data)


def one_text_many_times(file):
    import h5py

    file.create_dataset("texts", (3_000_000,), h5py.string_dtype(), chunks=(1000,))
    file["large"] = np.zeros(100_000)


def one_chunk(file):
    file.create_dataset("x", (1,), "float32", maxshape=(None,), chunks=(2**28,), compression="gzip")


@pytest.mark.slow
@pytest.mark.parametrize("change", [cycle, soft_cycle])
def test_links_in_circles_do_no_harm(change, tmp_path):
    assert models.kind(hdf5(tmp_path / "m.h5", change)) == "tf_keras"
    with pytest.raises(ModelError):
        models.load_model(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (deep, "more than 100 levels deep"),
        (huge_attribute, "would grow"),
        (one_text_many_times, "would grow"),
        (one_chunk, "would grow"),
    ],
)
def test_hdf5_files_without_measure_are_refused(change, words, tmp_path, memory):
    path = hdf5(tmp_path / "m.h5", change)
    if change is huge_attribute:
        forged(path)
    assert path.stat().st_size < 60 * MIB
    with pytest.raises(ModelError, match=words) as raised:
        models.kind(path)
    assert str(path) in str(raised.value)
    assert memory() < 100 * MIB


def test_strings_of_variable_length_do_no_harm(tmp_path):
    """Keras writes names with a fixed length; other programs write them like this."""

    def change(file):
        file.attrs["model_config"] = json.dumps(["x" * MIB])
        file.attrs["layer_names"] = [f"layer_{number}" for number in range(200)]

    assert models.kind(hdf5(tmp_path / "m.h5", change)) == "tf_keras"


def test_many_groups_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tfopt.models.bombs.MOST_OBJECTS", 50)
    path = hdf5(tmp_path / "m.h5", lambda file: [file.create_group(str(number)) for number in range(49)])
    assert models.kind(path) == "tf_keras"
    path = hdf5(tmp_path / "n.h5", lambda file: [file.create_group(str(number)) for number in range(50)])
    with pytest.raises(ModelError, match="more than 50 groups"):
        models.kind(path)


# JSON --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_the_depth_of_json_is_limited(opening):
    closing = {"[": "]"}.get(opening, "}")

    def depth(levels):
        return opening * levels + "1" + closing * levels

    assert parse_json(depth(limits.DEEPEST_JSON))
    for levels in (limits.DEEPEST_JSON + 1, 900, 100_000):
        with pytest.raises(ValueError, match="deeper than the limit of 200"):
            parse_json(depth(levels))


def test_the_length_of_json_is_limited(monkeypatch):
    monkeypatch.setattr("tfopt.base.reading.LARGEST_JSON", 10)
    assert parse_json("[1, 2, 3]") == [1, 2, 3]
    with pytest.raises(ValueError, match="over the limit"):
        parse_json("[1, 2, 3, 4]")


@pytest.mark.parametrize("text", [BRACKETS, "[" * 1000 + "]" * 1000, '{"a": ' * 400 + "1" + "}" * 400])
@pytest.mark.parametrize("member", ["config.json", "metadata.json"])
def test_brackets_in_a_keras_file(keras_file, member, text):
    rewrite(keras_file, member, text)
    with pytest.raises(ModelError, match=rf"{keras_file} .*deeper than the limit"):
        models.load_model(keras_file)


def test_brackets_in_hdf5(tmp_path):
    path = hdf5(tmp_path / "m.h5", lambda file: file.attrs.modify("model_config", BRACKETS))
    with pytest.raises(ModelError, match=rf"{path} .*deeper than the limit"):
        models.load_model(path)


def test_brackets_in_a_recipe(tmp_path):
    for text in (BRACKETS, json.dumps({"stages": [], "transfer": {"kind": [[]]}}), '{"stages": [' * 300):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(RecipeError, match=rf"{tmp_path}/recipe.json"):
            tfopt.Recipe.load(tmp_path / "recipe.json")


def test_brackets_in_the_answers_of_a_teacher(tmp_path):
    from tfopt.teachers.cache import _claim

    (tmp_path / "meta.json").write_text(BRACKETS)
    with pytest.raises(DataError, match=r"meta.json cannot be read .*deeper than the limit"):
        _claim(tmp_path, {}, "teacher")


def test_brackets_in_the_data_of_a_result(keras_file, tmp_path):
    keras_file.rename(tmp_path / "model.keras")
    for text in (BRACKETS, "null", '{"class_names": 3, "preprocessing": {}}', '{"class_names": [[1]]}'):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(ModelError, match=r"data.json.* does not state the class names"):
            tfopt.Teacher(tmp_path)


# Archives ----------------------------------------------------------------------------------------


def directory(number):
    """A zip that consists only of a directory of `number` empty members."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 6, 0, 0, 0, 1, *[0] * 4, 0, 0) + b"a"
    count = min(number, 2**16 - 1)
    return entry * number + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * number, 0, 0)


@pytest.mark.parametrize("number", [10_001, 1_000_000])
def test_a_zip_of_a_million_members_is_refused(number, tmp_path, memory):
    path = tmp_path / "m.keras"
    path.write_bytes(b"PK" + directory(number))
    size = path.stat().st_size
    before = memory()
    with pytest.raises(ModelError, match="may have at most 10,000 members"):
        models.kind(path)
    with pytest.raises(DataError, match="may have at most 10,000 members"):
        tfopt.load_data(path.rename(tmp_path / "m.npz"))
    assert memory() - before < max(size // 2, 20 * MIB)


def test_the_end_of_a_zip_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"PK\x05\x06" * 10)  # looks like the end record, but is not
    with archives.open_zip(path) as archive:
        assert archive.namelist() == ["one"]
    size = 4 * MIB
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 0, 0, 0, 0, 1, 1, size, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 0, 0)
    whole = io.BytesIO(bytes(size) + end64 + locator + end)
    with pytest.raises(ValueError, match=f"directory of {size:,} bytes"), archives.open_zip(whole):
        pass


def test_weights_in_a_zip_in_a_zip_are_counted(keras_file, monkeypatch):
    monkeypatch.setattr(limits, "HARMLESS_BYTES", 2**24)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(header((2**23,)), bytes(2**25)))
    rewrite(keras_file, "model.weights.npz", inner.getvalue())
    with pytest.raises(ModelError, match=r"its arrays take 0.0 GiB, over the limit of 0.01562 GiB"):
        models.kind(keras_file)


# Images ------------------------------------------------------------------------------------------


def png(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (12_000, 12_000)])
@pytest.mark.parametrize("size", [None, (8, 8)])
def test_an_image_of_gigapixels_is_named(width, height, size, tmp_path, memory):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(png(width, height))
    with pytest.raises(DataError, match=rf"{tmp_path}/a/\d.png"):
        tfopt.load_data(tmp_path, size=size)
    assert memory() < 50 * MIB


def test_what_starts_programs_is_not_read_as_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(DataError, match=r"a\.png"):
        read_images([tmp_path / "a.png"], tfopt.Preprocessing(size=(8, 8)), "test")


# .tflite -----------------------------------------------------------------------------------------


def changed(data, change):
    model = from_flatbuffer(data)
    change(model)
    return as_flatbuffer(model, len(data))


def computed(model):
    """A tensor computed by an operator."""
    graph = model.subgraphs[0]
    return graph.tensors[graph.operators[0].outputs[0]]


def huge(model):
    computed(model).shape = np.array([1, 2**20, 2**20], np.int32)
    computed(model).shapeSignature = None


def far_code(model):
    model.subgraphs[0].operators[0].opcodeIndex = 77


def no_graph(model):
    model.subgraphs = []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"), [(huge, r"4,096.0 GiB of memory, over the limit of 8 GiB"), (no_graph, "cannot run it")]
)
def test_a_tflite_without_measure_is_refused(tflite, change, words, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(changed(tflite, change))
    with pytest.raises(ModelError, match=words) as raised:
        LiteModel(path)
    assert str(path) in str(raised.value)


def test_indices_that_lead_to_nothing_are_refused(tflite):
    """Read without LiteRT, which refuses some of them and crashes on others."""
    from tfopt.tflite.read.graph import FileGraph

    assert FileGraph(tflite).ops
    dequantize = 6

    def operand(model):
        model.subgraphs[0].operators[0].inputs = np.array([0, 1000, 1], np.int32)

    def result(model):
        model.subgraphs[0].operators[0].outputs = np.array([-2], np.int32)

    def buffer(model):
        computed(model).buffer = 1000

    def end(model):
        model.subgraphs[0].outputs = np.array([-1], np.int32)

    def signed(model):
        model.signatureDefs[0].inputs[0].tensorIndex = 1000

    def kind(model):
        computed(model).type = 120

    def itself(model):
        for code in model.operatorCodes:
            code.builtinCode = code.deprecatedBuiltinCode = dequantize
        model.subgraphs[0].operators[0].inputs = model.subgraphs[0].operators[0].outputs

    for change in (operand, result, buffer, end, signed, kind, itself, far_code, no_graph):
        with pytest.raises(ModelError, match="damaged"):
            FileGraph(changed(tflite, change))


def test_invalid_class_names_in_a_tflite(tflite):
    from tfopt.tflite.read.metadata import OLD_LABELS
    from tfopt.tflite.write.metadata import with_entry

    named = with_entry(tflite, OLD_LABELS, b'["a", "b"]')
    assert LiteModel(named).labels == ("a", "b")
    for text in (BRACKETS.encode(), b"\xff\xfe", b"3", b'[["a"]]', b"[1]", b'{"a": 1}', b"["):

        def change(model, text=text):
            model.buffers[model.metadata[-1].buffer].data = np.frombuffer(text, np.uint8)

        with pytest.raises(TfoptError, match="class names"):
            _ = LiteModel(changed(named, change)).labels


def test_a_sparse_format_with_more_places_than_the_shape_is_refused():
    from types import SimpleNamespace

    from tfopt.tflite.read.decode import densified

    dense = SimpleNamespace(arraySegments=None, denseSize=2**30)
    sparsity = SimpleNamespace(traversalOrder=[0, 1], dimMetadata=[dense, dense], blockMap=None)
    with pytest.raises(ValueError, match="more entries"):
        densified(np.zeros(4), sparsity, (2, 2))
