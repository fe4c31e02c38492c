"""The choice of samples. Expected numbers: shares of groups, worked out by hand."""

import numpy as np
import pytest

from tfopt.data.split import choose, plan
from tfopt.errors import DataError

GROUPS = np.repeat([7, 2, 5], [6, 3, 1])


def chosen_by_group(count, *, even=False, seed=0):
    """How many of the groups 7, 2 and 5 are chosen."""
    picked = GROUPS[choose(count, GROUPS, np.random.default_rng(seed), even=even)]
    return [int((picked == group).sum()) for group in (7, 2, 5)]


@pytest.mark.parametrize(
    ("count", "even", "expected"),
    [
        # In proportion: the places (rank + 1/2) / size are 1/12, 3/12, ... and 1/6, 1/2, 5/6 and 1/2.
        (1, False, [1, 0, 0]),
        (2, False, [1, 1, 0]),
        (4, False, [3, 1, 0]),
        (6, False, [3, 2, 1]),
        (8, False, [5, 2, 1]),
        (9, False, [5, 3, 1]),
        (3, True, [1, 1, 1]),
        (5, True, [2, 2, 1]),
        (7, True, [3, 3, 1]),
        (9, True, [5, 3, 1]),
        (0, False, [0, 0, 0]),
        (50, False, [6, 3, 1]),
        (50, True, [6, 3, 1]),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_group_gets_its_share(count, even, expected, seed):
    assert chosen_by_group(count, even=even, seed=seed) == expected


def test_a_small_class_has_a_sample_in_each_part_that_can_have_one():
    """Of 100 and 2 samples, a fifth would be 20 and none."""
    groups = np.repeat([0, 1], [100, 2])
    for seed in range(5):
        chosen, _ = plan({"train": groups}, validation=0.2, test=0.2, seed=seed, limit=None)
        counts = {name: np.bincount(groups[indices], minlength=2).tolist() for name, (_, indices) in chosen.items()}
        assert counts["test"] == [19, 1] and counts["train"][1] == 1 and counts["validation"][1] == 0


def test_chosen_indices_are_sorted_different_and_random_within_a_group():
    drawn = [choose(4, GROUPS, np.random.default_rng(seed)).tolist() for seed in range(60)]
    assert all(indices == sorted(set(indices)) for indices in drawn)
    assert {index for indices in drawn for index in indices} == set(range(9))  # the group of one has no share of 4
    assert choose(4, GROUPS, np.random.default_rng(3)).tolist() == drawn[3]


def of_train(count, **options):
    """The plan for `count` samples of one class in train alone."""
    settings = {"validation": 0.1, "test": 0.2, "seed": 0, "limit": None} | options
    return plan({"train": np.zeros(count, int)}, **settings)


def test_missing_parts_are_split_off_and_stated():
    chosen, notes = of_train(100)
    # A fifth of 100 for test, then a tenth of the remaining 80.
    assert {name: (origin, len(indices)) for name, (origin, indices) in chosen.items()} == {
        "train": ("train", 72), "test": ("train", 20), "validation": ("train", 8),
    }  # fmt: skip
    together = np.concatenate([indices for _, indices in chosen.values()])
    assert sorted(together.tolist()) == list(range(100))
    assert notes == (
        "no test data: 20 % of the training samples (20) split off for testing, seed 0",
        "no validation data: 10 % of the training samples (8) split off for validation, seed 0",
    )


def test_parts_that_exist_are_taken_whole():
    groups = {"train": np.zeros(10, int), "test": np.zeros(4, int), "validation": np.zeros(3, int)}
    chosen, notes = plan(groups, validation=0.5, test=0.5, seed=0, limit=None)
    assert {name: (origin, indices.tolist()) for name, (origin, indices) in chosen.items()} == {
        "train": ("train", list(range(10))), "test": ("test", [0, 1, 2, 3]), "validation": ("validation", [0, 1, 2]),
    }  # fmt: skip
    assert notes == ()


def test_one_choice_does_not_affect_another():
    alone = of_train(100)[0]
    with_validation = plan({"train": np.zeros(100, int), "validation": np.zeros(5, int)},
                           validation=0.1, test=0.2, seed=0, limit=None)[0]  # fmt: skip
    np.testing.assert_array_equal(alone["test"][1], with_validation["test"][1])
    assert of_train(100, seed=1)[0]["test"][1].tolist() != alone["test"][1].tolist()
    with_test = plan({"train": np.zeros(100, int), "test": np.zeros(5, int)},
                     validation=0.2, test=0.2, seed=0, limit=None)[0]  # fmt: skip
    assert with_test["validation"][1].tolist() != alone["test"][1].tolist()  # as many of as many, by another draw


def test_classes_keep_their_shares_when_validation_is_split_from_what_is_left():
    groups = np.repeat([0, 1], [90, 10])
    chosen, _ = plan({"train": groups}, validation=0.25, test=0.2, seed=3, limit=None)
    counts = {name: np.bincount(groups[indices]).tolist() for name, (_, indices) in chosen.items()}
    assert counts == {"test": [18, 2], "validation": [18, 2], "train": [54, 6]}


@pytest.mark.parametrize(
    ("count", "options", "lengths"),
    [
        (3, {"validation": 0.1, "test": 0.1}, [1, 1, 1]),  # at least one each
        (5, {"validation": 0.5, "test": 0.5}, [1, 2, 2]),  # 2.5 and 1.5 round half to even
        (30_000, {}, [22_000, 2000, 6000]),  # validation has at most 2,000, test any number
        (20_010, {"test": 0.0005}, [18_000, 2000, 10]),
    ],
)
def test_how_many_are_split_off(count, options, lengths):
    chosen, _ = of_train(count, **options)
    assert [len(chosen[name][1]) for name in ("train", "validation", "test")] == lengths


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "to split test off, got 0 left"),
        (1, {}, "to split test off, got 1 left .* your own test set"),
        (2, {}, "to split validation off, got 1 left .* your own validation set"),
        (10, {"test": 0.96}, "to split test off, got 10 left"),
    ],
)
def test_too_few_samples_to_split(count, options, message):
    with pytest.raises(DataError, match=message):
        of_train(count, **options)


def test_a_limit_keeps_the_shares_of_classes_and_is_stated():
    groups = {"train": np.repeat([0, 1], [80, 20]), "test": np.repeat([0, 1], [5, 20])}
    chosen, notes = plan(groups, validation=0.3, test=0.2, seed=2, limit=25)
    assert [len(chosen[name][1]) for name in ("train", "validation", "test")] == [25, 25, 25]
    assert np.bincount(groups["train"][chosen["train"][1]]).tolist() == [20, 5]
    assert np.bincount(groups["train"][chosen["validation"][1]]).tolist() == [20, 5]
    assert chosen["test"][0] == "test" and chosen["test"][1].tolist() == list(range(25))  # exactly the limit
    assert notes[1:] == (
        "train limited to 25 of 70 samples, seed 2",
        "validation limited to 25 of 30 samples, seed 2",
    )
    # The limit picks from what the split without it has, and no sample twice.
    whole, _ = plan(groups, validation=0.3, test=0.2, seed=2, limit=None)
    for name in ("train", "validation"):
        assert set(chosen[name][1]) < set(whole[name][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.0}, "validation as a fraction between 0 and 1, got 0.0"),
        ({"validation": 1.0}, "validation as a fraction between 0 and 1, got 1.0"),
        ({"validation": -0.5}, "validation as a fraction between 0 and 1, got -0.5"),
        ({"test": 1.5}, "test as a fraction between 0 and 1, got 1.5"),
        ({"test": 0.0}, "test as a fraction between 0 and 1, got 0.0"),
        ({"test": 1.0}, "test as a fraction between 0 and 1, got 1.0"),
        ({"test": float("nan")}, "test as a fraction between 0 and 1, got nan"),
        ({"seed": -1}, "an integer seed of 0 or above, got -1"),
        ({"seed": 1.5}, "an integer seed of 0 or above, got 1.5"),
        ({"limit": 0}, "a limit of at least 1 sample, an integer, got 0"),
        ({"limit": "10"}, "a limit of at least 1 sample, an integer, got '10'"),
        ({"test": ([1], [2])}, "test as a fraction between 0 and 1, got a tuple. Pass your own parts"),
        ({"validation": True}, "validation as a fraction between 0 and 1, got a bool"),
    ],
)
def test_options_out_of_bounds(options, message):
    with pytest.raises(DataError, match=message):
        of_train(100, **options)


def test_a_share_in_percent_has_three_digits():
    assert of_train(6)[1][0] == "no test data: 16.7 % of the training samples (1) split off for testing, seed 0"


def test_a_limit_above_all_numbers_changes_nothing():
    chosen, notes = of_train(100, limit=1000)
    assert [len(indices) for _, indices in chosen.values()] == [72, 20, 8]
    assert not any("limited" in note for note in notes)


def test_the_least_limit():
    assert [len(indices) for _, indices in of_train(100, limit=1)[0].values()] == [1, 1, 1]
