"""Observe the inputs of a layer of a flat tf_keras model and the outputs of its linear part."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.base.overrides import override_attributes

_AT_ONCE = 64


def inputs_of(models: tuple[Any, ...], name: str, samples: Any) -> Iterator[list[Any]]:
    """Yield the inputs of the layer `name` in each of `models`, float32, batch by batch for each call of the layer.

    Args:
        models: flat tf_keras models with the same layers.
        name: of the layer.
        samples: an array or, for several inputs, a list, tuple or dict of arrays.
    """
    layers = [model.get_layer(name) for model in models]
    for call in range(len(layers[0].inbound_nodes)):
        before = [tf_keras().Model(m.input, layer.get_input_at(call)) for m, layer in zip(models, layers, strict=True)]
        for batch, _ in batches_of(samples, _AT_ONCE):
            yield [part(batch, training=False) for part in before]


def batches_of(samples: Any, at_once: int) -> Iterator[tuple[Any, int]]:
    """Yield `samples` in batches of `at_once`, with the size of each batch."""
    import tensorflow as tf

    number = count_of(samples)
    for start in range(0, number, at_once):
        batch = tf.nest.map_structure(lambda array, at=start: tf.constant(array[at : at + at_once]), samples)
        yield batch, min(at_once, number - start)


def linear_part(layer: Any, inputs: Any) -> Any:
    """Return the output of `layer` without its activation."""
    with override_attributes([(layer, "activation", lambda values: values)] if hasattr(layer, "activation") else []):
        return layer(inputs)


def count_of(samples: Any) -> int:
    """Return the number of samples in an array or a struct of arrays."""
    import tensorflow as tf

    return len(tf.nest.flatten(samples)[0]) if not isinstance(samples, np.ndarray) else len(samples)
