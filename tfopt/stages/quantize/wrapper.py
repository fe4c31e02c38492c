"""The layers of a model with quantization: a wrapper for any layer, and the layer that rounds an input."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfopt.base.keras_compat import tf_keras, tfmot_module, unwrapped
from tfopt.base.overrides import Overrides
from tfopt.base.replicas import override_in_replica
from tfopt.graph import keras_internals
from tfopt.stages.kernels.layer_copies import call_of, restored
from tfopt.stages.kernels.table import named_kernel
from tfopt.stages.quantize import int8_equivalents, mask_ranges
from tfopt.stages.quantize.quantizers import quantizer_from
from tfopt.stages.quantize.ranges import apart, empty, has_range, range_quantizer


def gives_float(*layers: Any) -> bool:
    """Return whether one of these layers of a model with quantization wrappers gives values that are left unrounded."""
    seen, waiting = set[int](), list(layers)
    while waiting:
        layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if found := getattr(layer, "gives_float", False):
            return True
        if found is None:
            waiting.extend(layer.sources)
    return False


def _sources(layer: Any) -> list[Any]:
    """Return the layers that round, or could round, the inputs of a layer in its model; each once."""
    found, seen, waiting = [], set[int](), _layers_before(layer)
    while waiting:
        before = waiting.pop()
        if id(before) in seen:
            continue
        seen.add(id(before))
        if hasattr(type(before), "gives_float"):
            found.append(before)
        else:
            waiting.extend(_layers_before(before))
    return found


def _layers_before(layer: Any) -> list[Any]:
    return [parent.layer for node in layer.inbound_nodes for parent in node.parent_nodes]


@functools.cache
def int8_input() -> Any:
    """Return TF-MOT's layer for the inputs of a model, as a class that files can name. Created on first use."""
    base = tfmot_module("quantization.keras.quantize_layer").QuantizeLayer

    @tf_keras().saving.register_keras_serializable("tfopt")
    class Int8Input(base):  # type: ignore[misc, valid-type]
        """Rounds an input.

        Args:
            held: whether training leaves the range as it is, since it is that of bytes.
            **kwargs: passed to Keras.
        """

        def __init__(self, held: bool = False, **kwargs: Any) -> None:
            super().__init__(range_quantizer(unrounded=apart), **kwargs)
            self.held = held

        def build(self, input_shape: Any) -> None:
            super().build(input_shape)
            self.built = True  # TF-MOT leaves this to Keras, which builds it twice when it loads a file

        @property
        def gives_float(self) -> bool:
            return not has_range(self.quantizer_vars)

        def call(self, inputs: Any, training: Any = None) -> Any:
            return super().call(inputs, training=False if self.held else training)

        def get_config(self) -> dict[str, Any]:
            return {**tf_keras().layers.Layer.get_config(self), "held": self.held}

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return cls(**config)

    return Int8Input


class Point:
    """A place in a layer where values are rounded: a quantizer and its variables.

    Attributes:
        held: whether training leaves the range as it is.
        passes: whether values beyond the range get a gradient in training: without one, outputs that all lie beyond it
            would never come back.
    """

    def __init__(self, quantizer: Any, variables: dict[str, Any]) -> None:
        self.quantizer, self.variables, self.held, self.passes = quantizer, variables, False, False

    def __call__(self, values: Any, training: Any) -> Any:
        """Return `values` rounded by the quantizer."""
        return _either(training, functools.partial(self._rounded, values))

    def _rounded(self, values: Any, training: bool) -> Any:
        import tensorflow as tf

        rounded = self.quantizer(values, training and not self.held, weights=self.variables)
        return values + tf.stop_gradient(rounded - values) if training and self.passes else rounded


def _either(training: Any, function: Callable[[bool], Any]) -> Any:
    """Return `function(training)`; `training` is a tensor while Keras infers a model's shapes."""
    import tensorflow as tf

    if tf.is_tensor(training):
        return tf.cond(training, lambda: function(True), lambda: function(False))
    return function(bool(training))


@functools.cache
def int8_wrapper() -> Any:
    """Return the wrapper class `Int8Wrapper`. Created on first use, because importing TF-MOT takes seconds."""
    base = tfmot_module("quantization.keras.quantize_wrapper").QuantizeWrapperV2
    no_config = tfmot_module("quantization.keras.default_8bit.default_8bit_quantize_configs").NoOpQuantizeConfig
    plain, plain_wrapper = tf_keras().layers.Layer, tf_keras().layers.Wrapper

    @tf_keras().saving.register_keras_serializable("tfopt")
    class Int8Wrapper(base):  # type: ignore[misc, valid-type]
        """TF-MOT's quantization wrapper, extended to any layer.

        TF-MOT's wrapper removes the kernel from the inner layer, trains the kernels of frozen layers, supports a single
        output, drops masks and activity regularizers, and knows few activations.

        Args:
            layer: with its weights, if it has any.
            weights: (owner, attribute, quantizer) of each weight to round.
            before: whether to round the values between its linear part and its activation.
            outputs: the number of outputs to round: all, or 0.
            shares_with: the next layer, if it rounds the output instead: the ranges here are empty at first.
            why: why the layer is in float although it could be quantized; "" if it is not.
            inner: attributes of inner layers whose outputs are also rounded.
            held: numbers of the outputs whose ranges training leaves as they are.
            farthest: the largest size of its constants, for a layer that masks scores; None for any other.
            **kwargs: passed to TF-MOT's wrapper.
        """

        def __init__(
            self,
            layer: Any,
            weights: Overrides,
            before: bool,
            outputs: int,
            shares_with: str,
            why: str,
            inner: Sequence[str] = (),
            held: Sequence[int] = (),
            farthest: float | None = None,
            **kwargs: Any,
        ) -> None:
            super().__init__(layer, no_config(), **kwargs)
            self._name = layer.name  # as the caller knows it
            self._rounds, self.shares_with = (before, outputs, tuple(inner)), shares_with
            self._held, self.farthest = tuple(held), farthest
            self.inner: Mapping[str, Point] = {}
            self.after: Sequence[Point] = ()
            object.__setattr__(self, "_given", weights)  # bypasses Keras, which would track its layers twice
            self.why = why
            for _, _, quantizer in weights:
                quantizer.in_float = lambda: self.is_in_float
            self._supports_masking = layer.supports_masking
            # A carried Keras 3 layer sets the masks of its outputs itself.
            self._compute_output_and_mask_jointly = getattr(layer, "_compute_output_and_mask_jointly", False)
            self._parameters = inspect.signature(layer.call).parameters

        def build(self, input_shape: Any) -> None:
            if not self.layer.built:  # it has no weights
                self.layer.build(input_shape)
                self.layer.built = True
            self.built = True
            weight_vars = []
            for number, (owner, attribute, quantizer) in enumerate(self._given):
                variable = getattr(owner, attribute)
                name = f"{attribute}_{number}" if number else attribute
                weight_vars.append((variable, quantizer, quantizer.build(variable.shape, name, self)))
            object.__setattr__(self, "_weight_vars", weight_vars)
            before, outputs, inner = self._rounds
            self.between = self._point("between") if weight_vars and int8_equivalents.is_separable(self.layer) else None
            self.before = self._point("pre_activation") if before else None
            self.inner = {attribute: self._point(f"inner{attribute}") for attribute in inner}
            self.after = [self._point(f"output_{number}") for number in range(outputs)]
            for number in self._held:
                self.after[number].held = True
            if self.shares_with:
                for point in self.after:
                    empty(point.variables)

        def _point(self, name: str) -> Point:
            quantizer = range_quantizer()
            return Point(quantizer, quantizer.build(None, name, self))

        @property
        def points(self) -> list[Point]:
            """The places where activations are rounded, in this order."""
            points = (self.between, self.before, *self.inner.values(), *self.after)
            return [point for point in points if point is not None]

        @property
        def is_unrounded(self) -> bool:
            """Whether its outputs are float although it could round them."""
            return not self.is_dormant and not all(has_range(point.variables) for point in self.after)

        @property
        def is_dormant(self) -> bool:
            """Whether the next layer rounds its outputs."""
            return bool(self.shares_with) and not any(
                node.layer.is_unrounded
                for node in self.outbound_nodes
                if unwrapped(node.layer).name == self.shares_with
            )

        @property
        def sources(self) -> list[Any]:
            """The layers that round its inputs, or could."""
            return _sources(self)

        @property
        def is_in_float(self) -> bool:
            """Whether it computes with float inputs, since these are left unrounded."""
            return gives_float(*self.sources)

        @property
        def gives_float(self) -> bool | None:
            """Whether its outputs are left unrounded; None if its inputs decide."""
            if self.after:
                return None if self.is_dormant else self.is_unrounded
            return None if self.before is None else False

        def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
            if training is None:
                training = tf_keras().backend.learning_phase()
            kwargs = {
                key: value
                for key, value in {"training": training, **kwargs}.items()
                # Keras passes these two to every wrapper; the inner layer may not accept them.
                if key not in ("training", "mask") or key in self._parameters
            }
            if self.farthest is not None:
                kwargs = {key: mask_ranges.brought_near(value, self.farthest) for key, value in kwargs.items()}
            if self.is_unrounded:
                inputs = _map_tensors(apart, inputs)
            with override_in_replica(self._roundings(training)):
                outputs = self._outputs(inputs, training, kwargs)
            for point in self.after:
                point.passes = not self.outbound_nodes  # an output of the model
            after = iter(self.after)
            return (
                _map_tensors(lambda t: _with_mask_of(t, next(after)(t, training)), outputs) if self.after else outputs
            )

        def _outputs(self, inputs: Any, training: Any, kwargs: dict[str, Any]) -> Any:
            if self.between is not None:
                return int8_equivalents.separable(
                    self.layer, inputs, functools.partial(self.between, training=training)
                )
            form = int8_equivalents.layer(self.layer, inputs)
            return self.layer(inputs, **kwargs) if form is None else form(inputs)

        def _roundings(self, training: Any) -> Overrides:
            """Return the rounded weights and activation that replace the layer's own during a call."""
            overrides: Overrides = (
                [] if self.farthest is None else mask_ranges.near_constants(self.layer, self.farthest)
            )
            for (owner, attribute, _), (variable, quantizer, made) in zip(self._given, self._weight_vars, strict=True):
                rounded = _either(training, functools.partial(_quantize, quantizer, variable, made))
                overrides.append((owner, attribute, rounded))
            if callable(vars(self.layer).get("activation")):
                activation, before = int8_equivalents.activation(self.layer.activation), self.before
                rounded = activation if before is None else lambda values: activation(before(values, training))
                overrides.append((self.layer, "activation", rounded))
            for attribute, point in self.inner.items() if not self.is_in_float else ():
                rounded = functools.partial(point, training=training)
                overrides.append((getattr(self.layer, attribute), "activation", rounded))
            return overrides

        def compute_output_shape(self, input_shape: Any) -> Any:
            return self.layer.compute_output_shape(input_shape)

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            return self.layer.compute_mask(inputs, mask)

        def get_config(self) -> dict[str, Any]:
            before, outputs, inner = self._rounds
            return {
                **plain_wrapper.get_config(self),
                "call": call_of(self) if self.own_weights else None,
                "weights": [quantizer.get_config() for _, _, quantizer in self._given],
                "before": before,
                "outputs": outputs,
                "shares_with": self.shares_with,
                "why": self.why,
                "inner": list(inner),
                "held": [number for number, point in enumerate(self.after) if point.held],
                "farthest": self.farthest,
            }

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            config = dict(config)
            layer = restored(config.pop("layer"), config.pop("call"))
            own_weights, places = tuple(layer.weights), []
            for saved in config.pop("weights"):
                kernel = named_kernel(layer, saved["kernel"])
                places.append((kernel.owner, kernel.attribute, quantizer_from(saved)))
            made = cls(layer, places, **config)
            object.__setattr__(made, "own_weights", own_weights)
            return made

        trainable_weights = plain.trainable_weights
        non_trainable_weights = plain.non_trainable_weights
        losses = plain.losses
        updates = plain.updates

    return Int8Wrapper


def _quantize(quantizer: Any, variable: Any, made: Any, training: bool) -> Any:
    return quantizer(variable, training, weights=made)


def _with_mask_of(tensor: Any, rounded: Any) -> Any:
    mask = keras_internals.mask(tensor)
    if mask is not None:
        keras_internals.set_mask(rounded, mask)
    return rounded


def _map_tensors(function: Callable[[Any], Any], struct: Any) -> Any:
    import tensorflow as tf

    return tf.nest.map_structure(function, struct)
