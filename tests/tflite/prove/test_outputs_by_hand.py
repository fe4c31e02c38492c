"""The limits of the proof, each from just inside and just outside. Expected values: float64, from the formulas."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tfopt.tflite.prove import outputs
from tfopt.tflite.prove.outputs import OutputProof, compare_output, most_noise, output_step
from tfopt.tflite.read import Op, Port, Tensor

COUNT = 256
INSIDE, OUTSIDE = 0.999, 1.001


def compare(want, got, noise=0.1, **settings):
    return compare_output("out", np.asarray(want), np.asarray(got), most_noise=noise, **settings)


def signal(*scales, seed=0):
    """Gaussian channels with means of 0 and these standard deviations, exactly."""
    values = np.random.default_rng(seed).normal(size=(COUNT, len(scales)))
    values -= values.mean(axis=0)
    return np.array(scales) * values / values.std(axis=0)


def errors(*squares):
    """Errors with these mean squares, half of them above."""
    return np.sqrt(squares) * np.where(np.arange(COUNT) % 2, 1.0, -1.0)[:, None]


def upper(freedom):
    """The upper bound of a variance with this many degrees of freedom, by Wilson and Hilferty at 2 deviations."""
    spread = 2 / (9 * freedom)
    return (1 - spread - 2 * math.sqrt(spread)) ** -3


def own_range(values):
    return max(values.max(), 0) - min(values.min(), 0)


# Parts of the limits


@pytest.mark.parametrize(
    ("dtypes", "noise"),
    [
        (["int8"], 0.1), (["int4"], 0.25), (["int8", "int4"], 0.25), (["float32", "int8"], 0.1),
        (["float32"], 1e-3), (["float16"], 1e-3), ([], 1e-3),
    ],
)  # fmt: skip
def test_the_narrowest_weights_set_the_limit(dtypes, noise):
    assert most_noise(iter(dtypes)) == noise


@pytest.mark.parametrize("freedom", [5, 20, 255, 10_000])
def test_the_bound_of_a_variance_is_that_of_chi_squared(freedom):
    stats = pytest.importorskip("scipy.stats")
    exact = freedom / stats.chi2.ppf(stats.norm.cdf(-2), freedom)
    assert outputs._uncertainty(freedom) == pytest.approx(exact, rel=0.02 if freedom > 5 else 0.1)
    assert outputs._uncertainty(freedom) == pytest.approx(upper(freedom), rel=1e-12)


@pytest.mark.parametrize(("freedom", "bound"), [(-1, 1e12), (0, 1e12), (1, 1e12), (2, 91.125)])
def test_few_samples_bound_nothing(freedom, bound):
    assert outputs._uncertainty(freedom) == pytest.approx(bound)


def test_the_step_of_a_channel_by_itself():
    want = np.array([[0, -2, 3, -4.0], [5, 1, 4, -3]])
    np.testing.assert_allclose(outputs._own_steps(want, False), np.array([5, 3, 4, 4]) / 255)
    np.testing.assert_allclose(outputs._own_steps(want, True), [1 / 255] * 4)


@pytest.mark.parametrize(
    ("want", "step", "full"),
    [
        ([[0.0], [1.0]], 1 / 256, True),
        ([[0.2], [0.3]], 1.0009 / 256, True),
        ([[0.2], [0.3]], 0.9991 / 256, True),
        ([[0.2], [0.3]], 1.002 / 256, False),
        ([[0.2], [0.3]], 0.998 / 256, False),
        ([[0.2], [0.3]], None, False),
        ([[-0.01], [0.3]], 1 / 256, False),
        ([[0.2], [1.01]], 1 / 256, False),
        ([[0.2, 0.8], [0.6, 0.4]], None, True),
        ([[0.2, 0.8], [0.6, 0.4]], 1.0, True),
        ([[0.2, 0.7], [0.6, 0.4]], None, False),
    ],
)
def test_outputs_with_the_full_range_of_probabilities(want, step, full):
    assert outputs._has_full_range(np.array(want), step) is full


@pytest.mark.parametrize(
    ("rows", "holds"),
    [
        ([[0.0, 1.0]], True),
        ([[0.5, 0.5], [0.3, 0.7]], True),
        ([[0.5, 0.5], [0.3, 0.719]], True),
        ([[0.5, 0.5], [0.3, 0.681]], True),
        ([[0.5, 0.5], [0.3, 0.721]], False),
        ([[0.5, 0.5], [0.3, 0.679]], False),
        ([[0.2, 0.3, 0.5]], True),
        ([[1.0]], False),
        ([[-0.01, 0.5, 0.51]], False),
        ([[1.01, 0.0]], False),
    ],
)
def test_distributions_over_classes(rows, holds):
    assert outputs._is_distribution(np.array(rows)) is holds


def test_classes_count_where_the_model_is_sure():
    # Two standard deviations of a difference are 2 * sqrt(2 * 0.02) = 0.4.
    want = np.array([[1.0, 1.41, 0], [1.0, 1.39, 0], [0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    got = np.array([[0.0, 1.0, 0], [1.0, 0.0, 0], [5.0, 1.0, 2.0], [1.0, 0.0, 0.5]])
    assert outputs._classes(want, got, np.array([0.01, 0.03, 0.02])) == (3, 2)
    assert outputs._classes(want[:, :1], got[:, :1], np.array([0.01])) == (0, 0)
    assert outputs._classes(want[:, :2], got[:, :2], np.array([0.01, 0.03])) == (3, 2)


def test_rows_are_samples_and_positions(monkeypatch):
    cube = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(outputs._rows(cube), cube.reshape(6, 4))
    np.testing.assert_array_equal(outputs._rows(np.arange(3)), [[0], [1], [2]])
    np.testing.assert_array_equal(outputs._rows(np.arange(3).reshape(3, 1)), [[0], [1], [2]])
    assert outputs._rows(np.arange(3)).dtype == np.float64
    monkeypatch.setattr(outputs, "MOST_ROWS", 5)
    assert outputs._rows(np.arange(5)).ravel().tolist() == [0, 1, 2, 3, 4]
    assert outputs._rows(np.arange(6)).ravel().tolist() == [0, 1, 2, 3, 5]
    assert outputs._rows(np.arange(11)).ravel().tolist() == [0, 2, 5, 7, 10]


def test_a_proof_of_nothing():
    nothing = OutputProof("a", 0.0, None, 0.0, None, 0, (), 0, None, 0.0)
    assert OutputProof("a", 0.0) == nothing
    assert compare(np.zeros((0, 2)), np.zeros((0, 2))) == OutputProof("out", 0.0)


def test_a_ratio():
    assert outputs._ratio(2, 4) == 0.5 and outputs._ratio(0, 0) == 0
    assert outputs._ratio(2, 0) == math.inf and outputs._ratio(0, 3) == 0


# The limits themselves


@pytest.mark.parametrize("free_steps", [0.0, None, 9.0])
@pytest.mark.parametrize("noise", [0.1, 0.25])
@pytest.mark.parametrize("channel", [0, 1])
def test_the_limit_of_a_channel(noise, free_steps, channel):
    scales = (1.0, 1.2)
    want, variance = signal(*scales), scales[channel] ** 2
    steps, given = (2.0, {}) if free_steps is None else (free_steps, {"free_steps": free_steps})
    limit = noise * variance * upper(255) + (steps * own_range(want[:, channel]) / 255) ** 2
    for share in (INSIDE, OUTSIDE):
        squares = [0.0, 0.0]
        squares[channel] = share * limit
        proof = compare(want, want + errors(*squares), noise, **given)
        found = share * limit / variance
        assert (proof.channel, proof.narrow) == (channel, 0)
        assert (proof.channel_noise, proof.deviation) == (pytest.approx(found), pytest.approx(scales[channel]))
        words = f"channel {channel} has noise {found:.2g} (at most {noise:g})"
        assert proof.failures == (() if share < 1 else (words,))


@pytest.mark.parametrize("free_steps", [0.0, 2.0])
@pytest.mark.parametrize("scales", [(3.0,), (3.0, 2.0), (1.0, 2.0, 2.0)])
def test_the_limit_of_all_channels(scales, free_steps):
    want, variance = signal(*scales), sum(scale**2 for scale in scales)
    limit = 0.1 * variance * upper(255 * len(scales)) + len(scales) * (free_steps * own_range(want) / 255) ** 2
    for share in (INSIDE, OUTSIDE):
        squares = [share * limit * scale**2 / variance for scale in scales]  # each channel keeps its own limit
        proof = compare(want, want + errors(*squares), free_steps=free_steps)
        noise = share * limit / variance
        assert proof.noise == pytest.approx(noise)
        total = [failure for failure in proof.failures if failure.startswith("noise")]
        assert total == ([f"noise {noise:.2g} (at most 0.1)"] if share > 1 else [])


@pytest.mark.parametrize("share", [INSIDE, OUTSIDE])
def test_few_samples_widen_the_limits(share):
    """Twelve samples have 11 degrees of freedom, and all values of three channels 33."""
    want = signal(1.0, 1.0, 1.0)[:12]
    want = (want - want.mean(axis=0)) / want.std(axis=0)
    off = np.where(np.arange(12) % 2, 1.0, -1.0)[:, None]
    proof = compare(want, want + np.sqrt(share * 0.1 * np.array([upper(11), 0, 0])) * off, free_steps=0.0)
    assert bool(proof.failures) == (share > 1)
    proof = compare(want, want + np.sqrt(share * 0.1 * upper(33)) * off, free_steps=0.0)
    assert bool(proof.failures) == (share > 1)


def test_one_channel_has_no_limit_of_its_own():
    want = signal(3.0)
    proof = compare(want, want + errors(9.0))
    assert (proof.channel, proof.channel_noise, proof.noise) == (None, pytest.approx(1), pytest.approx(1))
    assert proof.failures == ("noise 1 (at most 0.1)",)


@pytest.mark.parametrize("worst", [0, 1, 2])
def test_the_worst_channel_is_that_of_the_largest_share_of_its_limit(worst):
    scales = (0.1, 1.0, 10.0)
    shares = [0.02, 0.02, 0.02]
    shares[worst] = 0.03
    want = signal(*scales)
    proof = compare(want, want + errors(*(share * scale**2 for share, scale in zip(shares, scales, strict=True))))
    assert proof.channel == worst and proof.channel_noise == pytest.approx(0.03)
    assert proof.deviation == pytest.approx(scales[worst]) and proof.failures == ()


def test_allowed_errors_make_a_channel_less_bad():
    """Channel 1 has more noise, but with its outlier also a coarse step, so that more of it is allowed."""
    want = signal(1.0, 1.0)
    want[0, 1] = 60
    want[:, 1] /= want[:, 1].std()
    step = own_range(want[:, 1]) / 255
    proof = compare(want, want + errors(0.05, 0.06), free_steps=4.0)
    assert (4 * step) ** 2 > 0.03  # allowed besides 0.12
    assert proof.channel == 0


@pytest.mark.parametrize("share", [INSIDE, OUTSIDE])
def test_an_output_that_hardly_varies_keeps_the_limit_without_free_steps_where_it_must_vary(share):
    """Scores of a rare class: a deviation of an eighth of an int8 step of 1/255."""
    scale = 1 / 255 / 8
    want = 0.01 + signal(scale, scale)
    limit = 0.1 * scale**2 * upper(510) + (1e-5 * want.max(axis=0)) ** 2
    got = want + errors(*(share * limit))
    assert compare(want, got, step=1 / 256).failures == ()
    proof = compare(want, got, step=1 / 256, must_vary=True)
    words = f"noise {proof.noise:.2g} (at most 0.1), since it varies by 0.00049, and an int8 step is 0.0039"
    assert proof.failures == (() if share < 1 else (words,)) and proof.narrow == 2


@pytest.mark.parametrize(("scale", "fails"), [(0.99 / 255, False), (1.01 / 255, True)])
@pytest.mark.parametrize("largest", [1.0, 0.01])
def test_an_output_within_a_step_of_its_own_range_need_not_vary(largest, scale, fails):
    """As that of a model that is sure of one class for all samples."""
    want = signal(scale * largest)
    want += largest - want.max()
    got = np.full_like(want, want.mean())
    proof = compare(want, got, step=1 / 256, must_vary=True)
    assert bool(proof.failures) == fails and proof.narrow == 1


@pytest.mark.parametrize(("steps", "narrow"), [(3.98, 2), (4.02, 1)])
def test_a_channel_that_hardly_varies_counts_only_in_the_sum(steps, narrow):
    """Channel 0 varies around 1000 by this many steps of its scale; channel 2 is constant."""
    unit = signal(1.0)[:, 0]
    scale = steps * 1000 / (255 - steps * unit.max())
    want = np.stack([1000 + scale * unit, signal(100.0, seed=1)[:, 0], np.full(COUNT, 7.0)], axis=1)
    assert scale / (own_range(want[:, 0]) / 255) == pytest.approx(steps)
    proof = compare(want, want + errors(0.6 * scale**2, 0, 0))
    assert (proof.narrow, proof.channel) == (narrow, 1 if narrow == 2 else 0)
    assert proof.failures == (() if narrow == 2 else ("channel 0 has noise 0.6 (at most 0.1)",))


@pytest.mark.parametrize(("steps", "narrow"), [(3.98, 2), (4.02, 1)])
def test_channels_that_hardly_vary_beside_the_range_of_all_count_only_in_the_sum(steps, narrow):
    want = np.stack([np.full(COUNT, 1000.0), 500 + signal(steps * 1000 / 255)[:, 0]], axis=1)
    assert own_range(want) == 1000
    proof = compare(want, want)
    assert proof.narrow == narrow and proof.channel == (None if narrow == 2 else 1)


@pytest.mark.parametrize(("noise", "steps"), [(0.1, 0.0), (0.1, 8.0), (0.3, 0.0)])
def test_the_allowed_noise_decides_where_a_class_is_sure(noise, steps):
    want = signal(1.0, 0.6, 0.3)
    got = want + errors(0.02, 0.0, 0.03)
    ranges = np.array([own_range(channel) for channel in want.T])
    allowed = noise * want.var(axis=0) + (steps * ranges / 255) ** 2
    first, second = -np.sort(-want, axis=1)[:, 0], -np.sort(-want, axis=1)[:, 1]
    sure = first - second > 2 * math.sqrt(2 * allowed.mean())
    same = (want.argmax(axis=1) == got.argmax(axis=1))[sure].sum()
    proof = compare(want, got, noise, classes=True, free_steps=steps)
    assert proof.sure == sure.sum() > 10 and proof.agreement == pytest.approx(same / sure.sum())
    assert compare(want, got, noise).agreement is None


def wilson_upper(same, count, z=1.959964):
    share, extra = same / count, z * z / count
    return (share + extra / 2 + z * math.sqrt(share * (1 - share) / count + extra / count / 4)) / (1 + extra)


@pytest.mark.parametrize("count", [20, 100, 256])
def test_the_least_agreement(count):
    fewest = next(same for same in range(count + 1) if wilson_upper(same, count) >= 0.9)
    want = np.zeros((count, 2))
    want[np.arange(count), np.arange(count) % 2] = 1.0
    numbers = np.arange(count)
    for same, good in ((fewest, True), (fewest - 1, False)):
        got = want.copy()
        got[same:] = got[same:, ::-1]
        found = [failure for failure in compare(want, got, 0.01).failures if "same class" in failure]
        words = f"the same class for {same / count:.1%} of {count:,} sure ones (at least 90%)"
        assert found == ([] if good else [words])
        for sign in (1, -1):
            other = numbers.copy()
            other[same:] += sign
            proof = compare(numbers, other)
            assert proof.noise == pytest.approx(1 - same / count) and proof.sure == count
            assert proof.agreement == pytest.approx(same / count)
            words = f"{same / count:.1%} of {count:,} numbers are equal (at least 90%)"
            assert proof.failures == (() if good else (words,))


@pytest.mark.parametrize("kind", ["int32", "uint8", "bool"])
def test_numbers_that_are_no_floats_are_compared_for_equality(kind):
    values = (np.arange(100) % 2).astype(kind)
    proof = compare(values, values)
    assert (proof.noise, proof.agreement, proof.sure, proof.failures) == (0, 1, 100, ())
    assert compare(values, 1 - values.astype("int8")).failures == ("0.0% of 100 numbers are equal (at least 90%)",)


def test_what_is_constant_and_equal_is_good_without_free_errors():
    values = np.full((COUNT, 2), 3.0)
    assert compare(values, values, free_steps=0.0).failures == ()
    (failure,) = compare(values, values + 1e-3, free_steps=0.0).failures
    assert failure == "noise inf (at most 0.1)"


def test_a_single_number():
    for found, same in ((5, 1), (6, 0)):
        proof = compare(np.array([5]), np.array([found]))
        assert (proof.agreement, proof.noise, proof.sure) == (same, 1 - same, 1)


def test_nothing_to_compare():
    proof = compare(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (proof.noise, proof.failures) == (0, ())
    proof = compare(np.zeros(0, int), np.zeros(0, int))
    assert (proof.noise, proof.agreement, proof.sure, proof.failures) == (1, 0, 0, ())


def test_what_the_model_does_not_say_counts_as_equal():
    want = signal(1.0, 2.0)
    want[3] = want[9, 1] = np.nan
    want[11, 0] = np.inf
    got = np.where(np.isfinite(want), want, 50.0)
    proof = compare(want, got)
    assert (proof.noise, proof.channel_noise, proof.failures) == (0, 0, ())
    silent = np.where(np.isfinite(want), want, 0)
    got[5, 0] += 1
    assert compare(want, got).noise == pytest.approx(1 / COUNT / silent.var(axis=0).sum())
    got[3] = np.nan  # where the model says nothing, the file may say anything
    assert compare(want, got).noise == pytest.approx(1 / COUNT / silent.var(axis=0).sum())
    got[5, 0] = np.nan
    proof = compare(want, got)
    assert proof.noise == math.inf and proof.failures == ("NaN or infinity where the model gives finite numbers",)


@pytest.mark.parametrize(
    ("values", "many", "fails"), [(3, 16, True), (3, 15, False), (4, 16, False), (1, 300, True), (2, 16, True)]
)
def test_a_channel_has_collapsed(values, many, fails):
    """The model's channel 1 has `many` values on its own scale, that of the file only a few of them."""
    levels = np.arange(COUNT) % many if many < COUNT else np.arange(COUNT)
    want = np.stack([signal(50.0)[:, 0], levels * 255 / max(levels)], axis=1)
    edges = np.linspace(0, 255, values + 1)[1:-1]
    got = want.copy()
    got[:, 1] = np.digitize(want[:, 1], edges) * 80.0
    failures = [failure for failure in compare(want, got, noise=10.0).failures if "own scale" in failure]
    named = "1 value" if values == 1 else f"{values} different values"
    expected = f"channel 1 has {named}; with its own scale it would have {min(many, COUNT)}"
    assert failures == ([expected] if fails else [])


def test_collapsed_channels_are_named_by_their_place_among_all():
    narrow = np.full(COUNT, 9.0)
    ramp = np.linspace(0, 200, COUNT)
    want = np.stack([narrow, ramp, ramp, ramp], axis=1)
    got = want.copy()
    got[:, 2:] = np.rint(got[:, 2:] / 200) * 200
    (failure,) = (one for one in compare(want, got, noise=10.0).failures if "own scale" in one)
    assert failure.startswith("channel 2 has 2 different values")  # the first of two


# Words, and the step of the file


def test_a_proof_in_words():
    assert str(OutputProof("a", 0.01234)) == "'a' noise 0.012"
    assert str(OutputProof("a", 0.5, channel=0, channel_noise=0.256)) == "'a' noise 0.5, worst channel 0: 0.26"
    whole = OutputProof("a", 1e-5, 3, 0.1, agreement=0.9876, sure=1234, narrow=2)
    assert str(whole) == (
        "'a' noise 1e-05, worst channel 3: 0.1, same class 98.8% of 1,234 sure ones, 2 channels vary by less than 4 "
        "int8 steps of their own range"
    )
    assert str(OutputProof("a", 0.5, narrow=1)).endswith(
        ", 1 channel varies by less than 4 int8 steps of its own range"
    )


@pytest.mark.parametrize(
    ("step", "deviation", "narrower"),
    [(None, 1.0, False), (2.0, 1.0, True), (1.0, 1.0, False), (2.0, 0.0, False), (0.5, 1.0, False)],
)
def test_a_step_wider_than_a_channel(step, deviation, narrower):
    assert OutputProof("a", 0.1, step=step, deviation=deviation).narrower_than_a_step is narrower


def test_a_proof_keeps_the_step():
    assert compare(signal(1.0), signal(1.0), step=0.25).step == 0.25 and compare(signal(1.0), signal(1.0)).step is None


def tensor(index, scales, subgraph=0):
    return Tensor(index, f"t{index}", (1,), "int8", scales, (0,) * len(scales), None, False, 0, subgraph=subgraph)


@pytest.mark.parametrize(
    ("ops", "step"),
    [
        ([], None),
        ([Op(0, "DEQUANTIZE", (1,), (3,))], 0.25),
        ([Op(0, "ADD", (1,), (3,))], None),
        ([Op(0, "QUANTIZE", (1,), (3,))], None),
        ([Op(0, "DEQUANTIZE", (1,), (2,))], None),
        ([Op(0, "DEQUANTIZE", (1,), (4,))], None),
        ([Op(0, "DEQUANTIZE", (2,), (3,))], None),  # float16
        ([Op(0, "DEQUANTIZE", (1,), (3,), subgraph=1)], None),
        ([Op(0, "DEQUANTIZE", (2,), (3,)), Op(1, "DEQUANTIZE", (0,), (3,))], 0.5),
    ],
)
def test_the_step_of_an_output(ops, step):
    tensors = [tensor(0, (0.5,)), tensor(1, (0.25, 9.0)), tensor(2, ()), tensor(3, ()), tensor(1, (7.0,), subgraph=1)]
    lite = SimpleNamespace(tensors=lambda: tensors, ops=lambda: ops)
    assert output_step(lite, Port("out", 3, (1,), "float32", (), ())) == step
    assert output_step(lite, Port("out", 3, (1,), "int8", (0.125,), (0,))) == 0.125


def test_the_same_numbers_in_another_shape_are_not_the_same():
    values = np.arange(12.0).reshape(4, 3)
    proof = compare_output("out", values, values.reshape(3, 4), most_noise=0.1)
    assert proof.failures == ("shape (3, 4) instead of (4, 3)",)


def test_rounding_is_free_within_each_channel():
    """The limit is a thousandth of the channel's largest value, even beside a channel a thousand times larger."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 2)) * [1000.0, 1.0]
    errors = rng.normal(size=(200, 2)) * [0.0, 0.5]
    proof = compare_output("out", values, values + errors, most_noise=1e-3, free_steps=0.0, rounding=1e-3)
    assert any("channel 1" in failure for failure in proof.failures)
