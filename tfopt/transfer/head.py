"""A model for another task: all but the last layer of a trained one."""

from typing import Any

from tfopt import bridge, legacy
from tfopt.bridge.graph import Call, Graph, Leaf, Ref, flatten, is_layer, refs_in, replay, walk
from tfopt.errors import ModelError

# Layers behind the last Dense that only turn logits into probabilities.
_SQUASHING = ("Activation", "Softmax")


def new_head(model: Any, outputs: int, *, activation: str | None = "softmax", seed: int = 0) -> Any:
    """A new model like `model`, whose last Dense layer is a fresh one of `outputs` units; all other weights are copied.

    Args:
        model: a Keras 3 or tf_keras model with one output, that of a Dense layer, with or without an activation layer
            behind it. It is not changed; nested models come back flat.
        outputs: width of the new output.
        activation: of the new layer.
        seed: of its initial weights (Glorot & Bengio 2010).

    Raises:
        ModelError: the output comes from another kind of layer, or there are several.
    """
    if outputs < 1:
        raise ModelError(f"A head needs at least one output; got {outputs}.")
    copy = bridge.to_keras(bridge.to_tf_keras(model), like=model)
    package = legacy.package(copy)
    graph = walk(copy)
    head, behind = _head(graph)
    made = package.layers.Dense(
        outputs,
        activation=activation,
        name=f"{head.name}_new",
        kernel_initializer=package.initializers.GlorotUniform(seed=seed),
    )

    def run(leaf: Leaf, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if leaf is head:
            return made(args[0])
        return args[0] if leaf is behind else leaf.layer(*args, **kwargs)

    tensors: dict[Ref, Any] = {
        spec.ref: package.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name) for spec in graph.inputs
    }
    inputs, found = replay(graph, tensors, run)
    return package.Model(inputs, found, name=model.name)


def _head(graph: Graph) -> tuple[Leaf, Leaf | None]:
    """The Dense layer that makes the output, and the activation layer behind it, if there is one."""
    outputs = flatten(graph.outputs_struct)
    if len(outputs) != 1:
        raise ModelError(f"A new head needs a model with one output; '{graph.name}' has {len(outputs)}.")
    behind = None
    last = _maker(graph, outputs[0])
    if type(last.leaf.layer).__name__ in _SQUASHING:
        behind, last = last.leaf, _maker(graph, next(refs_in(last.args)))
    layer = last.leaf.layer
    if not is_layer(layer) or type(layer).__name__ != "Dense":
        raise ModelError(
            f"The output of '{graph.name}' comes from '{last.leaf.path}' ({type(layer).__name__}); expected a Dense "
            "layer, which a new one can replace."
        )
    return last.leaf, behind


def _maker(graph: Graph, ref: Ref) -> Call:
    for call in graph.calls:
        if ref in call.outputs:
            return call
    raise ModelError(f"The model '{graph.name}' gives its input back; it has no head to replace.")
