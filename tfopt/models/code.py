"""What in a model file would run code: found in its config, before any Keras reads it."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfopt.base import keras_compat

# Layers that bring a program of their own: a SavedModel elsewhere on disk, a pickled torch module, jax functions.
_PROGRAMS = ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# TFOpLambda calls a function of TensorFlow by name. These parts of TensorFlow compute and touch nothing else.
_COMPUTING = (
    "__operators__", "bitwise", "dtypes", "image", "keras", "linalg", "math", "nn", "ragged", "random", "sets",
    "signal", "sparse", "strings",
)  # fmt: skip
_NOT_COMPUTING = ("py_function", "numpy_function", "load_library", "load_op_library", "print", "group")
# Where a Keras finds the functions that a config calls by a bare name.
_WITH_FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "regularizers")
# Operations of a SavedModel's graph that run Python or touch files.
_REACHING_OUT = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "WriteFile", "ReadFile", "MatchingFiles"})


def found_code(path: Path, kind: str, custom_objects: Mapping[str, Any]) -> list[str]:
    """What in the model file `path` (of `kind` "keras3" or "tf_keras") would run code, each with its path in the model.

    Custom objects that are registered in that Keras, or given in `custom_objects`, are the user's word and
    not reported.
    """
    known = _known(kind, custom_objects)
    if path.is_dir():
        return [*code_in_graph(path), *_in_metadata(path, known)]
    return [f"{what} at '{where}'" for where, what in _suspects(_config(path), "", known, root=True)]


def _config(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    import h5py

    with h5py.File(path, "r") as file:
        return json.loads(file.attrs["model_config"])


def _known(kind: str, custom_objects: Mapping[str, Any]) -> Any:
    """A function: is this the name of a registered object, a given one, or a function of that Keras?"""
    if kind == "keras3":
        import keras

        api: Any = keras
    else:
        api = keras_compat.tf_keras()

    def known(name: str) -> bool:
        if name in custom_objects or name.split(">")[-1] in custom_objects:
            return True
        if api.saving.get_registered_object(name) is not None:
            return True
        return any(hasattr(getattr(api, module), name) for module in _WITH_FUNCTIONS)

    return known


def _suspects(part: Any, where: str, known: Any, root: bool = False) -> Iterator[tuple[str, str]]:
    if isinstance(part, list):
        for value in part:
            yield from _suspects(value, where, known)
    if not isinstance(part, dict):
        return
    config = part.get("config")
    if "class_name" in part and "config" in part:
        name = config.get("name") if isinstance(config, dict) else None
        if name and not root:
            where = f"{where}/{name}" if where else str(name)
        if what := _suspicion(part, known):
            yield where or "the model itself", what
            return
        yield from _suspects(config, where, known)
        return
    for value in part.values():
        yield from _suspects(value, where, known)


def _suspicion(part: dict[str, Any], known: Any) -> str:
    """What is wrong with a serialized object, "" where nothing is."""
    cls, config = part["class_name"], part["config"]
    if cls == "__lambda__":
        return "pickled Python code"
    if cls == "Lambda" and _holds_code(config):
        return "a Lambda layer with Python code"
    if cls in _PROGRAMS:
        return f"a {cls}, which runs a program of its own"
    if cls == "TFOpLambda" and not _computes(str(config.get("function"))):
        return f"a call of tf.{config.get('function')}"
    module, registered = part.get("module"), part.get("registered_name")
    if cls == "function":
        builtin = str(module).startswith(("keras", "tf_keras", "tensorflow"))
        name = registered if registered and registered != "function" else str(config)
        return "" if builtin or known(name) else f"the custom function '{config}'"
    if "module" not in part:  # Keras 2 HDF5: names only; the loader itself knows its own classes
        return f"the custom class '{cls}'" if ">" in str(cls) and not known(cls) else ""
    own = module is None or not str(module).startswith(("keras", "tf_keras", "builtins", "tensorflow"))
    return f"the custom class '{cls}'" if own and not known(str(registered or cls)) else ""


def _holds_code(config: Any) -> bool:
    if not isinstance(config, dict):
        return True
    kinds = [config.get(f"{name}_type") for name in ("function", "output_shape", "mask")]
    # Keras 3 and newer Keras 2 files nest an object of class __lambda__; older ones say so in a type.
    values = [config.get(name) for name in ("function", "output_shape", "mask")]
    nested = any(isinstance(value, dict) and value.get("class_name") == "__lambda__" for value in values)
    return "lambda" in kinds or nested


def _computes(function: str) -> bool:
    first, _, rest = function.partition(".")
    return first in _COMPUTING if rest else function not in _NOT_COMPUTING


def _in_metadata(path: Path, known: Any) -> Iterator[str]:
    keras_compat.tf_keras()
    from tf_keras.protobuf import saved_metadata_pb2

    metadata = saved_metadata_pb2.SavedMetadata.FromString((path / "keras_metadata.pb").read_bytes())
    for node in metadata.nodes:
        try:
            part = json.loads(node.metadata)
        except ValueError:
            continue
        if not isinstance(part, dict) or node.identifier == "_tf_keras_metric":
            continue
        where = node.node_path.removeprefix("root.").replace(".", "/")
        if "class_name" in part and "config" in part and (what := _suspicion(part, known)):
            yield f"{what} at '{part.get('name', where)}'"


def code_in_graph(path: Path) -> Iterator[str]:
    """The operations of the SavedModel in the folder `path` that reach beyond TensorFlow, in words."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for meta_graph in saved.meta_graphs:
        graph = meta_graph.graph_def
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        for op in sorted({node.op for node in nodes} & _REACHING_OUT):
            yield f"the operation {op} in its graph"
