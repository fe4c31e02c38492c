"""The balanced accuracy in training, beside scikit-learn's."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.tasks import task_of
from tfopt.training.balanced import balanced_accuracy, samples_beside, score_reader, what_decides
from tfopt.training.best import Score

RNG = np.random.default_rng(0)
RARE = (np.arange(60) % 10 == 0).astype("int64")
NAMED = RNG.integers(0, 2, 60)
PLAIN = tfopt.Training()


def of(labels, **how):
    n = len(next(iter(labels.values())) if isinstance(labels, dict) else labels)
    return tfopt.load_data(((np.zeros((n, 8, 8, 1), "float32"), labels),) * 3, **how)


@pytest.mark.parametrize("form", ["sparse", "one-hot", "probability", "logit", "places"])
def test_the_metric_of_one_answer(form):
    y, named = RARE, NAMED
    if form == "places":
        y, named = np.repeat(RARE, 64).reshape(60, 8, 8), RNG.integers(0, 2, (60, 8, 8))
    labels = np.eye(2)[y] if form == "one-hot" else y
    outputs = np.eye(2)[named]
    if form in ("probability", "logit"):
        outputs = named[:, None] * 0.4 + (0.3 if form == "probability" else -0.2)
    metric = balanced_accuracy(task_of(of(labels)), logits=form == "logit")
    copy = type(metric).from_config(metric.get_config())
    for half in (slice(0, 7), slice(7, None)):
        copy.update_state(labels[half], outputs[half].astype("float32"), np.arange(len(y[half])))
    assert float(copy.result()) == pytest.approx(balanced_accuracy_score(y.ravel(), named.ravel()))


def test_the_metric_of_several_labels():
    y = (RNG.random((60, 4)) < [0.5, 0.1, 0.1, 0.0]).astype("int32")
    named = RNG.integers(0, 2, (60, 4))
    metric = balanced_accuracy(task_of(of(y)), logits=False)
    metric.update_state(y.astype("float32"), named.astype("float32"))
    recalls = [
        recall_score(y[:, at], named[:, at], pos_label=v) for at in range(4) for v in (0, 1) if (y[:, at] == v).any()
    ]
    assert len(recalls) == 7 and float(metric.result()) == pytest.approx(np.mean(recalls))


def test_it_decides_where_the_guard_looks_at_it():
    """6 samples of 60 are rare: with weights of 1/6 and 1/54, they are worth 2^2 / (1/6 + 1/54) = 21.6."""
    assert samples_beside(of(RARE), PLAIN) == {"balanced_accuracy": pytest.approx(21.6)}
    assert samples_beside(of(np.arange(60) % 2), PLAIN) == samples_beside(of(RARE * 1.5), PLAIN) == {}
    assert samples_beside(of({"a": RARE, "b": RARE}), PLAIN) == {}
    weighted = dataclasses.replace(PLAIN, class_weight="balanced")
    assert samples_beside(of(RARE), weighted) == {}
    names = [
        what_decides(of(y), how) for y, how in ((RARE, PLAIN), (RARE, weighted), (NAMED, PLAIN), (RARE * 1.5, PLAIN))
    ]
    assert names == ["mean of accuracy and balanced accuracy", "class-weighted accuracy", "accuracy", "mae"]
    logs = {"val_accuracy": 0.9, "val_balanced_accuracy": 0.7, "val_loss": 2.0}
    noise = (np.sqrt(0.9 * 0.1 / 60) + np.sqrt(0.7 * 0.3 / 21.6)) / 2
    found = score_reader(of(RARE), PLAIN)(logs, prefix="val_")
    assert (found.rank, found.negative_loss, found.noise) == pytest.approx((0.8, -2.0, noise))
    assert score_reader(of(NAMED), PLAIN)(logs, prefix="val_") == Score(0.9, -2.0, np.sqrt(0.9 * 0.1 / 60))


def test_an_epoch_that_loses_a_rare_class_is_not_kept_for_its_accuracy():
    """A model that finds the rare class, at 0.90 of all answers; labels of training that are always 0 make it 0.95."""
    y = np.repeat([0, 1], [190, 10])
    x = (y[:, None] + np.where(np.arange(200) % 11 == 0, 1, 0)[:, None] * (y[:, None] == 0)).astype("float32")
    part = (x, y)
    data = tfopt.load_data({"train": (x, np.append(np.zeros(199, int), 1)), "validation": part, "test": part})
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.array([[2.0]]), np.array([-1.0])])
    answers = (model.predict(x, verbose=0) > 0.5)[:, 0]
    assert 0.9 < (answers == y).mean() < 0.95 and balanced_accuracy_score(y, answers) > 0.94
    training = tfopt.Training(learning_rate=0.5, batch_size=20, schedule="constant", optimizer="sgd")
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=3, min_steps=0),), training=training)
    result = tfopt.optimize(model, recipe, data, quiet=True)
    course = result.report.rows[1].history
    assert max(course.values["val_accuracy"]) == pytest.approx(0.95)  # always 0
    assert min(course.values["val_balanced_accuracy"]) == pytest.approx(0.5)
    assert course.kept == 0 and result.verdict.ok
    assert any("no epoch was better than mean of accuracy and balanced" in note for note in result.report.rows[1].notes)


def test_it_is_a_metric_that_tf_keras_compiles():
    model = tf_keras().Sequential([tf_keras().Input((1,)), tf_keras().layers.Dense(2, "softmax")])
    model.set_weights([np.zeros((1, 2)), np.array([1.0, 0.0])])
    model.compile(loss="sparse_categorical_crossentropy", metrics=[balanced_accuracy(task_of(of(RARE)), logits=False)])
    found = model.evaluate(np.zeros((60, 1)), RARE, verbose=0, return_dict=True)
    assert found["balanced_accuracy"] == pytest.approx(0.5)
