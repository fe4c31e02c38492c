"""What is private in either Keras: one file reads it, and works with the tested versions."""

import ast
import functools
import importlib.metadata
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt.base.keras_compat import tf_keras
from tfopt.graph import keras_internals as internals
from tfopt.graph.types import flatten

ROOT = Path(__file__).parents[2]
TESTED = {"keras": "3.15", "tf_keras": "2.21"}
ONLY_HERE = "tfopt/graph/keras_internals.py"
NAMES = """
    _build_attention _call_spec _compile_config _compute_causal_padding _could_use_gpu_kernel _expects_mask_arg
    _expects_training_arg _flat_arguments _flatten_layers _fn_kwargs _functional _has_explicit_input_shape
    _inbound_nodes _inputs_struct _is_compiled _is_graph_network _keras_history _keras_mask _learning_rate
    _loss_scale _maybe_init _maybe_reset_cell_dropout_mask _nested_inputs _nested_outputs _nodes_by_depth
    _non_trainable_variables _non_trainable_weights _outbound_nodes _outputs_struct _process_inputs _rng_type
    _trainable_variables _trainable_weights _training_state _var_key"""
PRIVATE = frozenset(NAMES.split())
OWN = {"tfopt/bridge/compile.py": {"_learning_rate"}}  # methods of tfopt of the same names


def private_names(source: str, own: set[str]) -> list[tuple[int, str]]:
    """(line, name) of each private name of a Keras, and of each import from the inside of one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (node.attr in PRIVATE - own or _is_inside(node)):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.Constant) and node.value in PRIVATE:
            found.append((node.lineno, node.value))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("keras.src", "tf_keras.src")):
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names if "keras.src" in name.name]
    return found


def _is_inside(node: ast.Attribute) -> bool:
    return node.attr == "src" and isinstance(node.value, ast.Name) and "keras" in node.value.id


def test_only_one_file_names_what_is_private_in_keras():
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "tfopt").rglob("*.py")}
    sources = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    here = {name for _, name in private_names(sources.pop(ONLY_HERE), set())}
    assert here >= PRIVATE, "names that keras_internals no longer reads"
    found = {name: lines for name, text in sources.items() if (lines := private_names(text, OWN.get(name, set())))}
    assert not found, f"use or add a function in {ONLY_HERE}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x = layer._flatten_layers()", "_flatten_layers"),
        ("x = getattr(layer, '_keras_mask', None)", "_keras_mask"),
        ("from keras.src.models import functional", "keras.src.models"),
        ("import tf_keras.src.engine", "tf_keras.src.engine"),
        ("x = tf_keras.src.engine", "src"),
    ],
)
def test_a_private_name_is_found(text, name):
    assert private_names(text, set()) == [(1, name)]
    assert private_names("x = layer.weights, self._mine, 'keras.src.models'", set()) == []


def with_tested_versions(test):
    """Name the tested versions if `test` fails with others."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        try:
            test(*args, **kwargs)
        except Exception as error:
            installed = {name: importlib.metadata.version(name) for name in TESTED}
            raise AssertionError(
                f"keras_internals was tested with {TESTED}; installed are {installed}. "
                "Adapt the function below, or pin the tested versions in pyproject.toml."
            ) from error

    return run


@pytest.fixture(params=[keras, tf_keras()], ids=["keras", "tf_keras"])
def api(request):
    return request.param


def small(api):
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="a"), api.layers.BatchNormalization(name="b")])
    inputs = api.Input((4,), name="given")
    return api.Model({"x": inputs}, [api.layers.Dense(2, name="c")(inner(inputs))])


def names(layers):
    return [layer.name for layer in layers]


@with_tested_versions
def test_layers_and_weights(api):
    model = small(api)
    inner = model.layers[1]
    assert names(internals.flat_layers(inner)) == [inner.name, *names(internals.sublayers(inner))]
    assert {"a", "b", "c"} < set(names(internals.sublayers(model, recursive=True)))
    assert not {"a", "b"} & set(names(internals.sublayers(model)))
    internals.rename(inner, "renamed")
    assert model.layers[1].name == "renamed"
    norm = model.layers[1].get_layer("b")
    assert [tuple(variable.shape) for variable in internals.own_variables(norm)] == [(3,)] * 4
    assert internals.own_variables(inner) == []


@with_tested_versions
def test_calls_and_structure(api):
    model = small(api)
    inputs, outputs = internals.structs(model)
    assert list(inputs) == ["x"] and [tuple(each.shape) for each in flatten(outputs)] == [(None, 2)]
    assert internals.input_name(inputs["x"]) == "given" and internals.is_symbolic(inputs["x"])
    assert not internals.is_symbolic(tf.zeros(3))
    calls = list(internals.nodes(model))
    assert [type(layer).__name__ for layer, *_ in calls] == ["Sequential", "Dense"]
    assert internals.sequential_network(model.layers[1]) is not None
    assert internals.sequential_network(api.Sequential([api.layers.Dense(1)])) is None
    sequential, functional = internals.model_classes(model)
    assert isinstance(model, functional) and sequential is api.Sequential and isinstance(model.layers[1], sequential)
    assert internals.is_keras3_layer(model.layers[-1]) == (api is keras)
    assert internals.is_part_of_keras3(model.layers[-1]) == (api is keras)
    arguments, _ = internals.call_names(api.layers.BatchNormalization())
    assert arguments[0] == "inputs" and "training" in arguments


@with_tested_versions
def test_masks(api):
    x = api.Input((3, 2))
    masked = api.layers.Masking()(x)
    assert internals.mask(x) is None and internals.mask(masked) is not None
    assert type(internals.maker(masked)).__name__ == "Masking" and internals.maker(tf.zeros(3)) is None
    values = tf.ones((1, 3))
    internals.set_mask(values, values > 0)
    assert internals.mask(values).numpy().all()


@with_tested_versions
def test_compile_settings(api):
    model = small(api)
    assert not internals.compiled_before(model)
    schedule = api.optimizers.schedules.CosineDecay(0.1, 10)

    def own_loss(labels, outputs):
        return abs(labels - outputs)

    model.compile(api.optimizers.SGD(schedule), own_loss)
    assert internals.compiled_before(model) and internals.compile_settings(model)["loss"] is own_loss
    assert internals.rate_schedule(model.optimizer) is schedule
    assert internals.rate_schedule(api.optimizers.SGD(0.1)) is None
    smooth = api.losses.CategoricalCrossentropy(label_smoothing=0.25)
    assert {**internals.loss_arguments(smooth), **smooth.get_config()}["label_smoothing"] == 0.25


@with_tested_versions
def test_optimizers(api):
    model = small(api)
    kernel, bias = model.layers[-1].weights
    optimizer = api.optimizers.AdamW()
    keys = [internals.variable_key(optimizer, each) for each in (kernel, bias)]
    assert keys[0] != keys[1] and keys[0] == internals.variable_key(optimizer, kernel)
    optimizer.exclude_from_weight_decay(var_list=[bias])
    excluded = internals.decay_exclusions(optimizer)
    assert any(keys[1] in value for value in excluded.values() if value)
    assert not any(keys[0] in value for value in excluded.values() if value)


@with_tested_versions
def test_first_calls_of_subclassed_models(api):
    class Own(api.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = api.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.ones((3, 4), "float32"))
    (given,), kwargs = internals.first_call(model)
    assert tuple(getattr(given, "shape", given))[1:] == (4,) and not kwargs
    inputs = api.Input((4,))
    network = internals.traced(model, inputs, [inputs], {})
    assert network.count_params() == 10 and names(network.layers)[-1] == model.dense.name
    assert [type(layer).__name__ for layer, *_ in internals.nodes(network)] == ["Dense"]


@with_tested_versions
def test_parts_of_tf_keras():
    layers = tf_keras().layers
    lstm, plain = layers.LSTM(3, stateful=False), layers.Dense(2)
    assert internals.matches_gpu_kernel(lstm) and not internals.matches_gpu_kernel(layers.LSTM(3, activation="relu"))
    assert internals.takes_training(lstm) and not internals.takes_training(plain)
    lstm(tf.zeros((2, 5, 4)))
    given, states, constants = internals.loop_inputs(lstm, tf.ones((2, 5, 4)), None, None)
    assert given.shape == (2, 5, 4) and [state.shape for state in states] == [(2, 3)] * 2 and not constants
    causal = layers.SeparableConv1D(2, 3, padding="causal", dilation_rate=2)
    assert internals.causal_padding(causal, tf.zeros((1, 8, 2))) == [[0, 0], [4, 0], [0, 0]]
    wrapper = layers.TimeDistributed(plain)
    assert internals.call_names(wrapper)[0]
    internals.take_masks_as(wrapper, plain)
    assert not wrapper._expects_mask_arg
    internals.take_masks_as(wrapper, lstm)
    assert wrapper._expects_mask_arg
    called = tf_keras().Sequential([plain])
    called(tf.zeros((7, 3)))
    given_input = tf_keras().Sequential([layers.Input((3,)), layers.Dense(2)])
    assert internals.batch_is_free(called) and not internals.batch_is_free(given_input)
    assert {"Dense", "LSTM", "Conv2D"} <= internals.layer_table()
    assert internals.loading_safely()
    with internals.trusting_scope(keras3=False):
        assert not internals.loading_safely()


@with_tested_versions
def test_parts_of_keras_3():
    inputs = keras.Input((4,))
    total = keras.ops.add(inputs, 1.0)
    (call,) = [layer for layer, *_ in internals.nodes(keras.Model(inputs, total))]
    copy = internals.detached(call, "copy")
    assert type(copy) is type(call) and copy.name == "copy" and call.name != "copy"
    assert keras.Model(inputs, total).predict(np.ones((1, 4)), verbose=0).tolist() == [[2.0] * 4]
    assert internals.same_values([total, 1], [keras.ops.add(inputs, 1.0), 1])
    assert not internals.same_values([total], [keras.ops.add(inputs, 2.0)])
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    dense.trainable = False
    assert internals.made_trainable(dense, dense.kernel)
    assert tuple(internals.global_seed().shape) == (2,)


@with_tested_versions
def test_losses_of_outputs():
    layers = tf_keras().layers
    layer = layers.Dense(2, activity_regularizer="l2", kernel_regularizer=tf_keras().regularizers.L2(0.5))
    layer(tf_keras().Input((3,)))
    assert len(layer.losses) == 2
    internals.forget_losses(layer)
    (kept,) = layer.losses
    assert float(kept) == pytest.approx(0.5 * (layer.kernel.numpy() ** 2).sum(), rel=1e-5)
    other = layers.ReLU()
    internals.regularize_output_as(other, layer)
    other(np.full((2, 3), 2, "float32"))
    assert [float(loss) for loss in other.losses] == [pytest.approx(0.01 * 3 * 4)]


@with_tested_versions
def test_parts_of_callbacks_and_metrics():
    assert internals.is_default(keras.callbacks.Callback().on_epoch_end)
    assert not internals.is_default(keras.callbacks.EarlyStopping().on_epoch_end)
    assert internals.is_default(tf_keras().callbacks.Callback().on_train_batch_end)
    assert internals.metric_direction("accuracy") == "max" and internals.metric_direction("MeanSquaredError") == "min"
    assert internals.metric_direction("nothing like it") == "" == internals.metric_direction("MeanMetricWrapper")
    assert internals.metric_direction(keras.metrics.PearsonCorrelation()) == "max"
    assert internals.monitors_by_itself(keras.callbacks.EarlyStopping("val_accuracy"))
    assert not internals.monitors_by_itself(keras.callbacks.EarlyStopping("val_accuracy", mode="max"))
    assert not internals.monitors_by_itself(keras.callbacks.CSVLogger("log.csv"))
    assert internals.profiled_batches(keras.callbacks.TensorBoard("board")) == (0, 0)
    assert internals.profiled_batches(keras.callbacks.TensorBoard("board", profile_batch=(0, 3))) == (0, 3)


@with_tested_versions
def test_parts_of_a_lambda():
    def double(values):
        return 2 * values

    layer = keras.layers.Lambda(double, output_shape=(3,))
    assert internals.parts_of_lambda(layer) == {"function": double, "mask": None, "output_shape": (3,)}


@with_tested_versions
def test_attention_takes_its_softmax_from_a_subclass():
    class Even(internals.attention_class()):
        def make_softmax(self, axis, dtype):
            assert (tuple(axis), dtype.name) == ((3,), "float32")
            return lambda scores, mask=None: tf.ones_like(scores) / scores.shape[-1]

    x = tf.random.normal((2, 4, 3))
    _, scores = Even(2, 3)(x, x, return_attention_scores=True)
    np.testing.assert_array_equal(scores, np.full((2, 2, 4, 4), 0.25))


@pytest.fixture
def noisy():
    """A model of tf_keras with two layers that draw, the second one with its own seed."""
    package = tf_keras()
    layers = [package.layers.Dropout(0.5), package.layers.GaussianNoise(1.0, seed=7), package.layers.Dense(1)]
    return package.Sequential([package.Input((8,)), *layers])


def test_random_layers_draw_from_states(noisy):
    run = tf.function(lambda x: noisy(x, training=True))
    states = internals.random_states(noisy)
    assert len(states) == 2
    assert [state is again for state, again in zip(states, internals.random_states(noisy), strict=True)] == [True, True]
    x = tf.ones((4, 8))
    run(x)
    values = [state.numpy() for state in states]
    first, second = run(x).numpy(), run(x).numpy()
    assert not np.array_equal(first, second)
    for state, value in zip(states, values, strict=True):
        state.assign(value)
    np.testing.assert_array_equal(run(x).numpy(), first)


def test_random_numbers_have_a_state_once_it_is_asked_for():
    class Drawing(tf_keras().layers.Layer):
        def __init__(self):
            super().__init__()
            self.numbers = internals.random_numbers()

        def call(self, inputs):
            return inputs + self.numbers.random_uniform(tf.shape(inputs))

    model = tf_keras().Sequential([tf_keras().Input((2,)), Drawing()])
    assert not np.array_equal(model(tf.zeros((3, 2))), model(tf.zeros((3, 2))))
    (state,) = internals.random_states(model)
    before = state.numpy()
    first = model(tf.zeros((3, 2))).numpy()
    state.assign(before)
    np.testing.assert_array_equal(model(tf.zeros((3, 2))).numpy(), first)


@pytest.mark.parametrize(("epoch", "step", "seen"), [(0, 0, [0, 1, 2, 0, 1, 2]), (0, 2, [2, 0, 1, 2]), (1, 1, [1, 2])])
def test_a_fit_begins_within_an_epoch(noisy, epoch, step, seen):
    noisy.compile("sgd", "mse")
    batches = tf.data.Dataset.range(3).map(lambda _: (tf.ones((4, 8)), tf.ones((4, 1))))
    found = []
    watch = tf_keras().callbacks.LambdaCallback(on_batch_begin=lambda batch, logs: found.append(batch))
    with internals.beginning_at(noisy, epoch, step):
        noisy.fit(batches, epochs=2, callbacks=[watch], verbose=0)
    assert found == seen
    found.clear()
    noisy.fit(batches, epochs=1, callbacks=[watch], verbose=0)
    assert found == [0, 1, 2]


def test_the_scale_of_a_loss():
    plain = tf_keras().optimizers.Adam()
    scaled = tf_keras().mixed_precision.LossScaleOptimizer(plain, initial_scale=8, dynamic_growth_steps=2)
    assert [float(variable) for variable in internals.loss_scale(scaled)] == [8, 0]
    assert internals.loss_scale(plain) == []


def test_variables_that_an_optimizer_hides():
    kept, optimizer = tf.Variable([1.0]), tf_keras().optimizers.Nadam(beta_1=0.9)
    optimizer.build([kept])
    (product,) = (each for each in internals.untracked_variables(optimizer) if "learning_rate" not in each.name)
    optimizer.apply_gradients([(tf.ones(1), kept)])
    # Dozat 2016: the momentum of step t is beta_1 (1 - 0.96^t / 2), in Keras; the product is over the steps.
    np.testing.assert_allclose(product, 0.9 * (1 - 0.5 * 0.96), rtol=1e-6)


def test_every_function_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    public = [name for name, each in vars(internals).items() if inspect.isroutine(each) and not name.startswith("_")]
    own = [name for name in public if getattr(internals, name).__module__ == internals.__name__]
    assert len(own) > 30
    assert [name for name in own if f"internals.{name}(" not in text] == []
