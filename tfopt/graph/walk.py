"""One layer graph for both Kerases: flat, in call order, with nested models opened."""

import re
from typing import Any

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph import keras_internals, tracing
from tfopt.graph.types import Call, Graph, GraphInput, Leaf, Ref, flatten, is_layer, map_leaves, pack, refs_in

# TF-MOT splits a SeparableConv into layers named `conv2d`, `depthwise_conv2d` and so on, even if the model already has
# layers of these names; tf_keras then loops forever in `from_config`.
_AUTO_NAME = re.compile(r"(separable_|depthwise_)?conv[12]d(_\d+)?|sepconv1d_\w+")
_PREFIX = "own_"


def is_model(layer: object) -> bool:
    """Return whether `layer` is a model of either Keras."""
    return keras_compat.is_keras3_model(layer) or keras_compat.is_tf_keras_model(layer)


def graph_network(model: Any, path: str = "") -> Any:
    """Return the object that holds the graph of `model`, usually `model` itself; trace a subclassed model.

    Raises:
        ModelError: the model is not built, cannot be traced, or is not a model.
    """
    where = f"model '{path or getattr(model, 'name', '?')}'"
    if not is_model(model):
        raise ModelError(f"Expected a Keras 3 or tf_keras model, got {type(model).__name__}.")
    if is_subclassed(model):
        return tracing.trace(model, where)
    sequential, _ = keras_internals.model_classes(model)
    if not isinstance(model, sequential):
        return model
    network = keras_internals.sequential_network(model)
    if network is None:
        raise ModelError(
            f"{where} is not built, so its layers have no shapes yet: "
            "call model.build((None, ...)) or give it an Input as its first layer."
        )
    return network


def is_subclassed(model: Any) -> bool:
    """Return whether `model` defines its own `call`, so that its graph must be traced."""
    sequential, functional = keras_internals.model_classes(model)
    if isinstance(model, sequential):
        return type(model).call is not sequential.call
    return not isinstance(model, functional) or type(model).call is not functional.call


def walk(model: Any, keep_names: bool = False) -> Graph:
    """Return the flat graph of a model of either Keras: nested models opened, subclassed ones traced.

    Every leaf gets a unique name that depends only on the model: its own, or `<outer>_<name>` if a layer nearer to the
    surface has that. In a model with a SeparableConv, names that TF-MOT would generate get the prefix `own_`, unless
    `keep_names`.

    Raises:
        ModelError: as `graph_network` does.
    """
    return _Walker().run(model, keep_names)


class _Walker:
    def __init__(self) -> None:
        self.count = 0
        self.calls: list[Call] = []
        self.leaves: list[Leaf] = []
        self.of_layers: dict[int, Leaf] = {}

    def run(self, model: Any, keep_names: bool) -> Graph:
        network = graph_network(model)
        inputs_struct, outputs_struct = keras_internals.structs(network)
        free_batch = keras_internals.batch_is_free(network)
        tensors = flatten(inputs_struct)
        refs = {id(tensor): self._new(tensor, free_batch) for tensor in tensors}
        outputs = self._open(network, [refs[id(t)] for t in tensors], "", model.trainable, None)
        self._drop_unused(outputs)
        names = _unique_names(self.leaves, [keras_internals.input_name(t) for t in tensors], keep_names)
        inputs = [
            GraphInput(name, refs[id(t)].shape or (), refs[id(t)].dtype, refs[id(t)])
            for name, t in zip(names, tensors, strict=True)
        ]
        return Graph(
            model.name,
            inputs,
            self.calls,
            self.leaves,
            map_leaves(lambda t: refs[id(t)], inputs_struct),
            pack(outputs_struct, outputs),
        )

    def _drop_unused(self, outputs: list[Ref]) -> None:
        """Drop operations whose results are unused, e.g. masks that the tensors carry anyway."""
        used, kept = set(outputs), []
        for call in reversed(self.calls):
            if is_layer(call.leaf.layer) or used.intersection(call.outputs):
                kept.append(call)
                used.update(refs_in([call.args, call.kwargs]))
        live = {id(call.leaf) for call in kept}
        self.calls = kept[::-1]
        self.leaves = [leaf for leaf in self.leaves if id(leaf) in live]

    def _new(self, tensor: Any, free_batch: bool = False) -> Ref:
        self.count += 1
        shape = None if tensor.shape is None or getattr(tensor.shape, "rank", 0) is None else tuple(tensor.shape)
        if shape and free_batch:
            shape = (None, *shape[1:])
        return Ref(self.count, shape, _dtype_name(tensor.dtype), keras_internals.mask(tensor) is not None)

    def _open(self, network: Any, inputs: list[Ref], path: str, trainable: bool, training: Any) -> list[Ref]:
        """Walk one call of a model whose graph is `network`; return the refs of its outputs, flattened."""
        inputs_struct, outputs_struct = keras_internals.structs(network)
        env = dict(zip(map(id, flatten(inputs_struct)), inputs, strict=True))
        for layer, args, kwargs, made in keras_internals.nodes(network):
            args, kwargs = map_leaves(lambda t: env.get(id(t), t), (list(args), _meant(layer, args, kwargs)))
            own_path = f"{path}/{layer.name}" if path else layer.name
            if is_model(layer):
                outputs = self._open_model(layer, own_path, args, kwargs, trainable, training)
            else:
                outputs = [self._new(tensor) for tensor in flatten(made)]
                self._call(layer, own_path, args, kwargs, outputs, trainable, training)
            env.update(zip(map(id, flatten(made)), outputs, strict=True))
        return [env[id(tensor)] for tensor in flatten(outputs_struct)]

    def _open_model(
        self, model: Any, path: str, args: list[Any], kwargs: dict[str, Any], trainable: bool, training: Any
    ) -> list[Ref]:
        # In tf_keras a frozen model freezes everything in it; in Keras 3 only the flags of layers count.
        live = trainable and (model.trainable or keras_compat.is_keras3_model(model))
        outer = kwargs.pop("training", training)
        if is_subclassed(model):
            network = tracing.trace_call(model, f"model '{path}'", args, kwargs)
            return self._open(network, list(refs_in([args, kwargs])), path, live, outer)
        network = graph_network(model, path)
        return self._open(network, _for_inputs(network, args, kwargs), path, live, outer)

    def _call(
        self,
        layer: Any,
        path: str,
        args: list[Any],
        kwargs: dict[str, Any],
        outputs: list[Ref],
        live: bool,
        training: Any,
    ) -> None:
        if not is_layer(layer):
            leaf = Leaf(layer, path, False)  # its result depends on this call, so it is never shared
            self.leaves.append(leaf)
        else:
            args, kwargs = _normalized(layer, args, kwargs)
            if training is not None and keras_internals.takes_training(layer):
                kwargs = {"training": training, **kwargs}
            leaf = self.of_layers.get(id(layer)) or Leaf(layer, path, live and layer.trainable)
            if id(layer) not in self.of_layers:
                self.of_layers[id(layer)] = leaf
                self.leaves.append(leaf)
        self.calls.append(Call(leaf, args, kwargs, tuple(outputs)))


def _tensors(args: Any, kwargs: dict[str, Any]) -> int:
    """Return how many arguments of a call are tensors, or lists of them."""
    return sum(any(hasattr(part, "shape") for part in flatten(value)) for value in (*args, *kwargs.values()))


def _meant(layer: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the `kwargs` of a call without those that have no effect."""
    said = {key: value for key, value in kwargs.items() if value is not None}
    if not is_layer(layer):
        return said
    keras3 = keras_internals.is_keras3_layer(layer)
    masks = [keras_internals.mask(tensor) for tensor in flatten(list(args))]
    if keras3:
        # Keras 3 writes `training=False` into nodes on its own (Dropout) and overrides even the caller's value when the
        # model runs. tf_keras would obey it and switch Dropout off for good.
        said.pop("training", None)
        # It also records the mask that a tensor carries anyway.
        if "mask" in said and keras_internals.same_values(flatten(said["mask"]), masks):
            del said["mask"]
    # Without a word, both apply the masks that tensors carry, but Keras 3 for a single tensor argument only: not to an
    # RNN with an `initial_state`. What is recorded for tf_keras was passed.
    ignores = "mask" not in kwargs and _tensors(args, kwargs) > 1 if keras3 else kwargs.get("mask", masks) is None
    if ignores and any(mask is not None for mask in masks) and "mask" in keras_internals.call_names(layer)[0]:
        said["mask"] = None
    return said


def _normalized(layer: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the first argument as positional and all others as keywords, as far as the signature names them."""
    names, _ = keras_internals.call_names(layer)
    if not args and names and names[0] in kwargs:
        args, kwargs = [kwargs[names[0]]], {k: v for k, v in kwargs.items() if k != names[0]}
    if 1 < len(args) <= len(names):
        named = zip(names[1:], args[1:], strict=False)
        args, kwargs = args[:1], {**{k: v for k, v in named if v is not None}, **kwargs}
    return args, kwargs


def _for_inputs(network: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Ref]:
    """Return the refs that a call of a nested model passes to its inputs, in the order of its inputs."""
    given = args[0] if args else kwargs["inputs"]
    struct = keras_internals.structs(network)[0]
    if isinstance(given, dict):
        keys = sorted(struct) if isinstance(struct, dict) else [keras_internals.input_name(t) for t in flatten(struct)]
        return [given[key] for key in keys]
    return flatten(given)


def _dtype_name(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else str(dtype.name)


def _unique_names(leaves: list[Leaf], inputs: list[str], keep_names: bool) -> list[str]:
    """Set `leaf.name` and return the names of the inputs. Depends only on paths, not on call order."""
    separable = any(type(leaf.layer).__name__.startswith("SeparableConv") for leaf in leaves)
    taken: set[str] = set()

    def claim(candidates: list[str]) -> str:
        names = [valid_name(candidate) for candidate in candidates]
        if separable and not keep_names:
            names = [f"{_PREFIX}{name}" if _AUTO_NAME.fullmatch(name) else name for name in names]
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


def caller_name(name: str) -> str:
    """Return the caller's name of a layer that `walk` has renamed because of a SeparableConv, else `name` itself."""
    before = name.removeprefix(_PREFIX)
    return before if _AUTO_NAME.fullmatch(before) else name


def valid_name(name: str) -> str:
    """Return `name` as a valid TensorFlow scope."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name).lstrip("_.-") or "layer"
