"""Estimators of scikit-learn as Keras models, compared with what scikit-learn answers."""

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

import tfopt
from tfopt.errors import ModelError
from tfopt.models.sources import model_from

RNG = np.random.default_rng(0)


def classes_of(number):
    x, y = make_classification(120, 6, n_informative=5, n_redundant=0, n_classes=number, random_state=0)
    return (10 * x + 3).astype(np.float32), y


CLASSIFIERS = [
    LogisticRegression(),
    MLPClassifier((7, 5), max_iter=20),
    MLPClassifier((4,), activation="tanh", max_iter=20),
    MLPClassifier((4,), activation="logistic", max_iter=20),
    LinearSVC(),
    SGDClassifier(loss="log_loss"),
    LinearDiscriminantAnalysis(),
]


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda each: type(each).__name__)
@pytest.mark.filterwarnings("ignore")
def test_a_classifier_answers_the_same(estimator, scaled, number):
    x, y = classes_of(number)
    estimator = (make_pipeline(StandardScaler(), estimator) if scaled else estimator).fit(x if scaled else x / 10, y)
    x = x if scaled else x / 10
    model = tfopt.load_model(estimator)
    made = np.asarray(model(x))
    assert made.shape == (120, number)
    np.testing.assert_array_equal(made.argmax(axis=1), estimator.predict(x))
    last = estimator[-1] if scaled else estimator
    if isinstance(last, LogisticRegression | MLPClassifier):
        np.testing.assert_allclose(made, estimator.predict_proba(x), atol=1e-5)
    else:
        decisions = estimator.decision_function(x)
        given = made if number > 2 else made[:, 1] - made[:, 0]
        np.testing.assert_allclose(given, decisions, atol=1e-5 * np.abs(decisions).max())


@pytest.mark.parametrize(
    "estimator",
    [LinearRegression(), Ridge(), Lasso(), MLPRegressor(hidden_layer_sizes=(6,), max_iter=20)],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.filterwarnings("ignore")
def test_a_regressor_answers_the_same(estimator, targets):
    x, y = make_regression(100, 5, n_targets=targets, random_state=0)
    pipeline = make_pipeline(StandardScaler(with_mean=False), estimator).fit(x, y)
    wanted = pipeline.predict(x).reshape(100, targets)
    made = np.asarray(model_from(pipeline)(x.astype(np.float32)))
    np.testing.assert_allclose(made, wanted, atol=1e-5 * np.abs(wanted).max())


def test_its_file_is_right():
    x, y = classes_of(3)
    data = tfopt.load_data(((x - x.mean(0)) / x.std(0), y))
    estimator = LogisticRegression().fit(data.train.x(), data.train.y())
    lite = tfopt.export_tflite(tfopt.load_model(estimator), representative_data=data)
    answers = np.argmax(lite.predict(data.test.x()), axis=1)
    assert np.mean(answers == estimator.predict(data.test.x())) > 0.9


def test_what_cannot_be_converted_is_said():
    x, y = classes_of(2)
    with pytest.raises(ModelError, match="got a RandomForestClassifier; other estimators can be the teacher"):
        tfopt.load_model(RandomForestClassifier(3).fit(x, y))
    with pytest.raises(ModelError, match="got a SVC"):
        tfopt.load_model(SVC(kernel="linear").fit(x, y))
    with pytest.raises(ModelError, match="got MinMaxScaler"):
        tfopt.load_model(make_pipeline(MinMaxScaler(), LogisticRegression()).fit(x, y))
    with pytest.raises(ModelError, match=r"before fit\(\)"):
        tfopt.load_model(LogisticRegression())


def test_coefficients_that_are_not_all_are_noticed():
    class Doubled(LinearRegression):
        def predict(self, x):
            return 2 * super().predict(x)

    x, y = make_regression(50, 3, random_state=0)
    with pytest.raises(ModelError, match="Doubled computes more than its coefficients say"):
        tfopt.load_model(Doubled().fit(x, y))
