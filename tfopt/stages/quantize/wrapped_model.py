"""Build a flat tf_keras model with its layers in quantization wrappers, following the plan."""

from collections.abc import Callable, Mapping
from typing import Any

from tfopt.base.keras_compat import tf_keras, tfmot_module
from tfopt.base.overrides import Overrides
from tfopt.graph.index_values import index_values
from tfopt.graph.types import Graph, map_leaves, replay
from tfopt.stages.kernels.layer_copies import built_copy
from tfopt.stages.quantize.plan import Treatment, config_class, looked_up
from tfopt.stages.quantize.wrapper import int8_input, int8_wrapper


def quantized_model(
    graph: Graph, treatments: Mapping[str, Treatment], quantizers: Callable[[Any, Treatment], Overrides]
) -> Any:
    """Build the model of `graph` with wrapped copies of its layers, including their weights.

    Args:
        graph: of a flat tf_keras model.
        treatments: what to quantize, by layer name.
        quantizers: called with a built layer and its treatment; returns the quantizers of its weights.

    Returns:
        A new tf_keras model.
    """
    indices, exact = looked_up(graph), index_values(graph)
    inputs, tensors = {}, {}
    for spec in graph.inputs:
        # Table indices may come as floats; int8 could not tell 300 of them apart.
        dtype = "int32" if indices.get(spec.ref) and spec.dtype.startswith("float") else spec.dtype
        inputs[spec.ref] = tensors[spec.ref] = tf_keras().Input(batch_shape=spec.shape, dtype=dtype, name=spec.name)
        if dtype.startswith("float") and spec.ref not in indices and spec.ref not in exact:
            tensors[spec.ref] = int8_input()(name=f"quantize_{spec.name}")(tensors[spec.ref])
    layers = {leaf.name: _wrapped(leaf.layer, treatments[leaf.name], quantizers) for leaf in graph.leaves}
    _, outputs = replay(graph, tensors, lambda leaf, args, kwargs: layers[leaf.name](*args, **kwargs))
    given = map_leaves(inputs.__getitem__, graph.inputs_struct)  # the inputs before rounding
    return tf_keras().Model(given, outputs, name=graph.name)


def _wrapped(layer: Any, treatment: Treatment, quantizers: Callable[[Any, Treatment], Overrides]) -> Any:
    copy = built_copy(layer)
    if hasattr(copy, "finalize_state"):
        copy.finalize_state()  # Normalization computes with copies of its weights
    own_weights = tuple(copy.weights)
    if treatment.config:
        wrapper = tfmot_module("quantization.keras.quantize_wrapper").QuantizeWrapperV2
        wrapped = wrapper(copy, config_class(treatment.config)())
    else:
        weights = quantizers(copy, treatment)
        if not (treatment.quantizes or treatment.shares_with or treatment.in_float or weights):
            return copy
        outputs = len(_flat(layer.get_output_at(0))) if treatment.output or treatment.shares_with else 0
        why = treatment.why if treatment.in_float else ""
        wrapped = int8_wrapper()(copy, weights, treatment.before, outputs, treatment.shares_with, why, treatment.inner)
    object.__setattr__(wrapped, "own_weights", own_weights)  # TF-MOT's wrapper removes weights from the layer
    return wrapped


def _flat(struct: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(struct))
