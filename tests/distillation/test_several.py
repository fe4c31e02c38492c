"""Students with several inputs and outputs: each output learns from the teacher with the loss that fits it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, log_softmax, logit, softmax

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.losses import FitNets, Hinton, MultilabelKD, RegressionKD

APIS = {"keras": keras, "tf_keras": tf_keras()}
LOSSES = {"kind": "sparse_categorical_crossentropy", "tags": "binary_crossentropy", "place": "mse"}
N = 24


@pytest.fixture(params=APIS)
def api(request):
    return APIS[request.param]


def network(package, width, form="dict", seed=0, names=("kind", "tags", "place"), logits=False, inputs="dict"):
    """Two inputs; outputs for three classes, four labels, and two values."""
    package.utils.set_random_seed(seed)
    layers = package.layers
    given = {name: package.Input((3,), name=name) for name in ("left", "right")}
    x = layers.Subtract()([given["left"], given["right"]])
    x = layers.Dense(width, activation="tanh", name="body")(x)
    made = [
        layers.Dense(3, activation=None if logits else "softmax", name=names[0])(x),
        layers.Dense(4, activation="sigmoid", name=names[1])(x),
        layers.Dense(2, name=names[2])(x),
    ]
    outputs = dict(zip(names, made, strict=True)) if form == "dict" else made
    return package.Model(given if inputs == "dict" else list(given.values()), outputs, name=f"net{seed}")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    x = {name: rng.normal(size=(N, 3)).astype("float32") for name in ("left", "right")}
    y = {
        "kind": rng.integers(0, 3, N),
        "tags": rng.integers(0, 2, (N, 4)).astype("float32"),
        "place": rng.normal(size=(N, 2)).astype("float32"),
    }
    return x, y


def outputs_of(model, x, form="dict"):
    given = x if isinstance(model.input, dict) else list(x.values())
    found = model(given, training=False)
    return {
        name: np.asarray(found[name] if form == "dict" else found[number], np.float64)
        for number, name in enumerate(("kind", "tags", "place"))
    }


def expected_terms(student, teacher, y, teacher_logits=False):
    """The hard losses and the terms of all outputs in float64, before weights."""
    hard = {
        "kind": -np.log(student["kind"][np.arange(N), y["kind"]]),
        "tags": -(y["tags"] * np.log(student["tags"]) + (1 - y["tags"]) * np.log(1 - student["tags"])).mean(axis=1),
        "place": np.square(student["place"] - y["place"]).mean(axis=1),
    }
    z = teacher["kind"] if teacher_logits else np.log(teacher["kind"])
    p = softmax(z / 4, axis=1)
    kind = 16 * (p * (np.log(p) - log_softmax(np.log(student["kind"]) / 4, axis=1))).sum(axis=1)
    a, b = (expit(logit(one["tags"]) / 4) for one in (teacher, student))
    tags = 16 * (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).mean(axis=1)
    place = np.square(student["place"] - teacher["place"]).mean(axis=1)
    return hard, {"kind": kind, "tags": tags, "place": place}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dict", "list"])
@pytest.mark.parametrize("teacher_api", APIS)
def test_each_output_learns_with_the_loss_that_fits_it(api, teacher_api, form, data):
    x, y = data
    student, teacher = network(api, 4, form), network(APIS[teacher_api], 9, form, seed=5, logits=True)
    hard, terms = expected_terms(outputs_of(student, x, form), outputs_of(teacher, x, form), y, teacher_logits=True)
    distilled = distill(student, teacher)
    weights = {"kind": 1.0, "tags": 2.0, "place": 0.5}
    labels = y if form == "dict" else list(y.values())
    losses, scale = (LOSSES, weights) if form == "dict" else (list(LOSSES.values()), list(weights.values()))
    distilled.compile(api.optimizers.SGD(0.0), losses, loss_weights=scale)
    logs = distilled.fit(x, labels, batch_size=N, verbose=0).history
    # Hinton and MultilabelKD: 0.1 and 0.9; RegressionKD: 1 and 1.
    share = {"kind": (0.1, 0.9, "hinton"), "tags": (0.1, 0.9, "multilabel_kd"), "place": (1.0, 1.0, "regression_kd")}
    total = 0.0
    for name, (alpha, weight, label) in share.items():
        term = weights[name] * weight * terms[name].mean()
        assert logs[f"hard_loss_{name}"][0] == pytest.approx(hard[name].mean(), rel=1e-4)
        assert logs[f"{label}_{name}"][0] == pytest.approx(term, rel=1e-3)
        total += weights[name] * alpha * hard[name].mean() + term
    assert logs["loss"][0] == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["auto", "never"])
@pytest.mark.parametrize("source", ["arrays", "tf.data"])
def test_training_brings_the_student_to_the_teacher(api, data, source, cache):
    x, y = data
    student, teacher = network(api, 12), network(keras, 12, seed=5)
    before = {name: weight.copy() for name, weight in enumerate(teacher.get_weights())}
    settings = {
        "kind": Distillation(losses=(Hinton(temperature=1.0, weight=1.0),), alpha=0, cache=cache),
        "tags": Distillation(losses=(MultilabelKD(temperature=1.0, weight=1.0),), alpha=0, cache=cache),
        "place": Distillation(losses=(RegressionKD(),), alpha=0, cache=cache),
    }
    distilled = distill(student, teacher, settings)
    distilled.compile(api.optimizers.Adam(0.03), LOSSES)
    first = {name: np.abs(a - b).mean() for (name, a), b in zip(
        outputs_of(student, x).items(), outputs_of(teacher, x).values(), strict=True)}  # fmt: skip
    given = (x,) if source == "arrays" else (tf.data.Dataset.from_tensor_slices((x, y)).batch(8),)
    distilled.fit(*given, epochs=60, verbose=0, **({"batch_size": 8} if source == "arrays" else {}))
    for name, target in outputs_of(teacher, x).items():
        assert np.abs(outputs_of(student, x)[name] - target).mean() < 0.3 * first[name]
    assert all((before[number] == weight).all() for number, weight in enumerate(teacher.get_weights()))


def test_names_match_before_positions(data):
    """The teacher lists its outputs in another order; with other names, the order counts."""
    x, y = data
    student = network(keras, 4, "list", inputs="list")
    teacher = network(keras, 9, "list", seed=5)
    other = keras.Model(teacher.input, teacher.outputs[::-1])
    renamed = network(keras, 9, "list", seed=5, names=("a", "b", "c"))
    logs = []
    for one in (teacher, other, renamed):
        distilled = distill(student, one)
        distilled.compile(keras.optimizers.SGD(0.0), list(LOSSES.values()))
        logs.append(distilled.fit(list(x.values()), list(y.values()), batch_size=N, verbose=0).history)
    for name in ("hinton_kind", "multilabel_kd_tags", "regression_kd_place"):
        assert [log[name] for log in logs[1:]] == [pytest.approx(logs[0][name], rel=1e-5)] * 2


def test_evaluate_predict_and_metrics_are_the_students_own(api, data):
    x, y = data
    student, teacher = network(api, 4), network(api, 9, seed=5)
    arguments = {
        "loss": LOSSES,
        "loss_weights": {"kind": 1.0, "tags": 3.0, "place": 1.0},
        "metrics": {"kind": ["accuracy"], "place": ["mae"]},
    }
    distilled = distill(student, teacher)
    distilled.compile(api.optimizers.SGD(0.01), **arguments)
    distilled.fit(x, y, validation_data=(x, y), epochs=2, verbose=0, sample_weight=np.linspace(0, 2, N))
    found = distilled.evaluate(x, y, verbose=0, return_dict=True)
    student.compile(api.optimizers.SGD(0.01), **arguments)
    own = student.evaluate(x, y, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(own["loss"], rel=1e-5)
    assert found["accuracy_kind"] == pytest.approx(own["kind_accuracy"], rel=1e-5)
    assert found["mae_place"] == pytest.approx(own["place_mae"], rel=1e-5)
    np.testing.assert_array_equal(distilled.predict(x, verbose=0)["place"], student.predict(x, verbose=0)["place"])


def test_sample_weights_count_in_every_part(api, data):
    x, y = data
    weights = np.linspace(0, 2, N).astype("float32")
    student, teacher = network(api, 4), network(api, 9, seed=5)
    hard, terms = expected_terms(outputs_of(student, x), outputs_of(teacher, x), y)
    distilled = distill(student, teacher)
    distilled.compile(api.optimizers.SGD(0.0), LOSSES)
    given = dict.fromkeys(LOSSES, weights)
    logs = distilled.fit(x, y, batch_size=N, sample_weight=given, verbose=0).history
    for name, label, share in (("kind", "hinton", 0.9), ("tags", "multilabel_kd", 0.9), ("place", "regression_kd", 1)):
        assert logs[f"hard_loss_{name}"][0] == pytest.approx((weights * hard[name]).mean(), rel=1e-4)
        assert logs[f"{label}_{name}"][0] == pytest.approx(share * (weights * terms[name]).mean(), rel=1e-3)


def test_an_output_without_a_distillation_learns_from_labels_alone(data):
    x, y = data
    student, teacher = network(keras, 4), network(keras, 9, seed=5)
    only = keras.Model(teacher.input, {"kind": teacher.output["kind"]})
    distilled = distill(student, only, {"kind": Distillation(alpha=0.5)})
    distilled.compile(keras.optimizers.SGD(0.0), LOSSES)
    logs = distilled.fit(x, y, batch_size=N, verbose=0).history
    hard, terms = expected_terms(outputs_of(student, x), outputs_of(teacher, x), y)
    expected = 0.5 * hard["kind"].mean() + 0.9 * terms["kind"].mean() + hard["tags"].mean() + hard["place"].mean()
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-3)


def test_one_output_with_two_inputs_has_plain_names(data):
    x, y = data
    models = [network(keras, width, seed=width) for width in (4, 9)]
    student, teacher = (keras.Model(model.input, model.output["kind"]) for model in models)
    distilled = distill(student, teacher, Distillation(losses=(Hinton(temperature=2.0),)))
    distilled.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    logs = distilled.fit(x, y["kind"], batch_size=N, verbose=0, class_weight={0: 1.0, 1: 1.0, 2: 1.0}).history
    assert set(logs) == {"loss", "hard_loss", "hinton", "accuracy"}


@pytest.mark.parametrize("stage", [tfopt.Prune(final_sparsity=0.5), tfopt.Quantize()], ids=lambda s: type(s).__name__)
def test_within_a_stage_by_hand(data, stage):
    x, y = data
    student, teacher = network(tf_keras(), 12, "list", inputs="list"), network(keras, 9, "list", seed=5)
    wrapped = stage.apply(student, steps=6)
    if hasattr(stage, "calibrate"):
        stage.calibrate(wrapped, list(x.values()))
    distilled = distill(wrapped, teacher)
    distilled.compile(tf_keras().optimizers.Adam(0.01), list(LOSSES.values()))
    before = wrapped.get_weights()
    callbacks = stage.callbacks()
    for callback in callbacks:
        assert callback is not None
    distilled.fit(list(x.values()), list(y.values()), batch_size=8, epochs=2, callbacks=callbacks, verbose=0)
    assert any((one != other).any() for one, other in zip(before, wrapped.get_weights(), strict=True))
    stripped = stage.strip(wrapped)
    assert len(stripped.outputs) == 3
    if isinstance(stage, tfopt.Prune):
        assert np.mean(stripped.get_layer("body").get_weights()[0] == 0) >= 0.49


def test_what_does_not_fit(data):
    x, y = data
    student, teacher = network(keras, 4), network(keras, 9, seed=5)

    def fitted(teacher=teacher, distillation=None, **arguments):
        distilled = distill(student, teacher, distillation)
        distilled.compile(keras.optimizers.SGD(0.0), **{"loss": LOSSES, **arguments})
        distilled.fit(x, y, batch_size=N, verbose=0)

    few = keras.Model(teacher.input, {"kind": teacher.output["kind"], "tags": teacher.output["tags"]})
    with pytest.raises(ModelError, match=r"outputs .* do not match: .*kind, place, tags, the other has kind, tags"):
        fitted(few)
    other = network(keras, 9, seed=5, names=("kind", "tags", "place"))
    wide = keras.Model(other.input, {**other.output, "tags": other.output["place"]})
    with pytest.raises(ModelError, match=r"output 'tags' of the student gives \(4,\) .* teacher \(2,\)"):
        fitted(wide)
    with pytest.raises(RecipeError, match=r"output box, the student has kind, place, tags"):
        fitted(distillation={"box": Distillation()})
    with pytest.raises(RecipeError, match=r"'hinton' is for classification; it does not fit the output place, tags"):
        fitted(distillation=Distillation())
    with pytest.raises(RecipeError, match=r"What fits the output place is not known"):
        fitted(loss={**LOSSES, "place": lambda true, made: tf.reduce_mean(made)})
    with pytest.raises(RecipeError, match=r"loss is for output box; the student has kind, place, tags"):
        fitted(loss={"box": "mse"})
    with pytest.raises(RecipeError, match=r"output kind compares layers|'fitnets' of output 'kind' compares layers"):
        fitted(distillation={"kind": Distillation(losses=(FitNets(layers=(("body", "body"),)),))})
    with pytest.raises(RecipeError, match=r"output kind, place, tags needs a teacher"):
        fitted(None)
    with pytest.raises(ModelError, match=r"must be a Keras 3 or tf_keras model.*got function"):
        fitted(lambda batch: batch)
    inputs = [keras.Input((3,), name=name) for name in ("left", "middle", "other")]
    joined = keras.layers.Concatenate()(inputs)
    three = keras.Model(inputs, {name: keras.layers.Dense(2, name=name)(joined) for name in LOSSES})
    with pytest.raises(ModelError, match=r"inputs .* the teacher takes left, middle, other, .* left, right"):
        fitted(three)


def test_settings_and_data_of_the_wrong_kind_are_said(data):
    x, _ = data
    student, teacher = network(keras, 4), network(keras, 9, seed=5)

    def compiled(distillation=None):
        distilled = distill(student, teacher, distillation)
        distilled.compile(keras.optimizers.SGD(0.0), loss=LOSSES, metrics={"kind": "accuracy"})
        return distilled

    for wrong in ("hinton", {"kind": None}, {"kind": "hinton"}):
        with pytest.raises(RecipeError, match="Expected a Distillation, or a dict of one for each output; got"):
            compiled(wrong)
    empty = tf.data.Dataset.from_tensor_slices((x, {name: np.zeros(N) for name in LOSSES})).batch(8).take(0)
    with pytest.raises(DataError, match="is empty"):
        compiled().fit(empty, verbose=0)
    twice = keras.Model(student.input, [student.output["kind"], student.output["kind"]])
    with pytest.raises(ModelError, match="different names, got kind, kind"):
        distill(twice, teacher)


def test_one_metric_of_an_output_needs_no_list(api, data):
    x, y = data
    distilled = distill(network(api, 4), network(api, 9, seed=5))
    distilled.compile(api.optimizers.SGD(0.0), loss=LOSSES, metrics={"kind": "accuracy"})
    distilled.fit(x, y, epochs=1, verbose=0)
    found = distilled.evaluate(x, y, verbose=0, return_dict=True)
    right = np.asarray(distilled.predict(x, verbose=0)["kind"]).argmax(-1) == y["kind"].reshape(-1)
    assert found["accuracy_kind"] == pytest.approx(right.mean(), abs=1e-6)


def two_heads(package, answers, activation, seed):
    """An output "yes" of one or two outputs for two classes, and one of a value."""
    package.utils.set_random_seed(seed)
    inputs = package.Input((3,))
    yes = package.layers.Dense(answers, activation=activation, name="yes")(inputs)
    return package.Model(inputs, [yes, package.layers.Dense(1, name="size")(inputs)])


@pytest.mark.parametrize(
    ("student", "teacher", "loss"),
    [
        ((1, "sigmoid"), (2, "softmax"), None),
        ((1, None), (2, None), None),
        ((1, "sigmoid"), (2, None), Hinton()),
        ((2, "softmax"), (1, "sigmoid"), None),
        ((2, None), (1, None), Hinton()),
    ],
)
def test_two_classes_have_one_output_or_two(student, teacher, loss):
    """T^2 KL between the two probabilities of both, from the log-odds in float64; T = 4, weight 0.9."""
    x = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
    models = two_heads(keras, *student, seed=1), two_heads(keras, *teacher, seed=2)
    odds = []
    for model, (answers, activation) in zip(models, (student, teacher), strict=True):
        made = np.asarray(model(x)[0], np.float64)
        if activation:
            made = np.log(made) if answers == 2 else logit(made)
        odds.append(made[:, 1] - made[:, 0] if answers == 2 else made[:, 0])
    q, p = (np.stack([expit(-each / 4), expit(each / 4)]) for each in odds)
    expected = 0.9 * 16 * (p * np.log(p / q)).sum(axis=0).mean()
    binary = student[0] == 1
    hard = keras.losses.BinaryCrossentropy if binary else keras.losses.SparseCategoricalCrossentropy
    settings = (
        None if loss is None else {"yes": Distillation(losses=(loss,)), "size": Distillation(losses=(RegressionKD(),))}
    )
    distilled = distill(*models, settings)
    distilled.compile(keras.optimizers.SGD(0.0), [hard(from_logits=student[1] is None), "mse"])
    y = [np.arange(N) % 2, np.zeros((N, 1), "float32")]
    logs = distilled.fit(x, y, batch_size=N, verbose=0).history
    label = "multilabel_kd" if binary and loss is None else "hinton"
    assert logs[f"{label}_yes"][0] == pytest.approx(expected, rel=2e-3)


def test_two_labels_are_not_the_classes_of_one():
    """Two sigmoids do not exclude each other; one label of a teacher says nothing about two of a student."""
    x = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
    refused = ((2, "sigmoid"), (1, "sigmoid")), ((1, "sigmoid"), (3, "softmax")), ((1, "sigmoid"), (2, "sigmoid"))
    for student, teacher in refused:
        distilled = distill(two_heads(keras, *student, seed=1), two_heads(keras, *teacher, seed=2))
        distilled.compile("sgd", ["binary_crossentropy", "mse"])
        with pytest.raises(ModelError, match="The output 'yes' of the student gives"):
            distilled.fit(x, [np.zeros((N, student[0]), "float32"), np.zeros((N, 1), "float32")], verbose=0)
