"""Prune and FineTune. Expected masks come from sorting in NumPy, expected schedules from the paper's equation."""

import itertools
import json

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError, PromiseError, RecipeError
from tfopt.stages import FineTune, Prune
from tfopt.stages.prune.prune import pruned_layers

KERNELS = {"stem": 216, "inline": 576, "apart": 576, "conv": 576, "head": 32}  # and their sizes


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(keras)


@pytest.fixture(scope="module")
def sparse(model):
    """80 % of each kernel is zero, except the depthwise one."""
    stage = Prune(final_sparsity=0.8, schedule="one-shot")
    return stage.strip(stage.apply(model, steps=0))


def kernels(model):
    return {n: layer.get_weights()[0] for n, layer, _ in bridge.flat_layers(model) if n in {*KERNELS, "depth"}}


def zeros(model):
    return {name: np.count_nonzero(kernel == 0) for name, kernel in kernels(model).items()}


def masks(wrapped):
    return {layer.layer.name: layer.pruning_vars[0][1].numpy() for layer in pruned_layers(wrapped)}


def dense(*shape, kernel=None, name="d"):
    layers = keras_compat.tf_keras().layers
    model = keras_compat.tf_keras().Sequential([layers.Input(shape[:1]), layers.Dense(shape[1], name=name)])
    if kernel is not None:
        model.layers[-1].set_weights([kernel.astype("float32"), np.zeros(shape[1])])
    return model


def fitted(stage, model, samples, *, epochs=1, keep=(), callbacks=True, batches=4):
    """The wrapped model after a fit of `batches` steps per epoch, a number that `apply` was given."""
    wrapped = stage.apply(model, steps=epochs * batches, keep=keep)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    x, y = samples[0][: 16 * batches], samples[1][: 16 * batches]
    wrapped.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=stage.callbacks() if callbacks else [])
    return wrapped


# Schedules ---------------------------------------------------------------------------------------


def schedule_of(stage, steps):
    return pruned_layers(stage.apply(dense(8, 4), steps=steps))[0].pruning_schedule


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 101, 143, 150, 286, 1001])
@pytest.mark.parametrize(
    "settings",
    [{}, {"power": 1.0, "final_sparsity": 0.9}, {"initial_sparsity": 0.25}, {"schedule": "constant"}],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_the_last_mask_update_carries_the_target_and_comes_within_the_steps(settings, steps):
    schedule = schedule_of(Prune(**settings), steps)
    target = settings.get("final_sparsity", 0.5)
    # TF-MOT counts the first batch as step 1.
    updates = {step: float(sparsity) for step in range(1, steps + 1) for due, sparsity in [schedule(step)] if due}
    assert updates, "no mask update at all"
    last = max(updates)
    assert updates[last] == np.float32(target)
    assert last <= max(1, round(0.7 * steps))
    assert last >= 0.7 * steps - max(1, 0.7 * steps / 100)
    assert 1 <= len(updates) <= 200


@pytest.mark.parametrize(("begin", "end", "frequency", "power"), [(0, 60, 1, 3.0), (10, 70, 6, 3.0), (5, 95, 45, 0.5)])
def test_the_polynomial_is_zhu_and_gupta_equation_1(begin, end, frequency, power):
    first, final = 0.1, 0.85
    stage = Prune(initial_sparsity=first, final_sparsity=final, begin_step=begin, end_step=end, frequency=frequency,
                  power=power)  # fmt: skip
    schedule = schedule_of(stage, 100)
    for step in range(1, 101):
        due, sparsity = schedule(step)
        assert bool(due) == (begin <= step <= end and (step - begin) % frequency == 0)
        share = np.clip((step - begin) / (end - begin), 0, 1)
        assert float(sparsity) == pytest.approx(final + (first - final) * (1 - share) ** power, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"frequency": 100}, id="TF-MOT's own frequency in a short fit"),
        pytest.param({"end_step": 51}, id="ends after the training"),
        pytest.param({"begin_step": 50}, id="begins after the training"),
        pytest.param({"begin_step": 30, "end_step": 20}, id="ends before it begins"),
        pytest.param({"end_step": 40, "frequency": 7}, id="the last update short of the end"),
        pytest.param({"frequency": 100, "schedule": "constant"}, id="constant"),
    ],
)
def test_a_schedule_that_would_miss_the_target_is_refused(settings):
    with pytest.raises(RecipeError, match=r"would never reach 0\.5"):
        Prune(**settings).apply(dense(8, 4), steps=50)


@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
def test_a_schedule_without_steps_is_refused(schedule):
    with pytest.raises(RecipeError, match="needs training steps"):
        Prune(schedule=schedule).apply(dense(8, 4), steps=0)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["polynomial", "constant", "one-shot"])
@pytest.mark.parametrize("batches", [1, 3])
def test_each_kernel_reaches_the_target_in_a_fit_of_few_steps(schedule, batches, model, samples):
    stage = Prune(final_sparsity=0.7, schedule=schedule, epochs=1)
    stripped = stage.strip(fitted(stage, model, samples, batches=batches))
    expected = {name: size - round(size * 0.3) for name, size in KERNELS.items()}
    assert zeros(stripped) == expected | {"depth": 0}


# Fits that go wrong ------------------------------------------------------------------------------


def test_a_loop_without_the_callbacks_dies(model, samples):
    wrapped = Prune().apply(model, steps=4)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(Exception, match="UpdatePruningStep"):
        type(wrapped).train_on_batch(wrapped, samples[0][:32], samples[1][:32])  # without the events of the callback


def test_a_call_in_training_mode_before_fit_changes_nothing(samples):
    """TF-MOT's wrapper refuses it; it shows what augmentation and dropout do."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(4)])
    wrapped = Prune(final_sparsity=0.5).apply(model, steps=4)
    before, x = wrapped.get_weights(), np.ones((64, 6), "float32")
    first, second = (np.asarray(wrapped(x, training=True)) for _ in range(2))
    assert not np.allclose(first, second)
    for old, new in zip(before, wrapped.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(Exception, match="UpdatePruningStep"):
        wrapped.compile("sgd", "mse")
        type(wrapped).train_on_batch(wrapped, x, np.zeros((64, 4)))


def test_a_fit_that_is_too_short_breaks_the_promise_at_strip(model, samples):
    stage = Prune()
    wrapped = stage.apply(model, steps=1000)
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    wrapped.fit(samples[0][:32], samples[1][:32], callbacks=stage.callbacks(), verbose=0)
    with pytest.raises(PromiseError, match=r"layer 'stem'.*promised 0.5000.*callbacks\(\)"):
        stage.strip(wrapped)


def test_no_fit_at_all_breaks_the_promise_at_strip(model):
    with pytest.raises(PromiseError, match=r"sparsity 0.0000"):
        Prune().strip(Prune().apply(model, steps=4))


# Which weights fall ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.99])
def test_the_smallest_magnitudes_fall(share, model):
    before = kernels(model)
    for name, mask in masks(Prune(final_sparsity=share, schedule="one-shot").apply(model, steps=0)).items():
        kept = max(1, round(mask.size * (1 - share)))
        expected = np.zeros(mask.size)
        expected[np.argsort(np.abs(before[name]), axis=None)[-kept:]] = 1
        np.testing.assert_array_equal(mask.ravel(), expected, err_msg=name)


def test_equal_weights_fall_one_by_one():
    stage = Prune(final_sparsity=0.7, schedule="one-shot")
    stripped = stage.strip(stage.apply(dense(6, 5, kernel=np.full((6, 5), -0.5)), steps=0))
    assert np.count_nonzero(stripped.get_weights()[0] == 0) == 21


@pytest.mark.parametrize(("shape", "fallen"), [((8, 1), 7), ((1, 1), 0), ((3, 1), 2)])
def test_at_least_one_weight_stays_and_that_is_not_a_broken_promise(shape, fallen):
    stage = Prune(final_sparsity=0.97, schedule="one-shot")
    stripped = stage.strip(stage.apply(dense(*shape), steps=0))
    assert np.count_nonzero(stripped.get_weights()[0] == 0) == fallen


def test_random_importance_is_reproducible_blind_to_magnitude_and_monotone():
    kernel = np.random.default_rng(3).normal(size=(40, 50))

    def mask(share, seed=0, kernel=kernel):
        stage = Prune(importance="random", schedule="one-shot", final_sparsity=share, seed=seed)
        return masks(stage.apply(dense(40, 50, kernel=kernel), steps=0))["d"]

    half = mask(0.5)
    assert np.count_nonzero(half == 0) == 1000
    np.testing.assert_array_equal(half, mask(0.5))
    np.testing.assert_array_equal(half, mask(0.5, kernel=kernel[::-1] ** 3))
    # Two independent halves agree in half of the 2,000 places, with a standard deviation of about 22.
    assert abs(np.count_nonzero(half == mask(0.5, seed=1)) - 1000) < 120
    assert abs(np.count_nonzero(half == (np.abs(kernel) > np.median(np.abs(kernel)))) - 1000) < 120
    shares = [mask(share) for share in (0.1, 0.5, 0.6, 0.95)]
    assert all(np.all(later <= earlier) for earlier, later in itertools.pairwise(shares))


def test_erk_leaves_density_in_proportion_to_the_sum_over_the_product_of_dimensions():
    # Kernels (20, 10) and (10, 4): 240 weights, 96 remain. Densities a * 30/200 and a * 14/40: a * (30 + 14) = 96.
    layers = keras_compat.tf_keras().layers
    model = keras_compat.tf_keras().Sequential(
        [layers.Input((20,)), layers.Dense(10, name="a"), layers.Dense(4, name="b")]
    )
    stage = Prune(distribution="erk", final_sparsity=0.6, schedule="one-shot")
    stripped = stage.strip(stage.apply(model, steps=0))
    fallen = [np.count_nonzero(stripped.get_layer(name).get_weights()[0] == 0) for name in "ab"]
    assert fallen == [200 - round(30 * 96 / 44), 40 - round(14 * 96 / 44)]


def test_random_importance_prunes_during_a_schedule(model, samples):
    stage = Prune(importance="random", final_sparsity=0.6)
    assert zeros(stage.strip(fitted(stage, model, samples)))["conv"] == 346  # 576 - round(230.4)


def test_a_threshold_prunes_what_lies_under_it(model):
    before = kernels(model)
    stage = Prune(importance="threshold", threshold=0.1)
    for name, kernel in kernels(stage.strip(stage.apply(model, steps=0))).items():
        expected = before[name] if name == "depth" else np.where(np.abs(before[name]) < 0.1, 0, before[name])
        np.testing.assert_array_equal(kernel, expected.astype("float32"))


@pytest.mark.parametrize(("threshold", "share"), [(1e-9, "nothing"), (1e9, "all")])
def test_a_threshold_that_prunes_nothing_or_all_is_refused(threshold, share):
    with pytest.raises(RecipeError, match=f"prunes {share} of layer 'd'"):
        Prune(importance="threshold", threshold=threshold).apply(dense(8, 4), steps=0)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize(("shape", "block"), [((12, 6), (4, 3)), ((10, 7), (4, 3)), ((9, 9), (1, 4)), ((5, 3), (8, 2))])
def test_the_weakest_blocks_fall_whole(pooling, shape, block):
    kernel = np.random.default_rng(sum(shape)).normal(size=shape)
    stage = Prune(block_size=block, block_pooling_type=pooling, schedule="one-shot", final_sparsity=0.6)
    wrapped = stage.apply(dense(*shape, kernel=kernel), steps=0)

    starts = [(i, j) for i in range(0, shape[0], block[0]) for j in range(0, shape[1], block[1])]
    pool = np.mean if pooling == "AVG" else np.max
    strength = [pool(np.abs(kernel[i : i + block[0], j : j + block[1]])) for i, j in starts]
    kept = max(1, round(len(starts) * 0.4))
    expected = np.zeros(shape)
    for index in np.argsort(strength)[-kept:]:
        i, j = starts[index]
        expected[i : i + block[0], j : j + block[1]] = 1
    np.testing.assert_array_equal(masks(wrapped)["d"], expected)
    stage.strip(wrapped)  # the promise holds, whichever blocks were pruned


@pytest.mark.parametrize("share", [0.35, 0.45, 0.55, 0.65, 0.85])
def test_the_promise_of_blocks_rounds_as_the_mask_does(share):
    stage = Prune(block_size=(2, 2), schedule="one-shot", final_sparsity=share)  # 10 blocks, so halves must be rounded
    stage.strip(stage.apply(dense(20, 2), steps=0))


def test_blocks_leave_convolutions_alone_and_say_so(model):
    stage = Prune(block_size=(2, 2), schedule="one-shot")
    stripped = stage.strip(stage.apply(model, steps=0))
    assert {name for name, number in zeros(stripped).items() if number} == {"head"}
    noted = {f"not pruned: {name} (block_size does not fit it)" for name in ("stem", "inline", "apart", "conv")}
    spared = "not pruned: depth (spared by default because it costs accuracy)"
    assert set(stage.notes(bridge.to_tf_keras(model))) == noted | {spared}


@pytest.mark.parametrize(("m", "n"), [(2, 4), (1, 4), (3, 4), (1, 2), (5, 8)])
def test_m_by_n_holds_along_the_inputs_of_every_kernel(m, n, model):
    before = kernels(model)
    stage = Prune(sparsity_m_by_n=(m, n))
    for name, kernel in kernels(stage.strip(stage.apply(model, steps=0))).items():
        if name == "depth":
            continue
        rows = np.moveaxis(before[name], -2, -1).reshape(-1, before[name].shape[-2])
        expected = rows.copy()
        for start in range(0, rows.shape[1], n):
            group = rows[:, start : start + n]
            for row, order in enumerate(np.argsort(np.abs(group), axis=1)):
                expected[row, start + order[: max(0, len(order) - (n - m))]] = 0
        np.testing.assert_array_equal(np.moveaxis(kernel, -2, -1).reshape(rows.shape), expected, err_msg=name)


@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        (Prune(final_sparsity=0.8), 20),
        (Prune(final_sparsity=0.8, end_step=10, frequency=5), 20),
        (Prune(final_sparsity=0.8, begin_step=3, end_step=20), 20),
        (Prune(final_sparsity=0.8, schedule="constant", begin_step=4), 20),
        (Prune(final_sparsity=0.8, schedule="constant", end_step=16, frequency=4), 20),
    ],
)
def test_the_first_step_after_which_the_target_holds(stage, steps):
    """100 x 200 weights, whose masks are counted after each batch; a step before the end has a smaller target."""
    keras = keras_compat.tf_keras()
    model = keras.Sequential([keras.layers.Input((100,)), keras.layers.Dense(200, name="wide")])
    wrapped, counted = stage.apply(model, steps=steps), []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            (layer,) = (layer for layer in self.model.layers if hasattr(layer, "pruning_vars"))
            counted.append(int((layer.pruning_vars[0][1].numpy() == 0).sum()))

    wrapped.compile("sgd", "mse")
    x = np.ones((steps, 100), "float32")
    wrapped.fit(x, np.ones((steps, 200)), batch_size=1, callbacks=[*stage.callbacks(), Count()], verbose=0)
    assert stage.holds_after(steps) == 1 + counted.index(16000)


def test_m_by_n_holds_after_training(model, samples):
    stage = Prune(sparsity_m_by_n=(2, 4))
    stripped = stage.strip(fitted(stage, model, samples))
    assert zeros(stripped) == {"stem": 72, "inline": 288, "apart": 288, "conv": 288, "depth": 0, "head": 16}


def odd_layers():
    layers = keras_compat.tf_keras().layers
    return keras_compat.tf_keras().Sequential(
        [
            layers.Input((8, 8, 4)),
            layers.Conv2D(8, 3, padding="same", name="image"),
            layers.Conv2DTranspose(8, 3, padding="same", name="transposed"),
            layers.PReLU(name="prelu"),
            layers.Rescaling(0.5, name="rescaling"),
            layers.SeparableConv2D(6, 3, name="separable"),
            layers.Reshape((36, 6), name="reshape"),
            layers.Conv1D(6, 3, name="line"),
            layers.Conv1DTranspose(6, 3, name="transposed1d"),
            layers.DepthwiseConv1D(3, name="depthwise1d"),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both_ways"),
            layers.GlobalAveragePooling1D(name="pool"),
            layers.Dense(4, name="head"),
        ]
    )


@pytest.mark.slow
def test_layers_that_tfmot_refuses_are_pruned_or_noted():
    model = odd_layers()
    stage = Prune(schedule="one-shot", final_sparsity=0.75)
    stripped = stage.strip(stage.apply(model, steps=0))
    share = {}
    for layer in stripped.layers:
        for weight in layer.weights:
            if len(weight.shape) > 1:
                share[weight.name.removesuffix(":0")] = np.mean(weight.numpy() == 0)
    pruned = {name for name, found in share.items() if found > 0} - {"prelu/alpha"}  # which starts at zero
    expected = ("image/kernel", "transposed/kernel", "separable/pointwise_kernel", "line/kernel",
                "transposed1d/kernel", "head/kernel")  # fmt: skip
    recurrent = {name for name in share if name.startswith("both_ways/")}
    assert pruned == {*expected, *recurrent} and len(recurrent) == 4
    assert all(share[name] == pytest.approx(0.75, abs=0.01) for name in pruned)
    notes = " ".join(stage.notes(bridge.to_tf_keras(model)))
    assert all(f"not pruned: {name} (" in notes for name in ("depthwise1d", "separable", "prelu"))


@pytest.mark.slow
def test_m_by_n_leaves_layers_alone_whose_inputs_its_mask_would_not_follow():
    model = odd_layers()
    stage = Prune(sparsity_m_by_n=(2, 4))
    stripped = stage.strip(stage.apply(model, steps=0))
    assert not np.any(stripped.get_layer("transposed").get_weights()[0] == 0)
    assert np.mean(stripped.get_layer("image").get_weights()[0] == 0) == 0.5
    notes = stage.notes(bridge.to_tf_keras(model))
    assert all(f"not pruned: {name} (sparsity_m_by_n does not fit it)" in notes for name in ("transposed", "line"))


# Rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((("head", False), ("stem", 0.75)), {"stem": 162, "inline": 288, "apart": 288, "conv": 288}),
        ((("Dense", 0.25), ("Conv2D", False)), {"head": 8}),
        ((("depth", True), ("*", False)), {"depth": 36}),
        (
            (("DepthwiseConv2D", 0.25), ("inline", False), ("con?", False)),
            {"depth": 18, "stem": 108, "apart": 288, "head": 16},
        ),
        ((("head", 0),), {"stem": 108, "inline": 288, "apart": 288, "conv": 288}),
    ],
)  # fmt: skip
def test_rules_choose_layers_and_targets(rules, expected, model):
    stage = Prune(layers=rules, schedule="one-shot")
    stripped = stage.strip(stage.apply(model, steps=0))
    assert zeros(stripped) == {**dict.fromkeys(zeros(model), 0), **expected}
    noted = dict(note.removeprefix("not pruned: ").split(" ", 1) for note in stage.notes(bridge.to_tf_keras(model)))
    assert set(noted) == {*KERNELS, "depth"} - set(expected)
    assert all(why == "(by rule)" for name, why in noted.items() if name != "depth")


def test_depthwise_kernels_are_spared_and_the_notes_say_so(model):
    noted = ["not pruned: depth (spared by default because it costs accuracy)"]
    assert Prune().notes(bridge.to_tf_keras(model)) == noted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (("nothing", True),)}, "matches no layer"),
        ({"layers": (("*", True), ("stem", 0.9))}, "no effect"),
        ({"layers": (("stem", 1.0),)}, "0 <= s < 1; the rule sets 1.0"),
        ({"layers": (("stem", -0.1),)}, "0 <= s < 1"),
        ({"layers": (("stem", True),), "block_size": (2, 2)}, r"'stem' \(Conv2D.*block_size"),
        ({"layers": (("depth", True),), "sparsity_m_by_n": (2, 4)}, r"'depth' \(DepthwiseConv2D.*sparsity_m_by_n"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(settings, message, model):
    with pytest.raises(RecipeError, match=message):
        Prune(**settings).apply(model, steps=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": "threshold"}, "belong together"),
        ({"threshold": 0.1}, "belong together"),
        ({"importance": "threshold", "threshold": 0.1, "final_sparsity": 0.5}, "contradicts"),
        ({"sparsity_m_by_n": (2, 4), "final_sparsity": 0.5}, "contradicts"),
        ({"sparsity_m_by_n": (4, 4)}, "needs m < n"),
        ({"sparsity_m_by_n": (2, 4), "importance": "random"}, "magnitude"),
        ({"sparsity_m_by_n": (2, 4), "block_size": (2, 2)}, "cannot be combined"),
        ({"sparsity_m_by_n": (2, 4), "layers": (("head", 0.9),)}, "True or False"),
        ({"importance": "threshold", "threshold": 0.1, "layers": (("head", 0.9),)}, "True or False"),
        ({"initial_sparsity": 0.6}, r"final_sparsity \(0\.5\); got 0\.6"),
        ({"initial_sparsity": 0.4, "final_sparsity": 0.3}, r"final_sparsity \(0\.3\); got 0\.4"),
        ({"schedule": "one-shot", "end_step": 10}, "has no schedule"),
        ({"sparsity_m_by_n": (2, 4), "frequency": 10}, "has no schedule"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Prune(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"final_sparsity": 1.0},
        {"final_sparsity": -0.1},
        {"schedule": "cubic"},
        {"importance": "gradient"},
        {"block_size": (0, 1)},
        {"block_pooling_type": "SUM"},
        {"policy": "gpu"},
        {"power": 0},
        {"end_step": 0},
        {"importance": "threshold", "threshold": 0.0},
    ],
)
def test_single_settings_out_of_range_are_refused(settings):
    with pytest.raises(RecipeError, match=next(reversed(settings))):
        Prune(**settings)


# XNNPACK -----------------------------------------------------------------------------------------


def xnnpack_model():
    """The layout that XNNPACK's sparse inference needs."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(8, 3, strides=2, padding="valid", name="stem"),
            layers.ReLU(),
            layers.Conv2D(16, 1, name="pointwise"),
            layers.ReLU(),
            layers.Conv2D(16, 1, name="pointwise_2"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Flatten(),
            layers.Dense(4, name="head"),
        ]
    )


def test_the_xnnpack_policy_prunes_what_xnnpack_accelerates():
    model = xnnpack_model()
    stage = Prune(policy="xnnpack", schedule="one-shot")
    stripped = stage.strip(stage.apply(model, steps=0))
    share = {layer.name: np.mean(layer.get_weights()[0] == 0) for layer in stripped.layers if layer.weights}
    assert share == {"stem": 0, "pointwise": 0.5, "pointwise_2": 0.5, "head": 0}
    assert stage.notes(bridge.to_tf_keras(model)) == [
        f"not pruned: {name} (XNNPACK would not be faster)" for name in ("stem", "head")
    ]


def test_the_xnnpack_policy_refuses_another_layout(model):
    with pytest.raises(ModelError, match='policy="xnnpack" cannot speed up this model'):
        Prune(policy="xnnpack").apply(model, steps=10)


# What TF-MOT's wrapper forgets -------------------------------------------------------------------


def test_the_wrappers_config_is_complete():
    stage = Prune(sparsity_m_by_n=(2, 4))
    wrapper = pruned_layers(stage.apply(dense(8, 4), steps=0))[0]
    config = wrapper.get_config()
    assert config["sparsity_m_by_n"] == (2, 4)
    assert type(wrapper).from_config(config).sparsity_m_by_n == (2, 4)
    random = Prune(importance="random", seed=5, final_sparsity=0.4)
    config = pruned_layers(random.apply(dense(8, 4), steps=10))[0].get_config()
    assert (config["importance"], config["seed"], config["threshold"]) == ("random", 5, None)
    assert json.loads(json.dumps(config["schedules"]))["kernel"]["final_sparsity"] == 0.4


# Zeros that are there already --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(Prune(final_sparsity=0.5), id="a lower target"),
        pytest.param(Prune(final_sparsity=0.5, schedule="one-shot"), id="a lower target at once"),
        pytest.param(Prune(final_sparsity=0.9), id="a higher target"),
        pytest.param(Prune(final_sparsity=0.5, layers=(("head", True), ("*", False))), id="another layer"),
        pytest.param(Prune(sparsity_m_by_n=(1, 2), layers=(("head", True), ("*", False))), id="another layer, m:n"),
        pytest.param(Prune(importance="random", final_sparsity=0.6), id="random"),
        pytest.param(FineTune(), id="FineTune"),
        pytest.param(FineTune(layers=(("stem", False),)), id="FineTune, one layer frozen"),
    ],
)
def test_zeros_stay_zero_and_other_weights_move(stage, sparse, samples):
    before = kernels(sparse)
    after = kernels(stage.strip(fitted(stage, sparse, samples, keep={"sparsity"})))
    for name in KERNELS:
        np.testing.assert_array_equal(after[name][before[name] == 0], 0, err_msg=name)
    assert np.count_nonzero(after["conv"] != before["conv"]) > 20
    assert np.array_equal(after["stem"], before["stem"]) == (stage.layers == (("stem", False),))


def test_fine_tuning_keeps_zeros_with_and_without_callbacks(sparse, samples):
    before, expected = kernels(sparse), zeros(sparse)
    for callbacks in (True, False):
        stripped = FineTune().strip(fitted(FineTune(epochs=2), sparse, samples, keep={"sparsity"}, callbacks=callbacks))
        assert zeros(stripped) == expected
        assert not np.array_equal(kernels(stripped)["head"], before["head"])


def test_without_keep_fine_tuning_loses_the_zeros(sparse, samples):
    stripped = FineTune().strip(fitted(FineTune(), sparse, samples))
    assert zeros(stripped)["head"] == 0


def test_fine_tuning_freezes_what_the_rules_switch_off(model, samples):
    stage = FineTune(layers=(("head", True), ("stem_norm", True), ("*", False)))
    wrapped = fitted(stage, model, samples)
    assert sorted(weight.name for weight in wrapped.trainable_weights) == [
        "head/bias:0", "head/kernel:0", "stem_norm/beta:0", "stem_norm/gamma:0"
    ]  # fmt: skip
    stripped = stage.strip(wrapped)
    moved = {
        layer.name
        for layer, old in zip((item[1] for item in bridge.flat_layers(stripped)),
                              (item[1] for item in bridge.flat_layers(model)), strict=True)
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), old.get_weights(), strict=True))
    }  # fmt: skip
    assert moved == {"head", "stem_norm"}
    assert all(layer.trainable for _, layer, _ in bridge.flat_layers(stripped))


def test_fine_tuning_takes_no_numbers(model):
    with pytest.raises(RecipeError, match=r"True or False; got 0\.5"):
        FineTune(layers=(("head", 0.5),)).apply(model, steps=1)


@pytest.mark.parametrize("schedule", ["polynomial", "constant", "one-shot"])
def test_a_dry_run_goes_on_with_the_zeros_that_training_would_make(schedule):
    tf_keras = keras_compat.tf_keras()
    model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(5, name="a")])
    stage = Prune(final_sparsity=0.75, schedule=schedule)
    before = model.get_weights()[0]
    kernel = stage.untrained_result(stage.apply(model, steps=100)).get_layer("a").get_weights()[0]
    kept = np.abs(before) >= np.sort(np.abs(before).ravel())[-10]  # a quarter of 40
    np.testing.assert_array_equal(kernel, np.where(kept, before, 0))
    np.testing.assert_array_equal(model.get_weights()[0], before)
