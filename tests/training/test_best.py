"""The best epoch, from logs written by hand."""

import functools

import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.training.best import Score, keep_best


def after(logs, metric="accuracy", smaller_is_better=False, first_epoch=1, start=None, patience=None, samples=10**9):
    """The kept epoch and the callback, where epoch n ends with all weights at n; 0 are the weights at the start."""
    package = tf_keras()
    model = package.Sequential([package.Input((1,)), package.layers.Dense(1)])
    model.set_weights([np.zeros((1, 1)), np.zeros(1)])
    start = start and Score(*start)
    callback = keep_best(
        model,
        metric,
        functools.partial(Score.of, metric=metric, smaller_is_better=smaller_is_better, samples=samples),
        first_epoch=first_epoch,
        start=start,
        patience=patience,
    )
    callback.set_model(model)
    model.stop_training = False
    for epoch, (value, loss) in enumerate(logs):
        model.set_weights([np.full((1, 1), epoch + 1), np.full(1, epoch + 1)])
        callback.on_epoch_end(epoch, {f"val_{metric}": value, "val_loss": loss, metric: 0.0, "loss": 0.0})
        if model.stop_training:
            break
    note = callback.restore()
    kernel, bias = model.get_weights()
    assert kernel[0, 0] == bias[0]
    return int(bias[0]), callback, note


NAN = float("nan")


@pytest.mark.parametrize(
    ("logs", "kept"),
    [
        ([(0.5, 1), (0.9, 1), (0.7, 1)], 2),
        ([(0.5, 1), (0.7, 1), (0.9, 1)], 3),
        ([(0.9, 0.4), (0.9, 0.2), (0.9, 0.3)], 3),  # equal metrics: the last
        ([(0.9, 0.4), (0.9, 0.4)], 2),
        ([(NAN, 0.1), (0.1, 9), (NAN, 0.1)], 2),
    ],
)
def test_highest_metric_then_the_last(logs, kept):
    assert after(logs)[0] == kept


@pytest.mark.parametrize(
    ("logs", "kept"),
    [
        ([(0.80, 0.5), (0.72, 0.6)], 2),  # one standard error of 0.8 on 20 samples is 0.0894
        ([(0.80, 0.5), (0.70, 0.4)], 1),
        ([(0.80, 0.5), (0.70, 0.4), (0.72, 0.9)], 3),
        ([(0.75, 0.5), (0.95, 0.9), (0.91, 0.9), (0.89, 0.1)], 3),  # that of 0.95 is 0.0487
    ],
)
def test_with_few_samples_the_last_within_a_standard_error_is_kept(logs, kept):
    assert after(logs, samples=20)[0] == kept


def test_the_metric_does_not_drift_away_from_the_best_one():
    """One standard error of 0.8 on 100 samples is 0.04: 0.765 is as good, 0.73 is not, whatever its loss."""
    assert after([(0.80, 0.5), (0.765, 0.4), (0.73, 0.3)], samples=100)[0] == 2
    assert after([(0.765, 0.4), (0.80, 0.5), (0.83, 0.6)], samples=100)[0] == 3  # 0.765 is 0.065 below 0.83


@pytest.mark.parametrize(
    ("score", "other", "better"),
    [
        ((0.85, 0.6), (0.80, 0.5), False),
        ((0.85, 0.4), (0.80, 0.5), True),
        ((0.75, 0.4), (0.80, 0.5), True),
        ((0.90, 0.6), (0.80, 0.5), True),  # more than a standard error
        ((0.70, 0.4), (0.80, 0.5), False),
    ],
)
def test_of_two_models_the_loss_decides_within_a_standard_error(score, other, better):
    made = [
        Score.of({"accuracy": value, "loss": loss}, "accuracy", smaller_is_better=False, samples=20)
        for value, loss in (score, other)
    ]
    assert made[0].better_than(made[1]) == better


def test_errors_are_better_when_small():
    assert after([(3.0, 1), (1.0, 1), (2.0, 1)], metric="mae", smaller_is_better=True)[0] == 2


def test_epochs_before_the_promise_holds_do_not_count():
    kept, _, note = after([(0.99, 1), (0.98, 1), (0.6, 1), (0.7, 1), (0.65, 1)], first_epoch=3)
    assert kept == 4
    assert note == "kept epoch 4 of 5: accuracy 0.7000 on validation"


def test_the_start_is_kept_if_no_epoch_is_better():
    kept, _, note = after([(0.7, 0.1), (0.8, 0.1)], start=(0.8, -0.05))
    assert kept == 0
    assert note == "kept the weights from before the training: no epoch was better than accuracy 0.8000 on validation"
    assert after([(0.7, 0.1), (0.81, 0.9)], start=(0.8, -0.05))[0] == 2


@pytest.mark.parametrize(
    ("logs", "kept"),
    [
        ([(0.75, 0.6), (0.8, 0.7)], 0),  # as good as the start, but with a higher loss in every epoch
        ([(0.75, 0.4), (0.8, 0.7)], 2),  # it has learned something
        ([(0.75, 0.4), (0.5, 0.3)], 1),
    ],
)
def test_of_few_samples_the_start_is_kept_if_nothing_was_learned(logs, kept):
    assert after(logs, start=(0.8, -0.5, 0.0894), samples=20)[0] == kept


def test_the_last_epoch_alone_is_no_choice():
    kept, _, note = after([(0.9, 1), (0.5, 1)], first_epoch=2)
    assert (kept, note) == (2, "")


def test_patience_counts_from_a_better_metric_or_a_lower_loss():
    logs = [(0.9, 0.5), (0.9, 0.6), (0.9, 0.4), (0.9, 0.5), (0.9, 0.5), (0.99, 0.1)]
    kept, callback, _ = after(logs, patience=2)
    assert (kept, callback.last) == (5, 5)


def test_patience_counts_from_the_first_epoch_that_may_be_kept():
    logs = [(0.9, 1)] * 2 + [(0.5, 1), (0.6, 1), (0.4, 1), (0.3, 1), (0.99, 1)]
    kept, callback, _ = after(logs, first_epoch=3, patience=2)
    assert (kept, callback.last) == (4, 6)
