"""Learning without another model as teacher: mean teacher, mutual learning, born-again generations, early exits.

Expected numbers are float64 NumPy, written from the papers; gradients of a linear model are derived by hand.
"""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr, softmax

from tfopt.base.keras_compat import tf_keras
from tfopt.distillation.losses import Hinton
from tfopt.distillation.self_taught.average import Average
from tfopt.distillation.self_taught.exits import EarlyExits, early_exits
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher, Ramp, Response, mean_teacher
from tfopt.distillation.self_taught.mean_teacher_session import MeanTeacherSession
from tfopt.distillation.self_taught.mutual import mutual, peer_gaps
from tfopt.distillation.self_taught.semi_supervised import OTHER_VIEW, UNLABELED, mixed_batches
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.run import born_again

RATE = 0.5


@pytest.fixture(params=["keras", "tf_keras"])
def api(request):
    import keras

    return {"keras": keras, "tf_keras": tf_keras()}[request.param]


@pytest.fixture(scope="module")
def table():
    """24 samples of 5 values in 3 classes."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 3, 24)


def linear(api, seed=0, name="linear"):
    """z = x W + b, 5 -> 3 logits."""
    rng = np.random.default_rng(seed)
    model = api.Sequential([api.Input((5,)), api.layers.Dense(3, name="head")], name=name)
    model.set_weights([rng.normal(size=(5, 3)).astype("float32"), rng.normal(size=3).astype("float32")])
    return model


def network(api, seed=0):
    """A model with BatchNorm, Dropout and probabilities."""
    api.utils.set_random_seed(seed)
    layers = api.layers
    inner = [layers.Dense(8, activation="relu", name="first"), layers.BatchNormalization(name="norm")]
    rest = [
        layers.Dense(6, activation="relu", name="second"),
        layers.Dropout(0.3),
        layers.Dense(3, activation="softmax"),
    ]
    return api.Sequential([api.Input((5,)), *inner, *rest], name="network")


def compiled(model, api, rate=RATE, logits=True, **kwargs):
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(api.optimizers.SGD(rate), loss, metrics=["accuracy"], **kwargs)
    return model


def values(weights, x):
    kernel, bias = (np.asarray(weight, np.float64) for weight in weights)
    return np.asarray(x, np.float64) @ kernel + bias


def hard_gradient(weights, x, y, sample_weight=1.0):
    """The gradient of the mean crossentropy with respect to the logits."""
    p = softmax(values(weights, x), axis=1)
    return (p - np.eye(3)[y]) * np.reshape(sample_weight * np.ones(len(x)), (-1, 1)) / len(x)


def after_step(weights, x, gradient):
    """The weights of a linear model after a step of SGD along a gradient of the logits."""
    kernel, bias = (np.asarray(weight, np.float64) for weight in weights)
    return kernel - RATE * np.asarray(x, np.float64).T @ gradient, bias - RATE * gradient.sum(axis=0)


def last(history):
    return {name: value[-1] for name, value in history.history.items()}


def same(ours, expected, tolerance=1e-5):
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, atol=tolerance)


# Mean teacher: formulas


def test_ramp_follows_the_paper():
    import tensorflow as tf

    ramp = Ramp(0.4)
    ramp.on_fit_begin(tf.Variable(100.0), epochs=5, steps=10, first_epoch=1)
    for step in (100, 103, 109, 110, 120):
        x = min((step - 90) / (0.4 * 50), 1)  # the first epoch was done before, so the ramp began at step 90
        np.testing.assert_allclose(float(ramp.share(tf.constant(float(step)))), np.exp(-5 * (1 - x) ** 2), rtol=1e-5)
    assert float(Ramp(0.0).share(tf.constant(0.0))) == 1
    with pytest.raises(RecipeError, match="steps_per_epoch"):
        ramp.on_fit_begin(tf.Variable(0.0), epochs=5, steps=None, first_epoch=0)


def test_average_by_hand(api):
    """The mean of all states until 1 / (t + 1) falls below 1 - decay, then exponential. Frozen weights are copied."""
    model = network(api)
    model.get_layer("second").trainable = False
    average = Average(model, decay=0.6)
    rng = np.random.default_rng(0)
    states = [[np.asarray(weight, np.float64) for weight in model.get_weights()]]
    expected = states[0]
    frozen = {id(weight) for weight in model.get_layer("second").weights}
    kept = [id(weight) in frozen for weight in model.weights]
    for step in range(1, 6):
        states.append([np.float32(rng.normal(size=weight.shape)).astype(np.float64) for weight in states[0]])
        model.set_weights(states[-1])
        average.update()
        decay = min(1 - 1 / (step + 1), 0.6)
        expected = [
            now if keep else decay * mean + (1 - decay) * now
            for mean, now, keep in zip(expected, states[-1], kept, strict=True)
        ]
        if step == 1:
            moving = [not keep for keep in kept].index(True)
            np.testing.assert_allclose(expected[moving], (states[0][moving] + states[1][moving]) / 2)
        same(average.model.get_weights(), expected)
    assert sum(kept) == 2


@pytest.mark.slow
def test_teacher_is_the_average_of_what_fit_passed_through(api, table):
    x, y = table
    seen = []

    class Record(api.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([np.asarray(weight, np.float64) for weight in student.get_weights()])

    student = network(api)
    start = [np.asarray(weight, np.float64) for weight in student.get_weights()]
    model = compiled(mean_teacher(student, MeanTeacher(decay=0.7)), api, logits=False)
    model.fit(x, np.where(np.arange(24) < 8, y, -1), batch_size=8, epochs=2, verbose=0, callbacks=[Record()])
    expected = start
    for step, state in enumerate(seen, start=1):
        decay = min(1 - 1 / (step + 1), 0.7)
        expected = [decay * mean + (1 - decay) * now for mean, now in zip(expected, state, strict=True)]
    assert len(seen) > 4 and np.abs(expected[0] - seen[-1][0]).max() > 1e-2
    same(model.teacher.get_weights(), expected)
    copy = model.teacher_model()
    model.fit(x, y, verbose=0)
    same(copy.get_weights(), expected)
    assert type(copy).__module__.partition(".")[0] == api.__name__


def test_teacher_knows_what_normalization_has_adapted_to(api):
    scale = api.layers.Normalization()
    scale.adapt(np.float32([[0, 4], [2, 8]]))
    model = api.Sequential([api.Input((2,)), scale, api.layers.Dense(3)])
    x = np.float32([[1, 2], [5, 3]])
    same([Average(model, 0.9).answers(x)], [np.asarray(model(x))], 0)


def test_gaps():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 7, 4)).astype("float32") * 3
    p, q = softmax(theirs.astype(float), axis=1), softmax(ours.astype(float), axis=1)
    a, b = 1 / (1 + np.exp(-theirs.astype(float))), 1 / (1 + np.exp(-ours.astype(float)))
    bernoulli = (rel_entr(a, b) + rel_entr(1 - a, 1 - b)).mean(axis=1)
    cases = [
        ((True, "logits", "mse"), (ours, theirs), ((p - q) ** 2).mean(axis=1)),
        ((True, "softmax", "mse"), (q, p), ((p - q) ** 2).mean(axis=1)),
        ((True, "logits", "kl"), (ours, theirs), rel_entr(p, q).sum(axis=1)),
        ((True, "softmax", "kl"), (q, p), rel_entr(p, q).sum(axis=1)),
        ((False, "logits", "mse"), (ours, theirs), ((a - b) ** 2).mean(axis=1)),
        ((False, "logits", "kl"), (ours, theirs), bernoulli),
        ((False, "values", "mse"), (ours, theirs), ((ours - theirs) ** 2).mean(axis=1)),
    ]
    for settings, given, expected in cases:
        gaps = Response(*settings).gaps(*(tf.constant(each, tf.float32) for each in given))
        np.testing.assert_allclose(gaps.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["together", "marked", "dataset"])
def test_one_step_by_hand(api, table, form):
    """The loss, its terms and the step: labels use labeled samples, consistency all; the teacher gets no step."""
    import tensorflow as tf

    x, y = table
    labeled, sample_weight = 6, np.linspace(0.5, 2, 6).astype("float32")
    student, other = linear(api), linear(api, seed=5).get_weights()
    start = student.get_weights()
    model = compiled(mean_teacher(student, MeanTeacher(ramp_up=0, weight=3.0)), api)
    model.teacher.set_weights(other)
    marked = np.where(np.arange(24) < labeled, y, -1)
    whole = np.concatenate([sample_weight, np.full(18, 7, "float32")])  # those of unlabeled samples are ignored
    if form == "together":
        history = model.fit(x[:6], y[:6], unlabeled=x[6:], sample_weight=sample_weight, batch_size=24, verbose=0)
    elif form == "marked":
        history = model.fit(x, marked, sample_weight=whole, batch_size=24, verbose=0)
    else:
        history = model.fit(tf.data.Dataset.from_tensor_slices((x, marked, whole)).batch(24), verbose=0)
    logits, teacher = values(start, x), softmax(values(other, x), axis=1)
    p = softmax(logits, axis=1)
    weights = np.concatenate([sample_weight, np.ones(18)])
    hard = -(log_softmax(logits[:6], axis=1)[np.arange(6), y[:6]] * sample_weight).mean()
    gap = 3.0 * (((p - teacher) ** 2).mean(axis=1) * weights).mean()
    logs = last(history)
    np.testing.assert_allclose([logs["hard_loss"], logs["consistency"]], [hard, gap], rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], hard + gap, rtol=1e-4)
    np.testing.assert_allclose(logs["accuracy"], (logits[:6].argmax(axis=1) == y[:6]).mean(), rtol=1e-5)
    by_p = 3.0 * 2 * (p - teacher) / 3 * weights[:, None] / 24
    gradient = p * (by_p - (by_p * p).sum(axis=1, keepdims=True))
    gradient[:6] += hard_gradient(start, x[:6], y[:6], sample_weight)
    expected = after_step(start, x, gradient)
    same(student.get_weights(), expected)
    same(model.teacher.get_weights(), [(a + b) / 2 for a, b in zip(other, expected, strict=True)])


def test_unlabeled_samples_leave_the_labels_alone(api, table):
    """Without weight on consistency, training equals that of the student on its labels, class weights included."""
    x, y = table
    plain, student = linear(api), linear(api)
    given = {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}, "epochs": 3, "verbose": 0, "shuffle": False}
    alone = compiled(plain, api).fit(x[:6], y[:6], batch_size=6, **given)
    model = compiled(mean_teacher(student, MeanTeacher(weight=0.0)), api)
    mixed = model.fit(x[:6], y[:6], unlabeled=x[6:], batch_size=24, **given)
    same(student.get_weights(), plain.get_weights())
    np.testing.assert_allclose(mixed.history["hard_loss"], alone.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(mixed.history["accuracy"], alone.history["accuracy"], rtol=1e-6)


def test_labels_marked_by_nan(api, table):
    x, y = table
    targets = np.eye(3, dtype="float32")[y]
    targets[6:] = np.nan
    model = mean_teacher(linear(api), MeanTeacher(weight=0.0))
    model.compile(api.optimizers.SGD(0.0), api.losses.CategoricalCrossentropy(from_logits=True))
    logs = last(model.fit(x, targets, batch_size=24, verbose=0))
    logits = values(linear(api).get_weights(), x[:6])
    np.testing.assert_allclose(logs["hard_loss"], -log_softmax(logits, axis=1)[np.arange(6), y[:6]].mean(), rtol=1e-5)
    targets[0, 1] = np.nan
    with pytest.raises(DataError, match="1 rows have both, the first at index 0"):
        model.fit(x, targets, verbose=0)


def test_a_batch_without_labels_trains_by_consistency_only(api, table):
    import tensorflow as tf

    x, y = table
    student = linear(api)
    model = compiled(mean_teacher(student, MeanTeacher(ramp_up=0)), api)
    model.teacher.set_weights(linear(api, seed=5).get_weights())
    marked = np.where(np.arange(24) < 12, y, -1)
    before = student.get_weights()
    history = model.fit(tf.data.Dataset.from_tensor_slices((x, marked)).batch(12).skip(1), verbose=0)
    assert np.isfinite(student.get_weights()[0]).all() and history.history["hard_loss"] == [0.0]
    assert np.abs(student.get_weights()[0] - before[0]).max() > 1e-3


def test_the_second_view_is_the_teachers(api, table):
    import tensorflow as tf

    x, y = table
    other = np.float32(np.random.default_rng(9).normal(size=x.shape))
    marked = np.where(np.arange(24) % 4 == 0, y, -1)
    model = compiled(mean_teacher(linear(api), MeanTeacher(ramp_up=0, weight=1.0)), api, rate=0.0)
    logs = last(model.fit(tf.data.Dataset.from_tensor_slices(((x, other), marked)).batch(24), verbose=0))
    start = linear(api).get_weights()
    gap = (softmax(values(start, x), axis=1) - softmax(values(start, other), axis=1)) ** 2
    np.testing.assert_allclose(logs["consistency"], gap.mean(), rtol=1e-4)


def test_noise_is_added_to_both_views(api):
    """For an untrained linear regression, the gap is the variance of the difference of two noises: 2 s^2 |w|^2."""
    student = linear(api)
    settings = MeanTeacher(ramp_up=0, weight=1.0, noise=0.5, task="regression")
    model = mean_teacher(student, settings)
    model.compile(api.optimizers.SGD(0.0), "mse")
    x = np.zeros((20000, 5), "float32")
    logs = last(model.fit(x, np.zeros((20000, 3), "float32"), batch_size=20000, verbose=0))
    expected = 2 * 0.25 * (np.asarray(student.get_weights()[0], float) ** 2).sum(axis=0).mean()
    np.testing.assert_allclose(logs["consistency"], expected, rtol=0.05)


def test_mixed_batches_show_everything_before_anything_again():
    shown = [[], []]

    def gather(step, first, second):
        return first, second

    batches = mixed_batches(gather, 5, 12, 6, 2, steps=3, seed=1)
    for _ in range(5):
        for first, second in batches:
            assert first.shape == (2,) and second.shape == (4,)
            shown[0] += list(first.numpy())
            shown[1] += list(second.numpy())
    assert [sorted(shown[0][i : i + 5]) for i in range(0, 30, 5)] == [list(range(5))] * 6
    assert [sorted(shown[1][i : i + 12]) for i in range(0, 60, 12)] == [list(range(12))] * 5
    assert shown[0][:5] != shown[0][5:10]
    again = mixed_batches(gather, 5, 12, 6, 2, steps=3, seed=1)
    assert [list(first.numpy()) for first, _ in again] == [shown[0][:2], shown[0][2:4], shown[0][4:6]]


@pytest.mark.slow
def test_mean_teacher_is_the_student_to_whoever_uses_it(api, table, tmp_path):
    x, y = table
    student = network(api)
    model = compiled(mean_teacher(student), api, logits=False)
    logs = model.fit(x, y, unlabeled=x, validation_split=0.25, epochs=2, verbose=0).history
    assert {"loss", "hard_loss", "consistency", "accuracy", "val_loss", "val_accuracy"} == set(logs)
    np.testing.assert_array_equal(model.predict(x, verbose=0), student.predict(x, verbose=0))
    p = student.predict(x, verbose=0).astype(float)
    by_name = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(by_name["loss"], -np.log(p[np.arange(24), y]).mean(), rtol=1e-4)
    assert set(by_name) == {"loss", "accuracy"}
    model.save(tmp_path / "student.keras")
    loaded = api.models.load_model(tmp_path / "student.keras", compile=False)
    assert len(loaded.weights) == len(student.weights)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), student.predict(x, verbose=0))
    assert len(model.trainable_variables) == len(student.trainable_variables)


def test_use_teacher_hands_the_average_over(api, table):
    x, y = table
    student = network(api)
    model = compiled(mean_teacher(student, MeanTeacher(use="teacher")), api, logits=False)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    same(student.get_weights(), model.teacher.get_weights(), 0)


def test_old_spellings_work_with_a_warning():
    import keras

    with pytest.warns(DeprecationWarning, match=r"is now MeanTeacher\(labeled="):
        assert MeanTeacher(labelled=0.5) == MeanTeacher(labeled=0.5)
    model = compiled(mean_teacher(linear(keras)), keras)
    with (
        pytest.warns(DeprecationWarning, match=r"is now fit\(unlabeled="),
        pytest.raises(DataError, match=r"Expected unlabeled samples of shape \(5,\)"),
    ):
        model.fit(np.zeros((8, 5), "float32"), np.zeros(8, int), unlabelled=np.zeros((3, 4)), verbose=0)


def test_mean_teacher_refuses():
    import keras

    student = linear(keras)
    with pytest.raises(RecipeError, match="for recipes"):
        mean_teacher(student, MeanTeacher(labeled=0.1))
    with pytest.raises(RecipeError, match="mse"):
        MeanTeacher(task="regression", consistency="kl")
    model = compiled(mean_teacher(student), keras)
    x, y = np.zeros((8, 5), "float32"), np.zeros(8, int)
    with pytest.raises(DataError, match=r"shape \(5,\)"):
        model.fit(x, y, unlabeled=np.zeros((3, 4)), verbose=0)
    with pytest.raises(DataError, match="got 0 and 8"):
        model.fit(x, y - 1, verbose=0)
    with pytest.raises(DataError, match="2 or more"):
        model.fit(x, y, unlabeled=x, batch_size=1, verbose=0)
    with pytest.raises(RecipeError, match="step 1 of this epoch; not finite: hard_loss"):
        model.fit(x, y, sample_weight=np.full(8, np.inf, "float32"), verbose=0)


@pytest.mark.slow
def test_few_labels_and_the_mean_teacher():
    """Two arcs with two labels each: agreement on unlabeled samples spreads the labels along the arcs."""
    import keras

    def arcs(angle, y):
        upper, lower = (np.cos(angle), np.sin(angle)), (1 - np.cos(angle), 0.5 - np.sin(angle))
        return np.where(y[:, None] == 0, np.stack(upper, 1), np.stack(lower, 1)).astype("float32")

    few, places = np.array([0, 0, 1, 1]), np.array([0.2, 2.2, 0.2, 2.2])
    gains = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        classes = rng.integers(0, 2, 1512)
        x = arcs(rng.uniform(0, np.pi, 1512), classes) + rng.normal(0, 0.08, (1512, 2)).astype("float32")
        accuracies = []
        for weight in (0.0, 10.0):
            keras.utils.set_random_seed(seed)
            hidden = [keras.layers.Dense(32, activation="relu") for _ in range(2)]
            student = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(2)])
            model = mean_teacher(student, MeanTeacher(noise=0.15, ramp_up=0.4, weight=weight))
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(0.01), loss, steps_per_execution=25)
            given = {"unlabeled": x[:512], "batch_size": 64, "steps_per_epoch": 275}
            model.fit(arcs(places, few), few, verbose=0, **given)
            accuracies.append((np.asarray(student(x[512:])).argmax(axis=1) == classes[512:]).mean())
        gains.append(accuracies[1] - accuracies[0])
    assert min(gains) > 0.05, gains


# Mean teacher: in a run


@pytest.fixture(scope="module")
def images():
    from tfopt.data import load_data

    rng = np.random.default_rng(1)
    x = rng.normal(size=(160, 8, 8, 3)).astype("float32")
    return load_data((x, (x.mean(axis=(1, 2))[:, :2] > 0) @ np.array([1, 2])))


def stages():
    from tfopt.stages import Cluster, FineTune, Prune, Quantize

    return {stage: stage for stage in (FineTune, Prune, Cluster, Quantize)}.values()


@pytest.mark.slow
@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.__name__)
def test_course_in_every_stage(images, small_model, stage):
    """The promise holds for every `use`, and lending weights to the teacher does not change the student."""
    plain = small_model(tf_keras())
    session = MeanTeacherSession(MeanTeacher(labeled=0.25, use="teacher"), images, augment=None, seed=0)
    step = stage(epochs=2)
    steps = images.steps(16)
    model = step.apply(plain, steps=2 * steps)
    step.calibrate(model, images.representative(32))
    learner = compiled(session.student(model), tf_keras(), rate=0.01, logits=False)
    batches = session.batches(16, seed=0, epochs=2)
    assert len(batches) == steps
    history = learner.fit(batches, epochs=2, verbose=0, callbacks=step.callbacks())
    assert history.history["consistency"][-1] > 0 and np.isfinite(history.history["loss"]).all()
    x = images.test.x(slice(0, 8))
    own = np.asarray(model(x, training=False))  # updates what each pass recomputes (indices of clusters)
    before = model.get_weights()
    taught = np.asarray(learner.average.answers(x))
    same([model(x, training=False)], [own], 0)
    same(model.get_weights(), before, 0)
    if learner.average.model is None:
        assert np.abs(taught - own).max() > 1e-6
    step.strip(model)  # raises if a promise does not hold
    assert all(isinstance(note, str) for note in [*session.notes(), *session.summary(history.history)])
    assert (learner.average.model is not None) == (stage.__name__ == "FineTune")


def test_one_step_by_hand_in_a_wrapper(table):
    """The student answers for its teacher with lent weights, and learns nothing from that."""
    from tfopt.stages import FineTune

    x, y = table
    plain, other = linear(tf_keras()), linear(tf_keras(), 5).get_weights()
    kernel, bias = plain.get_weights()
    kernel[:2] = 0
    plain.set_weights([kernel, bias])
    stage = FineTune()
    student = stage.apply(plain, steps=1, keep={"sparsity"})
    model = compiled(mean_teacher(student, MeanTeacher(ramp_up=0, weight=30.0)), tf_keras())
    assert model.average.model is None
    for (_, mean), value in zip(model.average._pairs, other, strict=True):
        mean.assign(value)
    logs = last(model.fit(x[:6], y[:6], unlabeled=x[6:], batch_size=24, verbose=0, callbacks=stage.callbacks()))
    p, teacher = softmax(values([kernel, bias], x), axis=1), softmax(values(other, x), axis=1)
    np.testing.assert_allclose(logs["consistency"], 30 * ((p - teacher) ** 2).mean(), rtol=1e-4)
    by_p = 30 * 2 * (p - teacher) / 3 / 24
    gradient = p * (by_p - (by_p * p).sum(axis=1, keepdims=True))
    gradient[:6] += hard_gradient([kernel, bias], x[:6], y[:6])
    moved, moved_bias = after_step([kernel, bias], x, gradient)
    moved[:2] = 0
    same(stage.strip(student).get_weights(), [moved, moved_bias])
    with pytest.raises(ModelError, match="wrapped"):
        model.teacher_model()


def test_the_average_of_a_pruned_model_is_of_masked_weights_and_unmasked(images, small_model):
    from tfopt.stages import Prune

    model = Prune(final_sparsity=0.5, schedule="one-shot").apply(small_model(tf_keras()), steps=4)
    wrapper = next(layer for layer in model.layers if hasattr(layer, "pruning_vars"))
    kernel, mask, _ = wrapper.pruning_vars[0]
    average = Average(model, 0.9)
    x = images.test.x(slice(0, 8))
    kernel.assign(kernel + 1.0)  # because a step moves masked weights off zero until the next pass
    state = kernel.numpy()
    average.update()
    mean = next(mean for weight, mean in average._pairs if weight is kernel)
    pruned = state - 1.0  # the start of the average: already masked
    np.testing.assert_allclose(mean.numpy(), (pruned + state * mask.numpy()) / 2, atol=1e-6)
    mean.assign_add(5.0 * (1 - mask))  # pruned weights may survive in the teacher
    with_it = np.asarray(average.answers(x))
    mean.assign_sub(5.0 * (1 - mask))
    assert np.abs(np.asarray(average.answers(x)) - with_it).max() > 1e-3
    np.testing.assert_array_equal(kernel.numpy(), state)
    assert 0.4 < mask.numpy().mean() < 0.6


def test_course_labels_and_views(images):
    from tfopt.data import Augmentation

    settings = MeanTeacher(labeled=0.25, batch_share=0.25)
    session = MeanTeacherSession(settings, images, augment=Augmentation(shift=0.3), seed=4)
    again = MeanTeacherSession(settings, images, augment=None, seed=4)
    np.testing.assert_array_equal(session.labeled, again.labeled)
    counts = np.bincount(images.train.labels[session.labeled])
    assert len(session.labeled) == round(0.25 * len(images.train)) and counts.max() - counts.min() <= 1
    assert not np.intersect1d(session.labeled, session.unlabeled).size
    assert len(session.labeled) + len(session.unlabeled) == len(images.train)
    known = {images.train.x()[index].tobytes(): images.train.y()[index] for index in again.labeled}
    for x, y in again.batches(16, seed=0, epochs=1):
        assert x["inputs"].shape[0] == y.shape[0] == 4 and x[UNLABELED].shape[0] == 12 and OTHER_VIEW not in x
        assert [known[image.tobytes()] for image in x["inputs"].numpy()] == list(y.numpy())
    x, _ = next(iter(session.batches(16, seed=0, epochs=1)))
    one = np.concatenate([x["inputs"], x[UNLABELED]])
    assert x[OTHER_VIEW].shape == one.shape and np.abs(one - x[OTHER_VIEW].numpy()).max() > 0.1
    whole = MeanTeacherSession(MeanTeacher(), images, augment=None, seed=4)
    x, y = next(iter(whole.batches(16, seed=0, epochs=1)))
    assert len(y) == 16 and x[UNLABELED].shape[0] == 0
    with pytest.raises(RecipeError, match="for 4 classes"):
        MeanTeacherSession(MeanTeacher(labeled=0.01), images, augment=None, seed=0)
    with pytest.raises(RecipeError, match="classification"):
        MeanTeacherSession(MeanTeacher(task="multilabel"), images, augment=None, seed=0)


def test_two_views_of_places_would_not_match():
    from tfopt.data import Augmentation, load_data

    data = load_data((np.zeros((40, 8, 8, 1), "float32"), np.arange(2560).reshape(40, 8, 8) % 2))
    settings = MeanTeacher(task="segmentation")
    MeanTeacherSession(settings, data, augment=None, seed=0)
    with pytest.raises(RecipeError, match="its two views of an image would not match place by place"):
        MeanTeacherSession(settings, data, augment=Augmentation(shift=0.3), seed=0)


def test_mean_teacher_as_data():
    settings = MeanTeacher(decay=0.9, labeled=0.1, use="teacher")
    assert MeanTeacher.from_dict(settings.to_dict()) == settings
    with pytest.raises(RecipeError, match="dekay"):
        MeanTeacher.from_dict({"kind": "MeanTeacher", "dekay": 0.9})


# Mutual learning


def peers_by_hand(logits, temperature):
    log_p = [log_softmax(z / temperature, axis=1) for z in logits]
    p = [np.exp(each) for each in log_p]
    gaps = []
    for own in range(len(logits)):
        others = [rel_entr(p[k], p[own]).sum(axis=1) for k in range(len(logits)) if k != own]
        gaps.append(temperature**2 * np.mean(others, axis=0))
    return gaps, p


def test_peer_gaps():
    import tensorflow as tf

    logits = np.random.default_rng(0).normal(size=(3, 6, 4)) * 2
    expected, _ = peers_by_hand(logits, 2.0)
    same(peer_gaps([tf.constant(z, tf.float32) for z in logits], 2.0), expected)


def test_mutual_step_by_hand(api, table):
    """Each student moves by its own loss only: its peers are targets."""
    x, y = table
    weights = np.linspace(0.5, 1.5, 24).astype("float32")
    students = [linear(api, seed, f"peer{seed}") for seed in range(3)]
    starts = [student.get_weights() for student in students]
    model = compiled(mutual(students, temperature=2.0, weight=0.7), api)
    logs = last(model.fit(x, y, sample_weight=weights, batch_size=24, verbose=0))
    logits = [values(start, x) for start in starts]
    gaps, p = peers_by_hand(logits, 2.0)
    total = 0.0
    for own, (start, student) in enumerate(zip(starts, students, strict=True)):
        hard = -(log_softmax(logits[own], axis=1)[np.arange(24), y] * weights).mean()
        term = 0.7 * (gaps[own] * weights).mean()
        np.testing.assert_allclose([logs[f"hard_loss_{own}"], logs[f"mutual_{own}"]], [hard, term], rtol=1e-4)
        np.testing.assert_allclose(logs[f"accuracy_{own}"], (logits[own].argmax(axis=1) == y).mean(), rtol=1e-5)
        total += hard + term
        mean_peer = np.mean([p[other] for other in range(3) if other != own], axis=0)
        gradient = 0.7 * 2.0 * (p[own] - mean_peer) * weights[:, None] / 24  # T^2 / T
        expected = after_step(start, x, gradient + hard_gradient(start, x, y, weights))
        same(student.get_weights(), expected)
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-4)


@pytest.mark.slow
def test_mutual_is_the_first_student_to_whoever_uses_it(api, table, tmp_path):
    x, y = table
    students = [network(api, 1), network(api, 2)]
    metric = api.metrics.SparseCategoricalCrossentropy(name="entropy")
    model = mutual(students)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy", metric])
    logs = model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0).history
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    for number, student in enumerate(model.students):
        p = student.predict(x, verbose=0).astype(float)
        entropy = -np.log(p[np.arange(24), y]).mean()
        np.testing.assert_allclose(found[f"entropy_{number}"], entropy, rtol=1e-4)
        np.testing.assert_allclose(logs[f"val_hard_loss_{number}"][-1], entropy, rtol=1e-4)
    assert not np.isclose(found["entropy_0"], found["entropy_1"])
    np.testing.assert_array_equal(model.predict(x, verbose=0), students[0].predict(x, verbose=0))
    model.save(tmp_path / "first.keras")
    loaded = api.models.load_model(tmp_path / "first.keras", compile=False)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), students[0].predict(x, verbose=0))


def test_regularisers_of_every_student_count(api, table):
    x, y = table

    def heavy(seed):
        student = linear(api, seed)
        student.get_layer("head").kernel_regularizer = None
        layer = api.layers.Dense(3, kernel_regularizer=api.regularizers.L2(0.1), activity_regularizer="l2")
        return api.Sequential([api.Input((5,)), layer], name=f"heavy{seed}")

    api.utils.set_random_seed(0)
    students = [heavy(0), heavy(1)]
    starts = [student.get_weights() for student in students]
    logs = last(compiled(mutual(students, weight=0.0), api).fit(x, y, batch_size=24, epochs=1, verbose=0))
    kernels = sum(0.1 * (np.asarray(start[0], float) ** 2).sum() for start in starts)
    activities = sum(0.01 * (values(start, x) ** 2).sum() / 24 for start in starts)
    np.testing.assert_allclose(
        logs["loss"], logs["hard_loss_0"] + logs["hard_loss_1"] + kernels + activities, rtol=1e-4
    )


def test_mutual_refuses():
    import keras

    with pytest.raises(ModelError, match="two or more students"):
        mutual([linear(keras)])
    with pytest.raises(ModelError, match="equal weights"):
        mutual([linear(keras, 1, "a"), linear(keras, 1, "b")])
    with pytest.raises(ModelError, match="share weights"):
        student = linear(keras)
        mutual([student, student])
    with pytest.raises(ModelError, match="the same Keras"):
        mutual([linear(keras), linear(tf_keras(), 1)])
    narrow = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    with pytest.raises(ModelError, match="same two or more classes"):
        mutual([linear(keras), narrow])
    with pytest.raises(RecipeError, match="temperature"):
        mutual([linear(keras), linear(keras, 1)], temperature=0)
    model = mutual([linear(keras), linear(keras, 1)])
    with pytest.raises(RecipeError, match="loss_weights"):
        model.compile("adam", "mse", loss_weights=[1.0])
    compiled(model, keras)
    with pytest.raises(DataError, match="x alone"):
        model.fit(np.zeros((4, 5), "float32"), verbose=0, batch_size=4)


# Early exits


def convolutional(api, seed=0):
    api.utils.set_random_seed(seed)
    layers = api.layers
    inputs = api.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="one")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="two")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="three")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return api.Model(inputs, layers.Dense(3, name="classifier")(x), name="conv")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 32)


@pytest.mark.slow
def test_exit_terms_by_hand(api, pictures):
    x, y = pictures
    weights = np.linspace(0.2, 2, 32).astype("float32")
    settings = EarlyExits(alpha=0.4, temperature=2.0, hint=0.5)
    student = convolutional(api)
    model = compiled(early_exits(student, ["one", "two"], settings), api, rate=0.0)
    trunk = api.Model(student.inputs, [student.get_layer(name).output for name in ("one", "two", "three")])
    features = trunk.predict(x, verbose=0)
    bottlenecks, logits = [], [student.predict(x, verbose=0)]
    for head, feature in zip(model.heads, features, strict=False):
        bottleneck, output = head(feature, training=True)
        bottlenecks.append(np.asarray(bottleneck, float))
        logits.append(np.asarray(output, float))
    logs = last(model.fit(x, y, sample_weight=weights, batch_size=32, verbose=0))
    final, deepest = np.asarray(logits[0], float), np.asarray(features[2], float)
    total = 0.0
    for place, name in enumerate(["", "_one", "_two"]):
        own = log_softmax(np.asarray(logits[place], float), axis=1)
        hard = -(own[np.arange(32), y] * weights).mean()
        np.testing.assert_allclose(logs[f"hard_loss{name}"], hard, rtol=1e-4)
        np.testing.assert_allclose(logs[f"accuracy{name}"], (own.argmax(axis=1) == y).mean(), rtol=1e-5)
        total += (0.6 if name else 1) * hard
        if not name:
            continue
        taught = rel_entr(softmax(final / 2, axis=1), softmax(logits[place] / 2, axis=1)).sum(axis=1)
        feature = bottlenecks[place - 1]
        blocks = feature.reshape(32, 2, feature.shape[1] // 2, 2, feature.shape[2] // 2, 8).mean(axis=(2, 4))
        hinted = ((blocks - deepest) ** 2).mean(axis=(1, 2, 3))
        expected = [0.4 * 4 * (taught * weights).mean(), 0.5 * (hinted * weights).mean()]
        np.testing.assert_allclose([logs[f"final{name}"], logs[f"hint{name}"]], expected, rtol=1e-4)
        total += sum(expected)
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-4)


def test_exits_do_not_pull_at_what_teaches_them(api, pictures):
    """The classifier and the layer of the deepest features move as without exits; the layers below do not."""
    x, y = pictures
    alone, student = convolutional(api), convolutional(api)
    compiled(alone, api).fit(x, y, batch_size=32, verbose=0)
    model = early_exits(student, ["two"], EarlyExits(alpha=0.9, hint=5.0))
    heads = [np.array(weight) for weight in model.heads[0].trainable_weights]
    compiled(model, api).fit(x, y, batch_size=32, verbose=0)
    for name in ("classifier", "three"):
        same(student.get_layer(name).get_weights(), alone.get_layer(name).get_weights(), 1e-6)
    for name in ("one", "two"):
        gap = student.get_layer(name).get_weights()[0] - alone.get_layer(name).get_weights()[0]
        assert np.abs(gap).max() > 1e-4
    moved = [np.abs(np.array(w) - old).max() for w, old in zip(model.heads[0].trainable_weights, heads, strict=True)]
    assert min(moved) > 0
    assert len(model.trainable_variables) == len(student.trainable_variables) + len(heads)


@pytest.mark.slow
def test_models_of_exits(api, pictures, tmp_path):
    x, y = pictures
    student = convolutional(api)
    model = compiled(early_exits(student, ["one", "two"]), api)
    logs = model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0).history
    assert {"val_loss", "val_hard_loss_one", "val_accuracy_two"} <= set(logs)
    own = student.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), own)
    hard = -log_softmax(own.astype(float), axis=1)[np.arange(32), y].mean()
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], hard, rtol=1e-4)
    whole, first = model.exits(), model.exit("one")
    outputs = whole.predict(x, verbose=0)
    feature = api.Model(student.inputs, student.get_layer("one").output).predict(x, verbose=0)
    np.testing.assert_allclose(outputs[0], np.asarray(model.heads[0](feature)[1]), atol=1e-5)
    np.testing.assert_allclose(outputs[2], own, atol=1e-6)
    np.testing.assert_allclose(first.predict(x, verbose=0), outputs[0], atol=1e-6)
    assert {layer.name for layer in first.layers}.isdisjoint({"two", "three", "classifier"})
    for plain, expected in ((whole, outputs), (first, outputs[:1])):
        plain.save(tmp_path / "exits.keras")
        loaded = api.models.load_model(tmp_path / "exits.keras", compile=False)
        found = loaded.predict(x, verbose=0)
        same(found if isinstance(found, list) else [found], expected, 1e-6)
    model.save(tmp_path / "own.keras")
    assert len(api.models.load_model(tmp_path / "own.keras", compile=False).weights) == len(student.weights)
    with pytest.raises(ModelError, match="nearest: one"):
        model.exit("onne")


def test_exits_give_probabilities_where_the_model_does(api, table):
    x, _ = table
    model = early_exits(network(api), ["first"], EarlyExits(hint=0.0))
    np.testing.assert_allclose(model.exit("first").predict(x, verbose=0).sum(axis=1), 1, rtol=1e-5)
    assert not [name for name in model.ledger.tracked if name.startswith("hint")]


def test_exits_refuse():
    import keras

    model = convolutional(keras)
    with pytest.raises(ModelError, match="nearest: two"):
        early_exits(model, ["tvo"])
    with pytest.raises(RecipeError, match="each once"):
        early_exits(model, ["one", "one"])
    with pytest.raises(ModelError, match="deepest features"):
        early_exits(model, ["three"])


# Born again


def test_fresh_weights(api):
    """New for each generation and layer, equal for equal seeds; what training does not move stays."""
    initial = api.initializers.HeNormal(seed=3)
    layers = api.layers
    scale = layers.Normalization()
    scale.adapt(np.float32([[0, 4, 2], [2, 8, 4]]))
    hidden = [layers.Dense(3, kernel_initializer=initial, name=f"d{number}") for number in range(3)]
    hidden[1].trainable = False
    model = api.Sequential([api.Input((3,)), scale, *hidden, layers.BatchNormalization(name="norm")])
    model.get_layer("norm").set_weights([np.full(3, value, "float32") for value in (2, 3, 4, 5)])
    first, again, second = (born_again.reinitialized(model, seed) for seed in ([0, 1], [0, 1], [0, 2]))
    same(first.get_weights(), again.get_weights(), 0)
    for name in ("d0", "d2"):
        kernels = [m.get_layer(name).get_weights()[0] for m in (model, first, second)]
        assert all(np.abs(a - b).max() > 0.1 for a, b in ((kernels[0], kernels[1]), (kernels[1], kernels[2])))
    assert np.abs(first.get_layer("d0").get_weights()[0] - first.get_layer("d2").get_weights()[0]).max() > 0.1
    same(first.get_layer("d1").get_weights(), model.get_layer("d1").get_weights(), 0)
    assert not first.get_layer("d1").trainable
    same(first.get_layer("norm").get_weights(), [np.full(3, value) for value in (1, 0, 0, 1)], 0)
    x = np.float32([[1, 2, 3]])
    same([first.layers[0](x)], [np.asarray(model.layers[0](x))], 0)


def parent(api):
    layers = [api.layers.Conv2D(4, 3, activation="relu"), api.layers.GlobalAveragePooling2D()]
    return api.Sequential([api.Input((8, 8, 3)), *layers, api.layers.Dense(4)], name="parent")


@pytest.mark.slow
def test_generations_and_interruption(images, tmp_path, monkeypatch):
    """Resuming an interrupted run gives the same result as an uninterrupted one."""
    import keras

    from tfopt.training.settings import Training

    keras.utils.set_random_seed(0)
    model = parent(keras)
    start = model.get_weights()
    taught = []
    learn = born_again.DistillationSession

    def session(distillation, teacher, *args, **kwargs):
        taught.append(teacher.source.name)
        if len(taught) == stop:
            raise KeyboardInterrupt
        return learn(distillation, teacher, *args, **kwargs)

    monkeypatch.setattr(born_again, "DistillationSession", session)
    settings = {"training": Training(batch_size=32, seed=5), "generations": 2, "epochs": 1, "quiet": True}
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        born_again.born_again(model, images, checkpoint=tmp_path, **settings)
    stop = 0
    taught.clear()
    resumed = born_again.born_again(model, images, checkpoint=tmp_path, **settings)
    assert len(taught) == 1
    whole = born_again.born_again(model, images, **settings)
    assert len(taught) == 3
    same(model.get_weights(), start, 0)
    for ours, theirs in zip(resumed.models[1:], whole.models[1:], strict=True):
        assert isinstance(ours, keras.Model)
        same(ours.get_weights(), theirs.get_weights(), 1e-6)
    x, y = images.test.x(), images.test.y()
    for one, accuracy in zip(whole.models, whole.accuracies, strict=True):
        assert accuracy == pytest.approx((one.predict(x, verbose=0).argmax(axis=1) == y).mean())
    assert np.abs(whole.models[1].get_weights()[0] - whole.models[2].get_weights()[0]).max() > 1e-2
    ensemble = whole.ensemble.resolved(x[:32], "classification")
    mean = np.mean([softmax(one.predict(x, verbose=0).astype(float), axis=1) for one in whole.models[1:]], axis=0)
    np.testing.assert_allclose(softmax(ensemble.predict(x, quiet=True)["output"], axis=1), mean, atol=1e-5)


@pytest.mark.slow
def test_a_full_disk_costs_no_generation(images, tmp_path, monkeypatch, capsys):
    import keras

    from tfopt.training.settings import Training

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(born_again.Checkpoint, "save", full)
    settings = {"training": Training(batch_size=32), "generations": 1, "epochs": 1}
    born = born_again.born_again(parent(keras), images, checkpoint=tmp_path, checkpoint_every=0, **settings)
    assert len(born.models) == 2
    assert "note: the checkpoint does not keep generation 1 ([Errno 28] No space left" in capsys.readouterr().err
    assert any((tmp_path / "generation_1").glob("state_*.npz"))


def test_born_again_refuses(images):
    import keras

    model = convolutional(keras)
    with pytest.raises(RecipeError, match="1 generation"):
        born_again.born_again(model, images, generations=0)
    from tfopt.distillation.distillation import Distillation
    from tfopt.distillation.losses import TeacherFree

    with pytest.raises(RecipeError, match="inherit"):
        born_again.born_again(model, images, distillation=Distillation(losses=(TeacherFree(),)))
    assert dataclasses.is_dataclass(born_again.BornAgain) and Hinton().needs_teacher
