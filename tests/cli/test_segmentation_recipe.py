"""The U-Net of the recipe for segmentation takes images of any size."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

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
