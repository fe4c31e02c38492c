"""JSON without NaN and infinity."""

import json

import numpy as np
import pytest

from tfopt.base.finite_json import json_text


def test_what_json_lacks_is_null():
    values = {
        "a": [1.5, float("nan"), (float("inf"), np.float64("nan"))],
        "b": {"c": -float("inf")},
        "d": "NaN",
        "e": 2,
    }
    text = json_text(values)
    assert text.endswith("}\n")
    expected = {"a": [1.5, None, [None, None]], "b": {"c": None}, "d": "NaN", "e": 2}
    assert json.loads(text, parse_constant=pytest.fail) == expected
