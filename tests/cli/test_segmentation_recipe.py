"""The recipe for segmentation: its U-Net takes images of any size, and its masks may have any values."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tfopt import cli
from tfopt.errors import DataError

RECIPE = Path(__file__).parents[2] / "recipes" / "segmentation.py"


@pytest.fixture(scope="module")
def unet():
    make = runpy.run_path(str(RECIPE))["example_model"]
    return lambda *shape: make(SimpleNamespace(input_shape=shape, num_classes=2))


def test_images_are_padded_and_outputs_cropped(unet):
    """21 rows miss 3, 1 above and 2 below; 20 columns miss 4, 2 on each side."""
    model, whole = unet(21, 20, 1), unet(24, 24, 1)
    assert model.output_shape == (None, 21, 20, 2)
    whole.set_weights(model.get_weights())
    x = np.random.default_rng(0).random((2, 21, 20, 1), "float32")
    padded = np.pad(x, ((0, 0), (1, 2), (2, 2), (0, 0)))
    expected = whole.predict(padded, verbose=0)[:, 1:22, 2:22]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)


def test_other_images_are_not_padded(unet):
    kinds = {type(layer).__name__ for layer in unet(32, 16, 3).layers}
    assert not kinds & {"ZeroPadding2D", "Cropping2D"}


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A folder of 12 gray images and masks with the values 4, 9 and 200."""
    folder = tmp_path_factory.mktemp("masks")
    for name, values in (("images", range(12)), ("masks", [9, 4, 200] * 4)):
        (folder / name).mkdir()
        for number, value in enumerate(values):
            Image.fromarray(np.full((16, 16), value, "uint8")).save(folder / name / f"{number}.png")
    return str(folder)


def run(data, values, out):
    arguments = ["run", "segmentation", "--data", data, "--mask-values", values, "--out", str(out)]
    return CliRunner().invoke(cli.main, arguments)


@pytest.mark.parametrize(("values", "words"), [("0,x", "expected integers with commas"), ("4,4", "distinct integers")])
def test_the_values_of_masks_are_checked_first(masks, values, words, tmp_path):
    done = run(masks, values, tmp_path / "out")
    assert done.exit_code == 2 and words in done.stderr


def test_a_recipe_is_told_the_values_of_masks(masks, tmp_path, monkeypatch):
    """A whole run of it is a slow test; here the data are all that matters."""
    seen = []

    def look(model, recipe, data, **_):
        seen.append(data)
        raise DataError("Enough.")

    monkeypatch.setattr("tfopt.run.prepare.prepare", look)
    assert "Enough." in run(masks, "200,9,4,0", tmp_path / "out").stderr
    assert seen[0].mask_values == (200, 9, 4, 0) and seen[0].num_classes == 4
