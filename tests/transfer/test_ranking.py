"""Sources ranked by their features, in Python and on the command line."""

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.errors import DataError


def source(name, seed, blind=False):
    """Random features of an image; a blind model takes them only from the noise."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(6, name="dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(9, activation="softmax", name="classes")(x), name=name)
    if blind:
        kernel = np.zeros((48, 6), "float32")
        kernel[:6] = np.eye(6)
        model.get_layer("dense").set_weights([kernel, np.zeros(6, "float32")])
    return model


@pytest.fixture(scope="module")
def arrays():
    """The class is in the lower half of the image; the upper half is noise."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = rng.normal(size=(200, 4, 4, 3))
    x[:, 2:] += 2.0 * y[:, None, None, None]
    return x.astype("float32"), y


def test_the_better_source_comes_first(arrays, tmp_path):
    ranking = tfopt.transfer.rank_sources(
        [source("blind", 0, blind=True), source("seeing", 1)], arrays, cache=tmp_path, quiet=True
    )
    assert [score.source for score in ranking.scores] == ["seeing", "blind"]
    first, last = ranking.scores
    assert first.logme > last.logme
    assert first.h_score > last.h_score
    assert (first.features, first.parameters) == (6, 48 * 6 + 6)
    assert "seeing" in str(ranking)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-blind", "1-seeing"]
    with pytest.raises(DataError, match="at least one source"):
        tfopt.transfer.rank_sources([], arrays)


def test_values_have_no_h_score(arrays):
    x, y = arrays
    (score,) = tfopt.transfer.rank_sources([source("one", 0)], (x, y + 0.5), quiet=True).scores
    assert score.h_score is None
    assert np.isfinite(score.logme)


def test_command(arrays, tmp_path):
    x, y = arrays
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for name, blind in (("blind", True), ("seeing", False)):
        source(name, 1, blind=blind).save(tmp_path / f"{name}.keras")
    names = [str(tmp_path / f"{name}.keras") for name in ("blind", "seeing")]
    done = CliRunner().invoke(cli.main, ["rank", *names, "--data", str(tmp_path / "data.npz")])
    assert done.exit_code == 0, done.output
    assert done.stdout.index("seeing.keras") < done.stdout.index("blind.keras")
