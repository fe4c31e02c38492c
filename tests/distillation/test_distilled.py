"""Distilled models in both Keras versions: what they minimize, what they leave alone, what they refuse."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.distillation.losses import L2SP, FitNets, Hinton, RegressionKD, TeacherFree
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.teachers.teacher import Teacher

APIS = {"keras": keras, "tf_keras": tf_keras()}
HINT = FitNets(layers=(("conv", "conv"),))


@pytest.fixture(params=APIS)
def api(request):
    return APIS[request.param]


def network(package, width=4, *, logits=False, classes=3, seed=0, regularizer=None, name="student"):
    package.utils.set_random_seed(seed)
    layers = package.layers
    inputs = package.Input((6, 6, 2))
    x = layers.Conv2D(width, 3, name="conv", kernel_regularizer=regularizer)(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation=None if logits else "softmax", name="head")(x)
    return package.Model(inputs, outputs, name=name)


def teacher_of(package=keras, **kwargs):
    return network(package, 7, logits=True, seed=5, name="teacher", **kwargs)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(48, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 48)


def compiled(model, package, rate=0.0, **kwargs):
    """Compile with a learning rate of 0, so that a step shows the loss and changes nothing."""
    model.compile(package.optimizers.SGD(rate), package.losses.SparseCategoricalCrossentropy(), **kwargs)
    return model


def in_training(model, x):
    """The output and conv features of a Keras model in training mode, without changing it."""
    norm = model.get_layer("norm")
    before = norm.get_weights()
    package = keras if isinstance(model, keras.Model) else tf_keras()
    both = package.Model(model.input, [model.output, model.get_layer("conv").output])
    output, features = (np.asarray(tensor, np.float64) for tensor in both(x, training=True))
    norm.set_weights(before)
    return output, features


def divergence(student, teacher, temperature):
    """Hinton et al. 2015 in float64: T^2 KL(teacher || student) for each sample."""
    p = softmax(teacher / temperature, axis=1)
    return temperature**2 * (p * (np.log(p) - log_softmax(student / temperature, axis=1))).sum(axis=1)


def test_the_loss_is_the_weighted_sum_of_its_parts(api, data):
    x, y = data
    student = network(api, regularizer="l2")
    teacher = teacher_of()
    probabilities, _ = in_training(student, x)
    soft = divergence(np.log(probabilities), teacher.predict(x, verbose=0).astype(np.float64), 3.0)
    hard = -np.log(probabilities[np.arange(48), y])
    penalty = 0.01 * np.square(student.get_weights()[0].astype(np.float64)).sum()
    distilled = compiled(distill(student, teacher, Distillation(losses=(Hinton(temperature=3.0, weight=0.7),))), api)
    logs = distilled.fit(x, y, batch_size=48, verbose=0).history
    assert logs["hard_loss"][0] == pytest.approx(hard.mean(), rel=1e-4)
    assert logs["hinton"][0] == pytest.approx(0.7 * soft.mean(), rel=1e-4)
    assert logs["loss"][0] == pytest.approx(0.1 * hard.mean() + 0.7 * soft.mean() + penalty, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample_weight", "class_weight"])
def test_weights_of_samples_and_classes_count_in_every_part(api, data, kind):
    x, y = data
    weights = np.linspace(0, 2, 48) if kind == "sample_weight" else np.array([1.0, 3.0, 0.5])[y]
    student, teacher = network(api), teacher_of()
    probabilities, _ = in_training(student, x)
    soft = weights * divergence(np.log(probabilities), teacher.predict(x, verbose=0).astype(np.float64), 4.0)
    hard = -weights * np.log(probabilities[np.arange(48), y])
    given = {"sample_weight": weights} if kind == "sample_weight" else {"class_weight": {0: 1.0, 1: 3.0, 2: 0.5}}
    logs = compiled(distill(student, teacher), api).fit(x, y, batch_size=48, verbose=0, **given).history
    assert logs["hard_loss"][0] == pytest.approx(hard.mean(), rel=1e-4)
    assert logs["hinton"][0] == pytest.approx(0.9 * soft.mean(), rel=1e-4)


@pytest.mark.slow
def test_cached_and_live_teachers_teach_the_same(api, data):
    x, y = data
    weights = []
    for cache in ("auto", "never"):
        student = network(api)
        distilled = distill(student, teacher_of(tf_keras()), Distillation(losses=(Hinton(), HINT), cache=cache))
        compiled(distilled, api, rate=0.1).fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        weights.append(student.get_weights())
    for once, always in zip(*weights, strict=True):
        np.testing.assert_allclose(once, always, atol=2e-4)  # features are stored in half precision
    assert any((a != b).any() for a, b in zip(weights[0], network(api).get_weights(), strict=True))


def test_the_student_runs_once_a_step_and_the_teacher_once_in_all(api, data):
    x, y = data
    calls = {"student": 0, "teacher": 0}
    student = network(api)
    inner = student.get_layer("conv").call

    def counted(*args, **kwargs):
        calls["student"] += 1
        return inner(*args, **kwargs)

    def teacher(batch):
        calls["teacher"] += len(batch)
        return np.asarray(teacher_model(batch))

    teacher_model = teacher_of()
    distilled = distill(student, teacher, Distillation(losses=(Hinton(), TeacherFree())))
    compiled(distilled, api, run_eagerly=True).fit(x[:40], y[:40], batch_size=10, verbose=0)  # inspects the teacher
    student.get_layer("conv").call = counted
    calls.update(teacher=0)
    distilled.fit(x[:40], y[:40], batch_size=10, epochs=2, verbose=0)
    assert calls["student"] == 2 * 4 + 2  # plus two for the inspection of a few samples before the start
    assert calls["teacher"] == 2 * 40  # those of the inspection; its answers are cached by now


@pytest.mark.slow
def test_predict_evaluate_and_save_are_the_students_own(api, data, tmp_path):
    x, y = data
    student = network(api)
    teacher = teacher_of()
    distilled = compiled(
        distill(student, teacher, Distillation(losses=(Hinton(), HINT))), api, 0.1, metrics=["accuracy"]
    )
    history = distilled.fit(x, y, epochs=2, verbose=0, validation_data=(x, y)).history
    compiled(student, api, metrics=["accuracy"])
    np.testing.assert_array_equal(distilled.predict(x, verbose=0), student.predict(x, verbose=0))
    assert distilled.evaluate(x, y, verbose=0) == pytest.approx(student.evaluate(x, y, verbose=0), rel=1e-6)
    assert history["val_loss"][-1] == pytest.approx(student.evaluate(x, y, verbose=0)[0], rel=1e-5)
    assert not [name for name in history if name.startswith("val_") and name not in ("val_loss", "val_accuracy")]
    distilled.save(tmp_path / "student.keras")
    code = (
        f"import sys, {api.__name__} as k; model = k.models.load_model(sys.argv[1]); "
        "print(len(model.weights), 'tfopt' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "student.keras"], capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[-2:] == [str(len(student.weights)), "False"]
    distilled.save_weights(tmp_path / "student.weights.h5")
    other = network(api, seed=9)
    other.load_weights(tmp_path / "student.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), student.predict(x, verbose=0))


@pytest.mark.slow
@pytest.mark.parametrize("teacher_api", APIS)
@pytest.mark.parametrize("cache", ["auto", "never"])
def test_the_teacher_is_left_as_it_was(api, data, teacher_api, cache):
    x, y = data
    teacher = teacher_of(APIS[teacher_api])
    teacher.get_layer("head").trainable = False
    before = [weight.copy() for weight in teacher.get_weights()]
    flags = [layer.trainable for layer in teacher.layers]
    distilled = distill(network(api), teacher, Distillation(losses=(Hinton(), HINT), cache=cache))
    compiled(distilled, api, 0.1).fit(x, y, epochs=2, verbose=0)
    for old, now in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert [layer.trainable for layer in teacher.layers] == flags
    assert not {id(weight) for weight in teacher.weights} & {id(weight) for weight in distilled.weights}


def test_a_connector_is_trained_with_the_student(api, data):
    x, y = data
    student = network(api)
    distilled = distill(student, teacher_of(), Distillation(losses=(HINT,), alpha=0.0))
    compiled(distilled, api, 0.1).fit(x, y, epochs=1, verbose=0)
    (connector,) = distilled.connectors
    before = connector.get_weights()[0]
    assert before.shape[-2:] == (4, 7)
    head = student.get_layer("head").get_weights()
    distilled.fit(x, y, epochs=1, verbose=0)
    assert (connector.get_weights()[0] != before).any()
    for old, now in zip(head, student.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)  # neither labels nor responses count
    assert connector.weights[0].shape not in [weight.shape for weight in student.weights]


def test_a_hint_in_two_stages(api, data):
    x, y = data
    student = network(api)
    hint = FitNets(layers=(("conv", "conv"),), two_stage=0.5)
    distilled = compiled(distill(student, teacher_of(), Distillation(losses=(Hinton(), hint))), api, 0.1)
    head = student.get_layer("head").get_weights()[0]
    seen = []

    class Look(api.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((student.get_layer("head").get_weights()[0], logs["fitnets"], logs["hinton"]))

    distilled.fit(x, y, batch_size=24, epochs=4, verbose=0, callbacks=[Look()])
    for weights, fitnets, hinton in seen[:2]:
        np.testing.assert_array_equal(weights, head)
        assert fitnets > 0 == hinton
    for weights, fitnets, hinton in seen[2:]:
        assert (weights != head).any()
        assert hinton > 0 == fitnets


def test_half_precision(data):
    x, y = data
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = network(keras)
        distilled = compiled(distill(student, teacher_of(), Distillation(losses=(Hinton(), HINT))), keras, 0.05)
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(distilled.optimizer).__name__ == "LossScaleOptimizer"
    logs = distilled.fit(x, y, batch_size=16, epochs=4, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    assert logs["loss"][-1] < logs["loss"][0]


def test_a_validation_split_is_evaluated_on_labels_only(api, data):
    x, y = data
    distilled = compiled(distill(network(api), teacher_of()), api)
    logs = distilled.fit(x, y, batch_size=12, validation_split=0.25, verbose=0).history
    assert logs["val_loss"][0] == pytest.approx(distilled.evaluate(x[36:], y[36:], verbose=0), rel=1e-5)


def test_a_dataset_that_repeats_itself_is_answered_once(api, data):
    x, y = data
    asked = []

    def teacher(batch):
        asked.append(len(batch))
        return np.asarray(model(batch))

    model = teacher_of()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    distilled = compiled(distill(network(api), teacher, Distillation(cache="always")), api)
    distilled.fit(batches, epochs=3, verbose=0)
    looked = sum(asked) - 48
    assert 0 < looked <= 48  # the inspection of a few samples
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(48).batch(16)
    with pytest.raises(DataError, match="a different order"):
        distilled.fit(shuffled, epochs=1, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [tfopt.Prune(final_sparsity=0.5), tfopt.Cluster(number_of_clusters=4), tfopt.Quantize(), tfopt.FineTune()],
    ids=lambda stage: type(stage).__name__,
)
def test_by_hand_within_a_stage(api, data, stage):
    x, y = data
    model = network(api)
    applied = stage.apply(model, steps=9)
    stage.calibrate(applied, x)
    distilled = distill(applied, teacher_of(), Distillation(losses=(Hinton(), HINT)))
    compiled(distilled, tf_keras(), 0.05)
    logs = distilled.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=stage.callbacks()).history
    assert logs["fitnets"][-1] > 0
    stripped = stage.strip(applied)  # raises if a promise does not hold
    assert isinstance(stripped, api.Model)
    kernel = stripped.get_layer("conv").get_weights()[0]
    assert (kernel != model.get_layer("conv").get_weights()[0]).any()


def test_distil_on_one_task_then_take_a_new_head(api, data):
    from tfopt.transfer import new_head

    x, y = data
    student = network(api)
    compiled(distill(student, teacher_of()), api, 0.1).fit(x, y, epochs=1, verbose=0)
    target = new_head(student, 5)
    np.testing.assert_array_equal(target.get_layer("conv").get_weights()[0], student.get_layer("conv").get_weights()[0])
    compiled(target, api, 0.1).fit(x, (y + 2) % 5, epochs=1, verbose=0)


def test_across_class_sets_with_features_only(api, data):
    x, y = data
    teacher = teacher_of(classes=11)
    with pytest.raises(ModelError, match=r"gives \(3,\) for a sample, the teacher \(11,\)"):
        compiled(distill(network(api), teacher), api).fit(x, y, verbose=0)
    logs = compiled(distill(network(api), teacher, Distillation(losses=(HINT,))), api, 0.1).fit(x, y, verbose=0).history
    assert logs["fitnets"][0] > 0


def test_l2_sp_starts_at_zero_and_pulls_back(api, data):
    x, y = data
    student = network(api)
    distilled = distill(student, None, Distillation(losses=(L2SP(weight=1.0),)))
    compiled(distilled, api, 0.1)
    first = distilled.fit(x, y, batch_size=48, verbose=0).history["l2_sp"][0]
    second = distilled.fit(x, y, batch_size=48, verbose=0).history["l2_sp"][0]
    assert first == 0 < second


@pytest.mark.slow
def test_two_replicas_learn_what_one_does():
    """Runs in a separate process: the number of devices is fixed once TensorFlow starts."""
    code = """
import numpy as np, tensorflow as tf, keras, sys
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.distilled import distill
from tfopt.distillation.losses import FitNets, Hinton
from tfopt.base.keras_compat import tf_keras
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 8)).astype("float32"), rng.integers(0, 3, 32)
for package in (keras, tf_keras()):
    def model(width, seed):
        package.utils.set_random_seed(seed)
        inputs = package.Input((8,))
        hidden = package.layers.Dense(width, activation="tanh", name="hidden", kernel_regularizer="l2")(inputs)
        return package.Model(inputs, package.layers.Dense(3, activation="softmax")(hidden))
    found = []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
        with strategy.scope():
            student, teacher = model(4, 0), model(6, 1)
            losses = (Hinton(), FitNets(layers=(("hidden", "hidden"),)))
            distilled = distill(student, teacher, Distillation(losses=losses))
            distilled.compile(package.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
        logs = distilled.fit(data, epochs=2, verbose=0).history
        found.append(([np.asarray(w) for w in student.get_weights()], logs))
    for one, two in zip(found[0][0], found[1][0]):
        np.testing.assert_allclose(one, two, atol=1e-5)
    for name in found[0][1]:
        np.testing.assert_allclose(found[0][1][name], found[1][1][name], rtol=1e-4, err_msg=name)
print("equal")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.split()[-1:] == ["equal"], said.stderr[-2000:]


# Bad input


def test_a_term_that_is_not_finite_stops_with_its_name(api, data):
    x, y = data
    distilled = compiled(distill(network(api), teacher_of(), Distillation(losses=(Hinton(weight=3e38), HINT))), api)
    with pytest.raises(RecipeError, match=r"after step 1 .* not finite: hinton\."):
        distilled.fit(x * 100, y, batch_size=16, verbose=0)


def test_what_cannot_be_learnt_is_refused_before_the_work(api, data):
    x, y = data
    with pytest.raises(ModelError, match=r"'teacher.*' has no layer 'convo' \(nearest: conv\)"):
        distill(network(api), teacher_of(), Distillation(losses=(FitNets(layers=(("conv", "convo"),)),)))
    with pytest.raises(ModelError, match=r"'student' has no layer 'kernel' \(nearest: relu"):
        distill(network(api), teacher_of(), Distillation(losses=(FitNets(layers=(("kernel", "conv"),)),)))
    with pytest.raises(ModelError, match="not different numbers of axes"):
        distill(network(api), teacher_of(), Distillation(losses=(FitNets(layers=(("conv", "pool"),)),)))
    with pytest.raises(RecipeError, match="'hinton' needs a teacher"):
        distill(network(api))
    with pytest.raises(ModelError, match="no layers to take features from"):
        distill(network(api), lambda batch: batch, Distillation(losses=(HINT,)))
    with pytest.raises(ModelError, match="NaN"):
        compiled(distill(network(api), lambda batch: np.full((len(batch), 3), np.nan)), api).fit(x, y, verbose=0)
    with pytest.raises(DataError, match="one array"):
        compiled(distill(network(api), teacher_of()), api).fit([x, x], y, verbose=0)


def test_bad_configs():
    with pytest.raises(RecipeError, match="one task"):
        Distillation(losses=(Hinton(), RegressionKD()))
    with pytest.raises(RecipeError, match="Nothing is learned"):
        Distillation(losses=(L2SP(),), alpha=0.0)
    with pytest.raises(RecipeError, match="Unknown loss 'Hintn'"):
        Distillation.from_dict({"losses": [{"loss": "Hintn"}]})
    with pytest.raises(RecipeError, match="views"):
        Distillation(views=0)


def test_json_round_trip():
    made = Distillation(losses=(Hinton(temperature=2.0), HINT, FitNets(layers=(("a", "b"),))), alpha=0.3, views=3)
    assert Distillation.from_dict(made.to_dict()) == made
    assert made.labels() == ("hinton", "fitnets", "fitnets_2")
    assert Distillation().hard_weight == 0.1  # Hinton et al. 2015: "considerably lower" weight on the labels
    assert Distillation(losses=(HINT,)).hard_weight == 1.0


def test_a_teacher_with_its_own_classes(api, data):
    x, y = data
    teacher = Teacher(teacher_of(classes=5), class_names=("e", "c", "a", "d", "b")).for_classes(("a", "b", "c"))
    student = network(api)
    probabilities, _ = in_training(student, x)
    soft = divergence(np.log(probabilities), teacher_of(classes=5).predict(x, verbose=0)[:, [2, 4, 1]].astype(float), 4)
    logs = compiled(distill(student, teacher), api).fit(x, y, batch_size=48, verbose=0).history
    assert logs["hinton"][0] == pytest.approx(0.9 * soft.mean(), rel=1e-4)


def of_one_output(api, activation, width=1):
    layers = [api.layers.Dense(4, activation="relu"), api.layers.Dense(width, activation=activation)]
    return api.Sequential([api.Input((6,)), *layers])


@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_a_probability_is_taught_as_two_classes(api):
    """KL of the two Bernoulli distributions whose log-odds are those of the models, divided by T = 4, times T^2."""
    api.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    teacher, student = of_one_output(api, "sigmoid"), of_one_output(api, "sigmoid")
    p, q = (
        1 / (1 + np.exp(-(np.log(y) - np.log1p(-y)) / 4))
        for y in (model.predict(x, verbose=0).astype(np.float64) for model in (teacher, student))
    )
    expected = 0.9 * 16 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    model = tfopt.distill(student, teacher)
    model.compile(api.optimizers.SGD(0.0), "binary_crossentropy")
    found = model.fit(x, np.ones((64, 1)), batch_size=64, epochs=1, verbose=0).history["hinton"][0]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("activation", "width", "loss", "name"),
    [(None, 1, "mse", "RegressionKD"), ("sigmoid", 3, "binary_crossentropy", "MultilabelKD")],
)
def test_the_default_is_for_classes(activation, width, loss, name):
    student, teacher = (of_one_output(keras, activation, width) for _ in range(2))
    with pytest.raises(RecipeError, match=rf"Pass Distillation\(losses=\(tfopt\.losses\.{name}\(\),\)\)"):
        tfopt.distill(student, teacher).compile("adam", loss)


class Numbered(keras.utils.PyDataset):
    """Batches of 8 sentences, of 5, 7 and 5 words."""

    def __init__(self):
        super().__init__()
        self.read, self.epochs, self.begun = [], 0, 0

    def __len__(self):
        return 3

    def __getitem__(self, number):
        self.read.append(number)
        rng = np.random.default_rng(number)
        return rng.integers(0, 9, (8, (5, 7, 5)[number])), rng.integers(0, 2, 8)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.epochs += 1


def reader(api):
    layers = [api.layers.Embedding(9, 4), api.layers.GlobalAveragePooling1D(), api.layers.Dense(2, "softmax")]
    return api.Sequential([api.Input((None,), dtype="int32"), *layers])


@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_batches_by_number_and_of_any_length(api):
    distilled = tfopt.distill(reader(api), reader(keras))
    distilled.compile("sgd", "sparse_categorical_crossentropy")
    data = Numbered()
    history = distilled.fit(data, epochs=2, verbose=0).history
    assert len(history["hinton"]) == 2 and data.epochs == data.begun == 2
    assert sorted(data.read[-6:]) == [0, 0, 1, 1, 2, 2]
    distilled.fit(data, epochs=3, steps_per_epoch=2, verbose=0)
    assert data.epochs == 5


def test_sentences_that_tf_data_pads():
    words = tf.data.Dataset.range(1, 20).map(lambda n: (tf.ones([n], tf.int32), n % 2)).padded_batch(4)
    distilled = tfopt.distill(reader(keras), reader(keras))
    distilled.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(distilled.fit(words, verbose=0).history["loss"][0])


def test_data_that_cannot_be_read_twice():
    distilled = tfopt.distill(reader(keras), reader(keras))
    distilled.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(DataError, match=r"PyDataset; got generator\. Convert it, as with tf\.data\.Dataset"):
        distilled.fit((batch for batch in [Numbered()[0]]), steps_per_epoch=1)


def test_a_batch_alone():
    student = reader(keras)
    distilled = tfopt.distill(student, reader(keras))
    distilled.compile("sgd", "sparse_categorical_crossentropy")
    before = student.get_weights()
    distilled.train_on_batch(*Numbered()[0])
    assert any((ours != theirs).any() for ours, theirs in zip(before, student.get_weights(), strict=True))


def test_a_distilled_model_stands_for_its_student():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    stage = tfopt.Prune(schedule="one-shot")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2, "softmax")])
    distilled = tfopt.distill(stage.apply(model, steps=1), model)
    stripped = stage.strip(distilled)
    assert np.mean(stripped.layers[0].kernel.numpy() == 0) == 0.5
    lite = tfopt.export_tflite(tfopt.distill(stripped, model), representative_data=x)
    assert np.abs(lite.predict(x) - stripped.predict(x, verbose=0)).max() < 0.03
    with pytest.raises(ModelError, match=r"Apply Prune to the student first"):
        stage.apply(distilled, steps=1)


WORDS = np.ones((8, 5), "int32")


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([(WORDS, None, np.ones(8))], "got 3 parts, 1 of them None"),
        ([(WORDS, np.ones(8)), (WORDS, np.ones((8, 1)))], r"batch 1 of Listed differs: expected the shape \(None,\)"),
        ([(WORDS, np.ones(8)), (WORDS, np.ones(8), np.ones(8))], "batch 1 of Listed differs"),
        ([([[1, 2], [1]], [0, 1])], "arrays, all of one form"),
        ([], "Listed has no batch"),
    ],
)
def test_batches_of_another_form_are_refused(batches, said):
    class Listed(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, number):
            return batches[number]

    distilled = tfopt.distill(reader(keras), reader(keras))
    distilled.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(Exception, match=said):
        distilled.fit(Listed(), verbose=0, shuffle=False)
