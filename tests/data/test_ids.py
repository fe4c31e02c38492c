"""Numbers without a row in a table of the model are an error that names the layer, before any work."""

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.base.keras_compat import tf_keras
from tfopt.data.for_model import data_for
from tfopt.errors import DataError

X = np.random.default_rng(0).integers(0, 5, (60, 4)).astype("int32")
Y = np.arange(60) % 2
SAID = r"The layer 'words' looks numbers up in a table of 5 rows, 0 to 4; the input of sample 37 in train holds "


def network(api=keras):
    layers = [api.layers.Embedding(5, 3, name="words"), api.layers.GlobalAveragePooling1D(), api.layers.Dense(2)]
    return api.Sequential([api.Input((4,)), *layers], name="net")


def wrong(value):
    x = X.copy()
    x[37, 1] = value
    return {"train": (x, Y), "test": (X, Y)}


@pytest.mark.parametrize("api", [keras, tf_keras()])
@pytest.mark.parametrize("value", [5, -1])
def test_a_number_without_a_row_is_named(api, value):
    data_for(network(api), (X, Y))
    source = wrong(value)
    source["validation"] = source["test"]
    with pytest.raises(DataError, match=SAID + f"{value}. Give it a table with more rows"):
        data_for(network(api), source)


def test_optimize_says_so_before_it_begins():
    source = wrong(7)
    source["validation"] = source["test"]
    with pytest.raises(DataError, match=SAID + "7"):
        tfopt.optimize(network(), tfopt.FineTune(), source, quiet=True)


def test_other_lookups_take_what_they_took():
    given = keras.Input((4,), dtype="int32")
    one_hot = keras.ops.one_hot(given, 3)  # zeros beyond
    model = keras.Model(given, keras.layers.Dense(2)(keras.layers.Flatten()(one_hot)))
    data_for(model, (X, Y))
    shifted = keras.Model(given, network().layers[0](keras.ops.minimum(given, 2)))
    data_for(shifted, wrong(7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    model = network()
    model.save(folder / "net.keras")
    floats = tfopt.Export(weights="float32", activations="float32")
    tfopt.export_tflite(model, folder / "net.tflite", floats)
    x = X.copy()
    x[:, 1] = 7
    np.savez(folder / "data.npz", x=x, y=Y)
    np.savez(folder / "unlabeled.npz", x=x)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "net.keras", "net.tflite", "--data", "data.npz"),
        ("compare", "net.tflite", "net.tflite", "--data", "data.npz"),
        ("bench", "net.tflite", "--data", "data.npz", "--rounds", "1"),
        ("bench", "net.keras", "--data", "unlabeled.npz", "--rounds", "1"),
        ("export", "net.keras", "--out", "out.tflite", "--data", "unlabeled.npz"),
        ("run", "post_training", "--model", "net.keras", "--data", "data.npz", "--out", "out"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_each_command_says_so(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli.main, list(command))
    assert done.exit_code == 2, done.output
    what = "The operator GATHER" if command[1] == "net.tflite" else "The layer 'words'"
    assert f"{what} looks numbers up in a table of 5 rows, 0 to 4; the input of sample " in done.stderr
    assert "holds 7. Give it a table with more rows, or correct the data." in done.stderr
