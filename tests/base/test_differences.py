"""What differs is named by its place."""

import pytest

from tfopt.base.differences import differences


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, ["a.b.1.c was 2, is 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a was [1], is [1, 2]"]),
        ({"a": 1}, {"b": "x"}, ["a was 1, is nothing", 'b was nothing, is "x"']),
        ({"a": "0" * 58}, {"a": 1}, [f'a was "{"0" * 58}", is 1']),
        ({"a": "0" * 59}, {"a": 1}, [f'a was "{"0" * 27}...{"0" * 27}", is 1']),
    ],
)
def test_differences(there, here, said):
    assert list(differences(there, here)) == said
