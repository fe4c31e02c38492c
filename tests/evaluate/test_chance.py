"""When accuracy is that of guessing; intervals by hand from Wilson 1927."""

import numpy as np
import pytest

from tfopt.evaluate.chance import at_chance, guessing

LABELS = np.arange(200) % 4


def test_guessing_is_the_share_of_the_most_frequent_class():
    assert guessing([0, 0, 0, 1]) == 0.75
    assert guessing(np.eye(4, dtype="float32")[LABELS]) == 0.25
    assert guessing(LABELS) == 0.25


@pytest.mark.parametrize(
    ("before", "after", "forgotten"),
    [
        (0.9, 0.25, True),
        (0.9, 0.2, True),
        (0.9, 0.28, True),  # 0.222 to 0.346
        (0.9, 0.4, False),  # 0.335 to 0.469: bad, but more than guessing
        (0.28, 0.25, False),  # nothing was known before
        (0.33, 0.29, False),  # 0.269 to 0.398 beside 0.232 to 0.356: no sure loss
    ],
)
def test_chance(before, after, forgotten):
    assert at_chance(before, after, LABELS) is forgotten
