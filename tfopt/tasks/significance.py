"""Whether chance explains a difference, or right answers: exact tests for few samples."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# The significance level: chance produces what counts as a difference in at most 5 % of cases.
LEVEL = 0.05
# No paired test is significant on fewer samples than this: 0.5^4 > 0.05 >= 0.5^5.
FEWEST = 5
# The signs of this many differences are enumerated: 4,096 cases.
ENUMERATED = 12
# Orders of the answers that are drawn to see what chance does, and fewer of so many answers that it would take long.
DRAWN, FEWEST_DRAWN, ANSWERS_DRAWN = 999, 99, 10**8


def is_guessing(right: int, count: int, often: float) -> bool | None:
    """Return whether a model that is right on `right` of `count` samples does no more than guess; None if unsure.

    It guesses if chance explains what it gets right, but would not explain it for a model that is right on half of what
    guessing gets wrong. Both are exact binomial tests.

    Args:
        right: the number of right answers.
        count: of samples.
        often: the share of right answers of a guess, that of the most frequent class.
    """
    if binomial_tail(right, count, often) <= LEVEL:
        return False
    good = (1 + often) / 2
    return None if often == 1 or binomial_tail(count - right, count, 1 - good) > LEVEL else True


def binomial_tail(successes: int, n: int, p: float = 0.5) -> float:
    """Return the probability of `successes` or more in `n` independent trials, each with the probability `p`."""
    if successes <= 0:
        return 1.0
    if p <= 0 or p >= 1:
        return float(p >= 1 and successes <= n)
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(successes, n + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def association_test(labels: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> float:
    """Return the probability that answers fit their labels so well by chance (one-sided p-value).

    By chance, the samples get the same answers in any order (a permutation test). How often each class is asked for and
    answered is given, so a model that always says the same, or says some class more often than it should, gains nothing
    by it. What counts is the sum of the weights of right answers. Between two classes, one for each sample, the test is
    exact (Fisher's, by the hypergeometric distribution); otherwise orders are drawn with a fixed seed.

    Args:
        labels: class numbers, int (N, answers of a sample).
        answers: class numbers of the same shape.
        weights: of the classes, at least 0.
    """
    if labels.shape[1] == 1 and len(found := np.union1d(labels, answers)) <= 2:
        from scipy.stats import hypergeom

        asked, said = labels[:, 0] == found[-1], answers[:, 0] == found[-1]
        return float(hypergeom.sf((asked & said).sum() - 1, len(labels), asked.sum(), said.sum()))
    draws = int(np.clip(ANSWERS_DRAWN // max(labels.size, 1), FEWEST_DRAWN, DRAWN))
    rng = np.random.default_rng(0)
    of_labels = weights[labels]

    def fit(order: Any) -> float:
        return float((of_labels * (labels == answers[order])).sum())

    reached = fit(slice(None)) * (1 - 1e-9)  # up to rounding
    as_good = sum(fit(rng.permutation(len(labels))) >= reached for _ in range(draws))
    return (1 + as_good) / (1 + draws)


def paired_test(differences: ArrayLike) -> float:
    """Return the probability that paired differences have so large a mean by chance (one-sided p-value).

    By chance, each difference has either sign, independently of the others (Fisher's randomization test). If all have
    the same size, e.g. between answers that are right or wrong, this is the exact sign test, which is McNemar's exact
    test on the answers that differ. Otherwise the signs of the 12 largest are enumerated, and the sum of the others
    counts as normal, so the test is exact for up to 12 differences that are not 0.

    Args:
        differences: (N,), finite; 0 where two models are equally good.
    """
    given = np.asarray(differences, np.float64)
    sizes = np.sort(np.abs(given[given != 0]))[::-1]
    if not sizes.size:
        return 1.0
    if sizes[-1] == sizes[0]:
        return binomial_tail(int((given > 0).sum()), sizes.size)
    sums = np.zeros(1)
    for size in sizes[:ENUMERATED]:
        sums = np.concatenate([sums - size, sums + size])
    missing = given.sum() - sums  # what the other differences would have to add
    deviation = math.sqrt(np.square(sizes[ENUMERATED:]).sum())
    if not deviation:
        return float(np.mean(missing <= 1e-9 * sizes.sum()))  # up to rounding
    return float(np.mean([math.erfc(each / deviation / math.sqrt(2)) / 2 for each in missing]))
