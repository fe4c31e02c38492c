"""Gradients of the loss on labels sampled from the model's own predictions, so that no labels are needed.

With labels drawn from the model, the mean of squared gradients is the Fisher information (Kunstner et al. 2019,
arXiv:1905.12558, section 2).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfopt.graph.types import flatten, map_leaves
from tfopt.stages.channels.criteria import Values, gates
from tfopt.stages.channels.inputs import rows_of
from tfopt.surgery.channels.groups import Channels
from tfopt.tasks import Classification
from tfopt.tasks.responses import FLOAT32, form_of


def gradients_on(model: Any, channels: Channels, inputs: Any, size: int, seed: int = 0) -> Iterator[Values]:
    """Yield the gradient of the loss on each `size` samples: arrays by layer name and number of the weight.

    Args:
        model: flat tf_keras, that of `channels`.
        channels: of the model; the weights of their `gates` count.
        inputs: arrays as the model takes them.
        size: samples at once.
        seed: of the answers.
    """
    import tensorflow as tf

    leaves = {leaf.name: leaf for leaf in channels.trace.graph.leaves}
    parts = [part for group in channels.groups for part in gates(channels, group)]
    keys = sorted({(part.slot.leaf.name, part.slot.index) for part in parts})
    variables = [leaves[name].layer.weights[index] for name, index in keys]
    kinds = [_loss_for(np.asarray(output)) for output in flatten(model.predict(inputs, verbose=0))]
    generator = tf.random.Generator.from_seed(seed)

    def step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(variables)
            outputs = flatten(model(batch, training=False))
            loss = tf.add_n([_loss(kind, out, generator) for kind, out in zip(kinds, outputs, strict=True)])
        return [
            tf.zeros_like(v) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(tape.gradient(loss, variables), variables, strict=True)
        ]

    traced = tf.function(step, reduce_retracing=True)
    count = len(flatten(inputs)[0])
    for rows in (slice(start, start + size) for start in range(0, count - count % size, size)):
        found = traced(map_leaves(tf.convert_to_tensor, rows_of(inputs, rows)))
        yield {key: np.asarray(gradient) for key, gradient in zip(keys, found, strict=True)}


def _loss_for(outputs: np.ndarray) -> Any:
    """Return the loss for what all outputs (n, ..., c) are: probabilities of classes, of decisions, or values."""
    form = form_of(outputs.reshape(-1, outputs.shape[-1] if outputs.ndim > 1 else 1), Classification, FLOAT32)
    return {"softmax": _of_classes, "logits": _of_values}.get(str(form), _of_decisions)


def _loss(kind: Any, output: Any, generator: Any) -> Any:
    """Return the mean loss of a batch on answers drawn from its outputs."""
    import tensorflow as tf

    return kind(tf.reshape(tf.cast(output, tf.float32), [-1, output.shape[-1] or 1]), generator)


def _of_classes(probabilities: Any, generator: Any) -> Any:
    import tensorflow as tf

    logs = tf.math.log(tf.maximum(probabilities, 1e-12))
    noise = -tf.math.log(-tf.math.log(generator.uniform(tf.shape(logs), 1e-9, 1.0)))  # Gumbel
    drawn = tf.argmax(tf.stop_gradient(logs) + noise, -1)
    return -tf.reduce_mean(tf.gather(logs, drawn, batch_dims=1))


def _of_decisions(probabilities: Any, generator: Any) -> Any:
    import tensorflow as tf

    drawn = tf.cast(generator.uniform(tf.shape(probabilities)) < tf.stop_gradient(probabilities), tf.float32)
    inside = tf.clip_by_value(probabilities, 1e-7, 1 - 1e-7)
    return -tf.reduce_mean(tf.reduce_sum(drawn * tf.math.log(inside) + (1 - drawn) * tf.math.log1p(-inside), -1))


def _of_values(values: Any, generator: Any) -> Any:
    import tensorflow as tf

    noise = generator.normal(tf.shape(values))
    return tf.reduce_mean(tf.reduce_sum(tf.square(values - tf.stop_gradient(values) - noise), -1)) / 2
