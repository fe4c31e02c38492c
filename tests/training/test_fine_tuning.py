"""Freezing, layer-wise rates and schedules, in the user's own fit and as stages; steps are computed in float64."""

import dataclasses
import math

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base.keras_compat import is_keras3_model, tf_keras
from tfopt.base.progress import Progress
from tfopt.errors import ModelError, RecipeError
from tfopt.graph import keras_internals
from tfopt.stages import Cluster, FineTune, Prune
from tfopt.stages.fine_tune import fine_tuning
from tfopt.training.fit import make_optimizer, train
from tfopt.training.freezing import frozen, unfrozen
from tfopt.training.rates import for_target_scale, layer_rates
from tfopt.training.schedules import cosine_schedule, one_cycle_schedule

APIS = [keras, tf_keras()]
BOTH = pytest.mark.parametrize("api", APIS, ids=["keras", "tf_keras"])
# The layers of `small_model`, with the submodel "inner" opened, in calling order.
WEIGHTED = ["stem", "stem_norm", "inline", "apart", "conv", "conv_norm", "depth", "depth_norm", "head"]
NORMS = {"stem_norm", "conv_norm", "depth_norm"}


@pytest.fixture(scope="module", params=APIS, ids=["keras", "tf_keras"])
def model(request, small_model):
    return small_model(request.param)


def layers_of(model):
    """Layers with weights by name; the names are unique in `small_model`."""
    return {layer.name: layer for _, layer, _ in bridge.flat_layers(model) if layer.weights}


def trained(model):
    return {name for name, layer in layers_of(model).items() if layer.trainable_weights}


def weights_of(model):
    return {name: [np.asarray(w) for w in layer.get_weights()] for name, layer in layers_of(model).items()}


def moved(before, after):
    return {name for name in before if any((a != b).any() for a, b in zip(before[name], after[name], strict=True))}


# Freezing -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("until", "first"),
    [
        (None, "head"),
        ("stem", "stem_norm"),
        ("stem_relu", "inline"),
        ("conv", "conv_norm"),
        ("inner/conv_norm", "depth"),
        ("inner", "head"),
        (0, "stem"),
        (3, "apart"),
        (8, "head"),
    ],
)
def test_frozen_up_to_a_layer_and_trained_after_it(model, until, first):
    upper = set(WEIGHTED[WEIGHTED.index(first) :])
    assert trained(frozen(model, until)) == upper
    assert trained(frozen(model, until, batchnorm="frozen")) == upper - NORMS


@pytest.mark.slow
@pytest.mark.parametrize(("since", "first"), [(None, "stem"), ("apart", "apart"), ("inner", "conv"), ("drop", "head")])
def test_unfrozen_from_a_layer_on(model, since, first):
    upper = set(WEIGHTED[WEIGHTED.index(first) :])
    assert trained(unfrozen(model, since, batchnorm="frozen")) == upper - NORMS
    assert trained(unfrozen(frozen(model), since)) == upper


def test_a_copy_has_the_same_weights_and_compile_settings_and_shares_nothing(model, samples):
    api = keras if is_keras3_model(model) else tf_keras()
    model.compile(api.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    before, optimizer = weights_of(model), model.optimizer
    body = frozen(model)
    assert isinstance(body, api.Model)
    assert [layer.name for layer in body.layers] == [layer.name for layer in model.layers]
    np.testing.assert_allclose(body.predict(samples[0], verbose=0), model.predict(samples[0], verbose=0), atol=1e-6)
    history = body.fit(*samples, epochs=2, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    assert float(np.asarray(body.optimizer.learning_rate)) == pytest.approx(0.05)
    assert moved(before, weights_of(body)) == {"head"}
    assert moved(before, weights_of(model)) == set()
    assert trained(model) == set(WEIGHTED)
    assert model.optimizer is optimizer


@pytest.mark.slow
def test_frozen_batchnorms_keep_statistics_and_run_in_inference_mode(model, samples):
    x, y = samples
    moves = {}
    for batchnorm in ("frozen", "train"):
        copy = unfrozen(model, batchnorm=batchnorm)
        copy.compile("sgd", "sparse_categorical_crossentropy")
        before = weights_of(copy)
        copy.fit(x[:64], y[:64], verbose=0)
        moves[batchnorm] = moved(before, weights_of(copy))
    assert moves == {"frozen": set(WEIGHTED) - NORMS, "train": set(WEIGHTED)}
    body, norm = frozen(model), weights_of(model)["stem_norm"]
    stem = layers_of(body)["stem"](x)
    gamma, beta, mean, variance = (weight.astype(np.float64) for weight in norm)
    expected = gamma * (np.asarray(stem, np.float64) - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(np.asarray(layers_of(body)["stem_norm"](stem, training=True)), expected, atol=1e-4)


@BOTH
def test_a_batchnorm_that_has_never_seen_data_is_trained(api):
    layers = [api.layers.Dense(3, name="body"), api.layers.BatchNormalization(name="old"),
              api.layers.BatchNormalization(name="new"), api.layers.Dense(2, name="head")]  # fmt: skip
    model = api.Sequential([api.Input((4,)), *layers])
    for _ in range(3):
        layers[1](np.random.default_rng(0).normal(2, 3, size=(64, 3)).astype("float32"), training=True)
    assert trained(unfrozen(model, batchnorm="frozen")) == {"body", "new", "head"}
    assert trained(frozen(model, "body", batchnorm="frozen")) == {"new", "head"}


@BOTH
def test_batchnorms_inside_other_layers_are_held_too(api):
    inner = api.layers.BatchNormalization(name="inner")
    layer = api.layers.TimeDistributed(inner, name="each")
    model = api.Sequential([api.Input((3, 4)), layer, api.layers.Flatten(), api.layers.Dense(2, name="head")])
    inner.moving_mean.assign(np.ones(4))
    assert trained(unfrozen(model, batchnorm="frozen")) == {"head"}
    assert trained(unfrozen(model)) == {"each", "head"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: frozen(m, "heat"), r"Model 'small' has no layer 'heat' \(nearest: head"),
        (lambda m: frozen(m, "inner/conf"), r"no layer 'inner/conf' \(nearest: inner/conv"),
        (lambda m: unfrozen(m, "iner"), r"no layer 'iner' \(nearest: inner"),
        (lambda m: frozen(m, 9), r"'small' has 9 layers with weights; expected from 0 to 8 .* got 9"),
        (lambda m: frozen(m, -1), r"got -1"),
        (lambda m: frozen(m, "head"), r"Nothing of 'small' would be left to train"),
        (lambda m: frozen(m, batchnorm="off"), r"\"frozen\" or \"train\"; got 'off'"),
    ],
)
def test_what_cannot_be_frozen(small_model, change, message):
    with pytest.raises(ModelError, match=message):
        change(small_model(keras))


def test_a_name_in_two_submodels_needs_a_path():
    def body(name):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="dense")], name=name)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(body("b")(body("a")(inputs))), name="twice")
    with pytest.raises(ModelError, match=r"'dense' matches 2 layers in 'twice'; give a path: a/dense, b/dense"):
        frozen(model, "dense")
    copy = frozen(model, "a/dense")
    assert [layer.trainable for _, layer, _ in bridge.flat_layers(copy)] == [False, True, True]


def test_a_model_without_weights():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Flatten()], name="empty")
    with pytest.raises(ModelError, match="'empty' has no layer with weights"):
        frozen(model)


# Layer-wise rates ---------------------------------------------------------------------------------

KERNELS = [np.array([[1.0, -2.0]]), np.array([[0.5], [3.0]])]  # of "a" and "b": 1 -> 2 -> 1, no biases
BATCH = np.array([[1.0], [2.0]]), np.array([[3.0], [-1.0]])


def two_layers(api):
    layers = [api.layers.Dense(2, use_bias=False, name="a"), api.layers.Dense(1, use_bias=False, name="b")]
    model = api.Sequential([api.Input((1,)), *layers], name="two")
    model.set_weights([kernel.astype("float32") for kernel in KERNELS])
    return model


def gradients(kernels):
    """The gradients of the mean squared error of x @ a @ b."""
    x, y = BATCH
    error = 2 * (x @ kernels[0] @ kernels[1] - y) / len(x)
    return [x.T @ error @ kernels[1].T, (x @ kernels[0]).T @ error]


def sgd(rates, steps, momentum=0.0):
    kernels, velocities = [k.copy() for k in KERNELS], [0.0, 0.0]
    for step in range(steps):
        for i, gradient in enumerate(gradients(kernels)):
            velocities[i] = momentum * velocities[i] - rates(step)[i] * gradient
            kernels[i] += velocities[i]
    return kernels


def adam(rates, steps, decay=0.0):
    """Adam (Kingma & Ba 2015) with epsilon as Keras adds it, and decoupled weight decay (Loshchilov & Hutter 2019)."""
    kernels, first, second = [k.copy() for k in KERNELS], [0.0, 0.0], [0.0, 0.0]
    for step in range(steps):
        for i, gradient in enumerate(gradients(kernels)):
            rate = rates(step)[i]
            kernels[i] -= rate * decay * kernels[i]
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            corrected = rate * math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            kernels[i] -= corrected * first[i] / (np.sqrt(second[i]) + 1e-7)
    return kernels


def cosine(step):
    return [0.02 * 0.25 * (1 + math.cos(math.pi * step / 8)) / 2, 0.02 * (1 + math.cos(math.pi * step / 8)) / 2]


STEPS = {
    "SGD": (lambda api, m: api.optimizers.SGD(0.02), lambda: sgd(lambda s: [0.005, 0.02], 5)),
    "a name": (lambda api, m: "sgd", lambda: sgd(lambda s: [0.0025, 0.01], 5)),
    "momentum": (lambda api, m: api.optimizers.SGD(0.02, momentum=0.8), lambda: sgd(lambda s: [0.005, 0.02], 5, 0.8)),
    "schedule": (lambda api, m: api.optimizers.SGD(cosine_schedule(m, 0.02, 8)), lambda: sgd(cosine, 5)),
    "Adam": (lambda api, m: api.optimizers.Adam(0.02), lambda: adam(lambda s: [0.005, 0.02], 5)),
    "AdamW": (
        lambda api, m: api.optimizers.AdamW(0.02, weight_decay=0.3),
        lambda: adam(lambda s: [0.005, 0.02], 5, 0.3),
    ),
    "Adam, schedule": (lambda api, m: api.optimizers.Adam(cosine_schedule(m, 0.02, 8)), lambda: adam(cosine, 5)),
}


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", STEPS)
def test_each_layer_steps_at_its_own_rate(api, name):
    """ "a" is at distance 1 from "b", so it learns at a quarter of the rate."""
    make, expected = STEPS[name]
    model = two_layers(api)
    model.compile(layer_rates(make(api, model), model, decay=0.25), "mse", jit_compile=False)
    model.fit(*(part.astype("float32") for part in BATCH), epochs=5, batch_size=2, verbose=0)
    for weights, kernel in zip(model.get_weights(), expected(), strict=True):
        np.testing.assert_allclose(weights, kernel, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mean, deviation", [(70.0, 40.0), (0.0, 1e-4)])
@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop", "Lion"])
def test_the_rate_of_the_last_layer_trains_as_on_normalized_targets(optimizer, mean, deviation):
    package, rng = tf_keras(), np.random.default_rng(3)
    x, normalized = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")
    start = [rng.normal(size=shape) for shape in ((3, 4), (4,), (4, 1), (1,))]
    trained = []
    for last, labels in ((1.0, normalized), (deviation, mean + deviation * normalized)):
        model = package.Sequential([package.Input((3,)), package.layers.Dense(4, "tanh"), package.layers.Dense(1)])
        offset = 0 if last == 1 else mean
        model.set_weights([*start[:2], start[2] * last, start[3] * last + offset])
        made = getattr(package.optimizers, optimizer)(0.01)
        model.compile(for_target_scale(made, model, last), "mse")
        model.fit(x, labels, epochs=6, batch_size=4, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    small, large = trained
    assert np.abs(small[2] - start[2]).max() > 0.03
    for i, (scale, offset) in enumerate([(1, 0), (1, 0), (deviation, 0), (deviation, mean)]):
        np.testing.assert_allclose(large[i], small[i] * scale + offset, rtol=1e-3, atol=1e-3 * scale)


def test_target_scale_leaves_what_it_does_not_fit():
    package = tf_keras()
    squashed = package.Sequential([package.Input((3,)), package.layers.Dense(1, "sigmoid")])
    relu6 = package.Sequential([package.Input((3,)), package.layers.Dense(1), package.layers.ReLU(6.0)])
    plain = package.Sequential([package.Input((3,)), package.layers.Dense(1)])
    adam, sgd = package.optimizers.Adam(), package.optimizers.SGD()
    assert for_target_scale(adam, squashed, 9.0) is adam
    assert for_target_scale(adam, relu6, 9.0) is adam
    assert for_target_scale(sgd, plain, 9.0) is sgd
    assert for_target_scale(adam, plain, None) is adam
    assert for_target_scale(adam, plain, 9.0) is not adam


def test_the_rate_of_each_output_is_of_its_targets():
    """The values are -2 z + 1 of the first layer, z of the second, and classes of the third."""
    package = tf_keras()
    layers, inputs = package.layers, package.Input((3,))
    body = layers.Dense(4, "relu", name="body")(inputs)
    first = layers.Rescaling(-2.0, 1.0)(layers.Dense(1, "relu", name="first")(body))
    others = [layers.Dense(2, name="second")(body), layers.Dense(2, "softmax", name="third")(body)]
    model = package.Model(inputs, [first, *others])
    rated = for_target_scale(package.optimizers.Adam(1.0, epsilon=1e-3), model, 50.0, 0.25, None)
    model.compile(rated, "mse")
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.train_on_batch(np.ones((2, 3)), [np.full((2, 1), -1e3), np.full((2, 2), 1e3), np.full((2, 2), 0.5)])
    for name, step in {"second": 0.25, "third": 1.0}.items():  # the first step of Adam has the size of the rate
        moved = np.abs(model.get_layer(name).get_weights()[1] - before[name][1])
        np.testing.assert_allclose(moved[moved > 0], step, rtol=1e-2)
    key = keras_internals.variable_key
    factors = {name: rated.factors[key(rated, model.get_layer(name).kernel)] for name in ("body", "first", "second")}
    assert factors == {"body": 1, "first": 25, "second": 0.25}
    assert rated.epsilon == pytest.approx(1e-3 / 50)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl", "Lion", "AdamW"])
def test_every_optimizer_goes_as_two_of_it_with_two_rates(api, name):
    """The update of a layer does not depend on other layers, so each is compared with a run at its own rate."""
    arrays = [part.astype("float32") for part in BATCH]

    def first_step(optimizer, model):
        before = model.get_weights()
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(*arrays, batch_size=2, verbose=0)
        return [after - old for after, old in zip(model.get_weights(), before, strict=True)]

    kind, model = getattr(api.optimizers, name), two_layers(api)
    rated = first_step(layer_rates(kind(0.02), model, decay=0.25), model)
    slow, fast = first_step(kind(0.005), two_layers(api)), first_step(kind(0.02), two_layers(api))
    np.testing.assert_allclose(rated[0], slow[0], rtol=1e-4)
    np.testing.assert_allclose(rated[1], fast[1], rtol=1e-4)
    assert not np.allclose(rated[0], fast[0], rtol=1e-2)


@pytest.mark.slow
@BOTH
def test_distance_is_the_longest_way_and_frozen_layers_count(api):
    """x -> stem -> norm -> (left -> [twice] -> , right) -> add -> head: the stem is 3 kernels from the output."""
    layers = api.layers
    inputs = api.Input((4,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(4, use_bias=False, name="stem")(inputs))
    deep = layers.Dense(4, use_bias=False, name="deep")(layers.Dense(4, use_bias=False, name="left")(x))
    side = layers.Dense(4, use_bias=False, name="right")(x)
    outputs = layers.Dense(1, use_bias=False, name="head")(layers.Add()([deep, side]))
    model = api.Model(inputs, outputs)
    model.get_layer("deep").trainable = False
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")
    start, steps = model.get_weights(), {}
    for decay in (1.0, 0.5):
        model.set_weights(start)
        before = weights_of(model)
        model.compile(layer_rates("sgd", model, decay=decay), "mse", jit_compile=False)
        model.fit(x, y, batch_size=8, verbose=0)
        steps[decay] = {name: new[0] - before[name][0] for name, new in weights_of(model).items()}
    ratios = {
        name: np.vdot(steps[0.5][name], step) / np.vdot(step, step) for name, step in steps[1.0].items() if step.any()
    }
    expected = {"head": 1, "right": 1 / 2, "left": 1 / 4, "norm": 1 / 8, "stem": 1 / 8}
    assert ratios == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}
    np.testing.assert_array_equal(steps[0.5]["deep"], 0)


@BOTH
def test_the_given_optimizer_is_left_alone_and_its_settings_go_along(api):
    model = two_layers(api)
    given = api.optimizers.AdamW(0.02, weight_decay=0.3, global_clipnorm=1e-8, use_ema=True)
    given.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
    rated = layer_rates(given, model, decay=0.25)
    assert rated is not given
    assert rated.get_config() == given.get_config()
    assert type(given) is api.optimizers.AdamW
    model.compile(rated, "mse", jit_compile=False)
    before = model.get_weights()
    api.Model.train_on_batch(model, *(part.astype("float32") for part in BATCH))
    after = model.get_weights()
    np.testing.assert_allclose(after[1] - before[1], -0.02 * 0.3 * before[1], rtol=1e-1)  # the gradient is clipped away
    assert abs(after[0] - before[0]).max() < 0.02 * 0.3 * abs(before[0]).min() / 4
    rated.learning_rate = 0.5
    assert float(np.asarray(rated.learning_rate)) == 0.5


@BOTH
def test_loss_scaling_goes_around(api):
    scaling = api.optimizers.LossScaleOptimizer if api is keras else api.mixed_precision.LossScaleOptimizer
    model = two_layers(api)
    rated = layer_rates(scaling(api.optimizers.SGD(0.02)), model, decay=0.25)
    assert isinstance(rated, scaling)
    model.compile(rated, "mse", jit_compile=False)
    model.fit(*(part.astype("float32") for part in BATCH), epochs=5, batch_size=2, verbose=0)
    for weights, kernel in zip(model.get_weights(), sgd(lambda s: [0.005, 0.02], 5), strict=True):
        np.testing.assert_allclose(weights, kernel, rtol=2e-5, atol=2e-6)


@BOTH
def test_a_saved_model_holds_the_plain_optimizer_with_its_state_and_crosses_the_bridge(api, tmp_path):
    model = two_layers(api)
    optimizer = api.optimizers.Adam(one_cycle_schedule(model, 0.02, 20))
    model.compile(layer_rates(optimizer, model, decay=0.25), "mse", jit_compile=False)
    model.fit(*(part.astype("float32") for part in BATCH), epochs=3, batch_size=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = api.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is api.optimizers.Adam
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    ours, theirs = ([np.asarray(v) for v in each.optimizer.variables] for each in (model, loaded))
    assert len(ours) > 4
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    crossed = bridge.to_keras(bridge.to_tf_keras(model), like=model)
    assert type(crossed.optimizer) is api.optimizers.Adam
    again = layer_rates(model.optimizer, model, decay=0.5)
    assert type(again).__mro__[1] is api.optimizers.Adam  # not twice


@BOTH
def test_unsuitable_optimizers_models_and_decays(api):
    model = two_layers(api)
    other = APIS[1] if api is keras else keras
    for decay in (0.0, 1.5, -1.0):
        with pytest.raises(RecipeError, match="above 0 and at most 1"):
            layer_rates("sgd", model, decay=decay)
    with pytest.raises(RecipeError, match="Unknown optimizer 'sdg'"):
        layer_rates("sdg", model, decay=0.5)
    with pytest.raises(RecipeError, match=rf"an optimizer of {api.__name__}, like 'two'; got .*SGD"):
        layer_rates(other.optimizers.SGD(0.1), model, decay=0.5)
    stranger = two_layers(api)
    stranger.compile(layer_rates("sgd", model, decay=0.5), "mse", jit_compile=False)
    with pytest.raises(RecipeError, match="layer rates of 'two', but trains variables of another model"):
        stranger.fit(*(part.astype("float32") for part in BATCH), verbose=0)


# Schedules ----------------------------------------------------------------------------------------


def on_cosine(step, low, high, start, end):
    share = (step - start) / (end - start)
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


FORMULAS = {
    ("cosine", None): lambda s: on_cosine(s, 0, 0.3, 0, 40),
    ("cosine", 0.25): lambda s: 0.03 + 0.27 * s / 10 if s < 10 else on_cosine(s, 0, 0.3, 10, 40),
    ("constant", None): lambda s: 0.3,
    ("constant", 0.1): lambda s: 0.075 + 0.225 * s / 4 if s < 4 else 0.3,
    ("one_cycle", None): lambda s: 0.012 + 0.288 * s / 12 if s < 12 else on_cosine(s, 3e-6, 0.3, 12, 40),
    ("one_cycle", 0.5): lambda s: 0.012 + 0.288 * s / 20 if s < 20 else on_cosine(s, 3e-6, 0.3, 20, 40),
}


@pytest.mark.parametrize(("schedule", "warm_up"), FORMULAS)
def test_schedules_of_a_recipe(schedule, warm_up):
    """40 steps at 0.3: each step's rate follows from how far plain gradient descent on f(w) = w moves."""
    import tensorflow as tf

    settings = tfopt.Training(optimizer="sgd", schedule=schedule, warm_up=warm_up)
    optimizer, weight, path = make_optimizer(settings, 0.3, 40), tf.Variable(0.0), [0.0]
    optimizer.build([weight])
    for _ in range(42):
        optimizer.apply_gradients([(tf.constant(1.0), weight)])
        path.append(float(weight))
    formula = FORMULAS[schedule, warm_up]
    np.testing.assert_allclose(-np.diff(path), [formula(min(step, 40)) for step in range(42)], atol=2e-6)


@BOTH
def test_schedules_for_the_users_own_fit(api):
    model = two_layers(api)
    for made, key in (
        (cosine_schedule(model, 0.3, 40), ("cosine", None)),
        (cosine_schedule(model, 0.3, 40, warm_up=0.25), ("cosine", 0.25)),
        (one_cycle_schedule(model, 0.3, 40), ("one_cycle", None)),
        (one_cycle_schedule(model, 0.3, 40, warm_up=0.5), ("one_cycle", 0.5)),
    ):
        assert isinstance(made, api.optimizers.schedules.LearningRateSchedule)
        values = [float(np.asarray(made(step))) for step in range(41)]
        np.testing.assert_allclose(values, [FORMULAS[key](step) for step in range(41)], atol=1e-7)


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "one_cycle"])
def test_schedules_of_hardly_any_steps(schedule, steps):
    optimizer = make_optimizer(tfopt.Training(schedule=schedule, warm_up=0.9), 0.3, steps)
    assert 0 < float(optimizer.learning_rate) < 0.31


@pytest.mark.parametrize(
    ("rate", "steps", "warm_up"), [(0.0, 10, 0.1), (0.1, -1, 0.1), (0.1, 10, 1.0), (0.1, 10, -0.1)]
)
def test_schedules_of_values_out_of_range(rate, steps, warm_up):
    with pytest.raises(RecipeError, match=rf"got rate {rate}, steps {steps} and warm_up {warm_up}"):
        one_cycle_schedule(two_layers(keras), rate, steps, warm_up=warm_up)
    for settings in ({"warm_up": 1.0}, {"warm_up": -0.1}, {"schedule": "triangle"}):
        with pytest.raises(RecipeError, match=rf"Training\.{next(iter(settings))}"):
            tfopt.Training(**settings)


# The stage ----------------------------------------------------------------------------------------


def fitted(stage, model, samples, keep=()):
    """The result of `apply` after an epoch of plain gradient descent."""
    wrapped = stage.apply(model, steps=8, keep=keep)
    wrapped.compile(tf_keras().optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    wrapped.fit(*samples, callbacks=stage.callbacks(), verbose=0)
    return wrapped


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "first", "held"),
    [
        ({"unfreeze_from": "apart"}, "apart", set()),
        ({"unfreeze_from": "inner/depth"}, "depth", set()),
        ({"unfreeze_from": "stem_relu"}, "inline", set()),
        ({"unfreeze_from": "head"}, "head", set()),
        ({"unfreeze_from": "conv", "batchnorm": "frozen"}, "conv", NORMS),
        ({"batchnorm": "frozen"}, "stem", NORMS),
        ({"batchnorm": "frozen", "layers": (("conv_norm", True),)}, "stem", NORMS - {"conv_norm"}),
        ({"unfreeze_from": "conv", "layers": (("stem", True), ("depth*", False))}, "conv", {"depth", "depth_norm"}),
    ],
)
def test_a_stage_moves_what_it_says_and_restores_the_flags(model, samples, settings, first, held):
    stage = FineTune(**settings)
    expected = set(WEIGHTED[WEIGHTED.index(first) :]) - held
    expected |= {pattern for pattern, on in stage.layers if on}
    before = weights_of(model)
    stripped = stage.strip(fitted(stage, model, samples))
    assert moved(before, weights_of(stripped)) == expected
    assert trained(stripped) == set(WEIGHTED)
    assert trained(model) == set(WEIGHTED)
    said = stage.decisions(bridge.to_tf_keras(model))
    assert {name for name, decision in said.items() if decision.does == "trained"} == expected
    assert {name for name, decision in said.items() if decision.why == "frozen"} == set(WEIGHTED) - expected
    assert stage.notes(bridge.to_tf_keras(model)) == [f"trains {len(expected)} of 9 layers with weights"]


def test_head_is_the_last_layer_with_weights_whatever_its_name():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="z"),
                              keras.layers.Softmax()])  # fmt: skip
    applied = FineTune(unfreeze_from="head").apply(model, steps=1)
    assert trained(applied) == {"z"}


def test_without_unfreeze_from_the_models_own_flags_hold_and_with_it_they_do_not(small_model):
    body = frozen(small_model(keras), "inner")
    assert trained(FineTune().apply(body, steps=1)) == {"head"}
    assert trained(FineTune(unfreeze_from="apart").apply(body, steps=1)) == set(WEIGHTED[3:])
    stripped = FineTune(unfreeze_from="apart").strip(FineTune(unfreeze_from="apart").apply(body, steps=1))
    assert trained(stripped) == {"head"}


@pytest.mark.slow
def test_zeros_stay_and_frozen_layers_too(model, samples):
    sparse = Prune(final_sparsity=0.5, schedule="one-shot").strip(
        Prune(final_sparsity=0.5, schedule="one-shot").apply(model, steps=1)
    )
    before = weights_of(sparse)
    stage = FineTune(unfreeze_from="conv", batchnorm="frozen", layer_decay=0.5)
    after = weights_of(stage.strip(fitted(stage, sparse, samples, keep={"sparsity"})))
    assert moved(before, after) == {"conv", "depth", "head"}
    for name in ("conv", "head"):
        assert (before[name][0] == 0).mean() == pytest.approx(0.5, abs=0.02)
        np.testing.assert_array_equal(after[name][0][before[name][0] == 0], 0)


def test_batchnorm_inside_a_layer_that_is_pruned_stays_held(samples):
    api = tf_keras()
    inner = api.layers.BatchNormalization(name="inner")
    model = api.Sequential([api.Input((3, 4)), api.layers.TimeDistributed(inner, name="each"), api.layers.Flatten(),
                            api.layers.Dense(2, name="head")])  # fmt: skip
    inner.moving_mean.assign(np.ones(4))
    model.get_layer("head").kernel.assign(np.eye(12, 2))
    applied = FineTune(batchnorm="frozen").apply(model, steps=1, keep={"sparsity"})
    assert sorted(weight.name for weight in applied.trainable_weights) == ["head/bias:0", "head/kernel:0"]


# Distances from the output in `small_model`; a BatchNorm has that of the convolution before it.
DISTANCES = {"stem": 5, "stem_norm": 5, "inline": 4, "apart": 3, "conv": 2, "conv_norm": 2, "depth": 1,
             "depth_norm": 1, "head": 0}  # fmt: skip


def one_step(applied, data, learner=None):
    """Return how far the first weight of each layer moves in one step of plain gradient descent in `train`."""
    before = weights_of(applied)
    train(learner or applied, data.batches("train", 256), data, loss="sparse_categorical_crossentropy",
          training=tfopt.Training(optimizer="sgd", schedule="constant", batch_size=256), epochs=1,
          progress=Progress(quiet=True), label="test", learning_rate=0.05)  # fmt: skip
    return {name: new[0] - before[name][0] for name, new in weights_of(applied).items()}


@pytest.fixture(scope="module")
def data(samples):
    """One batch of training samples."""
    return tfopt.load_data((samples[0][:200], samples[1][:200]))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["alone", "distilled", "compiled by the caller"])
def test_layer_decay_reaches_the_optimizer(small_model, data, way):
    """In a run, in a run with terms on the parameters (which needs no teacher), and for a model that came compiled."""
    source = small_model(keras)
    source.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    steps = {}
    for decay in (1.0, 0.5):
        applied = FineTune(layer_decay=decay, batchnorm="frozen").apply(source, steps=1)
        tf_keras().utils.set_random_seed(0)  # the model has Dropout
        if way == "compiled by the caller":
            before = weights_of(applied)
            x, y = data.train.x(), data.train.y()
            applied.fit(x, y, batch_size=256, verbose=0)
            steps[decay] = {name: new[0] - before[name][0] for name, new in weights_of(applied).items()}
        else:
            held = tfopt.Distillation(losses=(tfopt.losses.L2SP(weight=0.0),))
            learner = tfopt.distill(applied, None, held) if way == "distilled" else None
            steps[decay] = one_step(applied, data, learner)
    for name in set(WEIGHTED) - NORMS:
        np.testing.assert_allclose(steps[0.5][name], 0.5 ** DISTANCES[name] * steps[1.0][name], rtol=1e-2, atol=2e-7)
        assert abs(steps[1.0][name]).max() > 1e-5


def test_what_a_decaying_stage_says(small_model):
    flat_model = bridge.to_tf_keras(small_model(keras))
    stage = FineTune(unfreeze_from="conv", layer_decay=0.5)
    said = {name: decision.does for name, decision in stage.decisions(flat_model).items()}
    assert said["conv"] == said["conv_norm"] == "trained at 0.25 times the rate"
    assert said["head"] == "trained"
    assert stage.notes(flat_model) == [
        "trains 5 of 9 layers with weights",
        "layer learning rates from 0.25 to 1 times that of the last layer",
    ]
    assert FineTune().notes(flat_model) == []
    check = tfopt.check(small_model(keras), tfopt.Recipe(stages=(stage,)), convert=False)
    assert check.ok
    assert {layer.path: layer.stages for layer in check.layers}["inner/depth"] == ("trained at 0.5 times the rate",)
    assert {layer.path: layer.stages for layer in check.layers}["stem"] == ("no: frozen",)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"unfreeze_from": "heat"}, ModelError, r"has no layer 'heat' \(nearest: head"),
        ({"unfreeze_from": "inner/conw"}, ModelError, r"has no layer 'inner/conw'"),
        ({"layers": (("*", False),)}, RecipeError, "nothing to train in 'small'"),
    ],
)
def test_a_stage_that_cannot_be_applied(small_model, settings, error, message):
    with pytest.raises(error, match=message):
        FineTune(**settings).apply(small_model(keras), steps=1)
    found = tfopt.check(small_model(keras), tfopt.Recipe(stages=(FineTune(**settings),)), convert=False)
    assert not found.ok or settings.keys() == {"layers"}


@pytest.mark.parametrize(
    "settings", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"batchnorm": "off"}, {"unfreeze_from": 3}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(RecipeError, match=rf"FineTune\.{next(iter(settings))}"):
        FineTune(**settings)


# The rhythm ---------------------------------------------------------------------------------------


def test_fine_tuning_gives_the_stages_of_the_rhythm():
    below = {"epochs": 4, "layer_decay": 0.9, "batchnorm": "train"}
    assert fine_tuning() == (FineTune(epochs=1, unfreeze_from="head"), FineTune(**below))
    assert fine_tuning(
        ("b3", "b1"), frozen_epochs=2, epochs=3, learning_rate=1e-4, layer_decay=0.5, batchnorm="frozen"
    ) == (
        FineTune(epochs=2, unfreeze_from="head"),
        FineTune(epochs=3, unfreeze_from="b3", learning_rate=1e-4, layer_decay=0.5, batchnorm="frozen"),
        FineTune(epochs=3, unfreeze_from="b1", learning_rate=1e-4, layer_decay=0.5, batchnorm="frozen"),
    )
    with pytest.raises(RecipeError, match=r"sequence of layer names; got 'b3'. Write \('b3',\)"):
        fine_tuning("b3")
    recipe = tfopt.Recipe(stages=fine_tuning(("b3",)), training=tfopt.Training(schedule="one_cycle", warm_up=0.2))
    assert tfopt.Recipe.from_json(recipe.to_json()) == recipe


@pytest.fixture(scope="module")
def run(small_model, samples):
    """A whole run, gradual unfreezing and then clusters, and the inputs and results of each stage."""
    model, seen = small_model(keras), []
    stages = (
        *fine_tuning(("depth", "inline"), epochs=1, learning_rate=0.01, batchnorm="frozen"),
        Cluster(epochs=0, number_of_clusters=4),
    )

    @dataclasses.dataclass
    class Watch:
        strip: object

        def __call__(self, stage, applied):
            stripped = self.strip(stage, applied)
            seen.append((trained(applied), weights_of(stripped), trained(stripped)))
            return stripped

    patch = pytest.MonkeyPatch()
    for kind in (FineTune, Cluster):
        watch = Watch(kind.strip)
        patch.setattr(kind, "holds_after", lambda self, steps: steps)  # keep the last epoch, to see what it changed
        patch.setattr(kind, "strip", lambda self, applied, watch=watch: watch(self, applied))
    recipe = tfopt.Recipe(
        stages=stages,
        training=tfopt.Training(optimizer="sgd", learning_rate=0.05, schedule="one_cycle", batch_size=32),
        export=tfopt.Export(weights="float32", activations="float32"),
        distillation=tfopt.Distillation(losses=(tfopt.losses.L2SP(weight=0.01),)),
        max_drop=None,
    )
    result = tfopt.optimize(model, recipe, tfopt.load_data(samples), quiet=True)
    patch.undo()
    return model, weights_of(model), seen, result


@pytest.mark.slow
def test_a_run_unfreezes_gradually_and_frees_all_again(run):
    model, before, seen, result = run
    body = [{"head"}, {"depth", "head"}, {"inline", "apart", "conv", "depth", "head"}]
    assert [flags for flags, _, _ in seen[:3]] == body
    assert len(seen[3][0]) == 9  # Cluster would train all of them
    for (_, weights, flags), expected in zip(seen, body, strict=False):
        assert moved(before, weights) == expected
        assert flags == set(WEIGHTED)
        before = weights
    assert trained(result.model) == trained(model) == set(WEIGHTED)
    notes = {number: row.notes for number, row in enumerate(result.report.rows)}
    assert notes[1][0] == "trains 1 of 9 layers with weights"
    assert notes[3][1] == "layer learning rates from 0.656 to 1 times that of the last layer"


def test_a_wrong_layer_fails_before_anything_is_trained(small_model, samples, capfd):
    recipe = tfopt.Recipe(stages=fine_tuning(("depth", "inlime"), epochs=50, frozen_epochs=50))
    with pytest.raises(ModelError, match=r"has no layer 'inlime' \(nearest: inline"):
        tfopt.optimize(small_model(keras), recipe, tfopt.load_data(samples))
    assert "epoch" not in capfd.readouterr().err
