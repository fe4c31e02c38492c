"""Scan of a SavedModel for operators and files that reach beyond TensorFlow, before TensorFlow loads it."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.models.safety import allowed
from tfopt.models.safety.config import Scan, parsed

# The operators of TensorFlow's own saver, allowed where only saving and restoring reach them.
_RESTORING = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
_SAVING = frozenset({"MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"})
_INTERCHANGEABLE = {"api_implements", "api_preferred_device"}
_INITIALIZING = frozenset({"legacy_init_op", "saved_model_main_op", "table_initializer"})
_FROM_FILE = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
# Files in which TensorFlow looks for another form of the same graph.
OTHER_FORMS = ("saved_model.cpb", "saved_model.pbtxt")


def _decode_error() -> type[Exception]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    error: type[Exception] = DecodeError
    return error


def scan_graph(folder: Path) -> list[str]:
    """Describe what the graph of the SavedModel in `folder` would do beyond computing; empty for nothing.

    Raises:
        ModelError: its `saved_model.pb` cannot be read.
    """
    path = folder / "saved_model.pb"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}). Check its permissions.") from error
    found = [f"a second graph, {name}" for name in OTHER_FORMS if (folder / name).exists()]
    found += [f"the link '{each.name}', which leads out of its folder" for each in _links_out(folder)]
    return found + scan_content(content, path)


def _links_out(folder: Path) -> list[Path]:
    """Return the assets that link to files elsewhere, whose content would go into tables."""
    inside = folder.resolve()
    return [each for each in (folder / "assets").rglob("*") if not each.resolve().is_relative_to(inside)]


def scan_content(content: bytes, path: str | Path) -> list[str]:
    """Scan the `content` of a `saved_model.pb` likewise; `path` names it in a message."""
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString(content)
    except _decode_error() as error:
        raise ModelError(f"{path} is damaged or incomplete ({error}). Copy or save the model again.") from error
    found: list[str] = []
    for meta_graph in saved.meta_graphs:
        graph = _MetaGraph(meta_graph, alone=len(saved.meta_graphs) == 1)
        found += [f"the operation {name} in its graph" for name in sorted(set(graph.refused()))]
        found += [f"the file '{name}', which lies outside its folder" for name in graph.assets_elsewhere()]
    return found


def scan_metadata(folder: Path, scan: Scan, compiling: Scan) -> None:
    """Scan the configurations that tf_keras stored in the SavedModel in `folder`; `compiling` scans compile settings.

    `scan` must have `revives` set: a layer of an unknown class comes from the graph, which `scan_graph` checks.
    """
    keras_compat.tf_keras()
    from tf_keras.protobuf import saved_metadata_pb2

    path = folder / "keras_metadata.pb"
    try:
        metadata = saved_metadata_pb2.SavedMetadata.FromString(path.read_bytes())
    except (_decode_error(), OSError) as error:
        raise ModelError(f"{path} is damaged or incomplete ({error}). Copy or save the model again.") from error
    for node in metadata.nodes:
        part = parsed(node.metadata, f"The metadata of '{node.node_path}' in {path}")
        if not isinstance(part, dict):
            continue
        compiling.read(part.pop("training_config", None))
        name = part.get("name")
        place = name if isinstance(name, str) else node.node_path.removeprefix("root.").replace(".", "/")
        scan.read(part, "" if node.node_path == "root" else place)


class _MetaGraph:
    """A graph with its functions, in three parts: running, restoring and saving variables."""

    def __init__(self, meta_graph: Any, *, alone: bool) -> None:
        self._meta = meta_graph
        # TensorFlow loads a single graph by its objects; otherwise, as in TF1, by running its nodes.
        self._by_objects = alone and meta_graph.HasField("object_graph_def")
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._functions = {each.signature.name: each for each in meta_graph.graph_def.library.function}
        self._called_by_functions = {
            name for each in self._functions.values() for node in each.node_def for name in _functions_in(node)
        }

    def refused(self) -> Iterator[str]:
        """Yield the operators that are not allowed in their part of the graph."""
        saving, restoring = self._above(self._saver("save_tensor_name")), self._above(self._saver("restore_op_name"))
        running = (self._nodes.keys() - saving - restoring) | self._above(self._outputs())
        saves, restores = self._reached(saving), self._reached(restoring)
        runs = self._reached(running, self._roots() | self._interchangeable())
        yield from self._outside(running, runs | (self._functions.keys() - saves - restores), allowed.OPERATORS)
        # Objects are not restored by this part of the graph, so where its functions read does not matter.
        by_function = _RESTORING if self._by_objects else frozenset()
        yield from self._outside(restoring, (), allowed.OPERATORS | _RESTORING)
        yield from self._outside((), restores, allowed.OPERATORS | by_function)
        yield from self._outside(saving, saves, allowed.OPERATORS | _RESTORING | _SAVING)

    def assets_elsewhere(self) -> Iterator[str]:
        """Yield the names of assets outside the assets folder."""
        for asset in self._meta.asset_file_def:
            path = PurePosixPath(asset.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                yield asset.filename

    def _outside(self, nodes: Iterable[str], functions: Iterable[str], operators: frozenset[str]) -> Iterator[str]:
        """Yield the operators of the main graph's `nodes` and of `functions` that are not among `operators`."""
        for node in (self._nodes[name] for name in nodes):
            from_asset = node.op in _FROM_FILE and len(node.input) > 1 and self._is_asset(node.input[1])
            if not (from_asset or (node.op in operators and self._restores_itself(node))):
                yield node.op
        for name in functions:
            for node in self._functions[name].node_def:
                if node.op not in operators and not self._fills_table_from_asset(node, name):
                    yield node.op

    def _saver(self, field: str) -> list[str]:
        return [getattr(self._meta.saver_def, field).partition(":")[0]] if self._meta.HasField("saver_def") else []

    def _outputs(self) -> list[str]:
        """Return the nodes that run for a caller: outputs of signatures, and the initialization of the model."""
        tensors = [each.name for signature in self._meta.signature_def.values() for each in signature.outputs.values()]
        for name in _INITIALIZING & self._meta.collection_def.keys():
            tensors += self._meta.collection_def[name].node_list.value
        return [tensor.partition(":")[0] for tensor in tensors]

    def _roots(self) -> set[str]:
        """Return the functions that the objects of the SavedModel call."""
        return set(self._meta.object_graph_def.concrete_functions) & self._functions.keys()

    def _interchangeable(self) -> set[str]:
        """Return the functions that TensorFlow may call instead of others."""
        gradients = {each.gradient_func for each in self._meta.graph_def.library.gradient}
        named = {name for name, each in self._functions.items() if each.attr.keys() & _INTERCHANGEABLE}
        return (gradients & self._functions.keys()) | named

    def _above(self, names: Iterable[str]) -> set[str]:
        """Return the nodes of the main graph that `names` depend on, including themselves."""
        return _closure(names, self._nodes, lambda name: (_node(each) for each in self._nodes[name].input))

    def _reached(self, nodes: Iterable[str], functions: Iterable[str] = ()) -> set[str]:
        """Return `functions`, the functions that `nodes` of the main graph call, and all that these call in turn."""
        called = [name for each in nodes for name in _functions_in(self._nodes[each])]

        def inner(name: str) -> Iterator[str]:
            return (each for node in self._functions[name].node_def for each in _functions_in(node))

        return _closure([*functions, *called], self._functions, inner)

    def _is_asset(self, tensor: str) -> bool:
        """Return whether `tensor` of the main graph is the name of a file in the SavedModel."""
        return _source(tensor, self._nodes) in {_node(asset.tensor_info.name) for asset in self._meta.asset_file_def}

    def _fills_table_from_asset(self, node: Any, function: str) -> bool:
        """Return whether `node` of `function` fills a table from a file in the SavedModel.

        The function must take the file name as an argument, which must be an asset wherever the function is used.
        """
        if node.op not in _FROM_FILE or len(node.input) < 2 or function in self._called_by_functions:
            return False
        definition, objects = self._functions[function], self._meta.object_graph_def
        arguments = [each.name for each in definition.signature.input_arg]
        name = _source(node.input[1], {each.name: each for each in definition.node_def})
        if name not in arguments:
            return False
        at = arguments.index(name)
        if self._by_objects and function in self._roots():
            captured = list(objects.concrete_functions[function].bound_inputs)
            bound = at - (len(arguments) - len(captured))
            return bound >= 0 and bool(objects.nodes[captured[bound]].WhichOneof("kind") == "asset")
        callers = [each for each in self._nodes.values() if function in _functions_in(each)]
        return all(at < len(each.input) and self._is_asset(each.input[at]) for each in callers)

    def _restores_itself(self, node: Any) -> bool:
        """Return whether `node` of the main graph restores variables from the SavedModel's own location."""
        return node.op not in _RESTORING or _source(node.input[0], self._nodes) in self._saver("filename_tensor_name")


def _closure(names: Iterable[str], among: Container[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """Return those of `names` that are in `among`, and everything that follows from them."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in among and name not in seen:
            seen.add(name)
            waiting += following(name)
    return seen


def _node(tensor: str) -> str:
    """Return the node that produces `tensor`, as named by an input or a signature."""
    return tensor.lstrip("^").partition(":")[0]


def _source(tensor: str, nodes: Mapping[str, Any]) -> str:
    """Return the node or argument that `tensor` comes from, skipping any Identity."""
    name, seen = _node(tensor), set()
    while name in nodes and name not in seen and nodes[name].op == "Identity" and nodes[name].input:
        seen.add(name)
        name = _node(nodes[name].input[0])
    return name


def _functions_in(node: Any) -> Iterator[str]:
    """Yield the functions that the attributes of `node` name."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name
