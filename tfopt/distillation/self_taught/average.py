"""The exponential moving average of a student's weights, and copies of models that hold one."""

from typing import Any

from tfopt.base.keras_compat import keras_of, unwrapped
from tfopt.base.replicas import number_of_replicas, once_for_all
from tfopt.bridge.state import finalize, moved_ids
from tfopt.errors import ModelError
from tfopt.graph.keras_internals import sublayers


class Average:
    """The exponential moving average of a student's weights, and its outputs.

    A plain student gets a copy, `model`, that holds the average. A student in TF-MOT's wrappers cannot be copied with
    all that the wrappers know, so `model` is None: there the student itself answers, lent the averaged weights, and
    masks of ones.
    """

    def __init__(self, student: Any, decay: float) -> None:
        import tensorflow as tf

        self._student, self._decay = student, decay
        only_first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.steps = tf.Variable(0.0, trainable=False, aggregation=only_first)
        moving = moved_ids(student)
        weights = list(student.weights)
        self.model: Any = None
        self._kept: list[tuple[Any, Any]] = []
        pruned = [parts for layer in student.layers for parts in getattr(layer, "pruning_vars", ())]
        self._masks = {id(weight): mask for weight, mask, _ in pruned}
        if any(unwrapped(layer) is not layer for layer in student.layers):
            self._pairs = [(w, tf.Variable(w, trainable=False)) for w in weights if id(w) in moving]
            return
        self.model = copied(student)
        means = zip(weights, self.model.weights, strict=True)
        paired = [(weight, mean, id(weight) in moving) for weight, mean in means]
        self._pairs = [(weight, mean) for weight, mean, moves in paired if moves]
        self._kept = [(weight, mean) for weight, mean, moves in paired if not moves]

    @property
    def variables(self) -> list[Any]:
        """The number of steps, and all averages."""
        return [self.steps, *(mean for _, mean in (*self._pairs, *self._kept))]

    def answers(self, x: Any) -> Any:
        """Return the teacher's outputs for x (batch, ...), in inference mode."""
        import tensorflow as tf

        if self.model is not None:
            return self.model(x, training=False)
        lent = [*(weight for weight, _ in self._pairs), *self._masks.values()]
        own = [tf.identity(variable) for variable in lent]
        self.hand_over()
        for mask in self._masks.values():
            mask.assign(tf.ones_like(mask))
        outputs = self._student(x, training=False)
        for variable, value in zip(lent, own, strict=True):
            variable.assign(value)
        return outputs

    def update(self) -> None:
        """Update the average after a step of the student."""
        if number_of_replicas() == 1:
            self._update()
        else:
            once_for_all(self._update)

    def _update(self) -> None:
        import tensorflow as tf

        self.steps.assign_add(1.0)
        decay = tf.minimum(1 - 1 / (self.steps + 1), self._decay)
        for weight, mean in self._pairs:
            before, now = tf.convert_to_tensor(mean), tf.convert_to_tensor(weight)
            if id(weight) in self._masks:
                now = now * tf.cast(self._masks[id(weight)], now.dtype)
            keep = tf.cast(decay, before.dtype)
            mean.assign(keep * before + (1 - keep) * tf.cast(now, before.dtype))
        for weight, mean in self._kept:
            mean.assign(tf.convert_to_tensor(weight))

    def hand_over(self) -> None:
        """Copy the averaged weights into the student."""
        import tensorflow as tf

        for weight, mean in self._pairs:
            weight.assign(tf.convert_to_tensor(mean))


def copied(model: Any) -> Any:
    """Return a copy of `model` in the same Keras, with separate, equal weights. Raise ModelError if that fails."""
    api = keras_of(model)
    custom = {type(layer).__name__: type(layer) for layer in sublayers(model, recursive=True)}
    try:
        with api.utils.custom_object_scope(custom):
            copy = api.models.clone_model(model)
        copy.set_weights(model.get_weights())
        finalize(copy)
    except Exception as error:
        raise ModelError(
            f"'{model.name}' cannot be copied: {error}. Its layers must be rebuildable from get_config()."
        ) from error
    return copy
