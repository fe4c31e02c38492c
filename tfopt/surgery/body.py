"""The body of a trained model: everything up to its features, without the classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.lookup import named
from tfopt.graph.types import Call, Graph, Leaf, Ref, flatten, refs_in, replay
from tfopt.graph.walk import walk
from tfopt.surgery.classifier import classifier

Pooling = Literal["auto", "average", "max", "flatten"]


@dataclass(frozen=True)
class Body:
    """A copy of a model up to its features.

    Attributes:
        package: `keras` or `tf_keras`.
        inputs: its Keras input tensors, nested as in the model.
        features: Keras tensor (batch, width).
        source: path of the layer that outputs the features, before pooling.
        left_out: paths of the unused layers.
    """

    package: Any
    inputs: Any
    features: Any
    source: str
    left_out: tuple[str, ...]

    @property
    def width(self) -> int:
        """The number of features per sample."""
        return int(self.features.shape[-1])

    def describe(self) -> str:
        """Return a description in words."""
        behind = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"features: {self.width} values from '{self.source}'{behind}"


def body_of(
    model: Any,
    *,
    layer: str | None = None,
    pooling: Pooling = "auto",
    input_shape: Sequence[int] | None = None,
) -> Body:
    """Return the body of a model; see `feature_extractor` for the arguments."""
    wanted = None if layer is None else named(walk(model), layer, model.name).name
    copy = bridge.to_keras(bridge.to_tf_keras(model), like=model)
    package, graph = keras_compat.keras_of(copy), walk(copy)
    place = _place_of(graph, wanted) if wanted else _behind_body(graph)
    source, left_out = graph.calls[place], graph.calls[place + 1 :]
    if len(source.outputs) != 1:
        raise ModelError(
            f"Layer '{source.leaf.path}' has {len(source.outputs)} outputs; name a layer with a single output."
        )
    used = _needed(graph, source.outputs[0])
    cut = Graph(graph.name, graph.inputs, used, graph.leaves, graph.inputs_struct, source.outputs[0])
    if input_shape is not None and len(graph.inputs) != 1:
        raise ModelError(
            f"'{model.name}' has {len(graph.inputs)} inputs; only a model with one input can take another size."
        )
    tensors: dict[Ref, Any] = {
        spec.ref: package.Input(
            batch_shape=spec.shape if input_shape is None else (None, *input_shape), dtype=spec.dtype, name=spec.name
        )
        for spec in graph.inputs
    }
    try:
        inputs, features = replay(cut, tensors, lambda leaf, args, kwargs: leaf.layer(*args, **kwargs))
    except (ValueError, TypeError) as error:
        if input_shape is None:
            raise
        raise ModelError(
            f"'{model.name}' does not take inputs of {tuple(input_shape)}: {' '.join(str(error).split())[:200]}. Keep "
            f"its own size {graph.inputs[0].shape[1:]}, or take features from an earlier layer."
        ) from error
    paths = [call.leaf.path for call in left_out]
    return Body(package, inputs, _pooled(package, features, pooling), source.leaf.path, tuple(paths))


def _place_of(graph: Graph, name: str) -> int:
    """Return the number of the only call of the layer `name`."""
    places = [number for number, call in enumerate(graph.calls) if call.leaf.name == name]
    if len(places) != 1:
        raise ModelError(f"Layer '{name}' is called {len(places)} times, so it has no single output; name another.")
    return places[0]


def _behind_body(graph: Graph) -> int:
    """Return the number of the call that feeds the classifier, or of the last call if there is no classifier."""
    outputs = flatten(graph.outputs_struct)
    if len(outputs) != 1:
        raise ModelError(f"'{graph.name}' has {len(outputs)} outputs; name the layer that gives the features.")
    last = _maker(graph, outputs[0])
    answers = classifier(graph)
    classified = answers.alone and len(outputs[0].shape or ()) == 2
    if classified and [*map(_sees_all_channels, answers.heads)] == [True]:
        head = graph.calls[_place_of(graph, answers.heads[0].name)]
        last = _maker(graph, next(refs_in(head.args)))
    if last is None:
        raise ModelError(f"'{graph.name}' has no layers before its classifier, so it has no features.")
    return graph.calls.index(last)


def _sees_all_channels(head: Leaf) -> bool:
    """Return True if a head reads all channels of one position, and nothing else."""
    family = facts_of(head.layer).family
    return family == "dense" or (family == "convolution" and set(head.layer.kernel_size) == {1})


def _maker(graph: Graph, ref: Ref) -> Call | None:
    return next((call for call in graph.calls if ref in call.outputs), None)


def _needed(graph: Graph, ref: Ref) -> list[Call]:
    """Return the calls that `ref` depends on, in order."""
    wanted, kept = {ref}, []
    for call in reversed(graph.calls):
        if wanted.intersection(call.outputs):
            kept.append(call)
            wanted.update(refs_in([call.args, call.kwargs]))
    return kept[::-1]


def _pooled(package: Any, features: Any, pooling: Pooling) -> Any:
    """Return (batch, ..., channels) pooled to (batch, width)."""
    layers, positions = package.layers, tuple(features.shape)[1:-1]
    if not positions:
        return features
    if pooling == "auto":
        pooling = "flatten" if set(positions) == {1} else "average"
    if pooling == "flatten":
        if None in positions:
            raise ModelError(f"Features of free size {tuple(features.shape)} cannot be flattened; pool them.")
        return layers.Flatten(name="features_flat")(features)
    if len(positions) > 3:
        raise ModelError(f"Features of shape {tuple(features.shape)[1:]} have too many axes to pool; flatten them.")
    kind = "Average" if pooling == "average" else "Max"
    return getattr(layers, f"Global{kind}Pooling{len(positions)}D")(name="features_pool")(features)
