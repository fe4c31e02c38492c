"""All non-public parts of either Keras that tfopt reads: the only file that names them.

pyproject.toml pins the tested versions because of this file; tests/graph/test_keras_internals.py tests each function.
The caller's models are never modified, with one exception: `traced` removes the nodes that tracing a subclassed model
leaves on its layers.
"""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
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


def is_symbolic(value: Any) -> bool:
    """Return whether `value` is a symbolic tensor of a functional model."""
    return hasattr(value, "_keras_history")


def maker(tensor: Any) -> Any:
    """Return the layer or operation that made a symbolic `tensor`; None for any other tensor."""
    history = getattr(tensor, "_keras_history", None)
    return history[0] if history else None


def mask(tensor: Any) -> Any:
    """Return the Keras mask of `tensor`, or None."""
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor: Any, values: Any) -> None:
    """Make `values` the Keras mask of `tensor`."""
    tensor._keras_mask = values


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


def is_keras3_layer(layer: Any) -> bool:
    """Return whether a `layer` of either Keras is a Keras 3 one."""
    return not hasattr(layer, "_call_spec")


def is_part_of_keras3(thing: Any) -> bool:
    """Return whether Keras 3 itself defines the class of a layer or operation."""
    return type(thing).__module__.startswith("keras.src.")


def model_classes(model: Any) -> tuple[Any, Any]:
    """Return the classes Sequential and Functional of the Keras of `model`."""
    if keras_compat.is_keras3_model(model):
        from keras.src.models.functional import Functional
        from keras.src.models.sequential import Sequential

        return Sequential, Functional
    package = keras_compat.tf_keras()
    return package.Sequential, package.src.engine.functional.Functional


def take_masks_as(wrapper: Any, layer: Any) -> None:
    """Let the call of a tf_keras `wrapper` get a mask if that of `layer` accepts one.

    Keras passes the mask to any call with **kwargs, even if the layer does not accept it.
    """
    wrapper._call_spec.expects_mask_arg = layer._expects_mask_arg


def regularize_output_as(wrapper: Any, layer: Any) -> None:
    """Let a tf_keras `wrapper`, which calls `layer.call`, add the loss of the activity regularizer of `layer`."""
    wrapper._activity_regularizer = layer._activity_regularizer


def forget_losses(layer: Any) -> None:
    """Forget the losses of the first call of a tf_keras `layer`, on a tensor that is in no model.

    The regularizers of its weights are functions, in another list.
    """
    for each in flat_layers(layer):
        each._losses = []


def attention_class() -> Any:
    """Return a subclass of tf_keras's MultiHeadAttention whose subclasses define `make_softmax(axis=, dtype=)`."""
    base: Any = keras_compat.tf_keras().layers.MultiHeadAttention

    class WithSoftmax(base):  # type: ignore[misc]
        def _build_attention(self, rank: int) -> None:
            super()._build_attention(rank)
            self._softmax: Any = self.make_softmax(axis=self._softmax.axis, dtype=self._dtype_policy)

    return WithSoftmax


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
    return any(v is variable for each in flat_layers(layer) for v in each._trainable_variables)


def sublayers(layer: Any, recursive: bool = False) -> list[Any]:
    """Return the layers directly inside `layer`, or all below it, in order of creation."""
    found = layer._flatten_layers(include_self=False, recursive=recursive)
    return list({id(each): each for each in found}.values())


def flat_layers(layer: Any) -> list[Any]:
    """Return `layer` and all layers below it, in order of creation."""
    return [layer, *sublayers(layer, recursive=True)]


def is_default(method: Any) -> bool:
    """Return whether a method of a callback of either Keras is that of the base class, which does nothing."""
    return bool(getattr(method, "_is_default", False))


def monitors_by_itself(callback: Any) -> bool:
    """Return whether a callback of Keras 3 monitors a quantity, and is to find out whether more of it is better."""
    import keras

    kinds = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)
    return isinstance(callback, kinds) and callback.mode == "auto" and callback.monitor_op is None


def metric_direction(metric: Any) -> str:
    """Return "max" or "min" for a metric of Keras 3, or the name of one or its class; "" if that is unknown."""
    import keras

    found = metric
    if isinstance(metric, str):
        try:
            found = keras.metrics.get(metric)
        except (ValueError, TypeError):
            return ""
    return {"up": "max", "down": "min"}.get(getattr(found, "_direction", ""), "")


def profiled_batches(callback: Any) -> tuple[int, int]:
    """Return the first and the last batch that a TensorBoard of Keras 3 profiles; (0, 0) for none."""
    return callback._start_batch, callback._stop_batch


def parts_of_lambda(layer: Any) -> dict[str, Any]:
    """Return the arguments of a Keras 3 Lambda that may be functions, as they are."""
    return {"function": layer.function, "mask": layer.mask, "output_shape": layer._output_shape}


def detached(operation: Any, name: str) -> Any:
    """Return a copy of a Keras 3 `operation` called `name`, without the calls that the original has in a graph."""
    copy = object.__new__(type(operation))  # copy.copy uses a config, which not all operations have
    vars(copy).update(vars(operation) | {"name": name, "_inbound_nodes": [], "_outbound_nodes": []})
    return copy


def causal_padding(layer: Any, inputs: Any) -> Any:
    """Return the paddings of a causal tf_keras convolution for `inputs`, as `tf.pad` takes them."""
    return layer._compute_causal_padding(inputs)


def matches_gpu_kernel(layer: Any) -> bool:
    """Return whether the settings of a recurrent tf_keras `layer` are those of the textbook, which cuDNN computes."""
    return bool(getattr(layer, "_could_use_gpu_kernel", False))


def loop_inputs(layer: Any, inputs: Any, initial_state: Any, constants: Any) -> tuple[Any, Any, Any]:
    """Return inputs, first states and constants of a recurrent tf_keras `layer`, as its `call` begins."""
    layer._maybe_reset_cell_dropout_mask(layer.cell)
    given, states, constants = layer._process_inputs(inputs, initial_state, constants)
    return given, states, constants


def compiled_before(model: Any) -> bool:
    """Return whether `model`, of either Keras, is compiled."""
    return bool(getattr(model, "compiled", False) or getattr(model, "_is_compiled", False))


def compile_settings(model: Any) -> dict[str, Any] | None:
    """Return the arguments of the last `compile`, or None if `model` does not keep them.

    The public get_compile_config() turns Python functions into bare names that cannot be read back.
    """
    config = getattr(model, "_compile_config", None)
    return None if config is None else dict(config.config)


def loss_arguments(loss: Any) -> dict[str, Any]:
    """Return the arguments of the function behind a loss or metric; built-in ones omit some from their configs."""
    return dict(getattr(loss, "_fn_kwargs", {}))


def rate_schedule(optimizer: Any) -> Any:
    """Return the learning-rate schedule of an optimizer of either Keras, or None for a constant rate."""
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if callable(rate) else None


def loss_scale(optimizer: Any) -> list[Any]:
    """Return the variables that scale the loss for a tf_keras optimizer; none if it does not scale it."""
    state = getattr(optimizer, "_loss_scale", None)
    return [] if state is None else [state.current_loss_scale, state.counter]


def untracked_variables(optimizer: Any) -> list[Any]:
    """Return the variables of a tf_keras optimizer that it does not list among its own, such as a product of Nadam."""
    import tensorflow as tf

    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    listed = {id(variable) for variable in inner.variables}
    own = (value for value in vars(inner).values() if isinstance(value, tf.Variable))
    return [variable for variable in own if id(variable) not in listed]


def variable_key(optimizer: Any, variable: Any) -> Any:
    """Return the key under which an optimizer of either Keras remembers `variable`."""
    return optimizer._var_key(variable)


def decay_exclusions(optimizer: Any) -> dict[str, Any]:
    """Return the attributes, part of no config, in which an optimizer keeps what has no weight decay."""
    return {name: value for name, value in vars(optimizer).items() if name.startswith("_exclude_from_weight_decay")}


def global_seed() -> Any:
    """Return the variable that seeds Keras 3's random operations that have no seed."""
    from keras.src.random.seed_generator import global_seed_generator

    return global_seed_generator().state


def random_numbers() -> Any:
    """Return a source of random numbers for a tf_keras layer, to keep in an attribute; see `random_states`."""
    keras_compat.tf_keras()
    from tf_keras.src.backend import RandomGenerator

    return RandomGenerator()


def random_states(model: Any) -> list[Any]:
    """Return the variables from which the layers of a tf_keras `model` draw random numbers in training.

    By default the layers draw from operations whose state nobody can read or set, so this gives them generators. Call
    it before the training is traced.
    """
    kind = type(random_numbers())
    sources = [each for layer in model._flatten_layers() for each in vars(layer).values() if isinstance(each, kind)]
    for source in sources:
        if source._rng_type == kind.RNG_LEGACY_STATEFUL:
            source._rng_type, source._built = kind.RNG_STATEFUL, False
        source._maybe_init()
    generators = {id(source._generator): source._generator for source in sources if source._generator is not None}
    return [generator.state for generator in generators.values()]


@contextmanager
def beginning_at(model: Any, epoch: int, step: int) -> Iterator[None]:
    """Let a `fit` of a tf_keras `model` within this block begin at `step` of `epoch`, both counted from 0."""

    class Begin:
        def maybe_load_initial_counters_from_ckpt(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
            del args, kwargs
            return epoch, step

    before = model._training_state
    model._training_state = Begin()
    try:
        yield
    finally:
        model._training_state = before


@functools.cache
def layer_table() -> frozenset[str]:
    """Return the names by which tf_keras finds layers in old configs."""
    keras_compat.tf_keras()
    from tf_keras.src.layers import serialization

    serialization.populate_deserializable_objects()
    return frozenset(serialization.LOCAL.ALL_OBJECTS)


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
    call = getattr(model.call, "python_function", model.call)  # a tf.function takes no symbolic inputs
    try:
        return package.Model(inputs, call(*args, **kwargs), name=model.name)
    finally:
        for layer, inbound, outbound in before:
            del layer._inbound_nodes[inbound:]
            del layer._outbound_nodes[outbound:]


def rename(layer: Any, name: str) -> None:
    """Set the name of a layer or operation that belongs to no model of the caller."""
    if is_keras3_layer(layer):
        layer.name = name
    else:
        layer._name = name


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
