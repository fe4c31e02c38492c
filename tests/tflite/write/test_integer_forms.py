"""Comparisons of int8 values with constants."""

from types import SimpleNamespace

import numpy as np
import pytest

from tfopt.tflite.write.integer_forms import _rounded


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        ([0.0, 1.0], [-128, 127]),
        ([0.2], [-77]),  # 0.2 * 255 - 128
        ([-0.004, 1.004], [-128, 127]),  # one step outside
        ([-0.0065], None),  # 1.66 steps
        ([5.0], None),
        ([-0.1], None),  # -154: clipped to -128, it would equal 0.0
        ([0.5, 1.1], None),
    ],
)
def test_a_constant_is_rounded_where_the_scale_holds_it(constant, expected):
    values = np.asarray(constant, np.float32)
    model = SimpleNamespace(buffers=[SimpleNamespace(data=values.view(np.uint8))])
    like = SimpleNamespace(quantization=SimpleNamespace(scale=[1 / 255], zeroPoint=[-128]))
    found = _rounded(model, SimpleNamespace(buffer=0), like)
    assert found is None if expected is None else found.tolist() == expected
