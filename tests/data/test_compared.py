"""Files that are compared: samples are read once, but for files that state something else, and streams always."""

import json

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.terminal import rendered
from tfopt.data.compared import datasets_for
from tfopt.data.preprocessing import Preprocessing
from tfopt.errors import DataError
from tfopt.evaluate.bench import benchmark_files, lite_of
from tfopt.evaluate.compare import compare_files
from tfopt.tflite.settings import FLOAT

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 4, 4, 3)).astype("uint8")
Y = np.arange(60) % 2


class Shuffled(keras.utils.PyDataset):
    """Gives its samples in another order whenever it is read."""

    def __init__(self):
        super().__init__()
        self.rng, self.read = np.random.default_rng(0), 0

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.read += 1
        order = self.rng.permutation(60)
        return X[order], Y[order]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """One model as a file in two folders."""
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.set_weights([RNG.normal(size=(48, 2)) / 1000, np.zeros(2)])
    found = [tmp_path_factory.mktemp(name) / "model.tflite" for name in ("a", "b")]
    for path in found:
        tfopt.export_tflite(model, path, FLOAT)
    return found


@pytest.fixture
def states(paths):
    """A function that writes a data.json beside each file, and returns what is given to `datasets_for`."""

    def write(*stated):
        for path, values in zip(paths, stated, strict=True):
            (path.parent / "data.json").write_text(json.dumps(values))
        return paths, [lite_of(path) for path in paths]

    yield write
    for path in paths:
        (path.parent / "data.json").unlink()


def test_a_stream_is_read_once(paths):
    stream = Shuffled()
    lines = rendered(compare_files(*paths, {"train": stream, "test": stream}), 200).splitlines()
    rows = {row[0]: row[1:] for line in lines if len(row := line.replace("│", " ").split()) > 1}
    assert stream.read == 2  # for two parts
    assert rows["accuracy"][0] == rows["accuracy"][1] and rows["agreement"] == ["1.0000"]
    alone = Shuffled()
    first, second = benchmark_files(paths, alone, rounds=1)
    assert first.metrics == second.metrics and alone.read == 1


def test_samples_are_read_again_only_if_a_file_states_something_else(states):
    unit, symmetric = ({"preprocessing": Preprocessing.named(name).to_dict()} for name in ("unit", "symmetric"))
    one, two = datasets_for(*states(unit, unit), (X, Y))
    assert one is two
    stream = Shuffled()
    one, two = datasets_for(*states(unit, symmetric), stream)
    assert stream.read == 1
    np.testing.assert_allclose(one.test.x() * 2 - 1, two.test.x(), atol=1e-6)
    np.testing.assert_array_equal(one.test.y(), two.test.y())


def test_files_for_other_labels_are_not_compared(states, tmp_path):
    lines = "".join(f"{a},{b},{int(a > b)}\n" for a, b in RNG.integers(0, 100, (60, 2)))
    (tmp_path / "rows.csv").write_text(f"a,b,label\n{lines}")
    numbers = tfopt.load_data(tmp_path / "rows.csv").preprocessing.to_dict()
    turned = {**numbers, "classes": ["1", "0"]}
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    paths, _ = states({"preprocessing": numbers}, {"preprocessing": turned})
    lite = tfopt.export_tflite(model, None, FLOAT)
    with pytest.raises(DataError, match=r"same test samples for .*model\.tflite and .*other labels for the second"):
        list(datasets_for(paths, [lite, lite], tmp_path / "rows.csv"))
    states({"preprocessing": numbers}, {"preprocessing": {**numbers, "classes": None}})
    with pytest.raises(DataError, match=r"got classification \(2 classes\) and regression \(no classes\)"):
        list(datasets_for(paths, [lite, lite], tmp_path / "rows.csv"))
