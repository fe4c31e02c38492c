"""What a metric over all answers hides: expected values from scikit-learn, or by hand."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, recall_score

import tfopt
from tfopt.run.checkpoint import Checkpoint
from tfopt.run.guard import Guard
from tfopt.tasks.metrics import wilson_interval
from tfopt.training.class_weights import class_weights

RNG = np.random.default_rng(0)


def loaded(labels, **how):
    part = (np.zeros((len(next(iter(labels.values())) if isinstance(labels, dict) else labels), 2), "float32"), labels)
    return tfopt.load_data((part, part, part), **how)


def judged(data, before, after, max_drop=0.05, **how):
    """A guard that has seen the outputs `before`, and its evaluation of `after`."""
    guard = Guard(data, max_drop, **how)
    guard.accept(guard.evaluate(lambda x: before))
    return guard, guard.evaluate(lambda x: after)


def test_a_rare_class_that_is_lost():
    y = (np.arange(200) % 25 == 0).astype("int64")  # 8 of 200
    lost = np.eye(2)[np.where(np.arange(200) < 150, 0, y)]  # finds 2 of 8
    guard, low = judged(loaded(y), np.eye(2)[y], lost)
    assert low.metric == pytest.approx(194 / 200) and low.quality > 1 - 0.05
    part = low.parts["balanced accuracy"]
    assert part.metric == pytest.approx(balanced_accuracy_score(y, lost.argmax(1))) == pytest.approx((1 + 2 / 8) / 2)
    assert guard.too_low(low) and guard.fails(low)
    assert guard.compared(low) == (
        "accuracy 0.9700 on 200 validation samples, 1.0000 before; balanced accuracy 0.6250, 1.0000 before"
    )


def test_a_rare_class_may_be_lost_by_chance():
    y = (np.arange(50) % 25 == 0).astype("int64")  # 2 of 50
    guard, low = judged(loaded(y), np.eye(2)[y], np.eye(2)[np.zeros(50, int)])
    assert guard.too_low(low) and not guard.fails(low)


def test_balanced_classes_have_no_parts():
    y = np.arange(60) % 3
    assert not Guard(loaded(y), 0.05).evaluate(lambda x: np.eye(3)[y]).parts


def test_rare_labels_that_are_lost():
    y = (RNG.random((300, 4)) < 0.05).astype("int32")
    no = np.zeros(y.shape)
    guard, low = judged(loaded(y), y * 1.0, no)
    assert low.quality > 1 - 0.1
    recalls = [recall_score(y[:, at], no[:, at], pos_label=value) for at in range(4) for value in (0, 1)]
    assert low.parts["balanced accuracy"].metric == pytest.approx(np.mean(recalls)) == pytest.approx(0.5)
    guard.max_drop = 0.2
    assert guard.fails(low)


def test_a_small_foreground_that_is_lost():
    masks = np.zeros((30, 8, 8), "int64")
    masks[:, 2, 3:5] = 1
    data = tfopt.load_data(((masks[..., None].astype("float32"), masks),) * 3, task="segmentation")
    found, lost = np.eye(2)[masks], np.eye(2)[np.zeros_like(masks)]
    guard, low = judged(data, found, lost)
    assert low.quality == pytest.approx(62 / 64)
    assert low.parts["balanced accuracy"].metric == pytest.approx(0.5) and guard.fails(low)


def test_a_small_value_beside_a_large_one():
    y = np.stack([1000 * RNG.normal(size=100), 0.2 * RNG.normal(size=100)], 1).astype("float32")
    ruined = y.copy()
    ruined[:, 1] = y[:, 1].mean()
    guard, low = judged(loaded(y), y + 0.001, ruined)
    assert low.quality > 0.99
    part = low.parts["mae of value 2 of 2"]
    assert part.metric == pytest.approx(mean_absolute_error(y[:, 1], ruined[:, 1]), rel=1e-5)
    assert part.quality == pytest.approx(0, abs=1e-6) and guard.fails(low)
    worse = guard.evaluate(lambda x: ruined * [1, 0] + [0, 50])
    assert worse.parts["mae of value 2 of 2"].quality == 0  # no worse than a guess


def test_steps_of_a_forecast_are_judged_together():
    series = RNG.normal(size=(200, 2)).cumsum(axis=0).astype("float32")
    for columns, parts in ((series, 2), (series[:, 0], 0)):
        data = tfopt.load_series(columns, window=8, horizon=4)
        evaluation = Guard(data, 0.05).evaluate(lambda x, data=data: data.validation.y())
        assert len(evaluation.parts) == parts


def test_each_of_several_outputs():
    kind, age = np.arange(100) % 4, np.arange(100, dtype="float32")
    data = loaded({"kind": kind, "age": age})
    poor, good = np.full((100, 1), 500.0), age[:, None]
    guessing = np.eye(4)[np.where(np.arange(100) < 20, (kind + 1) % 4, kind)]
    how = {"logits": {"kind": False, "age": False}}
    guard, low = judged(data, [np.eye(4)[kind], poor], [guessing, good], **how)
    assert guard.best.quality < low.quality  # the mean is better than before
    assert guard.fails(low) and "accuracy of kind 0.8000, 1.0000 before" in guard.compared(low)
    better = guard.evaluate(lambda x: [np.eye(4)[kind], good])
    assert not guard.too_low(better)
    guard.accept(better)
    assert guard.fails(guard.evaluate(lambda x: [np.eye(4)[kind], poor]))


def test_the_best_of_each_part_is_kept(tmp_path):
    y = (np.arange(200) % 10 == 0).astype("int64")
    data, guard = loaded(y), Guard(loaded(y), 0.05)
    finds_all = np.eye(2)[np.where(np.arange(200) % 10 == 1, 1, y)]  # and 20 that are none: accuracy 0.9
    guard.accept(guard.evaluate(lambda x: finds_all))
    guard.accept(guard.evaluate(lambda x: np.eye(2)[np.where(np.arange(200) < 40, 0, y)]))  # accuracy 0.98
    assert guard.best.metric == 0.98
    expected = balanced_accuracy_score(y, finds_all.argmax(1))
    assert expected > 0.9 and guard.best.parts["balanced accuracy"].metric == pytest.approx(expected)
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")

    class Model:
        def get_weights(self):
            return [np.ones(2)]

    checkpoint.save(Model(), [], best=guard.best)
    found = checkpoint.load().best
    assert found.parts.keys() == guard.best.parts.keys()
    for name, part in found.parts.items():
        kept = guard.best.parts[name]
        assert (part.metric, part.quality) == (kept.metric, kept.quality)
        np.testing.assert_array_equal(part.by_sample, kept.by_sample)
    assert len(found.by_sample) == len(data.validation)


def test_weights_of_classes_in_training_are_those_of_the_guard():
    y = (np.arange(200) % 10 == 0).astype("int64")
    data = loaded(y)
    common = np.eye(2)[np.zeros(200, int)]  # accuracy 0.9, balanced 0.5
    rare = np.eye(2)[np.where(np.arange(200) % 4 == 1, 1, y)]  # accuracy 0.75, finds all of class 1
    weights = class_weights(tfopt.Training(class_weight="balanced"), data)
    guard, evaluation = judged(data, common, rare, weights=weights)
    assert guard.metric == "class-weighted accuracy" and not guard.too_low(evaluation) and not evaluation.parts
    assert evaluation.metric == pytest.approx(balanced_accuracy_score(y, rare.argmax(1)))
    plain, low = judged(data, common, rare)
    assert plain.fails(low)
    doubled = class_weights(tfopt.Training(class_weight={"1": 2.0}), data)
    evaluation = Guard(data, 0.05, weights=doubled).evaluate(lambda x: common)
    assert evaluation.metric == pytest.approx(180 / (180 + 2 * 20))


def weighted(y, class_weight="balanced"):
    """The argument of a guard."""
    return {"weights": class_weights(tfopt.Training(class_weight=class_weight), loaded(y))}


@pytest.mark.parametrize(("wrong", "metric"), [(0, 1), (10, 17 / 18)])
def test_samples_of_unequal_weight_are_fewer(wrong, metric):
    """Of 100 samples 90 weigh 10/18 and 10 weigh 5: as many as 100^2 / (90 * (10/18)^2 + 10 * 25) = 36."""
    y = (np.arange(100) >= 90).astype("int64")
    answers = np.eye(2)[np.where(np.arange(100) < wrong, 1 - y, y)]
    guard, evaluation = judged(loaded(y), answers, answers, **weighted(y))
    assert evaluation.metric == pytest.approx(metric, abs=0 if metric == 1 else 1e-7)
    low, high = wilson_interval(metric * 36, 36)
    assert high - low > 0.05
    assert guard.too_few_samples() == (
        f"100 validation samples are too few to tell a drop of 0.05: the class-weighted accuracy is "
        f"{evaluation.metric:.4f}, and its 95 % interval is {low:.4f} to {high:.4f}"
    )
    guard.max_drop = high - low + 1e-4
    assert not guard.too_few_samples()


def test_outputs_that_are_all_right_have_an_interval():
    """Of classes Wilson's; values that are off by the same in all samples have none of their own."""
    kind, age = np.arange(30) % 4, np.arange(30, dtype="float32")
    low, high = wilson_interval(30, 30)
    data = loaded({"kind": kind, "color": kind % 2})
    how = {"logits": dict.fromkeys(("kind", "color", "age"), False)}
    guard, _ = judged(data, [np.eye(4)[kind], np.eye(2)[kind % 2]], [np.eye(4)[kind], np.eye(2)[kind % 2]], **how)
    assert guard.too_few_samples().endswith(
        f"the mean quality of outputs is 1.0000, and its 95 % interval is {low:.4f} to 1.0000"
    )
    data = loaded({"kind": kind, "age": age})
    answers = [np.eye(4)[kind], age[:, None] + 1]
    guard, best = judged(data, answers, answers, **how)
    assert best.quality == pytest.approx((1 + 1 - 1 / 7.5) / 2)  # the mean of 0..29 is off by 7.5
    said = f"is {best.quality:.4f}, and its 95 % interval is {best.quality - (1 - low) / 2:.4f} to {best.quality:.4f}"
    assert high == 1 and guard.too_few_samples().endswith(said)


def test_an_interval_of_several_outputs_is_the_mean_of_theirs():
    """Errors of 1 and 2 in turn: 1.96 standard errors of the mean, in units of the error of guessing, 7.5."""
    kind, age = np.arange(30) % 4, np.arange(30, dtype="float32")
    errors, (low, _) = 1 + np.arange(30) % 2, wilson_interval(30, 30)
    answers = [np.eye(4)[kind], (age + errors)[:, None]]
    guard, _ = judged(loaded({"kind": kind, "age": age}), answers, answers, logits={"kind": False, "age": False})
    margin = 1.959964 * errors.std(ddof=1) / np.sqrt(30) / 7.5
    quality = (1 + 1 - 1.5 / 7.5) / 2
    said = (
        f"{quality:.4f}, and its 95 % interval is {quality - (margin + 1 - low) / 2:.4f} to {quality + margin / 2:.4f}"
    )
    assert guard.too_few_samples().endswith(said)


def test_a_part_that_becomes_better_is_what_later_ones_are_compared_with():
    y = (np.arange(200) % 10 == 0).astype("int64")
    finds_half = np.eye(2)[np.where(np.arange(200) % 20 == 0, 0, y)]  # accuracy 0.95
    finds_all = np.eye(2)[np.where(np.arange(200) % 14 == 1, 1, y)]  # and some that are none: a lower accuracy
    guard, better = judged(loaded(y), finds_half, finds_all)
    before = guard.best.metric
    guard.accept(better)
    assert guard.best.metric == before > better.metric
    expected = balanced_accuracy_score(y, finds_all.argmax(1))
    assert guard.best.parts["balanced accuracy"].metric == pytest.approx(expected) and expected > 0.9


def test_an_output_of_values_that_is_no_better_than_a_guess_cannot_fall_alone():
    kind, age = np.arange(100) % 4, np.arange(100, dtype="float32")
    right, how = np.eye(4)[kind], {"logits": {"kind": False, "age": False}}
    guard, low = judged(
        loaded({"kind": kind, "age": age}), [right, np.full((100, 1), 60.0)], [right, np.full((100, 1), 80.0)], **how
    )
    before, after = (each.parts["mae of age"] for each in (guard.best, low))
    assert before.metric < after.metric and (before.quality, after.quality) == (0, 0)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("count", [8, 40])
def test_two_equally_good_models_of_several_values_rarely_differ(count, heavy):
    """With noise of one kind drawn twice for 4 values, at most 5 % (plus 3 standard errors) may look like a real drop.

    A level of 5 % for the whole and another one for the parts had 8 to 10 %.
    """
    rng, trials, false = np.random.default_rng(count), 250, 0
    y = rng.normal(size=(count, 4)).astype("float32")
    data = loaded(y)
    for _ in range(trials):
        draw = (lambda: rng.standard_t(2, y.shape)) if heavy else (lambda: rng.normal(size=y.shape))
        guard, evaluation = judged(data, y + draw(), y + draw(), max_drop=1e-6)
        false += guard.fails(evaluation)
    assert false / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_where_there_are_parts_the_whole_has_half_of_the_level():
    """Of 60 labels, 5 that are lost are 1/32, and 6 are 1/64; the rare class is not lost."""
    y = (np.arange(60) % 10 == 0).astype("int64")
    for lost, certain in ((5, False), (6, True)):
        wrong = np.flatnonzero(y == 0)[:lost]
        guard, low = judged(loaded(y), np.eye(2)[y], np.eye(2)[np.where(np.isin(np.arange(60), wrong), 1, y)])
        assert guard.too_low(low) and guard.fails(low) == certain
