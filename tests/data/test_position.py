"""Batches begin where a training says, and are those of a training that was never interrupted."""

import numpy as np
import pytest

import tfopt
from tfopt.data.mixup import for_mixup, mixed
from tfopt.data.position import Position
from tfopt.distillation.self_taught.semi_supervised import mixed_batches


@pytest.fixture(scope="module")
def data():
    x = np.arange(100, dtype="float32")[:, None]
    return tfopt.load_data((x, np.arange(100) % 2))


def plain(data, position):
    return data.batches("train", 16, shuffle=True, seed=3, position=position)


def mixtures(data, position):
    data = for_mixup(data, 2)
    return mixed(plain(data, position), 0.5, 3, position)


def both_kinds(data, position):
    def gather(step, first, second):
        return np.array([step]), first, second

    return mixed_batches(gather, 20, 50, 16, 4, steps=4, seed=3, position=position)


def epoch(batches, steps=None):
    """The arrays of the first `steps` batches of the next iteration; a training asks for no more than it needs."""
    iterator = iter(batches)
    count = int(batches.cardinality()) if steps is None else steps
    return [[np.asarray(part) for part in next(iterator)] for _ in range(count)]


@pytest.mark.parametrize("kind", [plain, mixtures, both_kinds])
def test_batches_begin_at_the_position(data, kind):
    counted = kind(data, None)
    epochs = [epoch(counted) for _ in range(3)]
    assert not all(np.array_equal(a, b) for a, b in zip(epochs[0][0], epochs[1][0], strict=True))
    position = Position()
    batches = kind(data, position)
    for number, first in ((2, 0), (1, 3), (0, 1), (0, 1)):
        position.tell(number, first)
        found = epoch(batches, len(epochs[0]) - first)
        for one, other in zip(found, epochs[number][first:], strict=True):
            for array, expected in zip(one, other, strict=True):
                np.testing.assert_array_equal(array, expected)
