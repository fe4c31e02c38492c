"""Attacks on the SavedModels of tf_keras: the metadata from which it rebuilds layers."""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks import Attack, Canary, function, in_the_name_of
from attacks_tf_keras import lambda_layer, layer, raw

from tfopt.base import keras_compat


@functools.cache
def base(wrapped: bool = False) -> Path:
    """A harmless SavedModel of tf_keras: a Flatten and a Dense layer, compiled; or else a wrapped cell as a layer."""
    tf_keras = keras_compat.tf_keras()
    if wrapped:
        from tf_keras.src.layers.rnn.cell_wrappers import ResidualWrapper

        inputs = tf_keras.Input((4,), name="i")
        output, _ = ResidualWrapper(tf_keras.layers.SimpleRNNCell(4), name="wrapper")(inputs, inputs)
        model = tf_keras.Model(inputs, output, name="base")
    else:
        layers = [tf_keras.layers.Flatten(name="flatten"), tf_keras.layers.Dense(2)]
        model = tf_keras.Sequential([tf_keras.Input((3, 4)), *layers], name="base")
    model.compile("sgd", "mse", metrics=["mae"])
    folder = Path(tempfile.mkdtemp(prefix="base-saved-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model.save(folder, save_format="tf")
    return folder


def changed(folder: Path, change: Callable[[Any, Any], Any], wrapped: bool = False) -> None:
    """A copy of `base`; `change` maps the identifier and metadata of each node to new metadata, or None."""
    keras_compat.tf_keras()
    from tf_keras.protobuf import saved_metadata_pb2

    shutil.copytree(base(wrapped), folder, dirs_exist_ok=True)
    path = folder / "keras_metadata.pb"
    metadata = saved_metadata_pb2.SavedMetadata.FromString(path.read_bytes())
    for node in metadata.nodes:
        found = json.loads(node.metadata)
        new = change(node, found)
        if new is not None:
            node.metadata = json.dumps(new)
    path.write_bytes(metadata.SerializeToString())


def instead_of_flatten(what: Callable[[Canary], dict[str, Any]]) -> Callable[[Path, Canary], None]:
    """Replace the Flatten layer, in its own node only."""

    def build(folder: Path, canary: Canary) -> None:
        new = what(canary)

        def change(node: Any, found: Any) -> Any:
            if found.get("class_name") == "Flatten":
                return {**found, **new, "name": new["config"].get("name", "x"), "must_restore_from_config": True}
            return None

        changed(folder, change)

    return build


def residual_wrapper(folder: Path, canary: Canary) -> None:
    """A wrapper of a cell with a function in bytecode, which runs while the model is built."""
    code = {"residual_fn": raw(canary), "residual_fn_type": "lambda", "residual_fn_module": "os"}

    def change(node: Any, found: Any) -> Any:
        if found.get("class_name") == "ResidualWrapper":
            return {**found, "config": {**found["config"], **code}}
        if node.node_path == "root":  # layers that already exist are found by name only
            for config in (found["config"], found["model_config"]["config"]):
                wrapper = config["layers"][1]
                wrapper.update({"class_name": "Flatten", "config": {"name": wrapper["name"]}})
            return found
        return None

    changed(folder, change, wrapped=True)


def in_the_root(key: str, what: Callable[[Canary], Any]) -> Callable[[Path, Canary], None]:
    def build(folder: Path, canary: Canary) -> None:
        changed(folder, lambda node, found: {**found, key: what(canary)} if node.node_path == "root" else None)

    return build


def in_metrics(what: Callable[[Canary], Any]) -> Callable[[Path, Canary], None]:
    def build(folder: Path, canary: Canary) -> None:
        changed(
            folder, lambda node, found: {**found, **what(canary)} if node.identifier == "_tf_keras_metric" else None
        )

    return build


H5 = ".h5"  # its configs have the same form
BYTES = lambda c: lambda_layer(H5, raw(c), "lambda")  # noqa: E731
RESIDUAL = lambda c: {"class_name": "ResidualWrapper", "config": {  # noqa: E731
    "name": "r", "cell": layer(H5, "GRUCell", {"units": 4}), "residual_fn": raw(c), "residual_fn_type": "lambda",
    "residual_fn_module": "os"}}  # fmt: skip
LAYERS: dict[str, tuple[Callable[[Canary], dict[str, Any]], str]] = {
    "lambda": (BYTES, "ran"),
    "lambda_for_a_shape": (lambda c: lambda_layer(H5, raw(c), "lambda", output_shape=raw(c),
        output_shape_type="lambda"), "ran"),
    "lambda_in_time_distributed": (lambda c: layer(H5, "TimeDistributed", {"layer": BYTES(c)}), "ran"),
    "lambda_in_sequential": (lambda c: layer(H5, "Sequential", {"layers": [BYTES(c)]}), ""),
    "lambda_in_spectral_normalization": (lambda c: layer(H5, "SpectralNormalization", {"layer": BYTES(c)}), ""),
    "residual_wrapper": (lambda c: layer(H5, "RNN", {"cell": RESIDUAL(c)}), ""),
    "residual_wrapper_by_its_cell": (
        lambda c: {"class_name": "DropoutWrapper", "config": {"name": "d", "cell": RESIDUAL(c)}}, "",
    ),
    "lambda_named_tfopt": (lambda c: in_the_name_of("tfopt>ScaledAdd", BYTES(c)), "ran"),
    "dynamic_lookup": (lambda c: layer(H5, "DynamicLookup", {"vocabulary": str(c.secret)}), ""),
    "residual_wrapper_in_bidirectional": (
        lambda c: layer(H5, "Bidirectional", {"layer": layer(H5, "RNN", {"cell": RESIDUAL(c)})}), "",
    ),
    "function_of_a_module": (lambda c: lambda_layer(H5, function(c.module, "run")), ""),
    "operator": (lambda c: layer(H5, "TFOpLambda", {"function": "io.write_file"}), ""),
    "operator_by_slicing": (lambda c: layer(H5, "SlicingOpLambda", {"function": "io.write_file"}), ""),
    "class_method": (lambda c: layer(H5, "ClassMethod", {"cls_symbol": "keras.Sequential",
        "method_name": "from_config"}), ""),
    "vocabulary": (lambda c: layer(H5, "StringLookup", {"vocabulary": str(c.secret)}), "secret"),
    "unknown_class": (lambda c: layer(H5, "package>Unknown", {}), ""),
    "carried": (lambda c: layer(H5, "tfopt>Carried", {"calls": ["[]"], "held": {
        "key": "no", "name": "l", "constants": [],
        "object": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": str(c.folder)}}}}), ""),
}  # fmt: skip
ATTACKS = [
    *(Attack(f"metadata_{name}", "tf_keras", "", instead_of_flatten(what), proof) for name, (what,
        proof) in LAYERS.items()),
    Attack("metadata_residual_wrapper_as_layer", "tf_keras", "", residual_wrapper, "ran"),
    Attack("metadata_loss", "tf_keras", "", in_the_root("training_config", lambda c: {
        "optimizer_config": {"class_name": "SGD", "config": {"learning_rate": 0.1}}, "loss": function(c.module, "run",
            "mean_squared_error"),
        "metrics": None, "weighted_metrics": None, "loss_weights": None}), "", may_load=True),
    Attack("metadata_config", "tf_keras", "", in_the_root("config", lambda c: {
        "name": "m", "layers": [layer(H5, "InputLayer", {"batch_input_shape": [None, 4]}), BYTES(c)]}), ""),
    Attack("metadata_type_spec", "tf_keras", "", in_the_root("save_spec", lambda c: {
        "class_name": "TypeSpec", "type_spec": "tf.NoSuchSpec", "serialized": []}), ""),
    Attack("metadata_metric", "tf_keras", "", in_metrics(lambda c: {
        "class_name": "MeanMetricWrapper", "config": {"name": "m", "fn": function(c.module, "run")}}), "",
            may_load=True),
    Attack("metadata_metric_class", "tf_keras", "", in_metrics(lambda c: {
        "class_name": "deserialize_keras_object", "config": {"config": {"module": c.module, "class_name": "Thing",
            "config": {}}}}), "", may_load=True),
]  # fmt: skip
