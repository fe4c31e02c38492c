"""Which inputs were bytes, and the range in which 256 steps hold each of them."""

import numpy as np
import pytest

from tfopt.base.byte_values import ByteValues

BYTES = np.arange(20, 200, dtype="uint8").reshape(5, 6, 6, 1)
RESIZED = BYTES + 0.3


def range_of(*batches):
    seen = ByteValues()
    for batch in batches:
        seen.see(np.asarray(batch))
    return seen.range


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (BYTES, (0, 255)),
        (BYTES.astype("float32"), (0, 255)),
        (BYTES.reshape(5, -1), (0, 255)),
        (BYTES / np.float32(255), (0, 1)),
        (BYTES / np.float32(127.5) - 1, (-1, 1)),
        ((BYTES / np.float32(127.5) - 1).reshape(5, -1), None),  # between -1 and 1 lies much else than pixels
        (BYTES * np.float32(1 / 255), (0, 1)),
        ([[0.0, 1.0]], (0, 1)),
        ([[0, 2]], (0, 255)),
        ([[0, 256]], None),
        ([[-1, 0, 1]], None),  # 0 lies between the bytes 127 and 128
        ([[-3, 5]], None),
        (RESIZED, None),
        (RESIZED * 1.2, (0, 255)),
        (RESIZED / 210, (0, 1)),
        (RESIZED / 95 - 1.15, (-1, 1)),
        (RESIZED / 105 - 1.15, None),
        ((RESIZED * 1.2).reshape(5, -1), None),
        (np.repeat(RESIZED * 1.2, 2, axis=-1), None),
        (np.random.default_rng(0).normal(size=(9, 4)), None),
        (np.zeros((0, 4)), None),
    ],
)
def test_range_of_bytes(values, expected):
    assert range_of(values) == expected


def test_all_batches_count():
    assert range_of(BYTES, BYTES + 0.5) is None
    assert range_of(np.zeros((1, 4)), BYTES.reshape(5, -1)) == (0, 255)
    assert range_of(BYTES, BYTES * 2.0) is None
