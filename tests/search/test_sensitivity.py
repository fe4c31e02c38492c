"""Sensitivity and bits under a budget, on a trained model."""

import dataclasses
import math

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.errors import OutputError, PromiseError, RecipeError
from tfopt.search.bits import choose_bits
from tfopt.search.sensitivity import sensitivity
from tfopt.stages import PostTraining, Quantize
from tfopt.stages.budget import Budget


@pytest.fixture(scope="module")
def data():
    """Which quarter of the picture is bright: easy, but every layer has something to lose."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 600)
    x = rng.normal(0, 0.6, (600, 8, 8, 3)).astype("float32")
    for number, label in enumerate(y):
        x[number, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1
    return tfopt.load_data((x, y))


@pytest.fixture(scope="module")
def model(data):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    made = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="second"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depth"),
            layers.Flatten(name="flat"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    made.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    made.fit(data.train.x(), data.train.y(), batch_size=32, epochs=8, verbose=0)
    return made


@pytest.fixture(scope="module")
def found(model, data):
    return sensitivity(model, data, bits=(8, 4, 2))


@pytest.mark.slow
def test_each_kernel_is_tried_alone(model, data, found):
    """By hand: the second layer in 2 bits, with steps from a fine search."""
    keys = list(dict.fromkeys((trial.layer, trial.weight) for trial in found.trials))
    assert [layer for layer, _ in keys] == ["first", "second", "depth", "hidden", "head"]
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernel, bias = copy.get_layer("second").get_weights()
    steps = np.abs(kernel).max(axis=(0, 1, 2)) * np.linspace(0.01, 1.2, 2000)[:, None, None, None, None]
    tried = np.clip(np.rint(kernel / steps), -1, 1) * steps
    best = np.square(tried - kernel).sum(axis=(1, 2, 3)).argmin(axis=0)
    copy.get_layer("second").set_weights(
        [np.stack([tried[number, ..., channel] for channel, number in enumerate(best)], axis=-1), bias]
    )
    x, y = data.validation.x(), data.validation.y()
    before, after = (made.predict(x, verbose=0).astype(np.float64) for made in (model, copy))
    sqnr = 10 * math.log10(np.square(before).sum() / np.square(after - before).sum())
    trial = found.of(("second", "kernel"), 2)
    assert trial.sqnr == pytest.approx(sqnr, abs=0.5)
    assert trial.metric == pytest.approx((after.argmax(-1) == y).mean(), abs=0.05)
    assert trial.bytes == kernel.size / 4
    assert found.before == pytest.approx((before.argmax(-1) == y).mean())


def test_more_bits_are_less_noise(found):
    for layer in ("first", "second", "hidden", "head"):
        signals = [found.of((layer, "kernel"), bits).sqnr for bits in (8, 4, 2)]
        assert signals[0] > signals[1] + 10 and signals[1] > signals[2]


def test_it_is_a_table_and_a_picture(found, tmp_path):
    assert "second" in str(found) and "SQNR" in str(found)
    assert found.plot(tmp_path / "sensitivity.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(OutputError, match=r"Cannot draw .*\.txt: 'txt' is not a plot format\. Name a file that ends"):
        found.plot(tmp_path / "sensitivity.txt")


def test_the_model_is_not_changed(model, data):
    before = [np.array(weight) for weight in model.get_weights()]
    sensitivity(model, data, bits=(2,), samples=50)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def sizes(flat_model):
    """The bytes of the kernels only: the rest of a file is the same for all choices."""

    def size(stage):
        bits = dict(stage.layers)
        return sum(
            math.prod(layer.kernel.shape) * bits.get(layer.name, 8) // 8
            for layer in flat_model.layers
            if hasattr(layer, "kernel") and "Depthwise" not in type(layer).__name__
        )

    return size


def test_bits_fall_until_the_file_is_small_enough(model, data):
    flat_model = bridge.to_tf_keras(model)
    size = sizes(flat_model)
    all_8 = size(Quantize())
    for share in (1.0, 0.8, 0.55):
        stage, notes = choose_bits(Quantize(max_bytes=int(share * all_8)), flat_model, data, size)
        assert size(stage) <= share * all_8
        fewer = Quantize(layers=stage.layers[:-1])
        assert share == 1.0 or size(fewer) > share * all_8  # no more than necessary
        assert "4 bits in" in notes[0]
    assert stage.max_bytes and stage.weight_bits == 8


def _nearest(kernel):
    """In 4 bits, each column with the best of 2,000 steps."""
    steps = np.abs(kernel).max(axis=0) * np.linspace(0.05, 1.2, 2000)[:, None, None] / 7
    tried = np.clip(np.rint(kernel / steps), -7, 7) * steps
    best = np.square(tried - kernel).sum(axis=1).argmin(axis=0)
    return np.stack([tried[number, :, column] for column, number in enumerate(best)], axis=1)


def test_the_first_to_fall_adds_the_least_noise_for_each_byte_that_it_saves():
    """Two linear layers: the small one adds less noise to the outputs, but much more for each of its weights."""
    rng = np.random.default_rng(0)
    small = (np.concatenate([rng.integers(-6, 7, (7, 8)), np.full((1, 8), 7)]) + rng.normal(0, 0.12, (8, 8))) / 7
    large = rng.normal(size=(8, 512)) / 8
    kernels = {"small": small, "large": large}
    made = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(k.shape[1], name=n) for n, k in kernels.items())])
    made.set_weights([array for kernel in kernels.values() for array in (kernel, np.zeros(kernel.shape[1]))])
    x = rng.normal(size=(200, 8)).astype("float32")
    data = tfopt.load_data((x, x @ small @ large))

    outputs = data.validation.x() @ small @ large
    noise = {
        "small": np.square(data.validation.x() @ _nearest(small) @ large - outputs).sum(),
        "large": np.square(data.validation.x() @ small @ _nearest(large) - outputs).sum(),
    }
    assert 2 * noise["small"] < noise["large"]
    assert noise["small"] / small.size > 2 * noise["large"] / large.size
    stage, _ = choose_bits(Quantize(max_bytes=1), bridge.to_tf_keras(made), data, lambda stage: 2)
    assert [layer for layer, _ in stage.layers] == ["large", "small"]


def test_rules_come_first(model, data):
    flat_model = bridge.to_tf_keras(model)
    stage, _ = choose_bits(PostTraining(max_bytes=1, layers=(("hidden", 8),)), flat_model, data, sizes(flat_model))
    assert stage.layers[0] == ("hidden", 8) and "hidden" not in dict(stage.layers[1:])


def test_a_loss_of_accuracy_is_spent_where_it_buys_most(model, data):
    flat_model = bridge.to_tf_keras(model)
    nothing_lost, _ = choose_bits(Quantize(max_drop=0.001), flat_model, data, lambda stage: 0)
    all_lost, _ = choose_bits(Quantize(max_drop=0.9), flat_model, data, lambda stage: 0)
    assert len(nothing_lost.layers) <= len(all_lost.layers) == 4


def test_a_budget_that_cannot_be_met_is_an_error_before_training_that_names_the_nearest(model, data):
    recipe = tfopt.Recipe(name="r", stages=(Quantize(max_bytes=500),))
    with pytest.raises(RecipeError, match=r"max_bytes=500 cannot be met: .* the file has [\d,]+ bytes"):
        tfopt.optimize(model, recipe, data, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("names", [None, tuple(letter * 500 for letter in "abcd")], ids=["plain", "long names"])
def test_the_file_of_a_run_keeps_the_budget(model, data, names):
    data = dataclasses.replace(data, class_names=names)  # they are in the file as well
    free = tfopt.optimize(model, tfopt.Recipe(name="r", stages=(PostTraining(rounding="nearest"),)), data, quiet=True)
    most = free.lite.size - 600
    recipe = tfopt.Recipe(name="r", stages=(PostTraining(rounding="nearest", max_bytes=most),))
    result = tfopt.optimize(model, recipe, data, quiet=True)
    assert result.lite.size <= most
    assert {w.tensor.dtype for w in result.lite.weights()} == {"int4", "int8"}
    assert any("4 bits in" in note for note in result.report.rows[-1].notes)


@pytest.mark.parametrize(
    ("budget", "numbers", "said"),
    [
        (Budget(0.01, None), (0.9, 0.88, 10), "0.0200 below"),
        (Budget(None, 100), (0.9, 0.9, 101), "101 bytes"),
        (Budget(0.05, 100), (0.9, 0.86, 100), None),
        (Budget(0.01, None), (None, None, 10), None),
        (Budget(0.01, None), (0.9, float("nan"), 10), "accuracy of the file .* not a number"),
        (Budget(0.01, None), (float("nan"), 0.9, 10), "accuracy of the model .* not a number"),
        (Budget(None, 100), (0.9, float("nan"), 100), None),
    ],
)
def test_both_numbers_are_proved_on_the_file(budget, numbers, said):
    if said is None:
        budget.require(*numbers)
    else:
        with pytest.raises(PromiseError, match=said):
            budget.require(*numbers)


def test_kernels_that_stay_in_8_bits_are_named():
    keras.utils.set_random_seed(0)
    series = keras.Sequential(
        [keras.Input((4, 2)), keras.layers.LSTM(3, name="memory"), keras.layers.Dense(2, name="last")]
    )
    rng = np.random.default_rng(0)
    data = tfopt.load_data((rng.normal(size=(60, 4, 2)).astype("float32"), rng.integers(0, 2, 60)))
    measured = tfopt.sensitivity(series, data, bits=[4])
    assert [trial.layer for trial in measured.trials] == ["last"]
    assert measured.left_out == (("memory", "kernel"), ("memory", "recurrent_kernel"))
    assert "8 bits: memory, memory/recurrent_kernel" in " ".join(str(measured).split())
