"""The part of each batch that one of several processes takes."""

import itertools

import numpy as np
import pytest

import tfopt
from tfopt.data.position import Position, Share


def taken(samples, batch_size, own, of):
    """The rows of each step, by replica."""
    steps = -(-samples // batch_size)
    shares = [Share(first, own, of) for first in range(0, of, own)]
    order = np.arange(samples)
    return [
        [order[share.rows(samples, batch_size, step * own + part)] for share in shares for part in range(own)]
        for step in range(steps)
    ]


@pytest.mark.parametrize(("own", "of"), [(1, 1), (1, 2), (2, 2), (2, 4), (1, 3)])
@pytest.mark.parametrize("samples", [64, 65, 66, 100, 127, 128, 7])
def test_each_sample_goes_to_one_replica_and_none_is_idle(samples, own, of):
    steps = taken(samples, 16, own, of)
    parts = list(itertools.chain.from_iterable(steps))
    assert np.concatenate(parts).tolist() == list(range(samples))
    assert all(len(part) >= 1 for part in parts)
    for step in steps:
        sizes = [len(part) for part in step]
        assert max(sizes) - min(sizes) <= 1


def test_batches_are_those_of_one_process():
    """17 samples in batches of 8: the last batch has one, so the last two are of 4 and 5."""
    assert [[part.tolist() for part in step] for step in taken(17, 8, 1, 2)] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[8, 9], [10, 11]],
        [[12, 13], [14, 15, 16]],
    ]
    assert [len(step[0]) for step in taken(17, 8, 1, 1)] == [8, 8, 1]


def test_shares_of_shuffled_batches_make_up_the_whole_ones():
    x = np.arange(100, dtype=np.float32)[:, None]
    data = tfopt.load_data((x, np.arange(100) % 2))
    augment = {"shuffle": True, "seed": 3}
    parts = [data.batches("train", 16, **augment, position=Position(Share(first, 1, 2))) for first in (0, 1)]
    for epoch in range(2):
        whole = list(data.batches("train", 16, **augment, position=(position := Position())) if not epoch else [])
        if epoch:
            position.tell(epoch)
            whole = list(data.batches("train", 16, **augment, position=position))
        halves = [
            np.concatenate([x.numpy() for x, _ in part]) for part in zip(*(list(each) for each in parts), strict=True)
        ]
        assert [half.tolist() for half in halves] == [x.numpy().tolist() for x, _ in whole]


def test_iterations_follow_the_one_that_is_told():
    position = Position(Share(2, 2, 4))
    position.tell(5, 3)
    begins = position.begins()
    assert begins() == (5, 6)  # two parts in each of three steps
    position.tell(7, 1)
    assert [begins(), begins()] == [(6, 0), (7, 0)]
