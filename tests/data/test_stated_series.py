"""Series in tables, cut as the data.json beside a model says."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.data.for_model import data_for
from tfopt.data.stated_series import series_of
from tfopt.errors import DataError
from tfopt.evaluate.bench import benchmark_files
from tfopt.evaluate.verify import verify_file
from tfopt.tflite.settings import FLOAT

STEPS = np.arange(100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The result of a model that repeats the last value of the squares, and the table of its series."""
    folder = tmp_path_factory.mktemp("series")
    rows = "".join(f"{np.datetime64('2024-01-01') + step},{step},{step**2}\n" for step in STEPS)
    (folder / "load.csv").write_text(f"day,step,square\n{rows}")
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Flatten(), keras.layers.Dense(2, use_bias=False)])
    kernel = np.zeros((8, 2), "float32")
    kernel[7] = 1  # the last value of the second column
    model.set_weights([kernel])
    data = tfopt.load_series(folder / "load.csv", window=4, horizon=2, targets=["square"])
    recipe = tfopt.Recipe(stages=(), export=FLOAT)
    tfopt.optimize(model, recipe, data, quiet=True).save(folder / "out")
    return folder


def naive_mae():
    """The last 20 steps are the test part, 19 forecasts of 2 steps; the value before each is wrong by 2 differences."""
    squares = STEPS.astype(float) ** 2
    return np.mean([abs(squares[at : at + 2] - squares[at - 1]) for at in range(80, 99)])


def test_a_result_states_its_windows(folder):
    stated = json.loads((folder / "out" / "data.json").read_text())["series"]
    assert stated == {"window": 4, "horizon": 2, "targets": [1]}
    assert series_of(tfopt.load_data((np.zeros((60, 3), "float32"), np.arange(60) % 2))) is None


def test_files_are_measured_on_the_series(folder):
    files = (folder / "out" / "model.keras", folder / "out" / "model.tflite")
    found = verify_file(*files, folder / "load.csv")
    assert found.samples == 19
    np.testing.assert_allclose(found.outputs[0].metrics["mae"], [naive_mae()] * 2, rtol=1e-6)
    rows = benchmark_files(files, folder / "load.csv", rounds=1)
    np.testing.assert_allclose([row.metrics["mae"] for row in rows], [naive_mae()] * 2, rtol=1e-6)


def test_commands_need_no_window(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = ["run", "out/recipe.json", "--model", "out/model.keras", "--data", "load.csv", "--out", "again", "--quiet"]
    done = CliRunner().invoke(cli.main, run)
    assert done.exit_code == 0, done.output
    report = json.loads((folder / "again" / "report.json").read_text())
    assert report["rows"][-1]["metrics"]["mae"] == pytest.approx(naive_mae(), rel=1e-6)
    assert json.loads((folder / "again" / "data.json").read_text())["series"]["window"] == 4


def test_a_limit_takes_some_windows(folder):
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Flatten(), keras.layers.Dense(2)])
    data = data_for(model, folder / "load.csv", beside=[folder / "out" / "model.keras"], limit=5, quiet=True)
    # 5 of 19, one of each fifth, which begin at 0, 3.8, 7.6, 11.4 and 15.2
    chosen = data.test.x()[:, 0, 0] - 76
    assert np.digitize(chosen, [0, 3, 7, 11, 15, 19]).tolist() == [1, 2, 3, 4, 5]
    assert len(data.train) == len(data.validation) == 5
    assert "test limited to 5 of 19 windows, spread over all" in data.notes
    assert data.notes[-1].startswith("windows of 4 steps, forecasts of 2 steps, as data.json beside ")


def test_other_uses_of_the_table_stay(folder, tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    beside = [folder / "out" / "model.keras"]
    data = data_for(model, folder / "load.csv", labels="square", beside=beside, quiet=True)
    assert data.input_shape != (4, 2) and data.forecast_columns is None
    (tmp_path / "data.json").write_text('{"series": {"window": 4}}')  # of somebody else
    with pytest.raises(DataError, match=r"column 'label' .* step of a series, .*load_series\(.*\(--window\)\.$"):
        data_for(model, folder / "load.csv", beside=[tmp_path], quiet=True)
    (tmp_path / "words.csv").write_text("name,size\na,1\nb,2\n")
    with pytest.raises(DataError, match=r"column 'label' .* \(--labels\)\.$"):
        tfopt.load_data(tmp_path / "words.csv")
