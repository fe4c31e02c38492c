"""Attacks on the loader of tf_keras: configs of `.keras` and `.h5` files, written by hand."""

from collections.abc import Callable
from typing import Any

from attacks import Canary, function

FORMS = (".keras", ".h5")
INPUT = {"batch_input_shape": [None, 4], "dtype": "float32", "sparse": False, "ragged": False, "name": "i"}


def layer(form: str, name: str, config: dict[str, Any], module: str = "keras.layers", **more: Any) -> dict[str, Any]:
    made = {"class_name": name, "config": {"name": name.lower(), **config}, **more}
    return made if form == ".h5" else {"module": module, "registered_name": None, **made}


def sequential(form: str, *layers: Any, name: str = "model", shape: Any = (None, 4), **more: Any) -> dict[str, Any]:
    given = layer(form, "InputLayer", {**INPUT, "batch_input_shape": shape})
    return layer(form, "Sequential", {"name": name, "layers": [given, *layers]}, "keras", **more)


def functional(form: str, made: dict[str, Any], node: Any = None, **more: Any) -> dict[str, Any]:
    """A model that calls the layer `made` according to `node`; its input is also its output."""
    layers = [
        {**layer(form, "InputLayer", INPUT), "name": "i", "inbound_nodes": []},
        {**made, "name": made.get("name") or made["config"]["name"], "inbound_nodes": [node or [["i", 0, 0, {}]]]},
    ]
    ends = {"input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]]}
    config = {"name": "model", "trainable": True, "layers": layers, **ends}
    return layer(form, "Functional", config, "keras.src.engine.functional", **more)


def lambda_layer(form: str, what: Any, kind: str = "function", **config: Any) -> dict[str, Any]:
    rest = {"module": "builtins", "output_shape": None, "output_shape_type": "raw", "output_shape_module": None}
    return layer(form, "Lambda", {"function": what, "function_type": kind, **rest, "arguments": {}, **config})


def wrapped(form: str, what: Any, argument: Any = 'tensor ["float32", [null, 4]]') -> dict[str, Any]:
    """A model with a wrapper of tfopt's quantization, which calls the layer `what` with an argument from the file."""
    config = {"before": False, "outputs": 0, "shares_with": "", "why": "", "weights": [], "call": [[argument], {}]}
    name = "tfopt>Int8Wrapper"
    more = {} if form == ".h5" else {"registered_name": name}
    return sequential(form, layer(form, name, {"layer": what, **config}, "tfopt.stages.quantize.wrapper", **more))


def raw(canary: Canary) -> list[Any]:
    """A Python lambda in a Lambda layer of the type "lambda"."""
    return [canary.bytecode, None, None]


def called(form: str, symbol: str, first: Any, kwargs: Any = None, cls: str = "TFOpLambda") -> dict[str, Any]:
    """A model that calls a function of TensorFlow with values from the file."""
    node = ["_CONSTANT_VALUE", -1, first, kwargs or {}]
    return functional(form, layer(form, cls, {"function": symbol, "trainable": True, "dtype": "float32"}), node)


def objects(canary: Canary) -> dict[str, Any]:
    module = canary.module
    return {
        "bytecode": {"class_name": "__lambda__", "config": {"value": raw(canary)}},
        "bytecode_of_keras3": {
            "class_name": "__lambda__", "config": {"code": canary.bytecode, "defaults": None, "closure": None},
        },
        "function_of_os": function("os", "system", "system"),
        "function_of_a_module": function(module, "run"),
        "function_named_relu": function(module, "run", "relu"),
        "function_named_mse": function(module, "run", "mean_squared_error"),
        "function_named_keras_relu": function(module, "run", "keras>relu"),
        "function_without_name": function(module, "run", None),
        "function_by_its_name": function(module, "missing", "run"),
        "method_of_a_class": function(module, "Thing.from_config"),
        "class_of_a_module": {"module": module, "class_name": "Thing", "config": {}, "registered_name": "Thing"},
        "class_named_dense": {"module": module, "class_name": "Thing", "config": {}, "registered_name": "Dense"},
        "class_without_name": {"module": module, "class_name": "Thing", "config": {}},
        "dense_of_a_module": {"module": module, "class_name": "Dense", "config": {"units": 4}, "registered_name": None},
        "typespec_of_a_module": {
            "class_name": "__typespec__", "spec_name": "Thing", "module": module, "registered_name": None, "config": [],
        },
        # tfopt registers classes and functions with these names; tf_keras finds a class by its registered name only.
        "class_named_as_one_of_tfopt": {
            "module": module, "class_name": "tfopt>ScaledAdd", "config": {}, "registered_name": None,
        },
        "function_named_as_one_of_tfopt": function(module, "run", "tfopt>keras3_hard_silu"),
        "load_model": function("keras.models", "load_model", "load_model"),
        "get_file": function("keras.utils", "get_file", "get_file"),
        "private_function": function("keras.src.utils.io_utils", "ask_to_proceed_with_overwrite", "relu"),
        "function_of_subprocess_below_keras": function("tf_keras.src.utils.data_utils", "urlretrieve", "urlretrieve"),
    }  # fmt: skip


def places(form: str) -> dict[str, Callable[[Any], Any]]:
    seq = lambda *layers, **more: sequential(form, *layers, **more)  # noqa: E731
    dense = lambda **config: layer(form, "Dense", {"units": 4, **config})  # noqa: E731
    inner = lambda what: sequential(form, lambda_layer(form, what), name="inner")  # noqa: E731
    cell = lambda what: layer(form, "SimpleRNNCell", {"units": 2, "activation": what})  # noqa: E731
    residual = lambda what: layer(  # noqa: E731
        form, "ResidualWrapper",
        {"cell": layer(form, "GRUCell", {"units": 4}), "residual_fn": what, "residual_fn_type": "function",
         "residual_fn_module": "builtins"},
        "keras.src.layers.rnn.cell_wrappers",
    )  # fmt: skip
    found = {
        "the_model": lambda what: what,
        "a_layer": lambda what: seq(what),
        "a_layer_of_a_functional": lambda what: functional(form, {**what, "name": "x"}),
        "lambda_function": lambda what: seq(lambda_layer(form, what)),
        "lambda_output_shape": lambda what: seq(lambda_layer(form, "relu", output_shape=what,
            output_shape_type="function")),
        "lambda_mask": lambda what: seq(lambda_layer(form, "relu", mask=what, mask_type="function", mask_module=None)),
        "lambda_argument": lambda what: seq(lambda_layer(form, "relu", arguments={"alpha": what})),
        "time_distributed": lambda what: seq(
            layer(form, "TimeDistributed", {"layer": lambda_layer(form, what)}), shape=(None, 3, 4)
        ),
        "bidirectional": lambda what: seq(layer(form, "Bidirectional", {"layer": layer(form, "RNN",
            {"cell": residual(what)})})),
        "rnn_cell": lambda what: seq(layer(form, "RNN", {"cell": what})),
        "rnn_cell_activation": lambda what: seq(layer(form, "RNN", {"cell": cell(what)})),
        "stacked_rnn_cells": lambda what: seq(layer(form, "RNN", {"cell": layer(form, "StackedRNNCells",
            {"cells": [what]})})),
        "residual_wrapper": lambda what: seq(layer(form, "RNN", {"cell": residual(what)})),
        "residual_wrapper_as_layer": lambda what: seq(residual(what)),
        "spectral_normalization": lambda what: seq(layer(form, "SpectralNormalization", {"layer": lambda_layer(form,
            what)})),
        "nested_sequential": lambda what: seq(inner(what)),
        "twice_nested": lambda what: seq(sequential(form, inner(what), name="outer")),
        "nested_functional": lambda what: seq(functional(form, lambda_layer(form, what))),
        "call_keyword": lambda what: functional(form, dense(), [["i", 0, 0, {"training": what}]]),
        "call_constant": lambda what: functional(form, dense(), [["_CONSTANT_VALUE", -1, what, {}]]),
        "activation": lambda what: seq(dense(activation=what)),
        "initializer": lambda what: seq(dense(kernel_initializer=what)),
        "regularizer": lambda what: seq(dense(kernel_regularizer=what)),
        "constraint": lambda what: seq(dense(kernel_constraint=what)),
        "dtype_policy": lambda what: seq(dense(dtype=what)),
        "build_config": lambda what: sequential(form, dense(), build_config={"input_shape": [None, 4], "deep": what}),
        "activation_layer": lambda what: seq(layer(form, "Activation", {"activation": what})),
        "wrapper_of_a_stage": lambda what: wrapped(form, what),
        "wrapper_of_a_stage_around_a_lambda": lambda what: wrapped(form, lambda_layer(form, what)),
        "call_of_a_wrapper": lambda what: wrapped(form, dense(), what),
        "unknown_key_of_a_layer": lambda what: seq({**dense(), "also": what}),
        "unknown_key_of_a_config": lambda what: seq(dense(also=what)),
    }  # fmt: skip
    compiled = {
        "optimizer": lambda what: {"optimizer": what, "loss": "mse"},
        "loss": lambda what: {"optimizer": "sgd", "loss": what},
        "losses": lambda what: {"optimizer": "sgd", "loss": {"a": [what]}},
        "metric": lambda what: {"optimizer": "sgd", "loss": "mse", "metrics": [what]},
        "loss_weights": lambda what: {"optimizer": "sgd", "loss": "mse", "loss_weights": what},
        "learning_rate": lambda what: {
            "optimizer": layer(form, "SGD", {"learning_rate": what}, "keras.optimizers"), "loss": "mse",
        },
        "loss_function": lambda what: {
            "optimizer": "sgd", "loss": layer(form, "LossFunctionWrapper", {"fn": what}, "keras.losses"),
        },
        "metric_function": lambda what: {
            "optimizer": "sgd", "loss": "mse", "metrics": [layer(form, "MeanMetricWrapper", {"fn": what},
                "keras.metrics")],
        },
    }  # fmt: skip
    if form == ".keras":
        for name, settings in compiled.items():
            found[f"compile_{name}"] = lambda what, made=settings: sequential(form, dense(), compile_config=made(what))
        nested = lambda what: sequential(form, dense(), name="inner", compile_config={"optimizer": "sgd", "loss": what})  # noqa: E731
        found["nested_compile_loss"] = lambda what: sequential(form, nested(what))
    return found
