"""Exact tests against scipy, and against the probabilities of few samples by hand."""

import numpy as np
import pytest
import scipy.stats

from tfopt.tasks.significance import LEVEL, association_test, binomial_tail, is_guessing, paired_test

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


COUNTS = np.array([[9, 3], [1, 7]])


def of_table(table):
    """Labels and answers, (n, 1) each, with these numbers of samples by label and answer."""
    labels, answers = (np.repeat(at.ravel(), table.ravel())[:, None] for at in np.indices(table.shape))
    return labels, answers


def by_shares(labels):
    """The weights by which each class has the same share."""
    return 1 / np.maximum(np.bincount(labels.ravel()), 1)


@pytest.mark.parametrize("table", [COUNTS, COUNTS[::-1], [[5, 0], [0, 1]], [[20, 0], [2, 0]], [[3, 2], [0, 0]]])
def test_two_classes_are_fishers_exact_test(table):
    labels, answers = of_table(np.array(table))
    expected = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assert association_test(labels, answers, by_shares(labels)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        ([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 2, 2, 0]),
        ([0, 0, 0, 0, 0, 0, 1, 2], [0, 1, 2, 1, 2, 0, 1, 2]),  # right on the rare ones: four of eight
    ],
)
def test_several_classes_are_a_permutation_test(labels, answers):
    """All 8! orders of the answers of eight samples of three classes."""
    labels, answers = np.array(labels), np.array(answers)
    weights = by_shares(labels)
    exact = scipy.stats.permutation_test(
        (answers,),
        lambda order: (weights[labels] * (order == labels)).sum(),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert 0.02 < exact.pvalue < 0.3
    found = association_test(labels[:, None], answers[:, None], weights)
    assert found == pytest.approx(exact.pvalue, abs=4 * np.sqrt(exact.pvalue / 999))
    assert found == association_test(labels[:, None], answers[:, None], weights)  # draws the same again


def test_no_chance_is_zero():
    """The order that was observed is one of those that chance has."""
    labels = np.arange(60)[:, None] % 3
    assert association_test(labels, labels, by_shares(labels)) == 1 / 1000


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("count", [5, 12, 50])
@pytest.mark.parametrize("rare", [0.1, 0.4])
def test_answers_that_do_not_look_at_the_sample_are_rarely_taken_for_knowledge(count, rare, classes):
    """Of random answers of any frequency at most 5 % + 3 standard errors; the frequencies of both are unequal."""
    rng, false, trials = np.random.default_rng([count, classes]), 0, 600 // classes**2
    shares = np.array([1 - rare, *[rare / (classes - 1)] * (classes - 1)])
    for _ in range(trials):
        labels = rng.choice(classes, (count, 1), p=shares)
        answers = rng.choice(classes, (count, 1), p=rng.dirichlet(np.ones(classes)))
        false += association_test(labels, answers, by_shares(labels)) <= LEVEL
    assert false / trials <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / trials)


def test_samples_with_several_answers_swap_all_of_them_at_once():
    """Two labels that always agree are one: of ten samples, five yes, all right: 1 of 252 orders."""
    yes = np.repeat([0, 1], 5)
    labels = np.stack([yes, 2 + yes], 1)
    assert association_test(labels, labels, by_shares(labels)) == pytest.approx(1 / 252, abs=0.008)
    always = np.stack([np.ones(10, int), np.full(10, 3)], 1)
    assert association_test(labels, always, by_shares(labels)) == 1
