"""Find the classifier of a graph, the layers whose width is the number of outputs."""

import dataclasses
from typing import Any

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Graph, Leaf, Ref, flatten, is_layer, refs_in
from tfopt.surgery.widths import width_of

# Activations of inner layers: their outputs are features, not predictions. In lower case, without underscores.
_HIDDEN = (
    "relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish",
    "hardsilu", "hardswish", "glu", "crelu", "squareplus", "hardshrink", "softshrink", "tanhshrink",
)  # fmt: skip
# Activations of predictions.
_SQUASHING = (
    "softmax", "sigmoid", "tanh", "logsoftmax", "logsigmoid", "hardsigmoid", "hardtanh", "softplus", "softsign",
    "exponential", "sparsemax", "sparsesigmoid",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The layers that produce the predictions.

    Attributes:
        heads: layers of units or filters followed only by layers without weights.
        squashing: layers or operations after them, such as a softmax, that turn scores into predictions.
        joined: the layer that concatenates several predictions, so that no single head has their width; else None.
        alone: True if the whole output comes from `heads`; False also if there are none.
    """

    heads: tuple[Leaf, ...]
    squashing: tuple[Leaf, ...]
    joined: Leaf | None
    alone: bool

    @property
    def activation(self) -> str:
        """The last activation of the predictions; "linear" if there is none."""
        found = self.squashing or self.heads
        return activation_of(found[0].layer) or "linear" if found else "linear"


def classifier(graph: Graph) -> Classifier:
    """Return the layers of `graph` that produce its outputs.

    Going back from each output, this is the first layer of units or filters, if no other layer with weights comes first
    and the activation nearest to the output is not one of an inner layer, such as ReLU: then the output is a feature.
    """
    makers = {ref: call for call in graph.calls for ref in call.outputs}
    heads: list[Leaf] = []
    squashing: list[Leaf] = []
    joined, alone = None, True
    ways: list[tuple[Ref, str]] = [(ref, "") for ref in flatten(graph.outputs_struct)]
    for ref, nearest in ways:  # grows while going back
        call = makers.get(ref)
        if call is None:
            alone = False
            continue
        leaf = call.leaf
        nearest = nearest or activation_of(leaf.layer)
        if width_of(leaf.layer) is not None:
            if nearest in _HIDDEN:
                alone = False
            elif leaf not in heads:
                heads.append(leaf)
        elif is_layer(leaf.layer) and leaf.layer.weights:
            alone = False
        else:
            if nearest in _SQUASHING and activation_of(leaf.layer) == nearest and leaf not in squashing:
                squashing.append(leaf)
            joined = leaf if type(leaf.layer).__name__ == "Concatenate" else joined
            ways.extend((given, nearest) for given in _tensors(call) if (given, nearest) not in ways)
    return Classifier(tuple(heads), tuple(squashing), joined, alone and bool(heads))


def _tensors(call: Call) -> list[Ref]:
    return list(refs_in([call.args, call.kwargs]))


def activation_of(layer: Any) -> str:
    """Return the activation that `layer`, or an operation, applies to its output, in lower case; "" for none."""
    if facts_of(layer).family == "time_distributed":
        layer = layer.layer
    function = getattr(layer, "activation", None)
    if function is not None:
        name = getattr(function, "__name__", type(function).__name__)
    else:
        name = getattr(layer, "symbol", None) or type(layer).__name__  # tf_keras wraps TensorFlow functions
    name = name.rpartition(".")[2].replace("_", "").lower()
    return name if is_hidden(name) or is_squashing(name) else ""


def is_hidden(activation: str) -> bool:
    """Return whether the name of `activation_of` is an activation of inner layers."""
    return activation in _HIDDEN


def is_squashing(activation: str) -> bool:
    """Return whether the name of `activation_of` is an activation of predictions."""
    return activation in _SQUASHING
