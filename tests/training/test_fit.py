"""Loss, optimizer and augmentation of a run, checked against values computed in NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import to_tf_keras
from tfopt.bridge.carried_settings import as_loss
from tfopt.errors import DataError, RecipeError
from tfopt.training.augmentation import choose_augmentation
from tfopt.training.fit import make_optimizer, stop_at_nan
from tfopt.training.loss import choose_loss
from tfopt.training.loss_notes import loss_notes
from tfopt.training.settings import OPTIMIZERS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
CLASSES = np.arange(60) % 3
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
LOGITS = RNG.normal(size=(60, 3)).astype("float32") * 2
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
SURPRISE = -np.log(PROBABILITIES[np.arange(60), CLASSES]).mean()


def net(outputs=3, last=None):
    package = tf_keras()
    return package.Sequential([package.Input((4,)), package.layers.Dense(outputs, last)])


def loss_for(model, labels, **training):
    return choose_loss(model, tfopt.Training(**training), tfopt.load_data((X, labels)))


@pytest.mark.parametrize(("labels", "name"), [(CLASSES, "sparse"), (ONE_HOT, "one-hot")])
@pytest.mark.parametrize(("last", "outputs"), [(None, LOGITS), ("softmax", PROBABILITIES)])
def test_crossentropy_fits_labels_and_outputs(labels, name, last, outputs):
    loss = loss_for(net(last=last), labels)
    assert float(loss(labels, outputs)) == pytest.approx(SURPRISE, rel=1e-4), name


@pytest.mark.parametrize("last", [None, "sigmoid"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_binary_crossentropy_for_one_or_several_labels(last, outputs):
    """`outputs` 1: two classes as numbers; 2: two independent labels."""
    labels = CLASSES % 2 if outputs == 1 else RNG.integers(0, 2, (60, 2))
    scores = RNG.normal(size=(60, outputs))
    shares = 1 / (1 + np.exp(-scores))
    truth = labels.reshape(60, outputs)
    expected = -np.where(truth, np.log(shares), np.log(1 - shares)).mean()
    loss = loss_for(net(outputs, last), labels)
    got = float(loss(truth.astype("float32"), (scores if last is None else shares).astype("float32")))
    assert got == pytest.approx(expected, rel=1e-4)


def test_inputs_that_the_model_refuses_are_an_error_without_names_of_tensorflow():
    package = tf_keras()
    given = package.Input((4,), dtype="int32")
    rows = tf.gather(np.eye(3, dtype="float32"), given)
    model = package.Model(given, package.layers.Dense(3)(package.layers.Flatten()(rows)), name="rows")
    numbers = np.full((60, 4), 7)
    with pytest.raises(
        DataError, match=r"^'rows' cannot take the inputs: indices\[0,0\] = 7 is not in \[0, 3\)\. Give"
    ):
        choose_loss(model, tfopt.Training(), tfopt.load_data((numbers, CLASSES)))


def test_regression_takes_the_squared_error():
    labels = RNG.normal(size=(60, 1)).astype("float32")
    loss = loss_for(net(1), labels)
    assert float(loss(np.array([[1.0], [2.0]]), np.array([[1.5], [4.0]]))) == pytest.approx((0.25 + 4) / 2)


def test_compiled_loss_is_carried():
    model = net()
    model.compile("sgd", "mae")
    assert tf_keras().losses.get(loss_for(model, ONE_HOT)) is tf_keras().losses.mean_absolute_error
    package = tf_keras()
    smooth = package.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    model.compile("sgd", smooth)
    softened = ONE_HOT * 0.7 + 0.1
    expected = -(softened * np.log(PROBABILITIES)).sum(axis=1).mean()
    assert float(loss_for(model, ONE_HOT)(ONE_HOT, LOGITS)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [["mae"], {"out": "mae"}, "mae"])
def test_a_compiled_loss_in_a_list_or_dict(loss):
    package = tf_keras()
    model = package.Sequential([package.Input((4,)), package.layers.Dense(3, name="out")])
    model.compile("sgd", loss)
    assert loss_for(model, ONE_HOT) == "mae"
    one_hot = loss_for(model, CLASSES)
    assert float(np.mean(one_hot(CLASSES[:, None], ONE_HOT * 0.5))) == pytest.approx(0.5 / 3)


def dice(labels, outputs):
    """1 - 2 |A B| / (|A| + |B|), over the axes of (batch, height, width, 1)."""
    import tensorflow as tf

    both, all_ = tf.reduce_sum(labels * outputs, (1, 2, 3)), tf.reduce_sum(labels + outputs, (1, 2, 3))
    return 1.0 - 2.0 * both / all_


@pytest.mark.parametrize(
    ("loss", "by"),
    [("binary_crossentropy", "compile"), ("binary_crossentropy", "recipe"), ("mse", "recipe"), (dice, "compile")],
)
def test_two_classes_at_each_place_of_one_output(loss, by):
    package = tf_keras()
    x = RNG.random((40, 5, 5, 1)).astype("float32")
    masks = (x > 0.5).astype("float32")
    model = package.Sequential([package.Input((5, 5, 1)), package.layers.Conv2D(1, 1, activation="sigmoid")])
    if by == "compile":
        model.compile("sgd", loss)
    data = tfopt.load_data((x, masks))
    found = choose_loss(model, tfopt.Training(loss=None if by == "compile" else loss), data)
    outputs = model.predict(data.train.x(), verbose=0)
    given = data.train.y()[..., None] if data.train.y().ndim == 3 else data.train.y()
    want = {
        "binary_crossentropy": lambda: -np.mean(np.log(np.where(given, outputs, 1 - outputs))),
        "mse": lambda: np.mean((given - outputs) ** 2),
        dice: lambda: np.mean(1 - 2 * (given * outputs).sum((1, 2, 3)) / (given + outputs).sum((1, 2, 3))),
    }[loss]()
    assert float(found(data.train.y(), outputs)) == pytest.approx(float(want), rel=1e-5)


def test_more_losses_than_outputs():
    model = net()
    model.compile("sgd", ["mae", "mse"])
    with pytest.raises(RecipeError, match=r"compiled with 2 losses and has one output\. Compile it with one"):
        loss_for(model, ONE_HOT)


@pytest.mark.slow
@pytest.mark.parametrize("last", [None, "softmax"])
@pytest.mark.parametrize(
    ("compiled", "labels"),
    [("sparse_categorical_crossentropy", ONE_HOT), ("categorical_crossentropy", CLASSES)],
)
def test_compiled_crossentropy_is_switched_to_the_labels_that_came(last, compiled, labels):
    model = net(last=last)
    model.compile("sgd", compiled)
    outputs = LOGITS if last is None else PROBABILITIES
    assert float(loss_for(model, labels)(labels, outputs)) == pytest.approx(SURPRISE, rel=1e-4)


def test_compiled_crossentropy_that_fits_is_kept_as_it_is():
    model = net()
    loss = tf_keras().losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    assert loss_for(model, CLASSES) is loss


def test_label_smoothing_on_class_numbers():
    model = net()
    model.compile("sgd", tf_keras().losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3))
    expected = -((ONE_HOT * 0.7 + 0.1) * np.log(PROBABILITIES)).sum(axis=1).mean()
    assert float(loss_for(model, CLASSES)(CLASSES, LOGITS)) == pytest.approx(expected, rel=1e-4)


WEIGHTS = np.linspace(0, 2, 60).astype("float32")
BY_HAND = {
    "mse": np.square(ONE_HOT - PROBABILITIES).mean(axis=1),
    "kl_divergence": -np.log(PROBABILITIES[np.arange(60), CLASSES]),
    "hinge": np.maximum(1 - (2 * ONE_HOT - 1) * PROBABILITIES, 0).mean(axis=1),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("form", ["by name", "of the recipe", "function", "class", "Keras 3"])
def test_losses_for_each_output_on_class_numbers(name, form):
    losses = (keras if form == "Keras 3" else tf_keras()).losses
    classes = {"mse": "MeanSquaredError", "kl_divergence": "KLDivergence", "hinge": "Hinge"}
    model = net(last="softmax")
    if form == "of the recipe":
        loss = loss_for(model, CLASSES, loss=name)
    else:
        given = {"by name": name, "function": losses.get(name)}.get(form) or getattr(losses, classes[name])()
        model.compile("sgd", as_loss(given) if form == "Keras 3" else given)
        loss = loss_for(model, CLASSES)
    for shape in (60, (60, 1)):
        got = loss(CLASSES.reshape(shape), PROBABILITIES)
        assert float(got) == pytest.approx(BY_HAND[name].mean(), rel=1e-4)
    got = loss(CLASSES, PROBABILITIES, WEIGHTS)
    assert float(got) == pytest.approx((BY_HAND[name] * WEIGHTS).mean(), rel=1e-4)


def test_a_loss_of_the_user_gets_the_labels_as_they_are():
    def mse(y_true, y_pred):  # named as one of Keras
        import tensorflow as tf

        return tf.reduce_mean(tf.square(tf.cast(y_true, "float32") - tf.cast(tf.argmax(y_pred, -1), "float32")), -1)

    model = net()
    model.compile("sgd", mse)
    assert loss_for(model, CLASSES) is mse


def weighted_categorical_crossentropy(y_true, y_pred):
    """Three times the surprise, on one-hot labels."""
    return -3 * tf.reduce_sum(tf.cast(y_true, y_pred.dtype) * tf.math.log(y_pred), axis=-1)


def weighted_by_number(y_true, y_pred):
    """The same on class numbers."""
    y_true = tf.cast(tf.reshape(y_true, (-1,)), tf.int32)
    return -3 * tf.math.log(tf.gather(y_pred, y_true, batch_dims=1))


class CategoricalCrossentropy(keras.losses.Loss):
    """The same as a Keras 3 loss that shares the name of a built-in one."""

    def call(self, y_true, y_pred):
        return -3 * keras.ops.sum(keras.ops.cast(y_true, y_pred.dtype) * keras.ops.log(y_pred), axis=-1)


@pytest.mark.parametrize("labels", [CLASSES, ONE_HOT])
@pytest.mark.parametrize("own", [weighted_categorical_crossentropy, weighted_by_number, CategoricalCrossentropy])
def test_a_loss_of_the_user_gets_the_labels_that_it_expects(own, labels):
    """On labels of the other form each of them gives a number too, or its name is that of a loss that does not fit."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", own() if isinstance(own, type) else own)
    loss = loss_for(to_tf_keras(model), labels)
    assert float(np.mean(loss(labels, PROBABILITIES))) == pytest.approx(3 * SURPRISE, rel=1e-4)


def test_the_labels_of_an_own_loss_are_said():
    model = net(last="softmax")
    model.compile("sgd", weighted_categorical_crossentropy)
    (note,) = loss_notes(model, tfopt.Training(), tfopt.load_data((X, CLASSES)))
    assert note == "loss: weighted_categorical_crossentropy, as the model is compiled, on one-hot labels"


def test_a_loss_on_class_numbers_and_mixup():
    model = net(last="softmax")
    model.compile("sgd", weighted_by_number)
    with pytest.raises(RecipeError, match="expects class numbers"):
        loss_for(model, ONE_HOT, mixup=0.2)


def test_a_loss_that_orders_answers_in_neither_form_gets_the_labels_as_they_are():
    def spread(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_pred), axis=-1) + 0 * tf.cast(tf.reduce_mean(y_true), y_pred.dtype)

    model = net(last="softmax")
    model.compile("sgd", spread)
    assert loss_for(model, CLASSES) is spread


@pytest.mark.parametrize("labels", ["bool", "int64", "uint8"])
def test_a_loss_of_the_user_gets_floats_as_in_keras_3(labels):
    """TensorFlow multiplies no int32 by float32."""

    def focal(y_true, y_pred):
        return -tf.reduce_mean(y_true * tf.math.log(y_pred + 1e-6) * (1 - y_pred) ** 2, axis=-1)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])
    model.compile("sgd", focal)
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=1),), export=tfopt.Export(weights="float32", activations="float32")
    )
    result = tfopt.optimize(model, recipe, (X, (X[:, 0] > 0).astype(labels)), quiet=True)
    assert result.report.rows[1].step == "FineTune"
    assert result.model.loss is focal


def test_a_loss_that_cannot_be_computed_is_an_error_before_training():
    def distance(y_true, y_pred):
        import tensorflow as tf

        return tf.reduce_mean(tf.reshape(y_true, (-1, 7)) - y_pred)

    model = net()
    model.compile("sgd", distance)
    with pytest.raises(RecipeError, match=r"The loss distance cannot .* labels int32 \(\) and outputs \(3,\)"):
        loss_for(model, CLASSES)


def test_the_recipes_loss_wins():
    model = net()
    model.compile("sgd", "mse")
    loss = tf_keras().losses.get(loss_for(model, ONE_HOT, loss="mae"))
    assert float(np.mean(loss(ONE_HOT, ONE_HOT + 3))) == pytest.approx(3)
    with pytest.raises(RecipeError, match="Unknown loss 'crossentropie'"):
        loss_for(model, ONE_HOT, loss="crossentropie")


def test_sigmoids_that_do_not_sum_to_one_are_not_class_probabilities():
    loss = loss_for(net(last="sigmoid"), CLASSES)
    assert float(loss(CLASSES, LOGITS)) == pytest.approx(SURPRISE, rel=1e-4)


# Optimizers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sgd", "SGD", "adam", "Adam", "adamw", "AdamW", "rmsprop", "nadam", "lion", "adagrad", "adadelta", "ftrl"]
)
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_every_optimizer_of_tf_keras_by_name(name, schedule):
    optimizer = make_optimizer(tfopt.Training(optimizer=name, schedule=schedule), 0.25, 10)
    assert type(optimizer).__name__.lower() == name.lower()
    assert isinstance(optimizer, tf_keras().optimizers.Optimizer)
    assert float(optimizer.learning_rate) == 0.25


@pytest.mark.parametrize("name", ["adammm", "", "optimizer", "schedules", "get"])
def test_unknown_optimizer(name):
    expected = "adam$|adam\\.$" if name == "adammm" else "adadelta or .*adamw.*sgd"
    with pytest.raises(RecipeError, match=f"tf_keras has no such optimizer; expected {expected}"):
        tfopt.Training(optimizer=name)


def test_every_optimizer_of_tf_keras_is_known():
    found = {name.lower() for name, kind in vars(tf_keras().optimizers).items() if isinstance(kind, type)}
    assert found - {"optimizer"} == set(OPTIMIZERS)
    for name in OPTIMIZERS:
        assert type(make_optimizer(tfopt.Training(optimizer=name), 0.1, 10)).__name__.lower() == name


def test_cosine_goes_to_zero_and_constant_stays():
    """Plain gradient descent on f(w) = w shows the rate of each step: w falls by it."""
    import tensorflow as tf

    for schedule, expected in (
        ("cosine", [0.1 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ("constant", [0.1] * 8),
    ):
        optimizer = make_optimizer(tfopt.Training(optimizer="sgd", schedule=schedule), 0.1, 8)
        weight = tf.Variable(0.0)
        optimizer.build([weight])
        path = [0.0]
        for _ in range(8):
            optimizer.apply_gradients([(tf.constant(1.0), weight)])
            path.append(float(weight))
        np.testing.assert_allclose(-np.diff(path), expected, atol=1e-6)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_stop_at_nan(loss):
    callback = stop_at_nan("2/3 Prune")
    callback.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(RecipeError, match=f"2/3 Prune: the loss is {loss} after batch 8"):
        callback.on_train_batch_end(7, {"loss": loss})


# Augmentation -------------------------------------------------------------------------------------


def pictures(side):
    """A bright dot in one half, on columns 1..2 or 5..6 of 8. The class is the half or, with "any", the brightness."""
    images = np.zeros((200, 8, 8, 1), "float32")
    labels = np.arange(200) % 2
    for i, label in enumerate(labels):
        column = (1 if label == 0 else 5) if side == "half" else 3
        images[i, 2:6, column : column + 2] = 1.0 if side == "half" else 0.5 + label / 2
    return images, labels


def judge(side):
    """A model that classifies `pictures` correctly: by the sums of the halves, or the sum against a threshold."""
    package = tf_keras()
    model = package.Sequential([package.Input((8, 8, 1)), package.layers.Flatten(), package.layers.Dense(2)])
    kernel = np.zeros((8, 8, 2), "float32")
    if side == "half":
        kernel[:, :4, 0] = kernel[:, 4:, 1] = 1
        bias = np.zeros(2)
    else:
        kernel[:, :, 1] = 1
        bias = np.array([6.0, 0.0])  # 8 dots of 0.5 or of 1.0
    model.set_weights([kernel.reshape(64, 2), bias])
    return model


def test_augmentation_that_the_model_cannot_stand_is_left_out():
    data = tfopt.load_data(pictures("half"))
    wanted = tfopt.Training(horizontal_flip=True, shift=0.125)
    augmentation, notes = choose_augmentation(judge("half").predict, wanted, data)
    assert not augmentation.horizontal_flip  # a mirrored image belongs to the other class
    assert augmentation.shift == 0.125  # by one column: it stays in its half
    assert len(notes) == 2
    assert "horizontal_flip left out: the original model has 0.000 on images changed this way, 1.000" in notes[0]
    assert "augmented with shift=0.125" in notes[1]
    nothing, notes = choose_augmentation(judge("half").predict, tfopt.Training(horizontal_flip=True), data)
    assert nothing is None
    assert len(notes) == 1


@pytest.mark.parametrize("logits", [False, True])
def test_one_output_judges_augmentation_by_its_own_threshold(logits):
    """Logits of 0.2 and -0.2 are right, but never above 0.5."""
    data = tfopt.load_data(pictures("half"))

    def answers(images):
        right = judge("half").predict(images).argmax(axis=1)[:, None]
        return 0.4 * right - 0.2 if logits else right * 1.0

    nothing, notes = choose_augmentation(answers, tfopt.Training(horizontal_flip=True), data)
    assert nothing is None and "has 0.000 on images changed this way, 1.000 on unchanged ones" in notes[0]


def test_augmentation_that_changes_nothing_for_the_model_is_kept():
    data = tfopt.load_data(pictures("any"))
    augmentation, notes = choose_augmentation(judge("any").predict, tfopt.Training(horizontal_flip=True), data)
    assert augmentation.horizontal_flip
    assert augmentation.shift == 0
    assert "augmented with horizontal_flip=True" in notes[0]


def test_a_model_that_finds_a_rare_class_judges_augmentation():
    """40 images, 4 of class 1: right on 36, as always answering 0 would be, but on all 4 of class 1."""
    x, halves = pictures("half")
    x = np.concatenate([x[halves == 0][:36], x[halves == 1][:4]])
    y = np.repeat([0, 1], [36, 4])
    x[:4] = x[36:]  # 4 of class 0 look like class 1
    part = x, y
    data = tfopt.load_data((part, part, part))
    flipped, notes = choose_augmentation(judge("half").predict, tfopt.Training(horizontal_flip=True), data)
    assert flipped is None and "has 0.056 on images changed this way, 0.944 on unchanged" in notes[0]  # 32/36, 4/36
    never, notes = choose_augmentation(lambda x: np.eye(2)[[0] * len(x)], tfopt.Training(horizontal_flip=True), data)
    assert never.horizontal_flip and "is no better than chance (0.500)" in notes[0]


def test_augmentation_that_changes_no_pixel_is_left_out_with_a_note():
    """A shift of 0.05 x 8 is less than half a pixel, and one of 0.07 x 8 is a pixel."""
    data = tfopt.load_data(pictures("any"))
    augmentation, notes = choose_augmentation(judge("any").predict, tfopt.Training(shift=0.05), data)
    assert augmentation is None
    assert notes == ["augmentation shift=0.05 left out: it changes nothing in samples this small"]
    assert choose_augmentation(judge("any").predict, tfopt.Training(shift=0.07), data)[0].shift == 0.07


@pytest.mark.parametrize("transformation", [{"horizontal_flip": True}, {"vertical_flip": True}, {"shift": 0.125}])
def test_augmentation_is_kept_whatever_is_drawn_for_a_single_sample(transformation):
    """Half of the seeds draw no flip for one image, and a ninth no shift by one pixel."""
    x, y = pictures("any")
    data = tfopt.load_data({"train": (x, y), "validation": (x[:1], y[:1]), "test": (x, y)})
    for seed in range(12):
        training = tfopt.Training(seed=seed, **transformation)
        augmentation, notes = choose_augmentation(judge("any").predict, training, data)
        assert augmentation.transformations == transformation, notes


def test_augmentation_is_halved_before_it_is_left_out():
    data = tfopt.load_data(pictures("half"))
    augmentation, notes = choose_augmentation(judge("half").predict, tfopt.Training(shift=0.375), data)
    assert augmentation.transformations == {"shift": 0.1875}  # one column of 8, where 3 reach the other half
    assert notes[0].startswith("augmented with shift=0.1875, half of 0.375: the original model has 1.000")


def test_one_strength_sets_all_transformations_that_are_not_set():
    data = tfopt.load_data(pictures("any"))
    wanted = tfopt.Training(augmentation=1, shift=0.125, at_once=3)
    augmentation, notes = choose_augmentation(judge("any").predict, wanted, data)
    assert augmentation.horizontal_flip and augmentation.shift == 0.125 and augmentation.at_once == 3
    assert not augmentation.brightness  # the class is the brightness
    assert [note.split("=")[0].split()[-1] for note in notes if note.startswith("augmented")] == list(
        augmentation.transformations
    )
    assert any(note.startswith("augmentation brightness left out") for note in notes)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("dark", {"horizontal_flip", "vertical_flip", "shift"}), ("left", {"vertical_flip", "shift"})],
)
def test_masks_move_along_when_augmentation_is_tried(rule, kept):
    """Whether a pixel is dark moves with it; whether it is in the left half does not."""
    rng = np.random.default_rng(0)
    x = np.kron(rng.integers(0, 2, (60, 4, 4, 1)), np.ones((1, 2, 2, 1))).astype("float32")
    left = np.broadcast_to(np.arange(8) < 4, (60, 8, 8)).astype("int32")
    data = tfopt.load_data((x, x[..., 0].astype("int32") if rule == "dark" else left))

    def answers(images):
        truth = np.asarray(images[..., 0] > 0.5) if rule == "dark" else left[: len(images)]
        return np.eye(2)[truth.astype(int)]

    wanted = tfopt.Training(horizontal_flip=True, vertical_flip=True, shift=0.125)
    augmentation, notes = choose_augmentation(answers, wanted, data)
    assert set(augmentation.transformations) == kept
    assert "augmented with vertical_flip=True: the original model has 1.000" in notes[1]


def test_what_a_guessing_model_cannot_judge_is_one_note():
    x, y = pictures("any")
    data = tfopt.load_data((x, y))
    wanted = tfopt.Training(horizontal_flip=True, shift=0.125, brightness=0.2)
    augmentation, notes = choose_augmentation(lambda images: np.tile([1.0, 0.0], (len(images), 1)), wanted, data)
    assert notes == [
        "augmented with horizontal_flip=True, shift=0.125, brightness=0.2, as the recipe says: the original model is "
        "no better than chance (0.500), so it cannot judge the augmentation"
    ]
    assert set(augmentation.transformations) == {"horizontal_flip", "shift", "brightness"}
    noted = choose_augmentation(lambda images: np.zeros((len(images), 2)), tfopt.Training(shift=0.05), data)
    assert noted == (None, ["augmentation shift=0.05 left out: it changes nothing in samples this small"])


def test_masks_of_another_size_leave_images_unchanged():
    data = tfopt.load_data((np.zeros((40, 8, 8, 1), "float32"), np.arange(640).reshape(40, 4, 4) % 2))
    augmentation, notes = choose_augmentation(judge("half").predict, tfopt.Training(shift=0.1), data)
    assert augmentation is None
    assert notes == [
        "no augmentation (shift): it is for the classification of images and recordings, and for images with masks of "
        "their size"
    ]


def test_what_a_recipe_turns_off_stays_off_at_any_strength():
    data = tfopt.load_data(pictures("any"))
    wanted = tfopt.Training(augmentation=1, horizontal_flip=False, shift=0, rotation=0, zoom=0, cutout=0)
    augmentation, notes = choose_augmentation(judge("any").predict, wanted, data)
    tried = {word for note in notes for word in ("flip", "shift", "rotation", "zoom", "cutout") if word in note}
    assert not tried and any("contrast" in note for note in notes)
    assert augmentation is None or set(augmentation.transformations) <= {"brightness", "contrast"}


def test_no_augmentation_gives_no_notes():
    assert choose_augmentation(judge("any").predict, tfopt.Training(), tfopt.load_data(pictures("any"))) == (None, [])


def test_augmentation_is_for_image_classification():
    augmentation, notes = choose_augmentation(
        net(), tfopt.Training(horizontal_flip=True), tfopt.load_data((X, CLASSES))
    )
    assert augmentation is None
    assert "horizontal_flip" in notes[0]
    values = np.arange(200, dtype="float32")[:, None] / 7
    data = tfopt.load_data((pictures("any")[0], values))
    augmentation, notes = choose_augmentation(judge("any").predict, tfopt.Training(shift=0.2), data)
    assert augmentation is None
    assert "shift" in notes[0]
