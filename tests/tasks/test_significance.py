"""Exact tests against scipy, and against the probabilities of few samples by hand."""

import numpy as np
import pytest
import scipy.stats

from tfopt.tasks.significance import binomial_tail, is_guessing, paired_test

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.98, 0.0, 1.0])
@pytest.mark.parametrize(("successes", "n"), [(0, 3), (3, 3), (2, 7), (60, 200), (5100, 10000)])
def test_binomial_tails(successes, n, p):
    expected = scipy.stats.binom.sf(successes - 1, n, p)
    assert binomial_tail(successes, n, p) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize(("lost", "gained"), [(1, 0), (3, 0), (4, 0), (5, 0), (7, 2), (6, 1), (30, 14), (3, 30)])
def test_answers_that_are_right_or_wrong(lost, gained):
    """McNemar's exact test: a fair coin for each answer that differs."""
    differences = [1.0] * lost + [-1.0] * gained + [0.0] * 40
    expected = scipy.stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
    assert paired_test(differences) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 4, 12])
def test_few_values_are_exact(n):
    differences = RNG.normal(0.5, 1, n)
    found = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", alternative="greater", n_resamples=2**13
    )
    assert paired_test([*differences, 0.0, 0.0]) == pytest.approx(found.pvalue, rel=1e-9)


def test_many_values():
    differences = np.random.default_rng(1).normal(0.2, 1, 60)
    signs = RNG.choice([-1, 1], (200_000, 60))
    expected = np.mean(signs @ np.abs(differences) >= differences.sum())
    assert 0.01 < expected < 0.2
    assert paired_test(differences) == pytest.approx(expected, abs=0.003)


def test_four_large_errors_may_be_chance_among_many_small_ones():
    """If all others are improvements, 0.5^4 and 0.5^5. A normal approximation of all has 0.023 and 0.013."""
    small = -np.abs(RNG.normal(0, 1e-3, 500))
    assert paired_test([*small, 100, 100, 100, 100]) == pytest.approx(0.5**4, abs=1e-6)
    assert paired_test([*small, 100, 100, 100, 100, 100]) == pytest.approx(0.5**5, abs=1e-6)


def test_equal_models_are_equal():
    assert paired_test(np.zeros(9)) == 1


@pytest.mark.parametrize(
    ("right", "count", "guess"),
    [(30, 60, True), (46, 60, False), (5, 8, None), (290, 600, True), (6, 6, False), (33, 60, True), (37, 60, False)],
)
def test_guessing_between_two_classes(right, count, guess):
    """A good model is right on 3 of 4; both tails below 5 %, or it is unsure."""
    by_chance = scipy.stats.binom.sf(right - 1, count, 0.5)
    by_a_good_one = scipy.stats.binom.cdf(right, count, 0.75)
    assert guess == (False if by_chance <= 0.05 else True if by_a_good_one <= 0.05 else None)
    assert is_guessing(right, count, 0.5) is guess
