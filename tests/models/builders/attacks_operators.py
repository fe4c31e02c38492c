"""Attacks by name: tf_keras layers that call any function of TensorFlow or tf_keras that the file names."""

import json
from typing import Any

from attacks import Attack, Canary, function, in_the_name_of, model_file
from attacks_tf_keras import FORMS, called, functional, lambda_layer, layer, raw, sequential

# Functions of TensorFlow that reach outside it or into the process, or that build an object from their argument.
DANGEROUS = (
    "compat.v1.app.run", "compat.v1.gfile.Copy", "compat.v1.gfile.DeleteRecursively", "compat.v1.gfile.FastGFile",
    "compat.v1.io.write_file", "compat.v1.load_op_library", "compat.v1.py_func", "compat.v1.read_file",
    "compat.v1.saved_model.load", "compat.v1.summary.FileWriter", "compat.v1.train.import_meta_graph",
    "compat.v1.train.Saver", "compat.v1.write_file", "config.experimental_connect_to_cluster",
    "config.run_functions_eagerly", "data.Dataset.from_generator", "data.experimental.load",
        "data.FixedLengthRecordDataset",
    "data.TextLineDataset", "data.TFRecordDataset", "debugging.experimental.enable_dump_debug_info",
    "distribute.Server", "distribute.cluster_resolver.TFConfigClusterResolver", "experimental.dlpack.from_dlpack",
    "experimental.register_filesystem_plugin", "feature_column.categorical_column_with_vocabulary_file", "function",
    "graph_util.import_graph_def", "io.gfile.copy", "io.gfile.glob", "io.gfile.remove", "io.gfile.rmtree",
    "io.gfile.GFile", "io.matching_files", "io.read_file", "io.TFRecordWriter", "io.write_file", "io.write_graph",
    "keras.activations.deserialize", "keras.applications.MobileNet", "keras.callbacks.CSVLogger",
    "keras.callbacks.TensorBoard", "keras.constraints.deserialize", "keras.constraints.get",
    "keras.datasets.mnist.load_data", "keras.estimator.model_to_estimator",
    "keras.experimental.LinearModel", "keras.initializers.deserialize", "keras.initializers.get",
    "keras.layers.deserialize", "keras.layers.Lambda", "keras.losses.deserialize", "keras.losses.get",
    "keras.metrics.deserialize", "keras.metrics.get", "keras.mixed_precision.set_global_policy",
    "keras.models.clone_model", "keras.models.load_model", "keras.models.model_from_config",
    "keras.models.model_from_json", "keras.models.model_from_yaml", "keras.models.save_model",
    "keras.optimizers.deserialize", "keras.optimizers.get", "keras.preprocessing.image.load_img",
    "keras.preprocessing.image_dataset_from_directory", "keras.regularizers.deserialize", "keras.regularizers.get",
    "keras.saving.deserialize_keras_object", "keras.saving.load_model", "keras.saving.register_keras_serializable",
    "keras.utils.custom_object_scope", "keras.utils.deserialize_keras_object", "keras.utils.get_custom_objects",
    "keras.utils.get_file", "keras.utils.legacy.deserialize_keras_object", "keras.utils.plot_model", "load_library",
    "load_op_library", "lookup.StaticVocabularyTable", "lookup.TextFileInitializer", "numpy_function", "print",
    "profiler.experimental.start", "py_function", "raw_ops.DebugIdentityV2", "raw_ops.EagerPyFunc",
    "raw_ops.LoadAndRemapMatrix", "raw_ops.MatchingFiles", "raw_ops.MergeV2Checkpoints", "raw_ops.PrintV2",
    "raw_ops.PyFunc", "raw_ops.ReadFile", "raw_ops.Restore", "raw_ops.RestoreV2", "raw_ops.Save", "raw_ops.SaveV2",
    "raw_ops.TextLineDataset", "raw_ops.WriteFile", "recompute_grad", "saved_model.load", "saved_model.save",
    "summary.create_file_writer", "summary.write", "sysconfig.get_lib", "test.main", "train.Checkpoint",
    "train.load_checkpoint", "train.load_variable", "train.list_variables", "tpu.experimental.initialize_tpu_system",
    "types.experimental.TensorLike", "while_loop", "xla.experimental.compile", "map_fn", "case", "cond",
    "__internal__.saved_model.parse_saved_model", "__internal__.test.main",
    "__operators__", "math", "nn.", ".math.add", "math.add.__globals__", "keras", "", "os.system",
)  # fmt: skip


def nested_model(form: str, canary: Canary) -> dict[str, Any]:
    """A tf_keras model with a Lambda layer that contains code in the given `form`."""
    if form == ".h5":
        return sequential(form, lambda_layer(form, raw(canary), "lambda"))
    return sequential(form, lambda_layer(form, function(canary.module, "run")))


def found() -> list[Attack]:
    made = []

    def add(name: str, build: Any, proof: str = "ran", forms: tuple[str, ...] = FORMS) -> None:
        for form in forms:
            made.append(Attack(
                name, "tf_keras", form,
                lambda path, canary, form=form: model_file(path, build(form, canary), "tf_keras"), proof,
            ))  # fmt: skip

    def calls(name: str, symbol: str, args: Any, proof: str = "ran", **more: Any) -> None:
        """`args` maps a canary to the first argument and the others by name."""
        add(f"calls_{name}", lambda form, canary: called(form, symbol, *args(form, canary), **more), proof)

    written = lambda form, canary: (str(canary.ran), {"contents": "x"})  # noqa: E731
    config = lambda form, canary: (nested_model(form, canary), {})  # noqa: E731
    text = lambda form, canary: (json.dumps(nested_model(form, canary)), {})  # noqa: E731
    calls("write_file", "io.write_file", written)
    calls("write_file_by_slicing", "io.write_file", written, cls="SlicingOpLambda")
    calls("write_file_of_tf1", "compat.v1.write_file", written)
    calls("print_to_file", "print", lambda form, c: ("x", {"output_stream": f"file://{c.ran}"}))
    calls("copy_file", "io.gfile.copy", lambda form, c: (str(c.secret), {"dst": str(c.ran)}))
    calls("make_folder", "io.gfile.makedirs", lambda form, c: (str(c.ran), {}))
    calls("summary_writer", "summary.create_file_writer", lambda form, c: (str(c.ran), {}))
    calls("model_from_json", "keras.models.model_from_json", text)
    calls("model_from_json_by_slicing", "keras.models.model_from_json", text, cls="SlicingOpLambda")
    calls("model_from_config", "keras.models.model_from_config", config)
    calls("deserialize", "keras.layers.deserialize", config)
    calls("deserialize_loss", "keras.losses.deserialize", config, proof="")
    calls("get_loss", "keras.losses.get", config, proof="")
    calls("get_activation", "keras.activations.get", config, proof="")
    calls("get_optimizer", "keras.optimizers.get", config, proof="")
    calls("lambda_layer", "keras.layers.Lambda", lambda form, c: (c.shell, {}), proof="")
    calls("load_model", "keras.models.load_model", lambda form, c: (str(c.folder), {}), proof="")
    calls(
        "get_file",
        "keras.utils.get_file",
        lambda form, c: ("ran", {"origin": f"file://{c.secret}", "cache_dir": str(c.folder), "cache_subdir": "."}),
    )
    calls("backup", "keras.callbacks.BackupAndRestore", lambda form, c: (str(c.ran), {}), proof="")

    for cls, config_of in {
        "ClassMethod": {"cls_symbol": "keras.Sequential", "method_name": "from_config"},
        "ClassMethod_of_a_file": {"cls_symbol": "io.gfile.GFile", "method_name": "__init_subclass__"},
        "ClassMethod_dunder": {"cls_symbol": "RaggedTensor", "method_name": "__subclasses__"},
        "InstanceMethod": {"attr_name": "format"},
        "InstanceProperty": {"attr_name": "__class__"},
    }.items():
        name = cls.split("_")[0]
        add(
            f"layer_{cls}",
            lambda form, c, name=name, config_of=config_of: functional(
                form, layer(form, name, {**config_of, "trainable": True, "dtype": "float32"}),
                ["_CONSTANT_VALUE", -1, [nested_model(form, c)["config"]], {"kwargs": {}}],
            ),
            proof="ran" if cls == "ClassMethod" else "",
        )  # fmt: skip

    add("lambda_bytecode", lambda form, c: sequential(form, lambda_layer(form, raw(c), "lambda")))
    # Only the newer format uses the registered name; the older one finds the class by its own name.
    for lie in ("tfopt>ScaledAdd", "tfopt>Carried", "Dense", "keras>Dense"):
        add(
            f"lambda_bytecode_named_{lie.replace('>', '_')}",
            lambda form, c, lie=lie: sequential(form, in_the_name_of(lie, lambda_layer(form, raw(c), "lambda"))),
            proof="ran",
        )  # fmt: skip
    add("write_file_named_tfopt_ScaledAdd", lambda form, c: functional(
        form, in_the_name_of("tfopt>ScaledAdd", layer(form, "TFOpLambda", {"function": "io.write_file"})),
        ["_CONSTANT_VALUE", -1, str(c.ran), {"contents": "x"}]))  # fmt: skip
    add(
        "vocabulary_named_tfopt_ScaledAdd",
        lambda form, c: sequential(
            form, in_the_name_of("tfopt>ScaledAdd", layer(form, "StringLookup", {"vocabulary": str(c.secret)}))
        ),
        proof="secret",
    )
    add("operator_WriteFile", lambda form, c: functional(form, layer(form, "TensorFlowOpLayer", {
        "node_def": {"name": "w", "op": "WriteFile", "input": ["x", "y"]}, "constants": {"1": "x"}}),
        [["_CONSTANT_VALUE", -1, str(c.ran), {}]]), proof="")  # fmt: skip
    add("json_text_of_a_model", lambda form, c: sequential(form, layer(
        form, "Activation", {"activation": "relu", "also": json.dumps(nested_model(form, c))})), proof="")  # fmt: skip
    add(
        "lambda_bytecode_for_a_shape",
        lambda form, c: sequential(form, lambda_layer(form, "relu", output_shape=raw(c), output_shape_type="lambda")),
        proof="",
    )
    add(
        "lambda_bytecode_for_a_mask",
        lambda form, c: sequential(form, lambda_layer(form, "relu", mask=raw(c), mask_type="lambda", mask_module=None)),
        proof="",
    )
    add(
        "lambda_bytecode_in_time_distributed",
        lambda form, c: sequential(
            form, layer(form, "TimeDistributed", {"layer": lambda_layer(form, raw(c), "lambda")}), shape=(None, 3, 4)
        ),
    )
    add("lambda_of_an_unknown_type", lambda form, c: sequential(form, lambda_layer(form, raw(c), "LAMBDA")), proof="")
    add(
        "lambda_without_a_type", lambda form, c: sequential(form, layer(form, "Lambda", {"function": raw(c)})), proof=""
    )
    residual = lambda form, c: layer(  # noqa: E731
        form, "ResidualWrapper",
        {"cell": layer(form, "GRUCell", {"units": 4}), "residual_fn": raw(c), "residual_fn_type": "lambda",
         "residual_fn_module": "os"},
        "keras.src.layers.rnn.cell_wrappers",
    )  # fmt: skip
    add(
        "residual_wrapper_bytecode",
        lambda form, c: sequential(form, layer(form, "RNN", {"cell": residual(form, c)}), shape=(None, 3, 4)),
    )

    for name, config_of in {
        "StringLookup": {}, "IntegerLookup": {}, "TextVectorization": {"output_mode": "int"},
    }.items():  # fmt: skip
        add(
            f"vocabulary_of_{name}",
            lambda form, c, name=name, config_of=config_of: sequential(
                form, layer(form, name, {"vocabulary": str(c.secret), **config_of})
            ),
            proof="" if name == "TextVectorization" else "secret",
        )
    add(
        "vocabulary_by_url",
        lambda form, c: sequential(form, layer(form, "StringLookup", {"vocabulary": "http://127.0.0.1:9/x"})),
        proof="",
    )
    return made


def training() -> list[Attack]:
    """Training configs of `.h5` files: names are looked up among everything in a module of tf_keras."""
    made = []

    def gadget(canary: Canary, name: str, key: str) -> Any:
        return {"class_name": name, "config": {key: {"module": canary.module, "class_name": "Thing", "config": {}}}}

    for place in ("loss", "metrics", "weighted_metrics", "optimizer_config", "loss_weights"):
        for name, key in (("deserialize_keras_object", "config"), ("deserialize", "name"), ("get", "identifier")):

            def build(path: Any, canary: Canary, place: str = place, name: str = name, key: str = key) -> None:
                what = gadget(canary, name, key)
                settings = {
                    "optimizer_config": {"class_name": "SGD", "config": {"learning_rate": 0.1}}, "loss": "mse",
                    "metrics": None, "weighted_metrics": None, "sample_weight_mode": None, "loss_weights": None,
                    place: [what] if "metrics" in place else what,
                }  # fmt: skip
                model_file(path, sequential(".h5", layer(".h5", "Flatten", {})), "tf_keras", training=settings)

            made.append(Attack(f"training_{place}_{name}", "tf_keras", ".h5", build, "", may_load=True))
    return made


def tfopt_classes() -> list[Attack]:
    """Classes that tfopt itself registers, used as carriers."""
    keras3_lambda = lambda c: {  # noqa: E731
        "module": "keras.layers", "class_name": "Lambda", "registered_name": None,
        "config": {"name": "l", "arguments": {}, "function": {
            "class_name": "__lambda__", "config": {"code": c.bytecode, "defaults": None, "closure": None}}},
    }  # fmt: skip
    held = {
        "carried_lambda": lambda c: {"key": "no", "name": "l", "object": keras3_lambda(c), "constants": []},
        "carried_constant": lambda c: {
            "key": "no", "name": "l", "constants": [keras3_lambda(c)],
            "object": {"module": "keras.layers", "class_name": "Flatten", "config": {}, "registered_name": None},
        },
        "carried_class": lambda c: {
            "key": "no", "name": "l", "constants": [],
            "object": {"module": c.module, "class_name": "Thing", "config": {}, "registered_name": None},
        },
        "carried_saved_model": lambda c: {
            "key": "no", "name": "l", "constants": [],
            "object": {"module": "keras.layers", "class_name": "TFSMLayer", "registered_name": None,
                       "config": {"filepath": str(c.folder)}},
        },
    }  # fmt: skip
    made = []
    for name, config in held.items():
        for form in FORMS:

            def build(path: Any, canary: Canary, form: str = form, config: Any = config) -> None:
                carried = layer(form, "tfopt>Carried", {"held": config(canary), "calls": ["[]"]}, None)
                if form == ".keras":
                    carried = {**carried, "class_name": "Carried", "registered_name": "tfopt>Carried"}
                model_file(path, sequential(form, carried), "tf_keras")

            made.append(Attack(name, "tf_keras", form, build, ""))
    return made


ATTACKS = [*found(), *training(), *tfopt_classes()]
