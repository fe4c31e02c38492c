"""All non-public parts of either Keras that the bridge reads.

pyproject.toml pins the tested versions because of this file. Nothing here is ever modified, with one exception:
`traced` removes the nodes that tracing a subclassed model leaves on its layers.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from tfopt.base import keras_compat


def structs(network: Any) -> tuple[Any, Any]:
    """Return the inputs and outputs of a functional `network`, in their original nesting."""
    if keras_compat.is_keras3_model(network):
        return network._inputs_struct, network._outputs_struct
    return network._nested_inputs, network._nested_outputs


def nodes(network: Any) -> Iterator[tuple[Any, Any, dict[str, Any], Any]]:
    """Yield (layer or operation, positional arguments, keyword arguments, outputs) of every call, in call order."""
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            if node.is_input:
                continue
            if hasattr(node, "arguments"):
                yield node.operation, node.arguments.args, node.arguments.kwargs, node.outputs
            else:
                yield node.layer, node.call_args, node.call_kwargs, node.outputs


def sequential_network(model: Any) -> Any:
    """Return the functional graph of a Sequential `model`, or None if it is not built."""
    if keras_compat.is_keras3_model(model):
        return model._functional
    return model if model._is_graph_network else None


def batch_is_free(network: Any) -> bool:
    """Return whether the batch size in the shapes of `network` is merely that of the first batch it saw."""
    return not getattr(network, "_has_explicit_input_shape", True)


def input_name(tensor: Any) -> str:
    """Return the name of the input layer that made the symbolic `tensor`."""
    history = getattr(tensor, "_keras_history", None)
    layer = getattr(history, "operation", None) or getattr(history, "layer", None)
    return str(layer.name if layer is not None else tensor.name)


def mask(tensor: Any) -> Any:
    """Return the Keras mask of `tensor`, or None."""
    return getattr(tensor, "_keras_mask", None)


def same_values(ours: list[Any], theirs: list[Any]) -> bool:
    """Return whether two lists of Keras 3 arguments hold the same tensors, or the same operations on them."""
    return len(ours) == len(theirs) and all(map(_same_value, ours, theirs))


def _same_value(a: Any, b: Any) -> bool:
    if a is b:
        return True
    made: list[Any] = [getattr(tensor, "_keras_history", None) for tensor in (a, b)]
    if None in made:
        return type(a) is type(b) and isinstance(a, (bool, int, float, str)) and a == b
    operations = [history.operation for history in made]
    if None in operations or type(operations[0]) is not type(operations[1]) or hasattr(operations[0], "weights"):
        return False
    given = [h.operation._inbound_nodes[h.node_index].arguments._flat_arguments for h in made]
    return same_values(*given)


def call_names(layer: Any) -> tuple[list[str], bool]:
    """Return the argument names of `layer.call`, in order, and whether it accepts any keyword."""
    if hasattr(layer, "_call_spec"):  # tf_keras; its TFOpLambda hides the signature from `inspect`
        spec = layer._call_spec
        return list(spec.arg_names), spec.full_argspec.varkw is not None
    parameters = inspect.signature(layer.call).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind == p.VAR_KEYWORD for p in parameters)


def takes_training(layer: Any) -> bool:
    """Return whether the call of a tf_keras `layer` has a `training` argument."""
    return bool(getattr(layer, "_expects_training_arg", False))


def own_variables(layer: Any) -> list[Any]:
    """Return the weights that `layer` itself created: no sublayer weights, no random seeds."""
    if hasattr(layer, "_trainable_variables"):
        variables = [*layer._trainable_variables, *layer._non_trainable_variables]
    else:
        variables = [*layer._trainable_weights, *layer._non_trainable_weights]
        variables = [each for each in variables if hasattr(each, "assign")]  # skips lookup tables
    return list({id(variable): variable for variable in variables}.values())


def made_trainable(layer: Any, variable: Any) -> bool:
    """Return whether a Keras 3 layer, or one inside it, created `variable` as trainable, even if it is frozen now."""
    return any(v is variable for each in [layer, *sublayers(layer, recursive=True)] for v in each._trainable_variables)


def sublayers(layer: Any, recursive: bool = False) -> list[Any]:
    """Return the layers directly inside `layer`, or all below it, in order of creation."""
    found = layer._flatten_layers(include_self=False, recursive=recursive)
    return list({id(each): each for each in found}.values())


def global_seed() -> Any:
    """Return the variable that seeds Keras 3's random operations that have no seed."""
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator().state


def loading_safely() -> bool:
    """Return False inside a tf_keras `load_model(..., safe_mode=False)`."""
    keras_compat.tf_keras()
    from tf_keras.src.saving import serialization_lib

    return serialization_lib.in_safe_mode() is not False


def trusting_scope(keras3: bool) -> Any:
    """Return a scope in which Keras rebuilds Python lambdas; only for configs of live models, never for files."""
    if keras3:
        from keras.src.saving import serialization_lib
    else:
        keras_compat.tf_keras()
        from tf_keras.src.saving import serialization_lib

    return serialization_lib.SafeModeScope(False)


def traced(model: Any, inputs: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return the symbolic outputs of `model.call(*args, **kwargs)` as a functional model from `inputs`.

    The nodes this adds to the layers of `model` are removed; the result keeps its own.
    """
    keras3 = keras_compat.is_keras3_model(model)
    package = _keras3() if keras3 else keras_compat.tf_keras()
    layers = [*sublayers(model, recursive=True), model]
    before = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    try:
        return package.Model(inputs, model.call(*args, **kwargs), name=model.name)
    finally:
        for layer, inbound, outbound in before:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


def first_call(model: Any) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the arguments of a subclassed `model`'s first call: specs (tf_keras), shapes (Keras 3) or None."""
    if not keras_compat.is_keras3_model(model):
        spec = model.save_spec()
        return None if spec is None else (list(spec[0]), dict(spec[1]))
    config = model.get_build_config()
    if config is None:
        return None
    if "input_shape" in config:
        return [config["input_shape"]], {}
    shapes = {name.removesuffix("_shape"): shape for name, shape in config["shapes_dict"].items()}
    names, _ = call_names(model)
    return [shapes.pop(names[0])] if names[0] in shapes else [], shapes


def _keras3() -> Any:
    import keras

    return keras
