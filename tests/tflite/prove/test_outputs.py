"""Outputs beside outputs: noise made by hand, so that every figure is known."""

import math

import numpy as np
import pytest

from tfopt.tflite.prove.outputs import compare_output

RNG = np.random.default_rng(3)
COUNT = 256


def compare(expected, found, most_noise=0.1, **settings):
    return compare_output("out", np.asarray(expected), np.asarray(found), most_noise=most_noise, **settings)


def signal(channels=3, scale=1.0):
    """Gaussian channels with a mean of exactly 0 and a variance of exactly scale^2."""
    values = RNG.normal(size=(COUNT, channels))
    values -= values.mean(axis=0)
    return scale * values / values.std(axis=0)


def off_by(size):
    """Half of the samples above, half below: squared differences of exactly size^2."""
    return size * np.where(np.arange(COUNT) % 2, 1.0, -1.0)[:, None]


def test_equal_outputs_have_no_noise():
    proof = compare(signal(), signal() * 0)
    assert proof.failures  # silence is not equal
    values = signal()
    proof = compare(values, values)
    assert (proof.noise, proof.channel_noise, proof.failures) == (0, 0, ())


def test_noise_is_the_share_of_the_variance():
    values = signal(2, scale=5.0)
    proof = compare(values, values + off_by(1.0))
    assert proof.noise == pytest.approx(1 / 25)
    assert proof.channel_noise == pytest.approx(1 / 25)
    assert not proof.failures
    proof = compare(values, values + off_by(2.5))
    assert proof.noise == pytest.approx(1 / 4)
    assert any("noise 0.25 (at most 0.1)" in failure for failure in proof.failures)
    assert not compare(values, values + off_by(2.5), most_noise=0.25).failures


def test_each_channel_is_judged_by_itself():
    boxes, scores = signal(4, scale=200.0), signal(1, scale=0.1)
    values = np.concatenate([boxes, scores], axis=1)
    rounded = np.rint(values / 2.5) * 2.5  # one step for all, in which the scores are lost
    proof = compare(values, rounded, step=2.5)
    assert proof.noise < 1e-4 and proof.channel == 4
    assert proof.channel_noise == pytest.approx(1.0)
    assert any("channel 4 has noise 1 (at most 0.1)" in failure for failure in proof.failures)
    assert any("channel 4 has 1 value" in failure for failure in proof.failures)
    assert proof.narrower_than_a_step
    apart = np.concatenate([np.rint(boxes / 2.5) * 2.5, np.rint(scores / 0.002) * 0.002], axis=1)
    assert not compare(values, apart, step=2.5).failures


@pytest.mark.parametrize("axes", [(), (4,), (2, 8)])
def test_places_count_as_samples(axes):
    values = signal(3).reshape(-1, *axes, 3)
    wrong = values.copy()
    wrong[..., 1] *= -1  # squared differences of 4 variances
    proof = compare(values, wrong)
    assert proof.channel == 1 and proof.channel_noise == pytest.approx(4.0)
    assert proof.noise == pytest.approx(4 / 3)


def test_an_untrained_softmax_is_not_refused():
    values = np.abs(0.1 + RNG.normal(0, 0.001, (COUNT, 10)))
    values /= values.sum(axis=1, keepdims=True)
    rounded = np.rint(values * 256) / 256
    proof = compare(values, rounded)
    assert proof.noise > 0.5 and not proof.failures
    assert proof.agreement is None  # it is sure of nothing
    assert proof.narrow == 10 and "10 channels vary by less than" in str(proof)


def test_hardly_different_logits_are_not_refused():
    means = np.linspace(-1, 1, 10)
    values = means + RNG.normal(0, 0.002, (COUNT, 10))
    assert not compare(values, np.rint(values * 127) / 127).failures
    assert compare(values, -values).failures  # other means are


def test_confident_classes_must_stay():
    classes = RNG.integers(0, 4, COUNT)
    values = np.full((COUNT, 4), 0.02)
    values[np.arange(COUNT), classes] = 0.94
    swapped = values.copy()
    swapped[::5] = np.roll(swapped[::5], 1, axis=1)  # 52 of 256
    proof = compare(values, swapped, most_noise=0.5)
    assert proof.sure == COUNT and proof.agreement == pytest.approx(204 / 256)
    assert any("79.7% of 256 sure ones" in failure for failure in proof.failures)
    swapped = values.copy()
    swapped[:10] = np.roll(swapped[:10], 1, axis=1)
    assert not compare(values, swapped, most_noise=0.5).failures


def test_logits_are_classes_where_the_data_say_so():
    values = signal(3)
    assert compare(values, values).agreement is None
    assert compare(values, values, classes=True).agreement == 1.0


def test_near_ties_do_not_count():
    first = RNG.uniform(0.499, 0.501, COUNT)
    values = np.stack([first, 1 - first], axis=1)
    proof = compare(values, values[:, ::-1])  # every class is another one
    assert proof.agreement is None and not proof.failures


def test_a_collapse_of_rare_values():
    values = np.zeros((COUNT, 2))
    values[:, 0] = np.linspace(0, 1, COUNT)
    values[:, 1] = np.linspace(0, 1, COUNT)
    found = values.copy()
    found[:, 1] = np.rint(found[:, 1] * 2) / 2  # 0, 1/2, 1: noise (1/2)^2 / 12 beside 1 / 12
    proof = compare(values, found, most_noise=0.5)
    assert proof.channel_noise == pytest.approx(1 / 4, rel=0.02)
    assert proof.failures == ("channel 1 has 3 different values; with its own scale it would have 256",)
    found[:, 1] = np.rint(values[:, 1] * 3) / 3
    assert not compare(values, found, most_noise=0.5).failures


def test_few_samples_prove_little():
    values = np.array([[1.0, 2.0, 0.5], [1.1, 1.9, 0.7]])
    off = values + 0.05  # squared differences of 3 x 0.0025, half of 0.0025 + 0.0025 + 0.01
    assert compare(values, off).noise == pytest.approx(0.5) and not compare(values, off).failures
    assert compare(np.tile(values, (128, 1)), np.tile(off, (128, 1))).failures
    assert compare(values, values * np.nan).failures


def test_what_is_not_finite():
    values = signal(2)
    values[3, 0] = np.nan
    found = np.where(np.isnan(values), 7.0, values)
    assert not compare(values, found).failures  # the model says nothing there
    assert "0.2% of the values not compared" in str(compare(values, found))  # 1 of 512
    found[5, 1] = np.inf
    (failure,) = compare(values, found).failures
    assert "NaN or infinity" in failure
    (failure,) = compare(values * np.nan, values * np.nan).failures
    assert failure == "the model gives NaN or infinity alone"


def test_complex_numbers_are_compared_in_both_parts():
    values = signal(2)[:, 0] + 1j * signal(2)[:, 1]
    assert not compare(values, values).failures
    assert compare(values, values.real + 0j).failures
    assert compare(np.stack([values] * 2, axis=1), np.stack([values.real + 0j] * 2, axis=1)).failures


def test_integers_and_shapes():
    numbers = np.arange(100)
    assert not compare(numbers, numbers).failures
    off = numbers.copy()
    off[:30] += 1
    (failure,) = compare(numbers, off).failures
    assert "70.0% of 100 numbers are equal (at least 90%)" in failure
    off = np.arange(1000)
    off[:30] += 1
    assert not compare(np.arange(1000), off).failures
    (failure,) = compare(np.arange(1000), off, most_noise=1e-3).failures  # a file that computes in float
    assert "97.0% of 1,000 numbers are equal (at least 99%)" in failure
    (failure,) = compare(signal(2), signal(3)).failures
    assert failure == "shape (256, 3) instead of (256, 2)"
    assert math.isinf(compare(signal(2), signal(3)).noise)


def test_small_values_are_no_probabilities():
    """A dead output of values near 0.005 is no rounding of [0, 1], unless the file says so by its scale of 1/256."""
    values = np.random.default_rng(0).uniform(0, 0.005, (400, 1))
    assert compare(values, np.zeros_like(values), most_noise=0.05).failures
    assert not compare(values, np.zeros_like(values), most_noise=0.05, step=1 / 256).failures


def test_a_limit_without_free_errors_holds():
    values = np.random.default_rng(0).normal(size=(2000, 1))
    other = values + np.sqrt(3e-3) * np.random.default_rng(1).normal(size=(2000, 1))
    assert compare(values, other, most_noise=1e-3, free_steps=0.0).failures


@pytest.mark.parametrize("error, rounding, fails", [(5e-6, None, False), (5e-5, None, True), (5e-4, 1e-3, False)])
def test_rounding_is_not_noise_where_an_output_is_constant(error, rounding, fails):
    """The softmax of one class is 1, and in the file 1 + 1e-7: all of its variance."""
    want = np.full((20, 1), 3.0)
    given = {} if rounding is None else {"rounding": rounding}
    proof = compare_output("ones", want, want + 3 * error, most_noise=1e-3, free_steps=0.0, **given)
    assert bool(proof.failures) == fails
