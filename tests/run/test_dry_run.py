"""How many samples the dry run of a recipe takes."""

import numpy as np
import pytest

import tfopt
from tfopt.run.dry_run import samples_for


@pytest.mark.parametrize(
    ("shape", "count"),
    [((4,), 256), ((128, 128, 4), 64), ((512, 512, 3), 8)],  # 4,194,304 numbers: 64 * 128 * 128 * 4; at least 8
)
def test_it_takes_fewer_of_large_samples(shape, count):
    x = np.zeros((300 if len(shape) == 1 else 80, *shape), "uint8")
    x[:, 0] = np.arange(len(x)).reshape(-1, *[1] * (len(shape) - 1)) % 256
    part = x, np.arange(len(x)) % 2
    data = tfopt.load_data((part, part, part), task="classification", preprocessing="unit" if len(shape) > 1 else None)
    assert samples_for(data).shape == (count, *shape)
