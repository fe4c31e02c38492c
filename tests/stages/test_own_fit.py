"""The caller's own `fit`: what `apply` returns takes losses, metrics, optimizers, callbacks and data of Keras 3."""

import csv

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.bridge.callbacks import direction
from tfopt.errors import ModelError, RecipeError
from tfopt.stages import STAGES

X = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)
STEPS = 8  # an epoch has, of 32 samples
TRAINED = [made for stage in STAGES.builtin if (made := stage()).epochs and not stage.restructures]
PRUNE = tfopt.Prune(final_sparsity=0.5)


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "relu", name="first"), keras.layers.Dense(3, "softmax", name="last")]
    return keras.Sequential([keras.Input((8,)), *layers])


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.epochs, self.begun = 0, 0

    def __len__(self):
        return STEPS

    def __getitem__(self, number):
        part = slice(32 * number, 32 * number + 32)
        return X[part], Y[part]

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.epochs += 1


class Losses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, logs["val_accuracy"]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", TRAINED, ids=lambda stage: type(stage).__name__)
def test_a_script_for_keras_3(stage, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    wrapped = stage.apply(network(), steps=4 * STEPS)
    wrapped.compile(
        keras.optimizers.AdamW(1e-2),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
    )
    stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=9, restore_best_weights=True)
    seen, data = Losses(), Batches()
    history = wrapped.fit(
        data,
        validation_data=(X, Y),
        epochs=4,
        verbose=0,
        callbacks=[
            stopping,
            seen,
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_accuracy", save_best_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.h5"),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True),
            keras.callbacks.TensorBoard(tmp_path / "board", histogram_freq=1),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.ReduceLROnPlateau(),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ],
    ).history
    assert {"loss", "accuracy", "top_2", "val_loss", "val_accuracy", "val_top_2"} <= set(history)
    assert len(seen.batches) == 4 * STEPS and [epoch for epoch, _ in seen.epochs] == [0, 1, 2, 3]
    assert np.allclose([value for _, value in seen.epochs], history["val_accuracy"])
    assert data.epochs == data.begun == 4 and list((tmp_path / "board" / "train").iterdir())
    with (tmp_path / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    # The best epoch whose promise holds is kept, and its file is the same.
    first = stage.holds_after(4 * STEPS)
    held = [value for epoch, value in enumerate(history["val_accuracy"], 1) if epoch * STEPS >= first]
    assert stopping.best == pytest.approx(max(held))
    stripped = stage.strip(wrapped)
    assert [layer.name for layer in wrapped.layers if layer.weights and "quantize_" not in layer.name] == [
        "first",
        "last",
    ]
    if any(hasattr(layer, "layer") for layer in wrapped.layers):
        again = tfopt.load_model(tmp_path / "best.keras")
        np.testing.assert_array_equal(again.predict(X, verbose=0), wrapped.predict(X, verbose=0))
        again.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy())  # also after loading
        again.fit(Batches(), verbose=0, callbacks=[keras.callbacks.History(), *stage.callbacks()])
        tfopt.load_model(tmp_path / "last.h5")
    wrapped.load_weights(tmp_path / "last.weights.h5")
    stripped.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert stripped.evaluate(X, Y, verbose=0)[1] == pytest.approx(stopping.best, abs=0.02)


def test_the_stage_brings_its_callbacks():
    wrapped = PRUNE.apply(network(), steps=2 * STEPS)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    wrapped.fit(X, Y, epochs=1, verbose=0)
    wrapped.fit(X, Y, epochs=1, verbose=0, callbacks=PRUNE.callbacks())  # given, and not called twice
    assert np.mean(PRUNE.strip(wrapped).get_layer("first").kernel.numpy() == 0) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_early_stopping_waits_for_the_promise(api, capfd):
    """Nothing improves without a learning rate: after 5 epochs of the ramp it stops `patience` epochs later."""
    stage = tfopt.Prune(final_sparsity=0.5, end_step=5 * STEPS, frequency=1)
    wrapped = stage.apply(network(), steps=20 * STEPS)
    wrapped.compile(api.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    stopping = api.callbacks.EarlyStopping("loss", patience=2, min_delta=10.0, restore_best_weights=True)
    history = wrapped.fit(X, Y, epochs=20, verbose=2, callbacks=[stopping]).history
    assert len(history["loss"]) == 5 + 2
    assert "EarlyStopping begins after 40 steps, when the promise of the stage holds" in capfd.readouterr().err
    stage.strip(wrapped)  # PromiseError if an epoch of the ramp were restored


class Scaled(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return 10.0 * keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


@keras.saving.register_keras_serializable("own_fit")
class Share(keras.metrics.Metric):
    def __init__(self, name="share", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(keras.ops.sum(keras.ops.cast(keras.ops.argmax(y_pred, -1) == 0, "float32")))

    def result(self):
        return self.total


def test_own_losses_and_metrics():
    wrapped = tfopt.Cluster(number_of_clusters=4).apply(network(), steps=STEPS)
    wrapped.compile("sgd", Scaled(), metrics=[Share()])
    got = wrapped.evaluate(X, Y, verbose=0, return_dict=True)
    scores = wrapped.predict(X, verbose=0)
    assert got["loss"] == pytest.approx(-10 * np.log(scores[np.arange(256), Y].astype("float64")).mean(), rel=1e-4)
    assert got["share"] == (scores.argmax(axis=1) == 0).sum()


def test_what_tf_keras_lacks_is_replaced_with_a_word():
    wrapped = tfopt.Quantize().apply(network(), steps=STEPS)
    with pytest.warns(UserWarning, match="no optimizer Muon: Adam with its learning rate"):
        wrapped.compile(keras.optimizers.Muon(1e-3), "sparse_categorical_crossentropy", jit_compile="auto")
    assert float(wrapped.optimizer.learning_rate) == pytest.approx(1e-3)


def test_the_order_of_compile_differs():
    wrapped = PRUNE.apply(network(), steps=STEPS)
    with pytest.raises(RecipeError, match="by name"):
        wrapped.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (keras.callbacks.SwapEMAWeights(), "SwapEMAWeights works on models of Keras 3 only.*use_ema=True"),
        (print, "Expected callbacks of Keras 3 or tf_keras, got builtin_function_or_method"),
    ],
)
def test_callbacks_that_cannot_work(callback, said):
    wrapped = PRUNE.apply(network(), steps=STEPS)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(RecipeError, match=said):
        wrapped.fit(X, Y, callbacks=[callback])


class Peeking(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(self.model.get_compile_config_of_keras_3())


def test_a_callback_that_needs_keras_3_is_named():
    wrapped = PRUNE.apply(network(), steps=STEPS)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match="The callback Peeking uses what only Keras 3 has"):
        wrapped.fit(X, Y, verbose=0, callbacks=Peeking())


@pytest.mark.parametrize(
    ("monitor", "wanted"),
    [
        ("val_loss", "min"),
        ("val_head_loss", "min"),
        ("val_accuracy", "max"),
        ("mean_absolute_error", "min"),
        ("val_error", "min"),
        ("val_hits", "max"),
        ("my_acc", None),
    ],
)
def test_what_is_better(monitor, wanted):
    metrics = tf_keras().metrics
    model = tf_keras().Sequential([tf_keras().Input((8,)), tf_keras().layers.Dense(1, name="head")])
    model.compile("sgd", "mse", metrics=[metrics.MeanSquaredError(name="error"), metrics.AUC(name="hits")])
    model.evaluate(X[:2], X[:2, :1], verbose=0)
    if wanted is None:
        with pytest.raises(RecipeError, match=r"Give the callback mode="):
            direction(monitor, model)
    else:
        assert direction(monitor, model) == wanted


def test_a_student_that_is_pruned_meanwhile():
    student = PRUNE.apply(network(), steps=3 * STEPS)
    teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    distilled = tfopt.distill(student, teacher)
    distilled.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    distilled.fit(X, Y, validation_data=(X, Y), epochs=3, verbose=0, callbacks=[stopping])
    assert stopping.best_epoch == 2
    PRUNE.strip(student)


class Unlike(keras.metrics.Metric):
    """It has no config with its argument, so that nothing can copy it."""

    def __init__(self, wanted):
        super().__init__(name="unlike")
        self.wanted = wanted
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(keras.ops.sum(keras.ops.cast(keras.ops.argmax(y_pred, -1) != self.wanted, "float32")))

    def result(self):
        return self.total


def test_a_metric_that_cannot_be_copied_is_used_itself():
    wrapped = PRUNE.apply(network(), steps=STEPS)
    metric = Unlike(0)
    wrapped.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=[metric, keras.metrics.MeanMetricWrapper(shares, "shares")]
    )
    got = wrapped.evaluate(X, Y, verbose=0, return_dict=True)
    scores = wrapped.predict(X, verbose=0)
    assert got["unlike"] == (scores.argmax(axis=1) != 0).sum() == float(metric.result())
    assert got["shares"] == pytest.approx(scores[:, 0].mean(), rel=1e-5)


def shares(y_true, y_pred):
    return y_pred[:, 0]


def test_an_optimizer_that_neither_keras_knows():
    with pytest.raises(ModelError, match="'nonsense' is not among the optimizers"):
        PRUNE.apply(network(), steps=STEPS).compile("nonsense", "mse")


def test_misspelled_names_get_the_nearest():
    with pytest.raises(ModelError, match=r"the nearest are .*sparse_categorical_crossentropy"):
        PRUNE.apply(network(), steps=STEPS).compile("sgd", "sparse_categorical_crossentropie")


@pytest.mark.filterwarnings("ignore:keep")
@pytest.mark.parametrize("kept", ["sparsity", "clusters"])
def test_nothing_to_keep_is_said(kept):
    with pytest.warns(UserWarning, match="nothing is kept"):
        tfopt.Quantize().apply(network(), steps=STEPS, keep={kept})


@pytest.mark.parametrize(("loss", "metrics"), [("nonsense", None), ("mse", ["nonsense"])])
def test_names_that_neither_keras_knows(loss, metrics):
    wrapped = PRUNE.apply(network(), steps=STEPS)
    with pytest.raises(ModelError, match=r"'nonsense' is not among the (losses|metrics)"):
        wrapped.compile("sgd", loss, metrics=metrics)


def test_a_metric_of_keras_3_alone_has_its_direction():
    wrapped = tfopt.FineTune().apply(network(), steps=STEPS)
    wrapped.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy", Upward()])
    stopping = keras.callbacks.EarlyStopping("val_upward", patience=9)
    wrapped.fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=[stopping])
    assert stopping.mode == "max"


class Upward(Share):
    def __init__(self):
        super().__init__("upward")
        self._direction = "up"


@pytest.mark.parametrize("name", ["auc", "recall", "f1_score"])
def test_metrics_by_names_of_keras_3(name):
    wrapped = tfopt.FineTune().apply(network(), steps=STEPS)
    wrapped.compile("sgd", "categorical_crossentropy", metrics=[name])
    assert name in wrapped.fit(X, np.eye(3, dtype="float32")[Y], verbose=0).history


def test_checkpoints_within_an_epoch_wait_too(tmp_path):
    stage = tfopt.Prune(final_sparsity=0.5, end_step=STEPS + 4, frequency=1)
    wrapped = stage.apply(network(), steps=4 * STEPS)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    saved = tf_keras().callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.keras"), "loss", save_best_only=True, save_freq=4, mode="min"
    )
    wrapped.fit(X, Y, epochs=3, verbose=0, callbacks=[saved])
    files = sorted(tmp_path.glob("*.keras"))
    assert files and not (tmp_path / "1.keras").exists()
    for file in files:
        stage.strip(tfopt.load_model(file))


@pytest.mark.parametrize("stage", [PRUNE, tfopt.Cluster(number_of_clusters=32), tfopt.Quantize()])
def test_regularizers_keep_their_loss(stage, tmp_path):
    """Of the output: 0.5 times the mean over samples of the sum of squares; of the kernel: 0.25 times its squares."""
    of = keras.regularizers.L2
    layer = keras.layers.Dense(16, activity_regularizer=of(0.5), kernel_regularizer=of(0.25))
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile("sgd", "mse")
    wrapped = stage.apply(model, steps=STEPS)
    stage.calibrate(wrapped, X)
    outputs, targets = wrapped.predict(X, verbose=0).astype("float64"), np.zeros((256, 16), "float32")
    wanted = (outputs**2).mean() + 0.5 * (outputs**2).sum(axis=1).mean() + 0.25 * (np.array(layer.kernel) ** 2).sum()
    assert wrapped.evaluate(X, targets, verbose=0) == pytest.approx(wanted, rel=1e-3)
    wrapped.save(tmp_path / "kept.keras")
    again = tfopt.load_model(tmp_path / "kept.keras")
    again.compile("sgd", "mse")
    assert again.evaluate(X, targets, verbose=0) == pytest.approx(wanted, rel=1e-3)
    wrapped.fit(X, targets, verbose=0)


def test_training_batch_by_batch():
    """TF-MOT's wrapper refuses to train without the events of its callback."""
    stage = tfopt.Prune(final_sparsity=0.5, end_step=3, frequency=1)
    wrapped = stage.apply(network(), steps=4)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    for _ in range(4):
        wrapped.train_on_batch(X, Y)
    assert np.mean(stage.strip(wrapped).get_layer("first").kernel.numpy() == 0) == pytest.approx(0.5, abs=0.01)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def test_an_own_train_step_is_not_dropped_without_a_word():
    layers = network()
    model = OwnStep(layers.inputs, layers.outputs)
    with pytest.warns(UserWarning, match=r"OwnStep\.train_step will not run"):
        PRUNE.apply(model, steps=STEPS)
    with pytest.warns(UserWarning, match=r"OwnStep\.train_step will not run"):
        tfopt.distill(model, network())


@pytest.mark.filterwarnings("error:.*will not run")
def test_usual_models_train_as_usual():
    PRUNE.apply(network(), steps=STEPS)
    PRUNE.apply(tf_keras().Sequential([tf_keras().layers.Dense(2, input_shape=(3,))]), steps=STEPS)


def test_f1_scores_take_labels_of_integers():
    wrapped = PRUNE.apply(network(), steps=STEPS)
    wrapped.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score(average="macro")])
    got = wrapped.evaluate(X, np.eye(3, dtype="int64")[Y], verbose=0, return_dict=True)["f1_score"]
    chosen = wrapped.predict(X, verbose=0).argmax(axis=1)
    hits = np.array([((chosen == c) & (c == Y)).sum() for c in range(3)])
    wanted = 2 * hits / (np.bincount(chosen, minlength=3) + np.bincount(Y, minlength=3))
    assert got == pytest.approx(wanted.mean(), rel=1e-5)


def test_ranges_that_strip_has_lost_are_missed():
    stage = tfopt.Quantize()
    wrapped = stage.apply(network(), steps=STEPS)
    stage.calibrate(wrapped, X)
    stripped = stage.strip(wrapped)
    with pytest.warns(UserWarning, match="the ranges that Quantize has trained are not in the model"):
        tfopt.export_tflite(stripped, representative_data=X)


@pytest.mark.parametrize("structure", ["dict", "list"])
def test_names_of_inputs_that_tensorflow_does_not_allow(structure, tmp_path):
    left, right = (keras.Input((8,), name=name) for name in ("left eye", "right:0"))
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.Concatenate()([left, right]))
    inputs = {"left eye": left, "right:0": right} if structure == "dict" else [left, right]
    import tensorflow as tf

    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(32, 8)).astype("float32") for name in ("left eye", "right:0")}
    y = rng.integers(0, 3, 32)
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, x)
    wrapped.fit(x, y, verbose=0)
    wrapped.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), verbose=0, validation_data=(x, y))
    expected = wrapped.predict(x, verbose=0)
    lite = tfopt.export_tflite(wrapped, tmp_path / "eyes.tflite", representative_data=x)
    assert (lite.predict(x).argmax(1) == expected.argmax(1)).mean() > 0.9


def test_data_sets_whose_names_are_right_are_taken_as_they_are():
    import tensorflow as tf

    one, other = keras.Input((8,)), keras.Input((8,))
    model = keras.Model([one, other], keras.layers.Dense(2)(keras.layers.Concatenate()([one, other])))
    model.compile("adam", "mse")
    x, y = np.random.default_rng(0).normal(size=(16, 8)).astype("float32"), np.zeros((16, 2), "float32")
    wrapped = tfopt.Prune(final_sparsity=0.5).apply(model, steps=4)
    alone = tf.data.Dataset.from_tensor_slices(((x, x),)).batch(8)
    assert wrapped.predict(alone, verbose=0).shape == (16, 2)
    labeled = tf.data.Dataset.from_tensor_slices(((x, x), y)).batch(8)
    wrapped.fit(iter(labeled.repeat()), steps_per_epoch=2, verbose=0)
