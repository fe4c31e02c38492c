"""What several losses compute, in plain TensorFlow operations: float32 inside, finite at the singular points."""

from collections.abc import Sequence
from typing import Any

from tfopt.errors import ModelError


def to_float(values: Any) -> Any:
    """Return `values` as a float32 tensor; in float16, squared features soon overflow."""
    import tensorflow as tf

    return tf.cast(values, tf.float32)


def as_rows(features: Any) -> Any:
    """Return (batch, ...) as (batch, values) in float32."""
    import tensorflow as tf

    features = to_float(features)
    return tf.reshape(features, (tf.shape(features)[0], -1)) if features.shape.rank != 2 else features


def per_sample(values: Any) -> Any:
    """Return the mean over all axes but the first: (batch, ...) -> (batch,)."""
    import tensorflow as tf

    return tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))


def number_of_classes(logits: Any, who: str) -> int:
    """Return the size of the last axis. Raise `ModelError` if it is 1, so that there is nothing to choose between."""
    number = logits.shape[-1]
    if number is None or number < 2:
        raise ModelError(
            f"{who} compares the probabilities of at least two classes; the student's logits have shape "
            f"{tuple(logits.shape)}. Use MultilabelKD for a single probability."
        )
    return int(number)


def kl_divergence(log_p: Any, log_q: Any) -> Any:
    """Return KL(p || q) over the last axis, from the logarithms of both: (..., classes) -> (...)."""
    import tensorflow as tf

    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def kl_of_logits(teacher: Any, student: Any) -> Any:
    """Return KL(softmax(teacher) || softmax(student)) over the last axis: (..., classes) -> (...)."""
    import tensorflow as tf

    return kl_divergence(tf.nn.log_softmax(teacher), tf.nn.log_softmax(student))


def tempered_kl(teacher: Any, student: Any, temperature: float) -> Any:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) over the last axis: (..., classes) -> (...).

    The square keeps the size of the gradients where it is at T = 1 (Hinton et al. 2015, arXiv:1503.02531, section 2).
    """
    return temperature**2 * kl_of_logits(teacher / temperature, student / temperature)


def root(squares: Any) -> Any:
    """Return the square root, with gradient 0 instead of infinity at 0 (that of a distance between equal points)."""
    import tensorflow as tf

    live = squares > 1e-24
    return tf.where(live, tf.sqrt(tf.where(live, squares, 1.0)), 0.0)


def unit(vectors: Any) -> Any:
    """Return the vectors of the last axis at length 1; a zero vector stays zero and gets no gradient."""
    import tensorflow as tf

    squares = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    live = squares > 1e-24
    return tf.where(live, vectors * tf.math.rsqrt(tf.where(live, squares, 1.0)), 0.0)


def centered_unit(vectors: Any) -> Any:
    """Return the vectors of the last axis without their mean, at length 1: the product of two is Pearson's r.

    A vector whose values are equal up to what float32 rounds has no direction: zero, without a gradient.
    """
    import tensorflow as tf

    centered = vectors - tf.reduce_mean(vectors, axis=-1, keepdims=True)
    squares = tf.reduce_sum(tf.square(centered), axis=-1, keepdims=True)
    live = squares > tf.maximum(1e-12 * tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True), 1e-24)
    return tf.where(live, centered * tf.math.rsqrt(tf.where(live, squares, 1.0)), 0.0)


def huber(errors: Any, delta: float = 1.0) -> Any:
    """Return half the square of an error, linear beyond `delta` (Huber 1964); elementwise."""
    import tensorflow as tf

    size = tf.abs(errors)
    return tf.where(size <= delta, 0.5 * tf.square(errors), delta * (size - 0.5 * delta))


def shrink_to_smaller(one: Any, other: Any) -> tuple[Any, Any]:
    """Return two (batch, spatial..., channels) features at the smaller size of each spatial axis, by area averaging."""
    import tensorflow as tf

    for axis in range(1, one.shape.rank - 1):
        sizes = one.shape[axis], other.shape[axis]
        if None in sizes:
            sizes = tf.shape(one)[axis], tf.shape(other)[axis]
            size = tf.minimum(*sizes)
        else:
            size = min(sizes)
        one, other = _averaged(one, axis, sizes[0], size), _averaged(other, axis, sizes[1], size)
    return one, other


def _averaged(features: Any, axis: int, size: Any, target: Any) -> Any:
    """Return `features` with the means of `target` equal stretches of `axis` instead of its `size` points.

    A point on the border of two stretches counts for each by its share, so all points count alike.
    """
    import tensorflow as tf

    if isinstance(size, int) and size == target:
        return features
    stretch = tf.cast(size, tf.float32) / tf.cast(target, tf.float32)
    starts = tf.range(target, dtype=tf.float32)[:, None] * stretch
    points = tf.range(size, dtype=tf.float32)[None]
    overlap = tf.minimum(starts + stretch, points + 1) - tf.maximum(starts, points)
    axes = "bxyzw"[: features.shape.rank - 1] + "c"
    new = axes.replace(axes[axis], "n")
    return tf.einsum(f"{axes},n{axes[axis]}->{new}", features, tf.maximum(overlap, 0.0) / stretch)


def total(terms: Sequence[Any]) -> Any:
    """Return the sum of equally shaped float32 terms, at least one."""
    import tensorflow as tf

    return tf.add_n(list(terms))
