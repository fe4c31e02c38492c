"""restructure: the architecture of a model with fresh weights, at a different size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base import keras_compat
from tfopt.bridge import policy, state, weights
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Call, Graph, GraphInput, Leaf, Ref, flatten, is_layer, refs_in, replay
from tfopt.graph.walk import walk
from tfopt.surgery import sizes, widths
from tfopt.surgery.classifier import Classifier, classifier
from tfopt.surgery.depth import deepened
from tfopt.surgery.reinitialize import fresh
from tfopt.surgery.widths import Shape

_SHAPES_OF_ATTENTION = ("query_shape", "key_shape", "value_shape")


def restructure(
    model: Any,
    *,
    input_shape: Sequence[int | None] | None = None,
    classes: int | None = None,
    width: float = 1.0,
    depth: float = 1.0,
    divisor: int = 8,
    activation: str | None = "same",
    seed: int = 0,
) -> Any:
    """Return a new model with the architecture of `model`, the given sizes and fresh weights.

    Args:
        model: a Keras 3 or tf_keras model. It is not changed; nested models are flattened.
        input_shape: of one sample, without the batch axis, with the same number of axes; None keeps it.
        classes: width of the classifier, the last layer of units or filters that is followed only by layers without
            weights; None keeps it.
        width: multiplier of the units and filters of all other layers, see `widths.scaled_width`. Depthwise layers and
            normalizations follow their inputs.
        depth: multiplier of the number of blocks in each stage; `repeatable_blocks(model, depth)` shows the result.
            Added blocks copy the last one and its names: `<name>_repeat1`, `<name>_repeat2`.
        divisor: new widths are multiples of it.
        activation: of the classifier: "same" keeps it, else a name; None for scores.
        seed: of all initial weights; each initializer in the config of a layer gets a separate seed.

    Returns:
        A functional model of the same Keras, not compiled, with the layer names and `trainable` flags of `model`. The
        statistics of Normalization layers and the vocabularies of lookups are kept.

    Raises:
        ModelError: a layer that does not allow it, by name, or settings out of range.

    Examples:
        >>> wider = tfopt.transfer.restructure(model, width=2.0, classes=5)
        >>> wider.get_layer("first").filters, wider.output_shape
        (16, (None, 5))
    """
    _check(width, depth, divisor, classes, seed)
    graph = walk(model, keep_names=True)
    answers = classifier(graph)
    _check_answers(graph, answers, classes, activation)
    if depth != 1:
        graph = deepened(graph, depth)
    edits = _Edits(answers, classes, activation, width, divisor, seed)
    return _Builder(model, graph, edits).model(_inputs(graph, input_shape))


def _check(width: float, depth: float, divisor: int, classes: int | None, seed: int) -> None:
    for name, factor in (("width", width), ("depth", depth)):
        if not (factor > 0 and math.isfinite(factor)):
            raise ModelError(f"{name} must be a factor above 0, got {factor}; 1.0 changes nothing.")
    if divisor < 1 or (classes is not None and classes < 1):
        raise ModelError(f"Expected a divisor and classes of 1 or more, got divisor={divisor} and classes={classes}.")
    if seed < 0:
        raise ModelError(f"The seed must be a whole number of 0 or more, got {seed}.")


def _check_answers(graph: Graph, answers: Classifier, classes: int | None, activation: str | None) -> None:
    if classes is None and activation == "same":
        return
    outputs = len(flatten(graph.outputs_struct))
    if outputs != 1:
        raise ModelError(f"Classes and activation need a model with one output; '{graph.name}' has {outputs}.")
    if not answers.alone:
        raise ModelError(
            f"'{graph.name}' ends in features, not in a classifier (a Dense layer or convolution with no other weights "
            "and no ReLU after it): leave out classes and activation, and put a head on it (tfopt.transfer.new_head)."
        )
    if answers.joined is not None and classes is not None:
        raise ModelError(
            f"The output of '{graph.name}' is combined by {policy.describe(answers.joined)}, so no single layer has "
            "one output per class: leave out classes."
        )
    if classes == 1 and (answers.activation if activation == "same" else activation) == "softmax":
        raise ModelError("The softmax of one output is always 1: pass activation='sigmoid', or None for scores.")


def _inputs(graph: Graph, input_shape: Sequence[int | None] | None) -> list[GraphInput]:
    if input_shape is None:
        return graph.inputs
    if len(graph.inputs) != 1:
        names = ", ".join(spec.name for spec in graph.inputs)
        raise ModelError(f"input_shape needs a model with one input; '{graph.name}' has {len(graph.inputs)} ({names}).")
    (spec,) = graph.inputs
    shape = tuple(input_shape)
    if len(shape) != len(spec.shape) - 1 or any(size is not None and size < 1 for size in shape):
        raise ModelError(
            f"Expected an input_shape of {len(spec.shape) - 1} axes like {spec.shape[1:]}, without the batch axis, got "
            f"{shape}."
        )
    return [GraphInput(spec.name, (spec.shape[0], *shape), spec.dtype, spec.ref)]


class _Edits:
    """The requested changes, applied to the configs of layers."""

    def __init__(
        self, answers: Classifier, classes: int | None, activation: str | None, width: float, divisor: int, seed: int
    ) -> None:
        self.answers, self.classes, self.width, self.divisor, self.seed = answers, classes, width, divisor, seed
        self.activation = None if activation == "same" else activation or "linear"

    def replaces(self, leaf: Leaf) -> bool:
        """Return True if `leaf` is replaced by another activation."""
        return self.activation is not None and leaf in self.answers.squashing

    def config(self, leaf: Leaf, number: int, given: Shape, made: Shape, now: Shape) -> dict[str, Any]:
        """Return the config of new layer `number` for `leaf`, whose input and output had shapes `given` and `made`."""
        kind = type(leaf.layer).__name__
        config = {**leaf.layer.get_config(), "name": leaf.name, "trainable": leaf.trainable}
        config.pop("batch_input_shape", None)
        if leaf in self.answers.heads:
            config = widths.answering(kind, config, self.classes, None if self.answers.squashing else self.activation)
        elif self.width != 1:
            config = widths.scaled(kind, config, self.width, self.divisor)
        config = widths.refitted(kind, config, given, made, now)
        return dict(fresh(config, np.random.default_rng([self.seed, number])))


class _Builder:
    """A builder that creates each layer at its first call, when the shape of its input is known."""

    def __init__(self, model: Any, graph: Graph, edits: _Edits) -> None:
        self.package, self.graph, self.edits = keras_compat.keras_of(model), graph, edits
        self.calls = {id(call.leaf): call for call in reversed(graph.calls)}  # the first call of each
        self.numbers = {id(leaf): number for number, leaf in enumerate(graph.leaves)}
        self.tensors: dict[Ref, Any] = {}
        self.made: dict[int, Any] = {}

    def model(self, inputs: list[GraphInput]) -> Any:
        self.tensors = {
            spec.ref: self.package.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name) for spec in inputs
        }
        own = [leaf.layer for leaf in self.graph.leaves if is_layer(leaf.layer)]
        inside = [type(each) for layer in own for each in keras_internals.flat_layers(layer)]
        name = self.package.__name__
        custom = {kind.__name__: kind for kind in inside if kind.__module__.partition(".")[0] != name}
        with self.package.utils.custom_object_scope(custom), keras_internals.trusting_scope(name == "keras"):
            found = replay(self.graph, self.tensors, self._run)
        return self.package.Model(*found, name=self.graph.name)

    def _run(self, leaf: Leaf, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            if id(leaf) in self.made:
                return self.made[id(leaf)](*args, **kwargs)
            return self._first(self.calls[id(leaf)], args, kwargs)
        except ModelError as error:
            raise ModelError(f"{policy.describe(leaf)}: {error}") from error
        except Exception as error:
            shapes = [_size(part) for part in flatten(args) if hasattr(part, "shape")]
            raise ModelError(
                f"{policy.describe(leaf)} cannot be built for inputs of {', '.join(map(str, shapes))}: "
                f"{' '.join(str(error).split())[:300]}. Choose another input_shape, width or divisor, or change that "
                "layer first."
            ) from error

    def _first(self, call: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Return the outputs of the first call of a leaf."""
        leaf, refs = call.leaf, list(refs_in([call.args, call.kwargs]))
        given, now = (_size(refs[0]), _size(self.tensors[refs[0]])) if refs else ((), ())
        made = _size(call.outputs[0])
        if self.edits.replaces(leaf):
            layer, args, kwargs = self.package.layers.Activation(self.edits.activation, name=leaf.name), args[:1], {}
        elif sizes.is_reshape(leaf) and given != now:
            target = widths.target_shape(given, made, now)
            layer, args, kwargs = self.package.layers.Reshape(target, name=leaf.name), args[:1], {}
        else:
            sizes.check_arguments(call, given, now)
            layer = self._layer(leaf, given, made, now)
        self.made[id(leaf)] = layer
        outputs = layer(*args, **kwargs)
        result = _size(flatten(outputs)[0])
        sizes.check_elementwise(call, given, made, now, result)
        if is_layer(leaf.layer):
            weights.copy_flags(leaf.layer, layer)
            if self.edits.width != 1:
                sizes.check_scaled(leaf, given, made, result)
        if type(layer).__name__ == "Normalization":
            _keep_statistics(leaf.layer, layer)
        return outputs

    def _layer(self, leaf: Leaf, given: Shape, made: Shape, now: Shape) -> Any:
        """Return a new layer for `leaf`, or its operation detached from the caller's graph."""
        if not is_layer(leaf.layer):
            return keras_internals.detached(leaf.layer, leaf.name)
        config = self.edits.config(leaf, self.numbers[id(leaf)], given, made, now)
        if "query_shape" in config:  # from_config of tf_keras would build the layer for its old shapes
            return type(leaf.layer)(**{key: value for key, value in config.items() if key not in _SHAPES_OF_ATTENTION})
        layer = type(leaf.layer).from_config(config)
        state.copy(leaf.layer, layer)
        return layer


def _size(tensor: Any) -> Shape:
    """Return the shape of a tensor or `Ref` without the batch axis; () if it is unknown."""
    shape = tensor.shape
    return () if shape is None or getattr(shape, "rank", 0) is None else tuple(shape)[1:]


def _keep_statistics(layer: Any, target: Any) -> None:
    """Copy the statistics that a Normalization `layer` was adapted to."""
    old, new = ([tuple(weight.shape) for weight in each.weights] for each in (layer, target))
    if old == new:
        weights.copy(layer, target)
        return
    mean, variance = (np.asarray(weight) for weight in layer.weights[:2])
    if (mean != 0).any() or (variance != 1).any():
        raise ModelError(
            f"It was adapted to data whose mean has the shape {old[0]}; its new input needs {new[0]}: keep the "
            "channels of the input, or leave the layer out and adapt a new one to your data."
        )
