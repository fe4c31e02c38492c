"""Packed .tflite files: standard tools open them, the bytes come back unchanged, and the table counts bits."""

import gzip

import numpy as np
import pytest
import zstandard
from click.testing import CliRunner

import tfopt
from tfopt import cli, models
from tfopt.base.packing import pack, unpack
from tfopt.base.weight_statistics import entropy_bits
from tfopt.errors import ModelError
from tfopt.evaluate.inspect import weight_bits
from tfopt.tflite.read import LiteModel

HEAD = b"\x1c\x00\x00\x00TFL3"
RNG = np.random.default_rng(0)
SPARSE = HEAD + RNG.choice([0, 0, 0, 5], 20_000).astype("uint8").tobytes()
NOISE = HEAD + RNG.integers(0, 256, 20_000, dtype="uint8").tobytes()


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A .tflite with one kernel of 512 weights: an eighth 1, an eighth -1, a quarter 2, half 0."""
    import keras

    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(16, use_bias=False)])
    model.set_weights([RNG.permutation(np.repeat([1.0, -1.0, 2.0, 0.0], [64, 64, 128, 256])).reshape(32, 16)])
    path = tmp_path_factory.mktemp("packing") / "dense.tflite"
    tfopt.export_tflite(model, path, tfopt.Export(weights="float32", activations="float32"))
    return path


@pytest.mark.parametrize("data", [SPARSE, NOISE])
def test_the_standard_tools_open_it(data):
    packed = pack(data)
    opened = {".gz": gzip.decompress, ".zst": zstandard.ZstdDecompressor().decompress}[packed.suffix](packed.data)
    assert opened == data
    assert unpack(packed.data) == data
    assert pack(data) == packed


def test_the_smaller_one_is_taken():
    assert len(pack(SPARSE).data) <= min(len(gzip.compress(SPARSE)), len(zstandard.compress(SPARSE)))
    assert 0.81 / 8 < len(pack(SPARSE).data) / len(SPARSE) < 0.14  # the entropy of (3/4, 1/4) is 0.81 bits


def test_what_is_not_packed_comes_back():
    assert unpack(SPARSE) is SPARSE


def test_only_a_tflite_is_packed():
    with pytest.raises(ModelError, match="TFL3"):
        pack(b"PK\x03\x04 and so on")


@pytest.mark.parametrize("packed", [gzip.compress(SPARSE), zstandard.compress(SPARSE)])
@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[: len(data) // 2], lambda data: data[:8]])
def test_a_broken_one_is_an_error(packed, damage, tmp_path):
    with pytest.raises(ModelError, match="broken"):
        unpack(damage(packed))
    (tmp_path / "file").write_bytes(damage(packed))
    with pytest.raises(ModelError):
        LiteModel(tmp_path / "file")


@pytest.mark.parametrize("packer", [gzip.compress, zstandard.compress])
def test_files_are_known_packed_or_not(dense, tmp_path, packer):
    path = tmp_path / "any_name"
    path.write_bytes(packer(dense.read_bytes()))
    assert models.kind(path) == "tflite"
    x = RNG.normal(size=(4, 32)).astype("float32")
    np.testing.assert_array_equal(LiteModel(path).predict(x), LiteModel(dense).predict(x))
    assert LiteModel(path).data == dense.read_bytes()


def test_packed_other_content_is_not_a_model(tmp_path):
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"some text, of which there is enough"))
    with pytest.raises(ModelError, match="not a model file"):
        models.kind(tmp_path / "text.gz")


def test_entropy_by_hand(dense):
    # 64 x 3 + 64 x 3 + 128 x 2 + 256 x 1 bits
    assert entropy_bits(np.repeat([1, -1, 2, 0], [64, 64, 128, 256])) == pytest.approx(896)
    assert entropy_bits(np.ones(7)) == 0
    bits = weight_bits(LiteModel(dense))
    assert (bits.number, bits.bytes, bits.entropy_bytes) == (512, 2048, pytest.approx(112))
    assert "512 weights: 32.00 bits each, 3.12 with the whole file deflated" in bits.describe(200)
    assert "1.75 bits (112 bytes)" in bits.describe(200)


def test_on_the_command_line(dense, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    file = tmp_path / "model.tflite"
    file.write_bytes(dense.read_bytes())
    done = run("pack", file)
    assert done.exit_code == 0, done.output
    (packed,) = tmp_path.glob("model.tflite.*")
    assert f"{file.stat().st_size:,} bytes" in done.output and f"{packed.stat().st_size:,} bytes" in done.output
    assert "entropy" in done.output
    refused = run("unpack", packed)
    assert refused.exit_code == 2 and "--overwrite" in refused.output
    file.unlink()
    assert run("unpack", packed).exit_code == 0
    assert file.read_bytes() == dense.read_bytes()
    assert "entropy" in run("inspect", packed).output
