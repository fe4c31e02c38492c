"""Estimators of scikit-learn as teachers."""

import keras
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import tfopt
from tfopt.errors import ModelError
from tfopt.teachers.sources import open_source

X, Y = make_classification(200, 6, n_informative=5, n_redundant=0, n_classes=3, random_state=0)
X = X.astype(np.float32)


def answer(estimator, x=X):
    import tensorflow as tf

    return open_source(estimator).source.ask(tf.constant(x))[0].numpy()


def test_a_classifier_gives_probabilities():
    forest = RandomForestClassifier(10, random_state=0).fit(X, Y)
    np.testing.assert_allclose(answer(forest), forest.predict_proba(X), atol=1e-6)
    teacher = tfopt.Teacher(forest).resolved(X, "classification")
    logits = teacher.predict(X, quiet=True)["output"]
    shown = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shown, forest.predict_proba(X), atol=1e-3)
    assert teacher.fingerprint == tfopt.Teacher(forest).fingerprint
    assert teacher.fingerprint != tfopt.Teacher(RandomForestClassifier(9, random_state=0).fit(X, Y)).fingerprint


def test_decisions_are_logits_and_regressors_give_values():
    svm = LinearSVC().fit(X, Y == 1)
    made = answer(svm)
    np.testing.assert_allclose(made[:, 1] - made[:, 0], svm.decision_function(X), rtol=1e-4, atol=1e-5)
    many = LinearSVC().fit(X, Y)
    np.testing.assert_allclose(answer(many), many.decision_function(X), rtol=1e-4, atol=1e-5)
    trees = GradientBoostingRegressor(n_estimators=5).fit(X, X[:, 0])
    np.testing.assert_allclose(answer(trees)[:, 0], trees.predict(X), rtol=1e-5)


def test_classes_have_their_names():
    named = LogisticRegression().fit(X, np.array(["c", "a", "b"])[Y])
    assert open_source(named).class_names == ("a", "b", "c")
    assert open_source(LogisticRegression().fit(X, Y)).class_names is None


def test_an_estimator_before_fit_is_refused():
    with pytest.raises(ModelError, match="not fitted"):
        tfopt.Teacher(LogisticRegression())


def test_a_forest_teaches_a_small_network():
    data = tfopt.load_data((X, Y))
    forest = RandomForestClassifier(20, random_state=0).fit(data.train.x(), data.train.y())
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    result = tfopt.optimize(student, tfopt.FineTune(epochs=5), data, teacher=forest, quiet=True)
    assert any("RandomForestClassifier" in note for row in result.report.rows for note in row.notes)
