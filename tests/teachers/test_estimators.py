"""Estimators of scikit-learn as teachers."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC, OneClassSVM

import tfopt
from tfopt.distillation.session import DistillationSession, adapted_teacher
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


PAIRS = {"decision_function_shape": "ovo"}


@pytest.mark.parametrize(
    "estimator",
    [
        SVC(**PAIRS),
        NuSVC(**PAIRS),
        make_pipeline(StandardScaler(), SVC(**PAIRS)),
        GridSearchCV(SVC(**PAIRS), {"C": [1.0]}, cv=2),
        GridSearchCV(make_pipeline(StandardScaler(), SVC(**PAIRS)), {"svc__C": [1.0]}, cv=2),
        CalibratedClassifierCV(SVC(**PAIRS), cv=2),
        VotingClassifier([("a", RandomForestClassifier(5)), ("b", LogisticRegression())], voting="soft"),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_each_column_is_of_one_class(estimator, classes):
    """Three classes make as many pairs as classes, so that shapes show nothing; what it predicts does."""
    x, y = make_classification(300, 8, n_informative=7, n_redundant=0, n_classes=classes, random_state=1)
    fitted = estimator.fit(x.astype(np.float32), y)
    made = answer(fitted, x.astype(np.float32))
    assert made.shape == (300, classes)
    assert np.mean(made.argmax(axis=1) == fitted.predict(x.astype(np.float32))) > 0.97
    if hasattr(fitted, "decision_function_shape"):
        assert fitted.decision_function_shape == "ovo"  # the caller's stays as it is


class Odd(LogisticRegression):
    """Answers with a column too many."""

    def predict_proba(self, x):
        return np.pad(super().predict_proba(x), ((0, 0), (0, 1)))


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (OneClassSVM(), "A OneClassSVM tells outliers from other samples"),
        (make_pipeline(StandardScaler(), IsolationForest(n_estimators=5)), "A IsolationForest tells outliers"),
        (KMeans(3, n_init=1), "A KMeans numbers groups"),
        (make_pipeline(StandardScaler(), KMeans(3, n_init=1)), "A KMeans numbers groups"),
        (GaussianMixture(3), "A GaussianMixture numbers groups"),
        (VotingClassifier([("a", LogisticRegression())]), "A VotingClassifier answers with classes only"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_has_no_scores_of_classes_is_refused(estimator, words):
    with pytest.raises(ModelError, match=words):
        tfopt.Teacher(estimator.fit(X, Y))


def test_a_column_for_each_class_is_required():
    with pytest.raises(ModelError, match="A Odd gives 4 columns for 3 classes; expected one for each"):
        answer(Odd().fit(X, Y))


LABELS = np.stack([Y == 1, X[:, 0] > 0], axis=1).astype(int)


@pytest.mark.parametrize(
    "estimator",
    [
        MultiOutputClassifier(LogisticRegression()),
        ClassifierChain(LogisticRegression()),
        OneVsRestClassifier(LogisticRegression()),
        MLPClassifier((4,), max_iter=20),
        RandomForestClassifier(5, random_state=0),
        KNeighborsClassifier(),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_several_labels_are_one_probability_each(estimator):
    fitted = estimator.fit(X, LABELS)
    made = answer(fitted)
    assert made.shape == (200, 2) and made.min() >= 0 and made.max() <= 1
    assert np.mean((made > 0.5) == fitted.predict(X)) > 0.97
    teacher = tfopt.Teacher(fitted).resolved(X, "multilabel")
    probabilities = 1 / (1 + np.exp(-teacher.predict(X, quiet=True)["output"]))
    np.testing.assert_allclose(probabilities, made, atol=1e-6)


def test_a_label_that_training_always_had_is_certain():
    fitted = RandomForestClassifier(5).fit(X, np.stack([Y == 1, np.ones(200)], axis=1))
    np.testing.assert_array_equal(answer(fitted)[:, 1], 1.0)


def test_several_labels_of_several_classes_say_what_is_needed():
    fitted = MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([Y, Y + 1], axis=1))
    with pytest.raises(ModelError, match="answers for 2 labels with the classes 0, 1, 2; 1, 2, 3; a model has one"):
        answer(fitted)


def test_several_labels_teach_a_student():
    data = tfopt.load_data((X, LABELS))
    forest = MultiOutputClassifier(LogisticRegression()).fit(data.train.x(), data.train.y())
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "sigmoid")])
    result = tfopt.optimize(student, tfopt.FineTune(epochs=2), data, teacher=forest, quiet=True)
    assert any("multilabel_kd" in note for row in result.report.rows for note in row.notes)


def test_several_values_teach_a_student():
    data = tfopt.load_data((X, X[:, :2]))
    ridge = MultiOutputRegressor(Ridge()).fit(data.train.x(), data.train.y())
    np.testing.assert_allclose(answer(ridge), ridge.predict(X), atol=1e-5)
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    result = tfopt.optimize(student, tfopt.FineTune(epochs=2), data, teacher=ridge, quiet=True)
    assert any("regression_kd" in note for row in result.report.rows for note in row.notes)


@pytest.mark.parametrize("kind", [int, float])
def test_other_class_numbers_are_refused(kind):
    data = tfopt.load_data((X, Y))
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    other = LogisticRegression().fit(X, (Y + 1).astype(kind))
    with pytest.raises(ModelError, match="knows the classes 1, 2, 3, the data have 0, 1, 2: it does not know 0"):
        tfopt.optimize(student, tfopt.FineTune(), data, teacher=other, quiet=True)
    named = dataclasses.replace(data, class_names=("a", "b", "c"))
    with pytest.raises(ModelError, match=r"does not know the class 'a' \(known: 1, 2, 3\)"):
        tfopt.optimize(student, tfopt.FineTune(), named, teacher=other, quiet=True)


WORDS = np.array(["cat", "dog", "ant"])  # in the order of the class numbers; an estimator sorts them


def test_classes_in_words_have_no_numbers_until_somebody_says_so():
    data = tfopt.load_data((X, Y))
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    named = LogisticRegression().fit(X, WORDS[Y])
    words = r"has the classes ant, cat, dog, the labels are numbers without names.*\.for_classes\("
    for teacher in (named, [named, LogisticRegression().fit(X, Y)]):
        with pytest.raises(ModelError, match=words):
            tfopt.optimize(student, tfopt.FineTune(), data, teacher=teacher, quiet=True)
        distilled = tfopt.distill(student, teacher)
        distilled.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(ModelError, match=words):
            distilled.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (lambda named, data: (tfopt.Teacher(named).for_classes(WORDS), data), True),
        (lambda named, data: (tfopt.Teacher(named, class_names=("2", "0", "1")), data), False),  # of ant, cat, dog
        (lambda named, data: (named, dataclasses.replace(data, class_names=tuple(map(str, WORDS)))), False),
        (lambda named, data: (tfopt.Ensemble([named, named], class_names=WORDS), data), True),
    ],
    ids=["for_classes", "numbers", "data", "ensemble"],
)
def test_classes_in_words_are_mapped_where_their_order_is_stated(state, said):
    named = LogisticRegression().fit(X, WORDS[Y])
    teacher, data = state(named, tfopt.load_data((X, Y)))
    ready = adapted_teacher(teacher, tfopt.Distillation(), data)
    logits = ready.predict(X, quiet=True)["output"]
    np.testing.assert_array_equal(WORDS[logits.argmax(axis=1)], named.predict(X))
    notes = DistillationSession(tfopt.Distillation(), ready, data, augment=None, seed=0).notes()
    assert ("the data name no classes: 0, 1, ... are the teacher's cat, dog, ant in this order" in notes) == said


def test_class_names_do_not_reorder_the_columns_of_an_estimator():
    named = LogisticRegression().fit(X, WORDS[Y])
    with pytest.raises(ModelError, match="its classes ant, cat, dog in this order; got the class_names cat, dog, ant"):
        tfopt.Teacher(named, class_names=WORDS)
    assert tfopt.Teacher(named, class_names=("Ant", "cat", "Dog")).class_names == ("Ant", "cat", "Dog")


def test_an_estimator_that_cannot_be_pickled_has_no_fingerprint():
    forest = RandomForestClassifier(5).fit(X, Y)
    forest.note = lambda: None
    assert tfopt.Teacher(forest).fingerprint is None


@pytest.mark.parametrize(
    "estimator",
    [
        GradientBoostingClassifier(n_estimators=2),
        MultiOutputRegressor(GradientBoostingRegressor(n_estimators=2)),
        KNeighborsClassifier(algorithm="kd_tree"),
        KNeighborsClassifier(algorithm="ball_tree"),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_fingerprint_is_of_what_decides_the_answers(estimator):
    """Training advances the global RandomState, which an estimator may hold; neighbor trees count their calls."""
    answers = X[:, :2] if isinstance(estimator, MultiOutputRegressor) else Y
    teacher = tfopt.Teacher(estimator.fit(X, answers))
    before = teacher.fingerprint
    np.random.rand()
    answer(estimator)
    assert teacher.fingerprint == before is not None
    estimator.fit(X[:100], answers[:100])
    assert teacher.fingerprint != before


def test_neighbors_answer_from_the_cache_of_another_run(tmp_path):
    data = tfopt.load_data((X, Y))
    stored = []
    for _ in range(2):
        neighbors = KNeighborsClassifier().fit(data.train.x(), data.train.y())
        student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
        tfopt.optimize(student, tfopt.FineTune(epochs=1), data, teacher=neighbors, teacher_cache=tmp_path, quiet=True)
        stored.append(sorted(tmp_path.rglob("*.np?")))
    assert stored[0] == stored[1] != []


def test_an_estimator_before_fit_is_refused():
    with pytest.raises(ModelError, match="not fitted"):
        tfopt.Teacher(LogisticRegression())


def test_a_forest_teaches_a_small_network():
    data = tfopt.load_data((X, Y))
    forest = RandomForestClassifier(20, random_state=0).fit(data.train.x(), data.train.y())
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    result = tfopt.optimize(student, tfopt.FineTune(epochs=5), data, teacher=forest, quiet=True)
    assert any("RandomForestClassifier" in note for row in result.report.rows for note in row.notes)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearSVC()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_a_student_of_one_output_learns_the_second_of_two_classes(estimator, activation):
    """The log-odds log(p1 / p0) of the estimator are its decision."""
    labels = (Y == 1).astype(int)
    data, estimator = tfopt.load_data((X, labels)), estimator.fit(X, labels)
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation=activation)])
    kernel, bias = estimator.coef_.T.astype(np.float32), estimator.intercept_.astype(np.float32)
    student.set_weights([kernel, bias])
    only = tfopt.Distillation(losses=(tfopt.losses.Hinton(weight=1.0),), alpha=0.0)
    model = tfopt.distill(student, tfopt.Teacher(estimator).resolved(X, "classification"), only)
    model.compile(keras.optimizers.SGD(0.0), loss=keras.losses.BinaryCrossentropy(from_logits=activation is None))
    history = model.fit(X, labels.astype("float32"), batch_size=200, verbose=0).history
    assert history["hinton"][-1] == pytest.approx(0, abs=1e-5)
    result = tfopt.optimize(student, tfopt.FineTune(epochs=1), data, teacher=estimator, quiet=True)
    assert any(type(estimator).__name__ in note for row in result.report.rows for note in row.notes)


def test_a_student_of_two_outputs_learns_from_a_teacher_of_one():
    """Log-odds d of the teacher are -d / 2 and d / 2: the student that gives these has nothing to learn."""
    labels = (Y == 1).astype(int)
    d = LogisticRegression().fit(X, labels)
    teacher = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation="sigmoid")])
    teacher.set_weights([d.coef_.T, d.intercept_])
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, activation="softmax")])
    student.set_weights([d.coef_.T * [-0.5, 0.5], d.intercept_ * [-0.5, 0.5]])
    model = tfopt.distill(student, teacher, tfopt.Distillation(losses=(tfopt.losses.Hinton(weight=1.0),), alpha=0.0))
    model.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    assert model.fit(X, labels, batch_size=200, verbose=0).history["hinton"][-1] == pytest.approx(0, abs=1e-5)


def test_an_estimator_is_fed_images_as_rows_of_pixels():
    data = tfopt.load_data("digits", limit=100)
    rows = data.train.x().reshape(len(data.train), -1)
    forest = RandomForestClassifier(5, random_state=0).fit(rows, data.train.y())
    ready = adapted_teacher(forest, tfopt.Distillation(), data)
    assert any("fed inputs of shape (8, 8, 1) as rows of 64 numbers" in note for note in ready.notes)
    found = ready.predict(data.train.x(), quiet=True)["output"]
    found = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, forest.predict_proba(rows), atol=1e-3)
    other = RandomForestClassifier(5).fit(rows[:, :60], data.train.y())
    with pytest.raises(
        ModelError, match=r"shape \(60,\), the student is fed \(8, 8, 1\), which is 64 numbers\. Fit it on"
    ):
        adapted_teacher(other, tfopt.Distillation(), data)
