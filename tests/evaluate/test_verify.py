"""A file against its model, with known noise made by hand; and a comparison of files."""

import math

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.errors import DataError, ModelError
from tfopt.evaluate.bench import benchmark_files, peak_memory
from tfopt.evaluate.verify import verify_file
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT

RNG = np.random.default_rng(5)
X = RNG.uniform(0.1, 1, size=(60, 6, 6, 2)).astype("float32")
Y = np.arange(60) % 3
CONV, DENSE = RNG.uniform(0.1, 1, (3, 3, 2, 4)), RNG.normal(size=(4, 3))


def model(conv=1.0, dense=1.0, units=3, activation=None):
    """A convolution, a mean and a dense layer without biases, with kernels scaled by these factors."""
    import keras

    layers = keras.layers
    made = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, use_bias=False, activation="relu", name="first"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(units, use_bias=False, activation=activation, name="second"),
        ]
    )
    kernel = np.resize(DENSE, (4, units))
    made.set_weights([CONV * conv, kernel * dense])
    return made


def exported(folder, name, made, form=FLOAT, **data):
    tfopt.export_tflite(made, folder / name, form, **data)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verification")
    np.savez(folder / "data.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    model().save(folder / "model.keras")
    exported(folder, "same.tflite", model())
    exported(folder, "dense_off.tflite", model(dense=1.1))
    exported(folder, "conv_off.tflite", model(conv=0.5))
    exported(folder, "int8.tflite", model(), tfopt.Export(), representative_data=X)
    return folder


def test_the_same_weights_have_no_noise(folder):
    found = verify_file(model(), folder / "same.tflite", folder / "data.npz")
    assert [signal.layers for signal in found.signals] == ["first", "mean", "second"]
    assert all(signal.sqnr > 100 for signal in found.signals)
    assert found.first_bad is None and found.not_compared == ()
    assert found.largest < 1e-5 and found.agreement == 1
    assert found.samples == 60


def test_noise_by_hand(folder):
    # 1.1 instead of 1: noise of a tenth of the values is 20 log10(10) dB; values off by half have 20 log10(2).
    found = verify_file(model(), folder / "dense_off.tflite", folder / "data.npz", least_db=25)
    first, mean, second = found.signals
    assert min(first.sqnr, mean.sqnr) > 100
    assert second.sqnr == pytest.approx(20, abs=1e-3)
    assert found.first_bad == second
    assert "first bad layer: second (FULLY_CONNECTED), 20.0 dB" in str(found)
    assert verify_file(model(), folder / "dense_off.tflite", folder / "data.npz", least_db=19).first_bad is None
    found = verify_file(model(), folder / "conv_off.tflite", folder / "data.npz")
    assert [signal.sqnr for signal in found.signals] == pytest.approx([20 * math.log10(2)] * 3, abs=1e-3)
    assert found.first_bad.layers == "first"


def test_outputs_by_hand(folder):
    expected = np.zeros((60, 4, 4, 4))  # the convolution in float64
    for row in range(4):
        for column in range(4):
            patch = X[:, row : row + 3, column : column + 3].astype(np.float64)
            expected[:, row, column] = np.einsum("nijc,ijco->no", patch, CONV)
    outputs = np.maximum(expected, 0).mean(axis=(1, 2)) @ DENSE
    found = verify_file(model(), folder / "dense_off.tflite", folder / "data.npz")
    assert found.largest == pytest.approx(np.abs(0.1 * outputs).max(), rel=1e-4)
    assert found.outputs[0].mean == pytest.approx(np.abs(0.1 * outputs).mean(), rel=1e-4)
    right = float(np.mean(outputs.argmax(axis=1) == Y))
    assert found.outputs[0].metrics["accuracy"] == pytest.approx((right, right))
    assert found.outputs[0].interval[0] < right < found.outputs[0].interval[1]


def test_int8_layers_are_matched(folder):
    found = verify_file(folder / "model.keras", folder / "int8.tflite", folder / "data.npz")
    assert [signal.layers for signal in found.signals] == ["first", "mean", "second"]
    assert all(25 < signal.sqnr < 70 for signal in found.signals)
    assert found.not_compared == ()


@pytest.mark.parametrize("form", [FLOAT, tfopt.Export()], ids=["float", "int8"])
def test_a_loop_whose_states_are_not_kept(form):
    """LiteRT gives no data for one result of the float file's loop; the file for int8 has no loop."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4))
    made = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="last")(keras.layers.GRU(6, name="loop")(inputs)))
    x = RNG.normal(size=(60, 5, 4)).astype("float32")
    lite = tfopt.export_tflite(made, None, form, representative_data=x)
    found = verify_file(made, lite, (x, Y))
    assert not found.problems and [signal.layers for signal in found.signals][-1] == "last"
    assert found.signals[-1].sqnr > 20
    assert any(signal.operator == "WHILE" for signal in found.signals) == (form is FLOAT)


def test_what_does_not_fit(folder):
    wide = exported(folder, "wide.tflite", model(units=5))
    with pytest.raises(ModelError, match=r"do not match.*\(5,\)"):
        verify_file(model(), wide, folder / "data.npz")
    np.savez(folder / "other.npz", x_train=X[:, :5], y_train=Y, x_test=X[:, :5], y_test=Y)
    with pytest.raises((DataError, ModelError)):
        verify_file(model(), folder / "same.tflite", folder / "other.npz")
    with pytest.raises(ModelError, match=r"not a \.tflite"):
        verify_file(model(), folder / "model.keras", folder / "data.npz")


def test_files_side_by_side(folder):
    small, large = benchmark_files([folder / "int8.tflite", folder / "model.keras"], folder / "data.npz", rounds=2)
    assert small.bytes == (folder / "int8.tflite").stat().st_size
    assert 0 < small.median_ms <= small.p90_ms
    outputs = model().predict(X, verbose=0)
    assert large.metrics["accuracy"] == pytest.approx(float(np.mean(outputs.argmax(axis=1) == Y)))
    without = benchmark_files([folder / "int8.tflite"], rounds=1)
    assert without[0].metrics == {}


@pytest.mark.slow
def test_memory_grows_with_the_weights(folder):
    import keras

    large = keras.Sequential([keras.Input((1024,)), *(keras.layers.Dense(1024) for _ in range(8))])  # 32 MiB of float32
    path = exported(folder, "large.tflite", large)
    grown = peak_memory(LiteModel(path)) - peak_memory(LiteModel(folder / "same.tflite"))
    assert 30 * 2**20 < grown < 200 * 2**20


def run(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_on_the_command_line(folder, tmp_path):
    files = (folder / "model.keras", folder / "conv_off.tflite")
    done = run("verify", *files, "--data", folder / "data.npz", "--min-agreement", "0.9")
    assert done.exit_code == 1, done.output
    assert "first bad layer: first (CONV_2D), 6.0 dB" in done.stdout
    assert "no layer has 10 dB" in done.stderr and "output second: noise" in done.stderr
    # Differences of half of each value; the mean of a channel counts, its variance is what they are measured by.
    outputs = model().predict(X, verbose=0).astype(np.float64)
    assert f"noise {np.square(outputs / 2).mean(axis=0).sum() / outputs.var(axis=0).sum():.2g}" in done.output
    sound = run("verify", files[0], folder / "int8.tflite", "--data", folder / "data.npz", "--min-agreement", "0.9")
    assert sound.exit_code == 0, sound.output
    flipped = exported(tmp_path, "flipped.tflite", model(dense=-1.0))
    refused = run("verify", files[0], flipped, "--data", folder / "data.npz", "--min-agreement", "0.9")
    assert refused.exit_code == 1 and "below --min-agreement 0.9" in refused.output
    done = run("bench", *files, "--json", tmp_path / "bench.json", "--rounds", 1)
    assert done.exit_code == 0 and "p90 ms" in done.output and "peak MiB" in done.output
    assert (tmp_path / "bench.json").exists()
    assert run("bench", tmp_path / "none.tflite").exit_code == 2
