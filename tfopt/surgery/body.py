"""The body of a trained model: everything up to its features, without the classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph.lookup import named
from tfopt.graph.types import Call, Graph, Ref, refs_in, replay
from tfopt.graph.walk import walk
from tfopt.surgery.ending import feature_ref, inner_features

Pooling = Literal["auto", "average", "max", "flatten"]
WIDEST = 2**14  # features of several depths for one sample


@dataclass(frozen=True)
class Body:
    """A copy of a model up to its features.

    Attributes:
        package: `keras` or `tf_keras`.
        inputs: its Keras input tensors, nested as in the model.
        features: Keras tensor (batch, width).
        source: path of the layer that outputs the features, before pooling.
        left_out: paths of the unused layers.
        widths: number of features of each depth, the deepest first.
    """

    package: Any
    inputs: Any
    features: Any
    source: str
    left_out: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """The number of features per sample."""
        return int(self.features.shape[-1])

    def describe(self) -> str:
        """Return a description in words."""
        behind = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        before = f" and {len(self.widths) - 1} depths before it" if len(self.widths) > 1 else ""
        return f"features: {self.width} values from '{self.source}'{before}{behind}"


def body_of(
    model: Any,
    *,
    layer: str | None = None,
    pooling: Pooling = "auto",
    input_shape: Sequence[int] | None = None,
    depths: int | None = 1,
) -> Body:
    """Return the body of a model; see `feature_extractor` for the arguments.

    With several `depths`, the averages over all positions of that many tensors before follow the features, the deepest
    first: those that a layer with a kernel reads. None takes all, up to a total width of `WIDEST`.
    """
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
    last = source.outputs[0]
    others = [] if depths == 1 else inner_features(graph, last)[: None if depths is None else depths - 1]
    cut = Graph(graph.name, graph.inputs, used, graph.leaves, graph.inputs_struct, [last, *others])
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
        inputs, made = replay(cut, tensors, lambda leaf, args, kwargs: leaf.layer(*args, **kwargs))
    except (ValueError, TypeError) as error:
        if input_shape is None:
            raise
        raise ModelError(
            f"'{model.name}' does not take inputs of {tuple(input_shape)}: {' '.join(str(error).split())[:200]}. Keep "
            f"its own size {graph.inputs[0].shape[1:]}, or take features from an earlier layer."
        ) from error
    paths = [call.leaf.path for call in left_out]
    parts = [_pooled(package, made[0], pooling)]
    for number, tensor in enumerate(made[1:], start=1):
        if sum(part.shape[-1] for part in parts) + tensor.shape[-1] > WIDEST:
            break
        parts.append(_pooled(package, tensor, "average", f"_{number}"))
    features = package.layers.Concatenate(name="features_of_depths")(parts) if len(parts) > 1 else parts[0]
    return Body(package, inputs, features, source.leaf.path, tuple(paths), tuple(int(part.shape[-1]) for part in parts))


def _place_of(graph: Graph, name: str) -> int:
    """Return the number of the only call of the layer `name`."""
    places = [number for number, call in enumerate(graph.calls) if call.leaf.name == name]
    if len(places) != 1:
        raise ModelError(f"Layer '{name}' is called {len(places)} times, so it has no single output; name another.")
    return places[0]


def _behind_body(graph: Graph) -> int:
    """Return the number of the call that makes the features."""
    ref = feature_ref(graph)
    return next(number for number, call in enumerate(graph.calls) if ref in call.outputs)


def _needed(graph: Graph, ref: Ref) -> list[Call]:
    """Return the calls that `ref` depends on, in order."""
    wanted, kept = {ref}, []
    for call in reversed(graph.calls):
        if wanted.intersection(call.outputs):
            kept.append(call)
            wanted.update(refs_in([call.args, call.kwargs]))
    return kept[::-1]


def _pooled(package: Any, features: Any, pooling: Pooling, suffix: str = "") -> Any:
    """Return (batch, ..., channels) pooled to (batch, width) by a layer whose name ends in `suffix`."""
    layers, positions = package.layers, tuple(features.shape)[1:-1]
    if not positions:
        return features
    if pooling == "auto":
        pooling = "flatten" if set(positions) == {1} else "average"
    if pooling == "flatten":
        if None in positions:
            raise ModelError(f"Features of free size {tuple(features.shape)} cannot be flattened; pool them.")
        return layers.Flatten(name=f"features_flat{suffix}")(features)
    if len(positions) > 3:
        raise ModelError(f"Features of shape {tuple(features.shape)[1:]} have too many axes to pool; flatten them.")
    kind = "Average" if pooling == "average" else "Max"
    return getattr(layers, f"Global{kind}Pooling{len(positions)}D")(name=f"features_pool{suffix}")(features)
