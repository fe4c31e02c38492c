"""The recipe for signals: windows of one channel or several."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from tfopt import cli

RECIPE = Path(__file__).parents[2] / "recipes" / "signals.py"


@pytest.mark.parametrize(("shape", "weights"), [((140,), 11_320), ((140, 1), 11_320), ((64, 3), 11_552)])
def test_windows_of_channels(shape, weights):
    """One channel: 7 x (16 + 512 + 1024) in kernels, 4 x 81 to normalize, 32 x 4 + 4 at the end."""
    model = runpy.run_path(str(RECIPE))["example_model"](SimpleNamespace(input_shape=shape, num_classes=4))
    assert model.count_params() == weights and model.output_shape == (None, 4)


@pytest.mark.slow
def test_a_file_of_windows_becomes_a_verified_file(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    waves = np.sin(np.arange(64) / (2 + 4 * labels[:, None]) + rng.uniform(0, 6, (240, 1))) + rng.normal(
        0, 0.1, (240, 64)
    )
    np.savez(tmp_path / "waves.npz", x=waves, y=labels)
    asked = ["run", str(RECIPE), "--data", str(tmp_path / "waves.npz"), "--out", str(tmp_path / "made")]
    done = CliRunner().invoke(cli.main, [*asked, "--set", "stages.0.epochs=8", "--set", "stages.1.epochs=1"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "made" / "model.tflite").is_file()
