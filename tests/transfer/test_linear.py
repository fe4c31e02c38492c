"""Linear heads with a cross-validated penalty, against scikit-learn and the normal equations."""

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tfopt.data import load_data
from tfopt.surgery.body import body_of
from tfopt.tasks import Classification, Multilabel, Regression
from tfopt.tasks.scaling import TargetScale
from tfopt.transfer import FeatureTransfer, Head, StructureTransfer, linear
from tfopt.transfer.linear import can_fit, fit_linear_head, folds_of


def blobs(count, width, classes, seed=0, spread=1.0):
    """Features (count, width) far from mean 0 and deviation 1, around one center for each class; float32."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.normal(size=(classes, width))[y] * spread + rng.normal(size=(count, width))
    return (x * rng.uniform(0.1, 30, width) + rng.uniform(-50, 50, width)).astype("float32"), y.astype(np.int32)


def standardized(x):
    x = x.astype(np.float64)
    return (x - x.mean(axis=0)) / x.std(axis=0)


def softmax(scores):
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def best_strength(x, y, folds):
    """The strength whose held-out log loss is lowest, every fold fitted from scratch, and its accuracy."""
    losses, hits = [], []
    for strength in linear.STRENGTHS:
        loss = right = 0.0
        for held in folds:
            kept = np.setdiff1d(np.arange(len(y)), held)
            made = LogisticRegression(C=strength, max_iter=5000).fit(x[kept], y[kept])
            loss += log_loss(y[held], made.predict_proba(x[held]), labels=made.classes_) * len(held)
            right += (made.predict(x[held]) == y[held]).sum()
        losses.append(loss / len(y))
        hits.append(right / len(y))
    best = int(np.argmin(losses))
    return linear.STRENGTHS[best], losses[best], hits[best]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "width", "classes", "spread"), [(90, 6, 3, 0.7), (40, 100, 4, 0.15), (60, 5, 2, 0.7)]
)
def test_classes_are_scikit_learns_logistic_regression(count, width, classes, spread, monkeypatch):
    """Also with more features than samples, which are rotated first, and with two classes."""
    monkeypatch.setattr(linear, "POWERS", (1.0,))
    x, y = blobs(count, width, classes, spread=spread)
    found = fit_linear_head(x, y, Classification("sparse", classes), seed=3)
    strength, loss, accuracy = best_strength(standardized(x), y, folds_of(y, 3))
    assert strength not in (linear.STRENGTHS[0], linear.STRENGTHS[-1])
    expected = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(standardized(x), y)
    new, _ = blobs(50, width, classes, spread=spread)
    scaled = (new.astype(np.float64) - x.mean(axis=0, dtype=np.float64)) / x.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(softmax(new @ found.kernel + found.bias), expected.predict_proba(scaled), atol=5e-3)
    assert found.loss == pytest.approx(loss, abs=1e-3)
    assert f"C = {strength:.3g}: accuracy {accuracy:.4f} in 5-fold cross-validation" in found.note
    one_hot = np.eye(classes, dtype="float32")[y]
    same = fit_linear_head(x, one_hot, Classification("one-hot", classes, (classes,)), seed=3)
    np.testing.assert_array_equal(same.kernel, found.kernel)


def test_classes_without_samples_are_never_predicted():
    x, y = blobs(60, 4, 3)
    found = fit_linear_head(x, y * 2, Classification("sparse", 6))  # classes 1, 3 and 5 are absent
    scores = x @ found.kernel + found.bias
    assert set(scores.argmax(axis=1)) == {0, 2, 4}
    assert scores[:, [1, 3, 5]].max() < scores[:, [0, 2, 4]].min()
    plain = fit_linear_head(x, y, Classification("sparse", 3))
    np.testing.assert_allclose(found.kernel[:, [0, 2, 4]], plain.kernel)


def test_a_class_with_one_sample_and_a_sample_of_each_class():
    x, y = blobs(41, 4, 2)
    y[-1] = 2
    found = fit_linear_head(x, y, Classification("sparse", 3))
    assert np.isfinite(found.kernel).all() and found.loss < 3
    alone = fit_linear_head(x[[0, 1, 40]], y[[0, 1, 40]], Classification("sparse", 3))
    assert alone.loss is None and "C = 1: too few samples to choose it" in alone.note
    assert ((x[[0, 1, 40]] @ alone.kernel + alone.bias).argmax(axis=1) == [0, 1, 2]).all()


def test_constant_features_and_equal_labels():
    x, y = blobs(60, 4, 2)
    x[:, 1] = 7
    found = fit_linear_head(x, y, Classification("sparse", 2))
    np.testing.assert_allclose(found.kernel[1], 0, atol=1e-9)
    assert can_fit(Classification("sparse", 2), y)
    assert not can_fit(Classification("sparse", 2), np.zeros(9, np.int32))
    assert not can_fit(Regression("values", None), np.ones(9, np.float32))


def test_labels_that_do_not_exclude_each_other(monkeypatch):
    monkeypatch.setattr(linear, "POWERS", (1.0,))
    x, y = blobs(90, 5, 3)
    labels = np.stack([y > 0, y > 1, np.zeros(90), np.ones(90)], axis=1).astype("float32")
    found = fit_linear_head(x, labels, Multilabel("values", 4, (4,)))
    strength = float(found.note.split("C = ")[1].split(":")[0])
    strength = min(linear.STRENGTHS, key=lambda known: abs(np.log(known / strength)))
    chances = 1 / (1 + np.exp(-(x @ found.kernel + found.bias)))
    for column in (0, 1):
        made = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(standardized(x), labels[:, column])
        np.testing.assert_allclose(chances[:, column], made.predict_proba(standardized(x))[:, 1], atol=5e-3)
    np.testing.assert_allclose(chances[:, 2], 1 / 182, rtol=1e-6)  # (0 + 1/2) / (90 + 1)
    np.testing.assert_allclose(chances[:, 3], 181 / 182, rtol=1e-6)


def ages(count=120, width=8, seed=0):
    """Targets of 50 +- 10 and 3000 +- 5, and noisy features of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)) * 4 + 20
    y = np.stack([x @ rng.normal(size=width), x @ rng.normal(size=width)], axis=1)
    y = (y - y.mean(axis=0)) / y.std(axis=0) + 0.3 * rng.normal(size=(count, 2))
    return x.astype("float32"), (y * [10, 5] + [50, 3000]).astype("float32")


def test_weights_count_as_in_scikit_learn_and_the_weighted_normal_equations(monkeypatch):
    for name, values in (("POWERS", (1.0,)), ("STRENGTHS", (1.0,)), ("PENALTIES", (0.01,))):
        monkeypatch.setattr(linear, name, values)
    x, y = blobs(90, 6, 3, spread=0.7)
    weights = np.random.default_rng(1).uniform(0.5, 9, 90).astype("float32")
    found = fit_linear_head(x, y, Classification("sparse", 3), weights=weights)
    made = LogisticRegression(max_iter=5000, tol=1e-8).fit(standardized(x), y, weights / weights.mean())
    expected = made.predict_proba(standardized(x))
    np.testing.assert_allclose(softmax(x @ found.kernel + found.bias), expected, atol=5e-3)

    x, y = ages(90)
    found = fit_linear_head(x, y, Regression("values", None, (2,)), weights=weights)
    design, share = np.hstack([standardized(x), np.ones((90, 1))]), weights / weights.mean()
    ridge = 0.01 * 90 * np.diag([1] * 8 + [0])
    solved = np.linalg.solve(
        design.T @ (share[:, None] * design) + ridge, design.T @ (share[:, None] * standardized(y))
    )
    values = (design @ solved) * y.std(axis=0, dtype=np.float64) + y.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(x @ found.kernel + found.bias, values, rtol=1e-4)


def test_samples_of_weight_0_do_not_count():
    x, y = blobs(80, 4, 2)
    weights = np.repeat([0.0, 3.0], [20, 60])
    found = fit_linear_head(x, y, Classification("sparse", 2), weights=weights)
    alone = fit_linear_head(x[20:], y[20:], Classification("sparse", 2))
    np.testing.assert_allclose(found.kernel, alone.kernel, rtol=1e-6)
    assert found.note == alone.note


def test_values_are_ridge_by_the_normal_equations(monkeypatch):
    monkeypatch.setattr(linear, "POWERS", (1.0,))
    x, y = ages()
    found = fit_linear_head(x, y, Regression("values", None, (2,)), seed=1)
    a, b = standardized(x), standardized(y)

    def solved(rows, penalty):
        design = np.hstack([a[rows] - a[rows].mean(axis=0), np.ones((len(rows), 1))])
        ridge = penalty * len(rows) * np.diag([1] * 8 + [0])
        weights = np.linalg.solve(design.T @ design + ridge, design.T @ b[rows])
        return weights[:-1], weights[-1] - a[rows].mean(axis=0) @ weights[:-1]

    errors = []
    for penalty in linear.PENALTIES:
        error = np.zeros(2)
        for held in folds_of(np.zeros(len(x), int), 1):
            kernel, bias = solved(np.setdiff1d(np.arange(len(x)), held), penalty)
            error += ((a[held] @ kernel + bias - b[held]) ** 2).sum(axis=0)
        errors.append(error.sum() / (2 * len(x)))
    best = int(np.argmin(errors))
    assert 0 < best < len(errors) - 1
    kernel, bias = solved(np.arange(len(x)), linear.PENALTIES[best])
    expected = (a @ kernel + bias) * y.std(axis=0, dtype=np.float64) + y.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(x @ found.kernel + found.bias, expected, atol=2e-3)
    assert found.loss == pytest.approx(errors[best], rel=1e-4)
    assert f"alpha = {linear.PENALTIES[best]:.3g} per sample" in found.note


def test_features_keep_their_ratios_where_that_is_better(monkeypatch):
    """Two strong features tell the classes, 60 weak ones are noise: as strong as the two they only disturb."""
    rng = np.random.default_rng(0)
    y = (np.arange(40) % 2).astype(np.int32)
    x = rng.normal(size=(40, 62)) * np.where(np.arange(62) < 2, 10.0, 0.1)
    x[:, :2] += 12 * y[:, None]
    losses = {}
    for power in (1.0, 0.5, 0.0):
        monkeypatch.setattr(linear, "POWERS", (power,))
        losses[power] = fit_linear_head(x, y, Classification("sparse", 2)).loss
    monkeypatch.undo()
    found = fit_linear_head(x, y, Classification("sparse", 2))
    best = min(losses, key=lambda power: losses[power])
    assert losses[best] < 0.9 * losses[1.0] and found.loss == losses[best]
    assert f"deviation to the power of {best:g}" in found.note
    made = LogisticRegression(C=float(found.note.split("C = ")[1].split(":")[0]), max_iter=5000)
    scaled = (x - x.mean(axis=0)) / (x.std(axis=0) ** best * x.var(axis=0).mean() ** ((1 - best) / 2))
    np.testing.assert_allclose(
        softmax(x @ found.kernel + found.bias), made.fit(scaled, y).predict_proba(scaled), atol=0.02
    )


def test_difference_in_standard_errors():
    better = np.zeros(4)
    worse = np.array([1.0, 3, 1, 3])  # mean 2, deviation 1, standard error 1/2
    assert linear.worse_by(worse, better) == pytest.approx(4)
    assert linear.worse_by(better, better) == 0
    assert linear.worse_by(np.full(4, 0.25), better) == np.inf  # all are worse by the same
    assert linear.worse_by(better, np.full(4, 0.25)) == -np.inf
    assert linear.worse_by(np.ones(1), np.zeros(1)) == 0  # nobody knows


def test_folds_are_spread_over_classes_and_keep_views_together():
    groups = np.repeat([0, 1, 2], [20, 7, 1])
    folds = folds_of(groups, 0, views=3)
    assert sorted(np.concatenate(folds)) == list(range(84))
    for held in folds:
        samples, counts = np.unique(held % 28, return_counts=True)
        assert (counts == 3).all()
        assert (groups[samples] == 0).sum() == 4 and (groups[samples] == 1).sum() in (1, 2)
    assert len(folds_of(np.repeat([0, 1], 3), 0)) == 3
    assert folds_of(np.arange(5), 0) == []
    assert any(
        (a != b).any() for a, b in zip(folds_of(groups, 0), folds_of(groups, 1), strict=True) if len(a) == len(b)
    )


def test_scale_of_targets():
    y = np.array([[1.0, 10], [3, 10], [8, 10]], np.float32)
    scale = TargetScale.of(y)
    np.testing.assert_allclose(scale.mean, [4, 10])
    np.testing.assert_allclose(scale.deviation, [np.sqrt(26 / 3), 1])
    np.testing.assert_allclose(scale.normalized(y)[:, 0], (y[:, 0] - 4) / np.sqrt(26 / 3), rtol=1e-6)
    kernel, bias = scale.restored(np.eye(2), np.array([1.0, 2]))
    np.testing.assert_allclose(kernel, np.diag([np.sqrt(26 / 3), 1]))
    np.testing.assert_allclose(bias, [np.sqrt(26 / 3) + 4, 12])
    np.testing.assert_allclose(scale.applied(kernel, bias)[1], [1, 2])


# In a transfer


@pytest.fixture(scope="module")
def source():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="source")
    model.get_layer("body").set_weights([np.eye(8), np.zeros(8)])  # the features are the inputs
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"head": Head(hidden=(16,)), "epochs": 40, "learning_rate": 0.03, "batch_size": 16}],
    ids=["ridge", "Adam"],
)
def test_an_age_of_50_is_not_missed_by_49(source, settings):
    """Both kinds of heads predict in the units of the targets, far better than the mean of the training samples."""
    x, y = ages(count=200)
    data = load_data((x, y))
    made = FeatureTransfer(**settings).transferred(source, data, quiet=True)
    error = np.abs(made.model.predict(data.test.x(), verbose=0) - data.test.y()).mean(axis=0)
    of_mean = np.abs(data.train.y().mean(axis=0) - data.test.y()).mean(axis=0)
    assert (error < 0.6 * of_mean).all(), (error, of_mean)
    assert ("ridge" in made.notes[1]) == (not settings)


@pytest.mark.slow
def test_which_heads_are_fitted_and_which_trained(source, monkeypatch):
    x, y = blobs(60, 8, 3)
    data = load_data((x, y))

    def note(**settings):
        return FeatureTransfer(**settings).transferred(source, data, quiet=True).notes[1]

    assert note().startswith("head fitted on 38 features: multinomial logistic regression, C = ")
    assert "38 features for 1 epochs of Adam, as epochs or learning_rate is given" in note(epochs=1)
    assert "as it has hidden layers or dropout" in note(head=Head(dropout=0.1), epochs=1)
    monkeypatch.setattr("tfopt.transfer.feature_transfer.FEW", 38 * 8 * 3 - 1)
    monkeypatch.setattr("tfopt.transfer.feature_transfer.EPOCHS", 3)
    assert "for 3 epochs of Adam, as samples x features x outputs = 912 is over 911" in note()


def test_the_fitted_head_is_in_the_model(source):
    x, y = blobs(60, 8, 3)
    data = load_data((x, y))
    made = FeatureTransfer(seed=5).transferred(source, data, quiet=True)
    found = fit_linear_head(data.train.x(), data.train.y(), Classification("sparse", 3), seed=5)
    expected = softmax(data.test.x() @ found.kernel + found.bias)
    np.testing.assert_allclose(made.model.predict(data.test.x(), verbose=0), expected, atol=1e-4)
    assert [layer.units for layer in made.model.layers if hasattr(layer, "units")] == [8, 3]


# Of several depths


def two_depths(last):
    """Features of an image: `low`, the means of its channels, then `high`, which `last` (2, 3) makes of them."""
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(2, 1, name="low")(inputs)
    x = keras.layers.Conv2D(3, 1, name="high")(keras.layers.ReLU(name="relu")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", name="classes")(x), name="two")
    model.get_layer("low").set_weights([np.eye(2).reshape(1, 1, 2, 2), np.zeros(2)])
    model.get_layer("high").set_weights([np.asarray(last, float).reshape(1, 1, 2, 3), np.ones(3)])
    return model


def bright_images(count=150):
    """The class is in the second channel."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = rng.uniform(0, 1, (count, 4, 4, 2)) + rng.normal(size=(count, 1, 1, 2)) ** 2
    x[..., 1] += 2 * y[:, None, None]
    return load_data((x.astype("float32"), y))


def test_a_fresh_model_for_values_begins_on_their_scale(source):
    """Not only heads: what `StructureTransfer` gives to the stages predicts about the mean, before any training."""
    x, y = ages()
    data = load_data((x / 30, y))
    model = StructureTransfer().untrained(source, data).model
    values = model.predict(data.train.x(), verbose=0)
    np.testing.assert_allclose(values.mean(axis=0), [50, 3000], atol=25)
    assert (values.std(axis=0) < 60).all() and (values.std(axis=0) > 0.5).all()


def test_features_of_several_depths():
    data, last = bright_images(), [[1, 2, 3], [0, 1, 0]]
    body = body_of(two_depths(last), depths=None)
    assert body.widths == (3, 2) and "and 1 depths before it" in body.describe()
    low = data.test.x().mean(axis=(1, 2))
    found = body.package.Model(body.inputs, body.features).predict(data.test.x(), verbose=0)
    np.testing.assert_allclose(found, np.hstack([low @ last + 1, low]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("last", "depths"), [([[1, 2, 3], [0, 0, 0]], 2), ([[1, 0, 0], [0, 1, 0]], 1)])
def test_cross_validation_chooses_how_many_depths(last, depths):
    """The last features do not see the second channel, or all that there is."""
    data = bright_images()
    made = FeatureTransfer(depths="auto").transferred(two_depths(last), data, quiet=True)
    assert made.notes[1].startswith(f"features of {depths} depths: cross-validated loss by number of depths 1: ")
    assert made.model.get_layer("head").get_weights()[0].shape == ((3, 3), (5, 3))[depths - 1]
    hits = (made.model.predict(data.test.x(), verbose=0).argmax(axis=1) == data.test.y()).mean()
    assert hits > 0.7
    blind = FeatureTransfer().transferred(two_depths(last), data, quiet=True).model
    if depths == 2:
        assert (blind.predict(data.test.x(), verbose=0).argmax(axis=1) == data.test.y()).mean() < 0.6
