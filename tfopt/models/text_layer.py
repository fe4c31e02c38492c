"""Models that take strings: a TextVectorization at their beginning becomes a front end, and the rest takes its ids."""

import dataclasses
from typing import Any

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.base.annotations import annotate, annotations
from tfopt.data.text import Text
from tfopt.errors import ModelError
from tfopt.graph.types import Call, Graph, refs_in, replay
from tfopt.graph.walk import walk

_NAME = "TextVectorization"
_DEFAULTS = {"standardize": "lower_and_strip_punctuation", "split": "whitespace", "output_mode": "int", "ragged": False}
"""Settings of a TextVectorization that `Text` computes."""


def behind_text_layer(model: Any) -> Any:
    """Return the part of a Keras model behind the TextVectorization that alone reads its one input, taking int32 ids.

    The part shares its layers and weights with `model`, is compiled in the same way, and states the `Text` of the layer
    as its preprocessing (`annotations`). Any other model is returned unchanged, also one whose layer splits or
    standardizes texts in another way than by default.

    Args:
        model: of either Keras.

    Raises:
        ModelError: the layer has no vocabulary.
    """
    graph = _graph_of_texts(model)
    call = graph and _first_call(graph)
    if not graph or not call:
        return model
    layer, package = call.leaf.layer, keras_compat.keras_of(model)
    text = _front_end(layer)
    rest = dataclasses.replace(graph, calls=[other for other in graph.calls if other is not call])
    ids = package.Input((text.length,), dtype="int32", name="tokens")
    tensors = {graph.inputs[0].ref: ids, call.outputs[0]: ids}
    _, outputs = replay(rest, tensors, lambda leaf, args, kwargs: leaf.layer(*args, **kwargs))
    part = package.Model(ids, outputs, name=model.name)
    if bridge.is_compiled(model):
        bridge.compile_like(part, model)
    note = f"the texts go through its layer '{layer.name}' first, which is the preprocessing of the result"
    annotate(part, preprocessing=text, path=annotations(model).path, notes=(*annotations(model).notes, note))
    return part


def _graph_of_texts(model: Any) -> Graph | None:
    """Return the graph of a model with one input and a TextVectorization; None for other models."""
    if len(getattr(model, "inputs", None) or ()) != 1 or "string" not in str(model.inputs[0].dtype):
        return None
    try:
        return walk(model, keep_names=True)
    except ModelError:  # no graph of layers
        return None


def _first_call(graph: Graph) -> Call | None:
    """Return the call of a TextVectorization for which `Text` can stand, if nothing else reads the strings."""
    readers = [call for call in graph.calls if graph.inputs[0].ref in refs_in([call.args, call.kwargs])]
    if len(readers) != 1 or type(readers[0].leaf.layer).__name__ != _NAME:
        return None
    config = readers[0].leaf.layer.get_config()
    usual = all(config.get(name, value) == value for name, value in _DEFAULTS.items())
    return readers[0] if usual and isinstance(config["ngrams"], int | None) else None


def _front_end(layer: Any) -> Text:
    """Return the `Text` that computes the ids of a TextVectorization."""
    config, vocabulary = layer.get_config(), tuple(map(str, layer.get_vocabulary()))
    if len(vocabulary) <= 2:
        raise ModelError(f"The layer '{layer.name}' has no vocabulary: adapt it to texts, then save the model again.")
    return Text(vocabulary=vocabulary, length=config["output_sequence_length"], ngrams=config["ngrams"] or 1)
