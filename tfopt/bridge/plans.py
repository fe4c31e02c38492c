"""Plans for converting each layer and operation to tf_keras, made from the graph before anything is built."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from tfopt.base import keras_compat
from tfopt.bridge import carried, layers, masked_softmax, operations, policy, state, twins
from tfopt.bridge.activations import NoTwinError
from tfopt.bridge.twins import ToFlatModel
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Call, Graph, Leaf, Ref, flatten, is_layer, refs_in

Arguments = tuple[list[Any], dict[str, Any]]

# Layers whose state belongs to another framework; none of it could be converted.
REFUSED = {
    "JaxLayer": "runs a JAX function",
    "FlaxLayer": "runs a Flax module",
    "TorchModuleWrapper": "runs a PyTorch module",
    "TFSMLayer": "runs a SavedModel's own graph; load what it was saved from",
}
_INSTEAD = "replace it with a Keras layer, or register a twin (tfopt.bridge.register_twin)."


@dataclasses.dataclass(frozen=True)
class Plan:
    """The conversion of one leaf.

    Attributes:
        how: a description for people.
        twin: the name of the class in tf_keras.
        make: creates the layer, unbuilt; its arguments override the config.
        arguments: maps a `Call` of the leaf to the arguments of the new layer.
    """

    how: str
    twin: str
    make: Callable[..., Any]
    arguments: Callable[[Call], Arguments]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """The conversion of one layer or operation: its flat name, class, path, the twin's class, and how."""

    name: str
    kind: str
    path: str
    twin: str
    how: str


_TWINS: dict[type, Any] = {}


def register_twin(cls: type, twin: Any) -> None:
    """Register `twin` as the tf_keras equivalent of the custom Keras 3 layer class `cls`, in this process.

    `twin` is a tf_keras layer class, created from the config of the layer (activations, initializers, regularizers and
    constraints translated; an argument that the twin does not accept is an error), or a function that takes the Keras 3
    layer and returns a new tf_keras layer. Weights are matched by name, then by order; the outputs are compared at
    every conversion.

    Raises:
        ModelError: `cls` is not a Keras 3 layer class, or `twin` is neither of these.

    Examples:
        >>> import tf_keras
        >>> class Doubled(keras.layers.Layer):
        ...     def call(self, inputs):
        ...         return inputs * 2
        >>> tfopt.extend.register_twin(Doubled, lambda layer: tf_keras.layers.Rescaling(2.0))
    """
    import keras

    if not (isinstance(cls, type) and issubclass(cls, keras.Layer)):
        raise ModelError(f"register_twin expects a Keras 3 layer class first, got {cls!r}.")
    layer_class = keras_compat.tf_keras().layers.Layer
    if not (issubclass(twin, layer_class) if isinstance(twin, type) else callable(twin)):
        raise ModelError(f"register_twin expects a tf_keras layer class or a function second, got {twin!r}.")
    _TWINS[cls] = twin


def plans(graph: Graph, to_flat_model: ToFlatModel) -> dict[int, Plan]:
    """Return the plan of every leaf, by its `id`; `to_flat_model` makes the flat model of a model inside a layer.

    Raises:
        ModelError: a layer, named with path and class, cannot be converted.
    """
    calls = _calls_of(graph)
    return {id(leaf): _named_plan(leaf, calls[id(leaf)], to_flat_model) for leaf in graph.leaves}


def _calls_of(graph: Graph) -> dict[int, list[Call]]:
    calls: dict[int, list[Call]] = {id(leaf): [] for leaf in graph.leaves}
    for call in graph.calls:
        calls[id(call.leaf)].append(call)
    return calls


def _named_plan(leaf: Leaf, calls: list[Call], to_flat_model: ToFlatModel) -> Plan:
    try:
        plan = _plan(leaf, calls, to_flat_model)
    except ModelError as error:
        raise ModelError(f"{policy.describe(leaf)}: {error}") from error
    return dataclasses.replace(plan, make=functools.partial(_made, leaf, plan.make))


def _made(leaf: Leaf, make: Callable[..., Any], /, **changes: Any) -> Any:
    try:
        return make(name=leaf.name, trainable=leaf.trainable or not is_layer(leaf.layer), **changes)
    except ModelError as error:
        raise ModelError(f"{policy.describe(leaf)}: {error}") from error
    except Exception as error:
        raise ModelError(
            f"{policy.describe(leaf)} cannot be rebuilt in tf_keras from its config ({' '.join(str(error).split())}). "
            "A layer of your own needs get_config with all arguments of its __init__, and an __init__ that passes "
            "**kwargs on to super().__init__; replace any other with a supported layer, or leave it out."
        ) from error


def _plan(leaf: Leaf, calls: list[Call], to_flat_model: ToFlatModel) -> Plan:
    layer = leaf.layer
    if policy.is_tf_keras(layer):
        return _of_tf_keras(layer, calls)
    if not is_layer(layer):
        (call,) = calls
        found = operations.native(call)
        return _native(found) if found else _carried(leaf, calls, "operation")
    layers.refuse_quantized(layer)
    if type(layer).__name__ in REFUSED and keras_internals.is_part_of_keras3(layer):
        raise ModelError(f"It {REFUSED[type(layer).__name__]}: {_INSTEAD}")
    for base in type(layer).__mro__:
        if base in _TWINS:
            return _registered(layer, _TWINS[base])
    try:
        cls, config = twins.keras3_twin(layer, to_flat_model)
        if masking := masked_softmax.class_for(layer, calls):
            cls, config = masking, {**config, "zeros": masked_softmax.gives_zeros(layer, calls)}
        _accepts(cls, layer, calls)
    except NoTwinError as why:
        return _carried(leaf, calls, str(why))
    return Plan(_how(layer, cls), cls.__name__, functools.partial(_from_arguments, cls, config), _as_called)


def crossings(graph: Graph, to_flat_model: ToFlatModel) -> list[Crossing]:
    """Return how every leaf of `graph` converts, in call order; one that cannot says so in `how`."""
    rows, calls = [], _calls_of(graph)
    for leaf in graph.leaves:
        try:
            plan = _named_plan(leaf, calls[id(leaf)], to_flat_model)
            twin, how = plan.twin, plan.how
        except ModelError as error:
            twin, how = "", f"not at all: {error}"
        rows.append(Crossing(leaf.name, type(leaf.layer).__name__, leaf.path, twin, how))
    return rows


def _as_called(call: Call) -> Arguments:
    return call.args, call.kwargs


def _how(layer: Any, cls: Any) -> str:
    if cls.__name__ != type(layer).__name__:
        return f"native twin: {cls.__name__}"
    renamed = [old for kind, old in layers.RENAMED if kind == cls.__name__]
    return "renamed arguments" if renamed else "same"


def _from_arguments(cls: Any, config: dict[str, Any], /, **changes: Any) -> Any:
    return cls(**{**config, **changes})


def _accepts(cls: Any, layer: Any, calls: list[Call]) -> None:
    """Raise NoTwinError for calls with arguments that `cls` does not accept, and for masks that it would reject."""
    for call in calls:
        if unknown := set(call.kwargs) - _call_arguments(cls):
            raise NoTwinError(f"tf_keras has no equivalent for {', '.join(sorted(unknown))} in its call")
        if any(ref.masked for ref in refs_in([call.args, call.kwargs])) and not layer.supports_masking:
            raise NoTwinError("it drops the mask of its input, which tf_keras refuses")
        if getattr(layer, "output_mode", "int") == "one_hot" and any(map(_is_matrix, refs_in(call.args))):
            raise NoTwinError("tf_keras makes one_hot vectors of single values only")


def _is_matrix(ref: Ref) -> bool:
    """Return whether a tensor has several values for each sample."""
    return ref.shape is not None and (len(ref.shape) > 2 or (len(ref.shape) == 2 and ref.shape[-1] != 1))


@functools.lru_cache(maxsize=1024)
def _call_arguments(cls: Any) -> frozenset[str]:
    """Return the names of the arguments that a layer of `cls` may be called with."""
    taken: set[str] = set()
    for base in cls.__mro__:
        for method in ("call", "__call__"):
            if method in vars(base) and base.__name__ not in ("Layer", "Module"):
                taken |= set(inspect.signature(vars(base)[method]).parameters)
    return frozenset(taken)


def _of_tf_keras(layer: Any, calls: list[Call]) -> Plan:
    if len(calls) == 1 and (found := operations.native_of_tensorflow(calls[0])):
        return _native(found)
    config = layers.own_config(layer)
    _refuse_variables(calls)
    masking = masked_softmax.class_for(layer, calls) if layer.__module__.startswith("tf_keras.") else None
    return Plan(
        "same", type(layer).__name__, functools.partial(_from_config, layer, masking or type(layer), config), _as_called
    )


def _refuse_variables(calls: list[Call]) -> None:
    import tensorflow as tf

    if any(isinstance(part, tf.Variable) for call in calls for part in flatten([call.args, call.kwargs])):
        raise ModelError(
            "It is called with a tf.Variable that belongs to no layer, so its state cannot be carried over: put it "
            "into a layer (add_weight), or pass its value as a constant."
        )


def _from_config(layer: Any, cls: Any, config: dict[str, Any], /, **changes: Any) -> Any:
    custom = policy.custom_objects(keras_internals.flat_layers(layer), "tf_keras")
    with keras_compat.tf_keras().saving.custom_object_scope(custom):
        twin = cls.from_config({**config, **changes})
    state.copy(layer, twin)
    return twin


def _native(found: operations.Native) -> Plan:
    cls = getattr(keras_compat.tf_keras().layers, found.layer)
    first = next(refs_in([found.inputs]))
    config = {**found.config, "dtype": policy.float_policy(first.dtype)}
    return Plan(
        "native twin of an operation",
        found.layer,
        functools.partial(_from_arguments, cls, config),
        lambda call: ([_native_inputs(call)], {}),
    )


def _native_inputs(call: Call) -> Any:
    native = operations.native_of_tensorflow if policy.is_tf_keras(call.leaf.layer) else operations.native
    found = native(call)
    if found is None:
        raise ModelError("Its call is not the one that was planned.")
    return found.inputs


def _registered(layer: Any, twin: Any) -> Plan:
    if isinstance(twin, type):
        config = layers.translated(layer, twin)
        make = functools.partial(_from_arguments, twin, config)
        return Plan("registered twin", twin.__name__, make, _as_called)

    def made(**changes: Any) -> Any:
        result = twin(layer)
        if not policy.is_tf_keras(result):
            raise ModelError(f"Its registered twin must be a tf_keras layer; the function returned {result!r}.")
        return type(result).from_config({**result.get_config(), **changes})

    return Plan("registered twin", type(made()).__name__, made, _as_called)


def _carried(leaf: Leaf, calls: list[Call], why: str) -> Plan:
    carried.refuse(leaf.layer, calls)
    texts, constants = carried.templates(calls)
    distinct = list(dict.fromkeys(texts))

    def make(**changes: Any) -> Any:
        held = carried.Held(leaf.layer, constants)
        return carried.carried_class()(held, distinct, **changes)

    by_call = {id(call): distinct.index(text) for call, text in zip(calls, texts, strict=True)}

    def arguments(call: Call) -> Arguments:
        tensors: list[Ref] = carried.tensors_of(call)
        which = {"template": by_call[id(call)]} if by_call[id(call)] else {}
        return [tensors[0] if len(tensors) == 1 else tensors], which

    return Plan(f"carried (runs as Keras 3 inside): {why}", "Carried", make, arguments)


def is_carried(layer: Any) -> bool:
    """Return whether `layer` is a tf_keras layer that runs Keras 3 inside."""
    return hasattr(layer, "carried_weights")
