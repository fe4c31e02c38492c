"""One picture of a layer graph for both Kerases: flat, in calling order, with nested models opened.

`walk` reads private attributes of Keras (`_nodes_by_depth`, `node.arguments`, `node.call_args`), which is
why pyproject.toml pins the versions that are tested. Nothing else in tfopt reads them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from tfopt import legacy
from tfopt.errors import ModelError

# TF-MOT splits a SeparableConv into layers that it names `conv2d`, `depthwise_conv2d` and so on, without
# looking whether the model has them already; tf_keras then loops for ever in `from_config`.
_AUTO_NAME = re.compile(r"(separable_|depthwise_)?conv[12]d(_\d+)?|sepconv1d_\w+")


@dataclasses.dataclass(frozen=True)
class Ref:
    """The number of a tensor in a `Graph`."""

    number: int


@dataclasses.dataclass(eq=False)
class Leaf:
    """A layer that is no model, however often it is called."""

    layer: Any  # the caller's own object: read it, never change it
    path: str  # where it is: "outer/inner/layer"
    trainable: bool  # whether training moves it: its own flag and those of models around it
    name: str = ""  # unique in the flat model


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a leaf. `args` and `kwargs` hold a `Ref` wherever a tensor goes in."""

    leaf: Leaf
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]  # flattened


@dataclasses.dataclass(frozen=True)
class GraphInput:
    """An input of the model. `shape` includes the batch axis, None where it is free."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    ref: Ref


@dataclasses.dataclass
class Graph:
    """A model without its nesting. The two structs nest refs as the model nests its tensors."""

    name: str
    inputs: list[GraphInput]
    calls: list[Call]
    leaves: list[Leaf]
    inputs_struct: Any
    outputs_struct: Any


def map_leaves(function: Callable[[Any], Any], struct: Any) -> Any:
    """`struct` (lists, tuples, dicts) with `function` applied to all that is not a container."""
    if isinstance(struct, dict):
        return {key: map_leaves(function, value) for key, value in struct.items()}
    if type(struct) in (list, tuple):
        return type(struct)(map_leaves(function, value) for value in struct)
    return function(struct)


def flatten(struct: Any) -> list[Any]:
    """The leaves of `struct`, dicts in the order of their sorted keys, as both Kerases do it."""
    if isinstance(struct, dict):
        return [leaf for key in sorted(struct) for leaf in flatten(struct[key])]
    if isinstance(struct, (list, tuple)):
        return [leaf for value in struct for leaf in flatten(value)]
    return [struct]


def refs_in(struct: Any) -> Iterator[Ref]:
    """Every `Ref` in `struct`."""
    return (leaf for leaf in flatten(struct) if isinstance(leaf, Ref))


def is_model(layer: object) -> bool:
    """True for a model of either Keras."""
    return legacy.is_keras3_model(layer) or legacy.is_tf_keras_model(layer)


def graph_network(model: Any, path: str = "") -> Any:
    """The object that holds the graph of a Sequential or Functional `model`, usually `model` itself.

    Raises ModelError for a subclassed model, an unbuilt one, and anything that is not a model.
    """
    where = f"model '{path or getattr(model, 'name', '?')}'"
    if not is_model(model):
        raise ModelError(f"expected a Keras 3 or tf_keras model, got {type(model).__name__}")
    sequential, functional = _model_classes(model)
    if isinstance(model, sequential):
        if type(model).call is not sequential.call:
            raise ModelError(_subclassed(model, where))
        network = model._functional if legacy.is_keras3_model(model) else model
        if network is None or (network is model and not model._is_graph_network):
            raise ModelError(
                f"{where} is not built, so its layers have no shapes yet: "
                "call model.build((None, ...)) or give it an Input as its first layer"
            )
        return network
    if isinstance(model, functional) and type(model).call is functional.call:
        return model
    raise ModelError(_subclassed(model, where))


def _model_classes(model: Any) -> tuple[Any, Any]:
    if legacy.is_keras3_model(model):
        from keras.src.models.functional import Functional
        from keras.src.models.sequential import Sequential

        return Sequential, Functional
    tf_keras = legacy.tf_keras()
    return tf_keras.Sequential, tf_keras.src.engine.functional.Functional


def _subclassed(model: Any, where: str) -> str:
    return (
        f"{where} is a subclassed model ({type(model).__name__} defines its own call): its layers "
        "form no graph that can be read; build it as a Sequential or Functional model, "
        "keras.Model(inputs, outputs)"
    )


def walk(model: Any, keep_names: bool = False) -> Graph:
    """The flat graph of a Sequential or Functional model of either Keras, nested models opened.

    Every leaf gets a unique name that depends on nothing but the model: its own; where a layer nearer to
    the surface has that already, `<outer>_<name>`. Names that TF-MOT would make up itself are prefixed with
    `own_` in a model that holds a SeparableConv, unless `keep_names`. Raises ModelError (see
    `graph_network`), also for operations of `keras.ops`, which are no layers.
    """
    return _Walker().run(model, keep_names)


class _Walker:
    def __init__(self) -> None:
        self.count = 0
        self.calls: list[Call] = []
        self.leaves: dict[int, Leaf] = {}

    def run(self, model: Any, keep_names: bool) -> Graph:
        network = graph_network(model)
        inputs_struct, outputs_struct = _structs(network)
        tensors = flatten(inputs_struct)
        refs = {id(tensor): self._new() for tensor in tensors}
        outputs = self._open(model, [refs[id(t)] for t in tensors], "", model.trainable, None)
        names = _unique_names(list(self.leaves.values()), [_input_name(t) for t in tensors], keep_names)
        free_batch = not getattr(network, "_has_explicit_input_shape", True)  # else the first batch's size
        inputs = [
            GraphInput(name, _shape(t, free_batch), _dtype_name(t.dtype), refs[id(t)])
            for name, t in zip(names, tensors, strict=True)
        ]
        return Graph(
            model.name,
            inputs,
            self.calls,
            list(self.leaves.values()),
            map_leaves(lambda t: refs[id(t)], inputs_struct),
            pack(outputs_struct, outputs),
        )

    def _new(self) -> Ref:
        self.count += 1
        return Ref(self.count)

    def _open(self, model: Any, inputs: list[Ref], path: str, trainable: bool, training: Any) -> list[Ref]:
        """Walks one call of `model`; refs of its outputs, flattened."""
        network = graph_network(model, path)
        inputs_struct, outputs_struct = _structs(network)
        env = dict(zip(map(id, flatten(inputs_struct)), inputs, strict=True))
        for depth in sorted(network._nodes_by_depth, reverse=True):
            for node in network._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                layer, args, kwargs = _read(node)
                args, kwargs = map_leaves(lambda t: env.get(id(t), t), (args, kwargs))
                own_path = f"{path}/{layer.name}" if path else layer.name
                if is_model(layer):
                    outer = kwargs.get("training", training)
                    given = _for_inputs(layer, own_path, args, kwargs)
                    # In tf_keras a frozen model freezes all in it; in Keras 3 only the flags of layers count.
                    live = trainable and (layer.trainable or legacy.is_keras3_model(layer))
                    outputs = self._open(layer, given, own_path, live, outer)
                else:
                    leaf = self._leaf(layer, own_path, trainable)
                    if training is not None and getattr(layer, "_expects_training_arg", False):
                        kwargs = {"training": training, **kwargs}
                    outputs = [self._new() for _ in flatten(node.outputs)]
                    self.calls.append(Call(leaf, list(args), kwargs, tuple(outputs)))
                env.update(zip(map(id, flatten(node.outputs)), outputs, strict=True))
        return [env[id(tensor)] for tensor in flatten(outputs_struct)]

    def _leaf(self, layer: Any, path: str, trainable: bool) -> Leaf:
        if not hasattr(layer, "get_weights"):
            raise ModelError(
                f"'{path}' is the operation {type(layer).__name__} of keras.ops, not a layer: "
                "replace it by the layer that does the same (Add, Concatenate, Rescaling, Reshape ...)"
            )
        return self.leaves.setdefault(id(layer), Leaf(layer, path, trainable and layer.trainable))


def pack(struct: Any, flat: list[Any]) -> Any:
    """`flat` in the shape of `struct`, dicts filled in the order of their sorted keys."""
    values = iter(flat)

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            filled = {key: fill(part[key]) for key in sorted(part)}
            return {key: filled[key] for key in part}
        if isinstance(part, (list, tuple)):
            return [fill(value) for value in part]
        return next(values)

    return fill(struct)


def _structs(network: Any) -> tuple[Any, Any]:
    if legacy.is_keras3_model(network):
        return network._inputs_struct, network._outputs_struct
    return network._nested_inputs, network._nested_outputs


def _read(node: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Layer, positional and keyword arguments of a node, without arguments that say nothing."""
    if hasattr(node, "arguments"):
        # Keras 3 writes `training=False` into nodes by itself (Dropout), and overrules even a value that the
        # caller wrote whenever the model runs. tf_keras obeys it: kept, it would switch Dropout off for good.
        kwargs = {k: v for k, v in node.arguments.kwargs.items() if v is not None and k != "training"}
        return node.operation, node.arguments.args, kwargs
    return node.layer, node.call_args, {k: v for k, v in node.call_kwargs.items() if v is not None}


def _for_inputs(model: Any, path: str, args: Any, kwargs: dict[str, Any]) -> list[Ref]:
    """The refs that a call of a nested model hands to its inputs, in the order of its inputs."""
    given = args[0] if args else kwargs["inputs"]
    struct = _structs(graph_network(model, path))[0]
    if isinstance(given, dict):
        keys = sorted(struct) if isinstance(struct, dict) else [_input_name(t) for t in flatten(struct)]
        return [given[key] for key in keys]
    return flatten(given)


def _input_name(tensor: Any) -> str:
    history = getattr(tensor, "_keras_history", None)
    layer = getattr(history, "operation", None) or getattr(history, "layer", None)
    return str(layer.name if layer is not None else tensor.name)


def _shape(tensor: Any, free_batch: bool) -> tuple[int | None, ...]:
    shape = tuple(tensor.shape)
    return (None, *shape[1:]) if free_batch else shape


def _dtype_name(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else str(dtype.name)


def _unique_names(leaves: list[Leaf], inputs: list[str], keep_names: bool) -> list[str]:
    """Sets `leaf.name`; returns the names of the inputs. Depends on paths only, not on the calling order."""
    separable = any(type(leaf.layer).__name__.startswith("SeparableConv") for leaf in leaves)
    taken: set[str] = set()

    def claim(candidates: list[str]) -> str:
        names = [_clean(candidate) for candidate in candidates]
        if separable and not keep_names:
            names = [f"own_{name}" if _AUTO_NAME.fullmatch(name) else name for name in names]
        number, name = 1, next((name for name in names if name not in taken), names[-1])
        while name in taken:
            number += 1
            name = f"{names[-1]}_{number}"
        taken.add(name)
        return name

    input_names = [claim([name]) for name in inputs]
    for leaf in sorted(leaves, key=lambda leaf: (leaf.path.count("/"), leaf.path)):
        parts = leaf.path.split("/")
        leaf.name = claim(["_".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)])
    return input_names


def _clean(name: str) -> str:
    """`name` as TensorFlow takes it for a scope."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name).lstrip("_.-") or "layer"
