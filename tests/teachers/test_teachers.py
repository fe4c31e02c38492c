"""Teachers of every kind answer in logits, in the student's terms, and stay unchanged."""

import json
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.data import Preprocessing
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.teachers.ensemble import Ensemble, as_teacher
from tfopt.teachers.load import load_teacher
from tfopt.teachers.precomputed import Precomputed
from tfopt.teachers.teacher import Teacher
from tfopt.tflite.read import LiteModel

KERASES = pytest.mark.parametrize("kind", ["keras", "tf_keras"])


def package(kind):
    return keras if kind == "keras" else tf_keras()


def images(n=6, shape=(8, 8, 3), seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *shape)).astype("float32")


def net(kind="keras", activation=None, classes=4, shape=(8, 8, 3), spread=3.0):
    """A convolution with nontrivial BatchNorm statistics, and a head with a wide range of outputs."""
    api = package(kind)
    inputs = hidden = api.Input(shape)
    hidden = api.layers.Conv2D(5, 3, name="conv")(hidden)
    hidden = api.layers.BatchNormalization(name="norm")(hidden)
    hidden = api.layers.ReLU(name="relu")(hidden)
    hidden = api.layers.Dropout(0.5, name="drop")(hidden)
    hidden = api.layers.GlobalAveragePooling2D(name="pool")(hidden)
    model = api.Model(inputs, api.layers.Dense(classes, activation=activation, name="head")(hidden), name="net")
    rng = np.random.default_rng(3)
    model.set_weights([
        rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else rng.normal(0, spread, w.shape) for w in model.get_weights()
    ])  # fmt: skip
    return model


def dense(kind="keras", activation=None, width=3, classes=3, seed=1):
    api = package(kind)
    model = api.Sequential([api.Input((width,)), api.layers.Dense(classes, activation=activation, name="head")])
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=(width, classes)), rng.normal(size=classes)])
    return model


def numpy_dense(model, x):
    kernel, bias = (np.asarray(w, np.float64) for w in model.get_weights())
    return x.astype(np.float64) @ kernel + bias


def softmax(z):
    e = np.exp(np.asarray(z, np.float64) - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def state(model):
    """Everything that must not change, as bytes and plain values."""
    weights = [np.asarray(v).tobytes() for v in model.weights]
    flags = [(layer.name, layer.trainable) for layer in (model, *model.layers)]
    return weights, flags, getattr(model, "optimizer", None), getattr(model, "loss", None), model.compiled if (
        hasattr(model, "compiled")) else None, len(model.trainable_weights), model.get_config()  # fmt: skip


def constant(outputs):
    """A teacher in NumPy that returns these rows, repeated over the batch."""
    rows = np.asarray(outputs, np.float32)
    return lambda x: np.resize(rows, (len(x), rows.shape[1]))


# Requests and answers


@KERASES
def test_logits_and_features_are_those_of_the_model(kind):
    model, x = net(kind), images()
    inner = package(kind).Model(model.inputs[0], [model.get_layer("relu").output, model.get_layer("pool").output])
    relu, pool = (np.asarray(part) for part in inner(x, training=False))
    teacher = Teacher(model).with_outputs(["relu", "pool"]).resolved(x, "classification")
    answers = teacher.predict(x, quiet=True)
    assert list(answers) == ["output", "relu", "pool"]
    assert all(rows.dtype == np.float32 for rows in answers.values())
    np.testing.assert_allclose(answers["relu"], relu, atol=1e-4)
    np.testing.assert_allclose(answers["pool"], pool, atol=1e-4)
    kernel, bias = model.get_layer("head").get_weights()
    np.testing.assert_allclose(answers["output"], pool @ kernel + bias, atol=1e-3)
    assert teacher.form == "logits"
    assert teacher.notes == ()
    assert teacher.shapes((8, 8, 3)) == {"output": (4,), "relu": (6, 6, 5), "pool": (5,)}


@KERASES
def test_probabilities_are_detected_and_become_their_logarithms(kind):
    model, x = dense(kind, "softmax"), images(9, (3,))
    teacher = as_teacher(model).resolved(x, "classification")
    expected = np.log(softmax(numpy_dense(model, x)))
    np.testing.assert_allclose(teacher.predict(x, quiet=True)["output"], expected, atol=1e-5)
    assert teacher.form == "softmax"
    assert teacher.notes == teacher.resolved(x, "classification").notes
    assert "probabilities" in teacher.notes[0]


def test_features_only():
    teacher = Teacher(net()).with_outputs(["pool"], response=False)
    assert list(teacher.predict(images(), quiet=True)) == ["pool"]


@pytest.mark.parametrize("sizes", [(50,), (1, 49), (7, 7, 36), (20, 20, 10)])
@pytest.mark.parametrize("batch_size", [None, 1, 16, 50])
def test_batches_of_any_size_give_the_same_answers_in_order(sizes, batch_size):
    model, x = dense(), images(50, (3,))
    teacher = Teacher(model, outputs="logits")
    starts = np.cumsum([0, *sizes])
    parts = teacher.each((x[a:b] for a, b in pairwise(starts)), batch_size=batch_size)
    found = np.concatenate([part["output"] for part in parts])
    np.testing.assert_allclose(found, numpy_dense(model, x), atol=1e-5)
    # Rounding depends on where the rows of a batch lie in memory.
    np.testing.assert_allclose(teacher.predict(x, batch_size=batch_size, quiet=True)["output"], found, atol=1e-6)


def test_batches_with_weights_give_the_answers_without():
    teacher, x, y = Teacher(dense(), outputs="logits"), images(50, (3,)), np.zeros(50, np.int32)
    (found,) = teacher.each([(x, y, np.ones(50))], batch_size=50)
    (expected,) = teacher.each([(x, y)], batch_size=50)
    np.testing.assert_array_equal(found["output"], expected["output"])


def test_predict_sees_weights_that_changed_since():
    model, x = dense(), images(4, (3,))
    teacher = Teacher(model, outputs="logits")
    teacher.predict(x, quiet=True)
    model.set_weights([2 * w for w in model.get_weights()])
    np.testing.assert_allclose(teacher.predict(x, quiet=True)["output"], numpy_dense(model, x), atol=1e-5)


def test_no_samples_give_no_answers_and_a_bad_batch_size_is_refused():
    teacher = Teacher(dense(), outputs="logits")
    with pytest.raises(DataError, match="batch_size of 1 or above, got 0"):
        teacher.predict(images(4, (3,)), batch_size=0, quiet=True)


def test_long_passes_are_seen_and_short_ones_are_not(capsys, monkeypatch):
    teacher = Teacher(dense(), outputs="logits", name="professor")
    teacher.predict(images(4, (3,)))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("tfopt.base.progress._LONG", -1)
    teacher.predict(images(4, (3,)))
    assert "teacher professor: answers to 4 samples" in capsys.readouterr().err
    teacher.predict(images(4, (3,)), quiet=True)
    assert capsys.readouterr().err == ""


# What a teacher can be made from


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, x):
            return self.head(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    return model, lambda x: numpy_dense(model, x)


def nested():
    inner = dense(classes=5)
    outer = dense(width=5, seed=2)
    model = keras.Sequential([keras.Input((3,)), inner, outer])
    return model, lambda x: numpy_dense(outer, numpy_dense(inner, x))


def function_of_numpy():
    return (lambda x: np.exp(x) * 2), lambda x: np.exp(x.astype(np.float64)) * 2


def function_of_tensorflow():
    return tf.function(lambda x: tf.exp(x) * 2), lambda x: np.exp(x.astype(np.float64)) * 2


def fixed_batch():
    inputs = keras.Input(batch_shape=(4, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    return model, lambda x: numpy_dense(model, x)


def quantization_aware():
    model = dense("tf_keras", classes=8)
    wrapped = tfopt.Quantize().apply(model, steps=1)
    return wrapped, lambda x: np.asarray(wrapped(x, training=False), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [subclassed, nested, function_of_numpy, function_of_tensorflow, fixed_batch, quantization_aware]
)
def test_sources(make):
    source, expected = make()
    x = images(11, (3,)) - 0.5
    teacher = as_teacher(source).resolved(x, "classification")
    np.testing.assert_allclose(teacher.predict(x, quiet=True)["output"], expected(x), atol=1e-5)
    live = tf.function(lambda batch: teacher.answers(batch))(tf.constant(x))["output"]
    np.testing.assert_allclose(live, expected(x), atol=1e-5)
    assert live.shape[1] == expected(x).shape[1]
    assert as_teacher(teacher) is teacher


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model in each kind of file; the last two without Keras layers."""
    folder = tmp_path_factory.mktemp("files")
    model, flat_model = dense(activation="softmax"), dense("tf_keras", "softmax")
    model.save(folder / "new.keras")
    flat_model.save(folder / "old.h5")
    flat_model.save(folder / "old_saved")
    model.export(folder / "exported", verbose=False)
    tfopt.export_tflite(model, folder / "float.tflite", tfopt.Export(weights="float32", activations="float32"))
    result = folder / "result"
    result.mkdir()
    model.save(result / "model.keras")
    told = {"class_names": ["cat", "dog", "owl"], "preprocessing": Preprocessing.named("symmetric").to_dict()}
    (result / "data.json").write_text(json.dumps(told))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["new.keras", "old.h5", "old_saved", "exported", "float.tflite", "result"])
def test_files(files, name):
    x = images(11, (3,))
    expected = np.log(softmax(numpy_dense(dense(), x)))
    teacher = as_teacher(files / name).resolved(x, "classification")
    np.testing.assert_allclose(teacher.predict(x, quiet=True)["output"], expected, atol=1e-5)
    live = tf.function(lambda batch: teacher.answers(batch), input_signature=[tf.TensorSpec((None, 3))])
    np.testing.assert_allclose(live(x)["output"], expected, atol=1e-5)
    assert teacher.name == name.partition(".")[0]
    assert teacher.fingerprint == as_teacher(str(files / name)).fingerprint is not None


def test_a_result_folder_states_classes_and_preprocessing(files):
    teacher = Teacher(files / "result")
    assert teacher.class_names == ("cat", "dog", "owl")
    x = images(5, (3,))  # what a student gets for pixels / 255
    answers = teacher.for_inputs("unit").resolved(x, "classification").predict(x, quiet=True)
    np.testing.assert_allclose(answers["output"], np.log(softmax(numpy_dense(dense(), 2 * x - 1))), atol=1e-5)


def test_a_result_folder_whose_data_cannot_be_read_is_refused(files, tmp_path):
    (tmp_path / "model.keras").write_bytes((files / "new.keras").read_bytes())
    (tmp_path / "data.json").write_text('{"class_names": null}')
    with pytest.raises(ModelError, match=r"data\.json does not state .*give the path of model\.keras itself"):
        Teacher(tmp_path)


def test_a_saved_model_that_runs_python_is_refused(tmp_path):
    module = tf.Module()
    module.f = tf.function(
        lambda x: tf.ensure_shape(tf.numpy_function(np.exp, [x], tf.float32), (None, 3)),
        input_signature=[tf.TensorSpec((None, 3))],
    )
    tf.saved_model.save(module, str(tmp_path / "code"))
    with pytest.raises(ModelError, match=r"contains code.*PyFunc"):
        Teacher(tmp_path / "code")


class Noisy(tf.Module):
    """Add 1 in training, nothing in inference; `told` says whether the caller can choose."""

    def __init__(self, told):
        super().__init__()
        self.factor = tf.Variable(3.0)
        call = (lambda x, training=True: x * self.factor + float(training)) if told else (lambda x: x * self.factor)
        self.call = tf.function(call)
        spec = tf.TensorSpec((None, 2))
        for training in (True, False) if told else ():
            self.call.get_concrete_function(spec, training=training)
        if not told:
            self.call.get_concrete_function(spec)
        self.__dict__["__call__"] = self.call


@pytest.mark.parametrize("told", [True, False])
def test_a_saved_model_without_signature_is_called_in_inference(told, tmp_path):
    tf.saved_model.save(Noisy(told), str(tmp_path / "module"), signatures={})
    x = images(5, (2,))
    loaded = tf.saved_model.load(str(tmp_path / "module"))
    assert not loaded.signatures
    for source in (tmp_path / "module", loaded):
        teacher = Teacher(source).resolved(x, "regression")
        np.testing.assert_allclose(teacher.predict(x, quiet=True)["output"], 3 * x, atol=1e-5)
    assert teacher.fingerprint is None
    assert Teacher(tmp_path / "module").fingerprint is not None


@pytest.mark.filterwarnings("ignore")
def test_int8_probabilities_are_detected_and_floored_at_half_a_step():
    model, x = net(activation="softmax"), images(64)
    lite = tfopt.export_tflite(model, representative_data=x)
    teacher = Teacher(lite).resolved(x, "classification")
    assert teacher.form == "softmax"
    p = lite.predict(x)
    assert (p == 0).any()  # the case that needs the lower limit
    step = 1 / 256  # TFLite's fixed scale of an int8 softmax
    np.testing.assert_allclose(
        teacher.predict(x, quiet=True)["output"], np.log(np.maximum(p.astype(np.float64), step / 2)), atol=1e-5
    )
    assert isinstance(lite, LiteModel)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "A teacher must be a Keras 3 or tf_keras model.*got int"),
        (lambda: keras.layers.Dense(3), "not a model: make one from it"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "has no weights yet"),
        ("nowhere.keras", "nowhere.keras: no such file"),
    ],
)
def test_what_is_no_teacher(source, message):
    with pytest.raises(ModelError, match=message):
        Teacher(source() if callable(source) else source)


@KERASES
def test_models_that_do_not_fit_one_question_and_one_answer(kind):
    api = package(kind)
    a, b = api.Input((3,)), api.Input((3,))
    with pytest.raises(ModelError, match="has 2 inputs; expected a model with one"):
        Teacher(api.Model([a, b], api.layers.Add()([a, b]))).resolved(images(4, (3,)), "regression")
    two = api.Model(a, [api.layers.Dense(2)(a), api.layers.Dense(3)(a)])
    with pytest.raises(ModelError, match=r"gives 2 outputs; expected one.*model\.outputs\[0\]"):
        Teacher(two).resolved(images(4, (3,)), "classification")
    steps = api.Input(batch_shape=(4, 5, 3))
    with pytest.raises(ModelError, match="stateful=False"):
        Teacher(api.Model(steps, api.layers.LSTM(2, stateful=True)(steps)))


def test_layers_need_a_source_that_has_them():
    with pytest.raises(ModelError, match="no layers to take features from"):
        Teacher(lambda x: x).with_outputs(["conv"])
    with pytest.raises(ModelError, match=r"no layer 'convv' \(nearest: conv"):
        Teacher(net(), outputs="logits").with_outputs(["convv"]).predict(images(), quiet=True)


def test_a_function_must_give_a_row_for_each_sample():
    with pytest.raises(ModelError, match=r"answers with shape \(3,\) for 5 samples"):
        Teacher(lambda x: x.sum(axis=0)).resolved(images(5, (3,)), "classification")


# Teachers stay unchanged


@KERASES
def test_a_teacher_is_not_changed_by_all_that_is_done_with_it(kind):
    model, x = net(kind, "softmax"), images(16)
    model.compile(optimizer="sgd", loss="mse")
    before = state(model)
    teacher = (
        Teacher(model, preprocessing="symmetric")
        .for_inputs("unit")
        .with_outputs(["norm"])
        .resolved(x, "classification")
    )
    teacher.predict(x, quiet=True)
    student = dense(width=192, classes=4)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(student.trainable_variables)

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            tape.watch(batch)
            answers = teacher.answers(batch)
            response = student(tf.reshape(batch, (-1, 192)), training=True)
            loss = tf.reduce_mean((response - answers["output"]) ** 2) + tf.reduce_mean(answers["norm"])
        teachers = tape.gradient(loss, model.trainable_variables)
        return teachers, None

    with tf.GradientTape() as tape:
        tape.watch(batch := tf.constant(x))
        answers = teacher.answers(batch)
        total = tf.reduce_sum(answers["output"]) + tf.reduce_sum(answers["norm"])
    assert tape.gradient(total, batch) is None
    gradients, _ = step(tf.constant(x))
    assert all(gradient is None for gradient in gradients)
    assert state(model) == before


def test_dropout_is_off_and_statistics_are_the_stored_ones_inside_a_training_step():
    model, x = net(), images(16)
    teacher = Teacher(model, outputs="logits")
    asked = tf.function(lambda batch: teacher.answers(batch)["output"])
    np.testing.assert_allclose(asked(x), model.predict(x, verbose=0), atol=1e-4)


@KERASES
def test_a_teacher_is_in_inference_also_within_a_model_that_trains(kind):
    model, x = net(kind), images(16)

    class Student(package(kind).Model):
        def call(self, batch, training=None):
            return teacher.answers(batch)["output"]

    teacher = Teacher(model, outputs="logits")
    np.testing.assert_allclose(Student()(x, training=True), model.predict(x, verbose=0), atol=1e-4)


@KERASES
def test_keras_does_not_track_a_teacher(kind):
    api = package(kind)

    class Student(api.Model):
        def __init__(self, teacher):
            super().__init__()
            self.teacher = teacher
            self.teachers = [teacher]
            self.head = api.layers.Dense(2)

        def call(self, x):
            return self.head(x)

    student = Student(Teacher(net(kind)))
    student(np.zeros((1, 3), "float32"))
    assert len(student.weights) == 2
    assert isinstance(student.teacher, Teacher)


@KERASES
def test_a_fingerprint_depends_only_on_weights_and_architecture(kind, tmp_path):
    api = package(kind)
    teacher = Teacher(dense(kind))
    first = teacher.fingerprint
    unlike = [dense(kind, "softmax"), dense(kind, seed=5)]
    same = dense(kind)  # with other automatic names
    same.compile("sgd", "mse")
    assert Teacher(same, name="other").fingerprint == first
    same.save(tmp_path / "model.keras")
    assert Teacher(tmp_path / "model.keras").fingerprint == first
    assert first not in [Teacher(model).fingerprint for model in unlike]
    teacher.source.model.layers[0].bias.assign_add([0, 0, 1e-6])
    assert teacher.fingerprint != first
    assert Teacher(lambda x: x).fingerprint is None
    del api


# Logits or probabilities

Z = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]])
SIGMOIDS = [[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]]


@pytest.mark.parametrize(
    ("outputs", "task", "said", "form", "expected"),
    [
        (Z, "classification", "auto", "logits", Z),
        (softmax(Z), "classification", "auto", "softmax", np.log(softmax(Z))),
        (softmax(Z), "classification", "logits", "logits", softmax(Z)),
        (softmax(Z), "classification", "probabilities", "softmax", np.log(softmax(Z))),
        (SIGMOIDS, "classification", "probabilities", "sigmoid", np.log(np.divide(SIGMOIDS, 1 - np.array(SIGMOIDS)))),
        (SIGMOIDS, "classification", "logits", "logits", SIGMOIDS),
        (SIGMOIDS, "multilabel", "auto", "sigmoid", np.log(np.divide(SIGMOIDS, 1 - np.array(SIGMOIDS)))),
        (Z, "multilabel", "auto", "logits", Z),
        ([[0.25], [0.8]], "classification", "auto", "sigmoid", np.log([[1 / 3], [4.0]])),
        ([[0.25], [-0.8]], "classification", "auto", "logits", [[0.25], [-0.8]]),
        (SIGMOIDS, "regression", "auto", "values", SIGMOIDS),
        ([[1.0, 0.0, 0.0]], "classification", "auto", "softmax", [[0, np.log(1e-30), np.log(1e-30)]]),
        ([[1.0, 0.0]], "multilabel", "auto", "sigmoid", [[np.log(2.0**24 - 1), -np.log(2.0**24 - 1)]]),
    ],
)  # fmt: skip
def test_the_form_of_outputs_is_inferred_from_their_values(outputs, task, said, form, expected):
    teacher = Teacher(constant(outputs), outputs=said).resolved(np.zeros((len(outputs), 2)), task)
    assert teacher.form == form
    x = np.zeros((len(outputs), 2), "float32")
    np.testing.assert_allclose(teacher.predict(x, quiet=True)["output"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "task", "said", "message"),
    [
        (SIGMOIDS, "classification", "auto", r"sum to 1\.5 to 1\.8 in a row.*outputs=\"logits\""),
        (Z, "classification", "probabilities", "declared to give probabilities, but gives -3 to 2"),
        ([[np.nan, 0.0]], "classification", "auto", "'professor' answers with NaN or infinity for 1 of 1 samples"),
        ([[np.inf, 0.0]], "regression", "auto", "'professor' answers with NaN or infinity"),
    ],
)
def test_outputs_that_cannot_be_understood(outputs, task, said, message):
    with pytest.raises(ModelError, match=message):
        Teacher(constant(outputs), outputs=said, name="professor").resolved(np.zeros((len(outputs), 2)), task)


def test_a_feature_map_is_not_a_classification_response():
    backbone = keras.Model(*(lambda m: (m.inputs, m.get_layer("relu").output))(net()))
    with pytest.raises(ModelError, match=r"shape \(6, 6, 6, 5\) for 6 samples; expected \(batch, classes\)"):
        Teacher(backbone).resolved(images(), "classification")
    teacher = Teacher(backbone).with_outputs(["conv"], response=False).resolved(images(), None)
    assert list(teacher.predict(images(), quiet=True)) == ["conv"]


def test_answers_before_the_form_is_known_are_refused():
    with pytest.raises(ModelError, match="logits or probabilities is not known yet"):
        Teacher(dense()).predict(images(3, (3,)), quiet=True)
    with pytest.raises(ModelError, match="got 'softmax'"):
        Teacher(dense(), outputs="softmax")


def test_nan_among_later_answers_names_teacher_and_sample():
    teacher = Teacher(lambda x: np.where(x > 5, np.nan, x), name="professor", outputs="logits")
    x = np.zeros((40, 2), "float32")
    x[33] = 6
    with pytest.raises(ModelError, match=r"'professor' answers with NaN .* first at index 33 \(output\)"):
        teacher.predict(x, batch_size=8, quiet=True)


def test_probabilities_of_half_precision():
    rows = softmax([[3.0, 0.0, -2.0, -30.0]]).astype(np.float16)
    teacher = Teacher(lambda x: np.resize(rows, (len(x), 4))).resolved(np.zeros((1, 2)), "classification")
    assert teacher.form == "softmax"
    expected = np.log(np.maximum(rows.astype(np.float64), 2.0**-25))
    np.testing.assert_allclose(teacher.predict(np.zeros((1, 2)), quiet=True)["output"], expected, atol=1e-5)


# Inputs


def seen(x, shape, **settings):
    """What a teacher that takes `shape` receives, and the notes."""
    inputs = keras.Input(shape)
    flat = keras.layers.Flatten()(inputs) if None not in shape else keras.layers.GlobalAveragePooling2D()(inputs)
    fed = settings.pop("fed", None)
    teacher = Teacher(keras.Model(inputs, flat), **settings)
    teacher = (teacher.for_inputs(fed) if fed else teacher).resolved(x, "regression")
    rows = teacher.predict(x, quiet=True)["output"]
    return rows.reshape(len(x), *shape) if None not in shape else rows, teacher.notes


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (4, 12), (13, 8)])
def test_images_are_resized_as_pillow_does(size):
    x = images(2, (8, 8, 1))
    got, notes = seen(x, (*size, 1))
    expected = np.stack([
        np.asarray(Image.fromarray(image[..., 0], mode="F").resize(size[::-1], Image.Resampling.BILINEAR))
        for image in x
    ])[..., None]  # fmt: skip
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert f"sees 8x8 images resized to {size[0]}x{size[1]}, bilinear" in notes[0]


def test_halving_averages_over_the_triangle_by_hand():
    x = np.array([0.0, 4.0, 8.0, 12.0], "float32").reshape(1, 1, 4, 1).repeat(2, axis=1)
    got, _ = seen(x, (2, 2, 1))
    # Output center 1 has weights 3, 3, 1 over pixels 0, 1, 2 (of 1, 3, 3, 1, cut at the border).
    np.testing.assert_allclose(got[0, 0, :, 0], [(0 * 3 + 4 * 3 + 8 * 1) / 7, (4 * 1 + 8 * 3 + 12 * 3) / 7], atol=1e-5)


def test_grey_becomes_rgb_and_back():
    gray, rgb = images(2, (4, 4, 1)), images(2, (4, 4, 3))
    got, notes = seen(gray, (4, 4, 3))
    np.testing.assert_array_equal(got, np.repeat(gray, 3, axis=-1))
    assert "repeats the one channel" in notes[0]
    got, notes = seen(rgb, (4, 4, 1))
    np.testing.assert_allclose(got[..., 0], 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2], atol=1e-6)
    assert "luma" in notes[0]
    got, notes = seen(rgb, (6, 6, 1))
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("own", "student", "factor", "offset"),
    [
        ("symmetric", "unit", 2, -1),
        ("unit", "symmetric", 0.5, 0.5),
        ("raw", "symmetric", 127.5, 127.5),
        ("unit", "unit", 1, 0),
        (Preprocessing(scale=2.0, offset=3.0), Preprocessing(scale=4.0, offset=-1.0), 0.5, 3.5),
    ],
)
def test_values_are_mapped_to_the_teachers_own_scale(own, student, factor, offset):
    x = images(3, (4, 4, 3))
    got, notes = seen(x, (4, 4, 3), preprocessing=own, fed=student)
    np.testing.assert_allclose(got, x.astype(np.float64) * factor + offset, rtol=1e-5)
    assert bool(notes) == ((factor, offset) != (1, 0))
    np.testing.assert_array_equal(seen(x, (4, 4, 3), preprocessing=own)[0], x)  # the preprocessing of x is unknown


@pytest.mark.parametrize("student", ["raw", "symmetric", "torch"])
def test_a_teacher_in_bgr_sees_its_own_channels(student):
    """By way of the pixels, whatever the student is fed."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    got, notes = seen(Preprocessing.named(student).apply(pixels), (4, 4, 3), preprocessing="caffe", fed=student)
    expected = pixels[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert "red and blue swapped" in notes[0]
    back, _ = seen(expected.astype("float32"), (4, 4, 3), preprocessing=student, fed="caffe")
    np.testing.assert_allclose(back, Preprocessing.named(student).apply(pixels), atol=1e-3)


def test_a_teacher_of_any_size_sees_what_its_preprocessing_says():
    x = images(2, (8, 8, 1))
    got, _ = seen(x, (None, None, 3), preprocessing=Preprocessing(size=(4, 4), color="rgb"))
    assert got.shape == (2, 3)
    assert seen(x, (None, None, 1))[1] == ()


@pytest.mark.parametrize(
    ("given", "wanted"), [((8, 8, 4), (8, 8, 3)), ((8, 8), (8, 8, 3)), ((5,), (4,)), ((8, 8, 2), (4, 4, 1))]
)
def test_inputs_that_cannot_be_brought_to_the_teacher(given, wanted):
    with pytest.raises(ModelError) as error:
        seen(np.zeros((2, *given), "float32"), wanted)
    assert f"takes inputs of shape {wanted}" in str(error.value)
    assert f"the student is fed {given}" in str(error.value)


def test_whole_numbers_for_a_teacher_that_takes_them():
    inputs = keras.Input((2,), dtype="int32")
    table = keras.layers.Embedding(5, 1, weights=[np.arange(5.0)[:, None]])
    teacher = Teacher(keras.Model(inputs, keras.layers.Flatten()(table(inputs))))
    x = np.array([[1, 3], [4, 0]], "float32")
    np.testing.assert_array_equal(teacher.resolved(x, "regression").predict(x, quiet=True)["output"], x)


def test_settled_knows_the_shape_inside_a_graph_that_does_not():
    x = images(4, (8, 8, 1))
    teacher = Teacher(net(shape=(4, 4, 3)), outputs="logits").resolved(x, "classification")
    blind = tf.function(lambda batch: teacher.answers(batch)["output"], input_signature=[tf.TensorSpec(None)])
    np.testing.assert_allclose(blind(x), teacher.predict(x, quiet=True)["output"], atol=1e-4)


# Classes by name


def test_columns_are_ordered_by_name():
    teacher = Teacher(constant([[1, 2, 3]]), class_names=["cat", "dog", "owl"], outputs="logits")
    x = np.zeros((1, 2), "float32")
    got = teacher.resolved(x, "classification").for_classes(["owl", "cat", "dog"])
    np.testing.assert_array_equal(got.predict(x, quiet=True)["output"], [[3, 1, 2]])
    assert got.class_names == ("owl", "cat", "dog")
    again = got.for_classes(["dog", "owl"]).for_classes(["cat"])
    np.testing.assert_array_equal(again.predict(x, quiet=True)["output"], [[1]])
    assert "also knows dog, owl" in again.notes[0]
    assert teacher.for_classes(["cat", "dog", "owl"]) is teacher
    nameless = Teacher(constant([[1, 2]]))
    assert nameless.for_classes(["a", "b"]) is nameless


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["cat", "dog"], ["cat", "dgo"], r"not know the class 'dgo' \(nearest: dog\)"),
        (["cat", "dog"], ["cat", "cat"], "contain cat more than once"),
        (["cat", "cat"], ["cat"], "contain cat more than once"),
    ],
)
def test_classes_that_cannot_be_mapped(names, wanted, message):
    with pytest.raises(ModelError, match=message):
        Teacher(constant([[1, 2]]), class_names=names).for_classes(wanted)


def test_a_name_for_each_output():
    with pytest.raises(ModelError, match="has 2 outputs and 3 class names"):
        Teacher(constant([[1, -2]]), class_names=["a", "b", "c"]).resolved(np.zeros((1, 2)), "classification")


# Precomputed outputs


def test_precomputed_outputs_are_returned_as_logits():
    p = softmax(np.random.default_rng(0).normal(size=(7, 3)))
    given = Precomputed(p.astype("float32"), class_names=["a", "b", "c"])
    teacher = given.resolved(np.zeros((1, 2)), "classification").for_classes(["c", "a", "b"])
    np.testing.assert_allclose(teacher.aligned(7)["output"], np.log(p)[:, [2, 0, 1]], atol=1e-6)
    assert as_teacher(p).fingerprint != as_teacher(p + 1).fingerprint
    with pytest.raises(ModelError, match="cannot answer for others"):
        teacher.answers(tf.zeros((1, 2)))
    with pytest.raises(DataError, match="each of the 8 training samples, got 7"):
        teacher.aligned(8)
    with pytest.raises(ModelError, match="not known yet"):
        given.aligned(7)
    with pytest.raises(ModelError, match="contain only outputs"):
        teacher.with_outputs(["conv"])
    with pytest.raises(ModelError, match="NaN"):
        Precomputed(np.array([[np.nan, 1.0]]))
    with pytest.raises(ModelError, match=r"numbers \(n, classes\)"):
        Precomputed(np.zeros(5))


# Several teachers

A = np.array([[2.0, 0.0, -1.0]])
B = np.array([[-1.0, 1.0, 3.0]])
ONE = np.zeros((1, 2), "float32")


def answer(ensemble, task="classification", labels=None):
    return ensemble.resolved(ONE, task).predict(ONE, labels, quiet=True)["output"]


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ([3, 1], 0.75), ([0.2, 0.2], 0.5)])
def test_probabilities_are_averaged(weights, share):
    expected = np.log(share * softmax(A) + (1 - share) * softmax(B))
    np.testing.assert_allclose(answer(Ensemble([constant(A), constant(B)], weights)), expected, atol=1e-5)
    mixed = Ensemble([constant(A), constant(softmax(B))], weights)  # one gives logits, the other probabilities
    np.testing.assert_allclose(answer(mixed), expected, atol=1e-5)


def test_values_and_labels_each_of_their_own_are_averaged():
    pair = Ensemble([constant(A), constant(B)], [3, 1])
    np.testing.assert_allclose(answer(pair, "regression"), 0.75 * A + 0.25 * B, atol=1e-5)
    p = 0.75 / (1 + np.exp(-A)) + 0.25 / (1 + np.exp(-B))
    np.testing.assert_allclose(answer(pair, "multilabel"), np.log(p / (1 - p)), atol=1e-5)
    single = Ensemble([constant(A[:, :1]), constant(B[:, :1])], [3, 1])
    np.testing.assert_allclose(answer(single), np.log(p / (1 - p))[:, :1], atol=1e-5)


def test_the_same_classes_in_another_order():
    a = Teacher(constant(A), class_names=["x", "y", "z"])
    b = Teacher(constant(B), class_names=["z", "x", "y"])
    expected = np.log(0.5 * softmax(A) + 0.5 * softmax(B)[:, [1, 2, 0]])
    np.testing.assert_allclose(answer(Ensemble([a, b])), expected, atol=1e-5)
    turned = Ensemble([a, b]).for_classes(["y", "z", "x"])
    np.testing.assert_allclose(answer(turned), expected[:, [1, 2, 0]], atol=1e-5)
    assert turned.class_names == ("y", "z", "x")


def pets_and_birds(weights=None):
    """Two teachers who share the owl; the second also knows a crow, which the student does not."""
    pets = Teacher(constant(A), class_names=["cat", "dog", "owl"], name="pets")
    birds = Teacher(constant(B), class_names=["owl", "crow", "hen"], name="birds")
    return Ensemble([pets, birds], weights, class_names=["hen", "owl", "dog", "cat"])


@pytest.mark.parametrize(("weights", "w"), [(None, (0.5, 0.5)), ([1, 4], (0.2, 0.8))])
def test_a_union_of_classes(weights, w):
    p = softmax(A)[0]
    r = softmax(B[:, [0, 2]])[0]  # given that it is not a crow
    q = np.array([r[1], w[0] * p[2] + w[1] * r[0], p[1], p[0]])
    np.testing.assert_allclose(answer(pets_and_birds(weights))[0], np.log(q / q.sum()), atol=1e-5)
    assert any("crow" in note for note in pets_and_birds().notes)


@pytest.mark.parametrize("one_hot", [False, True])
def test_with_labels_a_teacher_speaks_of_its_own_field_only(one_hot):
    p, r = softmax(A)[0], softmax(B[:, [0, 2]])[0]
    w, floor = (0.2, 0.8), 1e-30
    both = np.array([r[1], w[0] * p[2] + w[1] * r[0], p[1], p[0]])
    pets = np.array([floor, p[2], p[1], p[0]])
    birds = np.array([r[1], r[0], floor, floor])
    expected = np.log(np.stack([birds, both / both.sum(), pets, pets]))
    x, labels = np.zeros((4, 2), "float32"), np.arange(4)
    labels = np.eye(4, dtype="float32")[labels] if one_hot else labels
    ensemble = pets_and_birds([1, 4]).resolved(x, "classification")
    np.testing.assert_allclose(ensemble.predict(x, labels, batch_size=3, quiet=True)["output"], expected, atol=1e-4)
    live = tf.function(ensemble.answers)(tf.constant(x), tf.constant(labels))["output"]
    np.testing.assert_allclose(live, expected, atol=1e-4)


def test_classes_that_no_teacher_knows():
    ensemble = pets_and_birds()
    with pytest.raises(ModelError, match=r"do not know the class 'hens' \(nearest: hen"):
        ensemble.for_classes(["cat", "hens", "owl"])
    with pytest.raises(ModelError, match=r"different classes \(cat, crow, dog, hen\)"):
        Ensemble([ensemble.teachers[0], Teacher(constant(B), class_names=["owl", "crow", "hen"])])
    with pytest.raises(ModelError, match="'birds' knows none of the student's classes"):
        ensemble.for_classes(["cat", "dog"])


def test_ensembles_that_cannot_be():
    with pytest.raises(ModelError, match="at least two"):
        Ensemble([constant(A)])
    with pytest.raises(RecipeError, match="a weight above 0 for each of the 2"):
        Ensemble([constant(A), constant(B)], [1, 0])
    with pytest.raises(RecipeError, match="a weight above 0"):
        Ensemble([constant(A), constant(B)], [1])
    with pytest.raises(ModelError, match="average the arrays yourself"):
        Ensemble([constant(A), A])
    with pytest.raises(ModelError, match=r"outputs of shape \(2,\), where \(3,\) is expected"):
        answer(Ensemble([constant(A), constant(B[:, :2])]))
    with pytest.raises(ModelError, match="not known yet"):
        Ensemble([constant(A), constant(B)]).answers(tf.zeros((1, 2)))
    with pytest.raises(ModelError, match="Take features from one teacher"):
        Ensemble([constant(A), constant(B)]).with_outputs(["conv"])


def test_an_ensemble_is_known_by_its_teachers_and_weights():
    def of(weights, seed=1):
        return Ensemble([dense(), dense(seed=seed)], weights).resolved(images(4, (3,)), "classification")

    first = of([1, 2])
    assert first.fingerprint == of([2, 4]).fingerprint
    assert len({first.fingerprint, of([1, 1]).fingerprint, of([1, 2], seed=2).fingerprint}) == 3
    assert Ensemble([dense(), constant(A)]).fingerprint is None
    assert isinstance(as_teacher([dense(), dense()]), Ensemble)


def test_each_teacher_of_an_ensemble_is_fed_its_own_way():
    unit = Teacher(lambda x: x, preprocessing="unit")
    symmetric = Teacher(lambda x: x, preprocessing="symmetric")
    x = np.array([[0.0, 0.5, 1.0]], "float32")
    ensemble = Ensemble([unit, symmetric]).for_inputs("unit").resolved(x, "regression")
    np.testing.assert_allclose(ensemble.predict(x, quiet=True)["output"], (x + (2 * x - 1)) / 2, atol=1e-6)
    assert "* 2 -1" in ensemble.notes[0]


@pytest.mark.parametrize(
    ("values", "refused"), [((0, 128, 255), True), ((255, 0), True), ((0, 255), False), (None, False)]
)
def test_a_teacher_of_other_masks_is_refused(tmp_path, values, refused):
    layers = keras.layers
    teacher = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 1, activation="softmax")])
    teacher.save(tmp_path / "model.keras")
    (tmp_path / "data.json").write_text('{"mask_values": [0, 255]}')
    if not refused:
        assert load_teacher([tmp_path / "model.keras"], mask_values=values)
        return
    with pytest.raises(RecipeError, match=r"values 0, 255 by class.*load them with mask_values=\(0, 255\)"):
        load_teacher([tmp_path / "model.keras"], mask_values=values)
