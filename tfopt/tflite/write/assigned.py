"""Layers that assign variables in inference, which not every file can do."""

from typing import Any

from tfopt.base.keras_compat import unwrapped
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import is_layer
from tfopt.tflite.read.layer_names import layer_pattern, layers_in
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.strategies import strategies_for

_OF_LIBRARIES = ("tf_keras.", "keras.", "tensorflow_model_optimization.", "tfopt.")
"""Layers of these assign nothing in inference; recurrent ones keep states, see `check_states`."""
_ASSIGNING = ("Assign", "ResourceScatter", "ResourceStridedSliceAssign")


def check_assignments(flat_model: Any) -> None:
    """Raise ModelError for layers that assign variables in inference, so that a call depends on those before it.

    The model is traced only if code of others may do so: in layers of their own, Lambdas, and layers around these.
    """
    doubtful = {layer.name: layer for layer in map(unwrapped, flat_model.layers) if _has_code_of_others(layer)}
    if not doubtful:
        return
    try:
        function, _ = strategies_for(flat_model, FLOAT, None)[0].trace(flat_model, None)
    except Exception:  # the conversion comes to the same and explains it
        return
    definition = function.graph.as_graph_def()
    names = [node.name for node in definition.node if node.op.startswith(_ASSIGNING)]
    patterns = {name: layer_pattern(name) for name in doubtful}
    found = list(dict.fromkeys(layer for name in names for layer in layers_in(name, patterns)))
    inner = any(node.op.startswith(_ASSIGNING) for part in definition.library.function for node in part.node_def)
    if not found and not inner:  # a BatchNormalization with training=True, maybe: the conversion explains it
        return
    layers = [f"'{name}' ({_kind(doubtful[name])})" for name in found or doubtful]
    if len(layers) == 1:
        who = f"layer {layers[0]} assigns"
    elif found:
        who = f"layers {', '.join(layers)} assign"
    else:  # names do not tell inside branches and loops
        who = f"code in one of the layers {', '.join(layers)} assigns"
    raise ModelError(
        f"The {who} a variable in inference, as add_metric does too, so outputs depend on the calls before, but not "
        "every .tflite keeps states from one call to the next. Make the state an input and an output of the model, or "
        "assign the variable in training only (if training: ...)."
    )


def _has_code_of_others(layer: Any) -> bool:
    return any(
        not type(part).__module__.startswith(_OF_LIBRARIES) or type(part).__name__ == "Lambda"
        for whole in (layer, getattr(layer, "operation", None))  # of a carried layer
        if whole is not None and is_layer(whole)
        for part in keras_internals.flat_layers(whole)
    )


def _kind(layer: Any) -> str:
    return type(getattr(layer, "operation", layer)).__name__
