"""A tf_keras layer that runs any Keras 3 layer or operation without an equivalent in tf_keras.

The weights are tf_keras weights. The Keras 3 object only computes, inside a `keras.StatelessScope` that supplies the
current weights, so several copies of a model share one object, which may be the caller's.
"""

import dataclasses
import functools
import json
import re
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.base.decorators import not_converted
from tfopt.base.overrides import Overrides, override_attributes
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Call, Ref, flatten, is_layer, map_leaves, refs_in

_LIVE: weakref.WeakValueDictionary[str, "Held"] = weakref.WeakValueDictionary()


class Held:
    """A Keras 3 layer or operation and the constants it is called with.

    A config identifies it by a key, by which copies of a tf_keras model in this process find the same object, and by
    its Keras 3 serialization, from which another process rebuilds it.
    """

    def __init__(self, operation: Any, constants: tuple[Any, ...] = ()) -> None:
        self.operation = operation
        self.constants = constants
        self.key = uuid.uuid4().hex
        _LIVE[self.key] = self

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """JSON-serializable config; "object" is None if Keras 3 cannot serialize it."""
        import keras

        try:
            made = keras.saving.serialize_keras_object(self.operation)
            constants = keras.saving.serialize_keras_object(list(self.constants))
            json.dumps([made, constants])
        except Exception:  # the caller's live objects can be copied in memory even if they are not serializable
            made = constants = None
        return {"key": self.key, "name": self.operation.name, "object": made, "constants": constants}

    @classmethod
    def found(cls, config: dict[str, Any]) -> "Held":
        """Return the instance of `config`, alive or rebuilt. Raise ModelError if neither is possible."""
        if (held := _LIVE.get(config["key"])) is not None:
            return held
        import keras

        if config["object"] is None:
            raise ModelError(
                f"'{config['name']}' is a Keras 3 layer that cannot be rebuilt from its config: give its class "
                "get_config and from_config, and register it (keras.saving.register_keras_serializable)."
            )
        safe = keras_internals.loading_safely()
        rebuilt = keras.saving.deserialize_keras_object(config["object"], safe_mode=safe)
        return cls(rebuilt, tuple(keras.saving.deserialize_keras_object(config["constants"], safe_mode=safe)))


def refuse(operation: Any, calls: list[Call]) -> None:
    """Raise ModelError for operations that cannot be carried: a backend other than TensorFlow, or hidden state."""
    import keras
    import tensorflow as tf

    if keras.config.backend() != "tensorflow":
        raise ModelError(
            "It has no tf_keras twin and could only run as Keras 3 inside the tf_keras model, which needs Keras 3 on "
            f"TensorFlow; its backend is {keras.config.backend()}: set KERAS_BACKEND=tensorflow, or register a twin "
            "(tfopt.bridge.register_twin)."
        )
    for given in (part for call in calls for part in flatten([call.args, call.kwargs])):
        if isinstance(given, (tf.Variable, keras.Variable)):
            raise ModelError(
                "It is called with a variable that belongs to no layer, so its state cannot be carried over: put it "
                "into a layer (add_weight), or pass its value as an array."
            )
    for each in keras_internals.flat_layers(operation) if is_layer(operation) else []:
        for name, value in vars(each).items():
            if not name.startswith("_self_") and any(isinstance(part, tf.Variable) for part in _parts(value)):
                raise ModelError(
                    f"Its attribute '{name}' is a tf.Variable that Keras does not track as a weight, so it cannot be "
                    "carried over: create it with add_weight."
                )


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def templates(calls: list[Call]) -> tuple[list[str], tuple[Any, ...]]:
    """Return a JSON text per call that marks the positions of its tensors, and the constants that JSON cannot hold."""
    constants: list[Any] = []
    return [_template(call, constants) for call in calls], tuple(constants)


def _template(call: Call, constants: list[Any]) -> str:
    count = iter(range(10**6))

    def plain(part: Any) -> Any:
        if isinstance(part, Ref):
            return {"tensor": next(count)}
        if part is None or isinstance(part, (bool, int, float, str)):
            return {"value": part}
        constants.append(part)
        return {"constant": len(constants) - 1}

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            return {"dict": {key: walk(part[key]) for key in sorted(part)}}  # in the order of `flatten`
        if type(part) in (list, tuple):
            return {type(part).__name__: [walk(item) for item in part]}
        return plain(part)

    return json.dumps([walk(list(call.args)), walk(call.kwargs)])


def _filled(template: str, tensors: list[Any], constants: tuple[Any, ...]) -> Any:
    def fill(part: dict[str, Any]) -> Any:
        ((kind, value),) = part.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "constant":
            return constants[value]
        if kind == "dict":
            return {key: fill(item) for key, item in value.items()}
        if kind in ("list", "tuple"):
            return (list if kind == "list" else tuple)(fill(item) for item in value)
        return value

    return [fill(part) for part in json.loads(template)]


def tensors_of(call: Call) -> list[Ref]:
    """Return the tensors of a call in the order of its template."""
    return list(refs_in([call.args, call.kwargs]))


def call_inside(call: Call) -> Call | None:
    """Return what a call of a `Carried` layer calls: a Keras 3 layer or operation; None for any other layer."""
    layer = call.leaf.layer
    if not hasattr(layer, "carried_weights"):
        return None
    text, held = layer.template_of(call.kwargs.get("template", 0))
    args, kwargs = _filled(text, flatten(call.args), held.constants)
    return Call(dataclasses.replace(call.leaf, layer=held.operation), args, kwargs, call.outputs)


@functools.cache
def carried_class() -> Any:
    """Return the class `Carried`, a subclass of tf_keras's Layer, created on first use."""
    import tensorflow as tf

    tf_keras = keras_compat.tf_keras()
    layer_class: Any = tf_keras.layers.Layer

    @tf_keras.saving.register_keras_serializable("tfopt")
    class Carried(layer_class):  # type: ignore[misc]
        """Run a Keras 3 layer or operation (`held`) on its inputs, a tensor or a list of tensors.

        `calls` holds a template for each way the model calls it; a call selects one by its argument `template`. This
        layer has the `weights` of the Keras 3 layer in the same order: `carried_weights`. Each is also an attribute, so
        that stages can replace its value in a call.
        """

        def __init__(self, held: Any, calls: list[str], **kwargs: Any) -> None:
            super().__init__(autocast=False, **kwargs)
            self._held = held if isinstance(held, Held) else Held.found(held)
            self._calls = "\n".join(calls)  # one string: tf_keras would track a list
            self._compute_output_and_mask_jointly = True  # Keras 3 sets the mask on the output itself
            self.supports_masking = True
            self._carried: Any = ()
            self._attributes = ""  # of the weights, in their order, as for `_calls`
            self.random_numbers = keras_internals.random_numbers()

        @property
        def operation(self) -> Any:
            """The Keras 3 object that computes. It may be the caller's: read-only."""
            return self._held.operation

        @property
        def carried_weights(self) -> list[Any]:
            """This layer's weights in the order of `operation.weights`."""
            return list(self._carried)

        def template_of(self, number: int) -> tuple[str, Held]:
            """Return one of the templates, and what it is for."""
            return self._calls.split("\n")[number], self._held

        def build(self, input_shape: Any) -> None:
            operation = self.operation
            if is_layer(operation):
                self._carried = tuple(self._weight(variable) for variable in operation.weights)
            self._attributes = "\n".join(map(self._attribute_of, self._carried))
            super().build(input_shape)

        def get_prunable_weights(self) -> list[Any]:
            """Return the float32 kernels for the stages: those that the Keras 3 class names, else by their name."""
            chosen = filter(_is_kernel, self._carried)
            if hasattr(type(self.operation), "get_prunable_weights"):
                chosen = self._named_by_class()
            return [weight for weight in chosen if weight.dtype == "float32"]

        def _named_by_class(self) -> Any:
            operation = self.operation
            own = dict(zip(map(id, operation.weights), self._carried, strict=True))
            try:
                return [own[id(variable)] for variable in operation.get_prunable_weights()]
            except Exception as error:
                raise ModelError(
                    f"Expected {type(operation).__name__}.get_prunable_weights() of layer '{operation.name}' to return "
                    f"a list of weights of the layer; got {type(error).__name__}: {error}. Return [self.kernel], say."
                ) from error

        def _attribute_of(self, weight: Any) -> str:
            """Make `weight` an attribute under the name that it has inside the Keras 3 layer; return that name."""
            path = weight.name.partition(":")[0].removeprefix(f"{self.name}/")
            name = re.sub(r"\W", "_", path).strip("_")
            while hasattr(self, name):
                name += "_"
            setattr(self, name, weight)
            return name

        def _weight(self, variable: Any) -> Any:
            value = np.asarray(variable)
            frozen = not self.operation.trainable  # then no variable is trainable, however it was created
            return self.add_weight(
                name=f"/{variable.path}".rpartition(f"/{self.operation.name}/")[2],
                shape=tuple(variable.shape),
                dtype=variable.dtype,
                trainable=keras_internals.made_trainable(self.operation, variable)
                if frozen
                else bool(variable.trainable),
                initializer=lambda shape, dtype=None, **_: tf.constant(value, dtype),
                regularizer=variable.regularizer,
                constraint=variable.constraint,
                experimental_autocast=False,
            )

        def call(self, inputs: Any, training: Any = None, template: int = 0) -> Any:
            return self._run(inputs, training, template)

        @not_converted  # on `call` itself it would hide the signature
        def _run(self, inputs: Any, training: Any, template: int) -> Any:
            import keras

            operation = self.operation
            text, held = self.template_of(template)
            args, kwargs = _filled(text, flatten(inputs), held.constants)
            training = _as_bool(training)
            draw = self.random_numbers.random_uniform if training else tf.random.uniform  # no state in files
            if not is_layer(operation):
                with keras.StatelessScope(state_mapping=_fresh_seeds([keras_internals.global_seed()], draw)):
                    return _whole_precision(operation(*args, **kwargs))
            kwargs["training"] = training
            lent = [tf.convert_to_tensor(getattr(self, name)) for name in self._attributes.split("\n") if name]
            seeds = [keras_internals.global_seed(), *_seeds_of(operation)]
            mapping = [*zip(operation.weights, lent, strict=True), *_fresh_seeds(seeds, draw)]
            scope = keras.StatelessScope(state_mapping=mapping, collect_losses=True)
            with override_attributes(_untraced_calls(operation)), scope:
                outputs = operation(*args, **kwargs)
            for weight, variable, before in zip(self._carried, operation.weights, lent, strict=True):
                now = scope.get_current_value(variable)
                if now is not before and now is not None:
                    weight.assign(tf.cast(now, weight.dtype))
            for loss in scope.losses:
                self.add_loss(loss)
            return _whole_precision(outputs)

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return cls(**config)  # tf_keras would wrap the message of `Held.found` in another error

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "held": self._held.config, "calls": self._calls.split("\n")}

    return Carried


def _is_kernel(weight: Any) -> bool:
    """Return whether a weight is trained, has a matrix or more, and is called a kernel."""
    return bool(weight.trainable) and len(weight.shape) > 1 and weight.name.partition(":")[0].endswith("kernel")


def _untraced_calls(layer: Any) -> Overrides:
    """Return overrides of calls that are a tf.function, which would go on with the weights that it was traced with."""
    calls = [(part, getattr(part.call, "python_function", None)) for part in keras_internals.flat_layers(layer)]
    return [(part, "call", call) for part, call in calls if call is not None]


def _seeds_of(layer: Any) -> list[Any]:
    """Return the variables that hold random seeds: state, but not weights."""
    weights = {id(weight) for weight in layer.weights}
    return [v for v in layer.variables if id(v) not in weights and "seed_generator_state" in v.path]


def _fresh_seeds(variables: list[Any], draw: Callable[..., Any]) -> list[tuple[Any, Any]]:
    """Return new seed values: drawn at random, since a layer cannot advance its own state, so no call repeats."""
    import tensorflow as tf

    return [(v, tf.cast(draw([2], 0, 2**31 - 1, tf.int64), v.dtype)) for v in variables]


def _as_bool(training: Any) -> bool:
    import tensorflow as tf

    if not tf.is_tensor(training):
        return bool(training)  # None is inference, although Keras 3's augmentation layers disagree
    static = tf.get_static_value(training)
    return bool(static)  # a placeholder occurs only while tf_keras traces the graph


def _whole_precision(outputs: Any) -> Any:
    """Cast float16 and bfloat16 to float32: the flat model computes in float32 throughout."""
    import tensorflow as tf

    def cast(tensor: Any) -> Any:
        if not tf.is_tensor(tensor) or tensor.dtype not in (tf.float16, tf.bfloat16):
            return tensor
        return tf.cast(tensor, tf.float32)

    return map_leaves(cast, outputs)
