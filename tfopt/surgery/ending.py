"""Find the tensor that the classifier of a graph is given: the features."""

from tfopt.errors import ModelError
from tfopt.graph.layer_facts import LayerFacts, facts_of
from tfopt.graph.types import Call, Graph, Ref, flatten, is_layer, refs_in
from tfopt.surgery.classifier import activation_of, is_hidden, is_squashing
from tfopt.surgery.widths import width_of


def feature_ref(graph: Graph) -> Ref:
    """Return the tensor of `graph` before the last layer with a kernel, or its output if that is a feature.

    Layers without a kernel may follow that layer: activations, pooling, reshaping, and normalization that a softmax or
    the like follows. Several such layers, in one output or in several, are cut off together.

    An output is a feature if it ends in an activation of inner layers, such as ReLU, in a normalization, in a recurrent
    layer, or in a sum with one of these; and if nothing before its last linear convolution has weights.

    Raises:
        ModelError: the model has nothing before its classifier, or no one tensor that the whole classifier depends on.
    """
    return _Ending(graph).features()


def inner_features(graph: Graph, last: Ref) -> list[Ref]:
    """Return the tensors that layers with kernels on the way to `last` read, the deepest first, without `last`.

    Those that no kernel has made, such as the input of the model, are left out.
    """
    wanted, found, made = {last}, [], _made_by_kernels(graph)
    for call in reversed(graph.calls):
        if not wanted.intersection(call.outputs):
            continue
        given = list(refs_in([call.args, call.kwargs]))
        wanted.update(given)
        if _has_kernel(call):
            found += [ref for ref in given if ref in made and ref != last and len(ref.shape or ()) > 1]
    return list(dict.fromkeys(found))


def _made_by_kernels(graph: Graph) -> set[Ref]:
    """Return the tensors that depend on a kernel."""
    made: set[Ref] = set()
    for call in graph.calls:
        if _has_kernel(call) or made.intersection(refs_in([call.args, call.kwargs])):
            made.update(call.outputs)
    return made


def _has_kernel(call: Call) -> bool:
    layer = call.leaf.layer
    return is_layer(layer) and any(len(weight.shape) > 1 for weight in layer.weights)


def _is_pointwise(facts: LayerFacts, layer: object) -> bool:
    """Return True for a layer that reads all channels of one position, and nothing else."""
    return facts.family == "dense" or (facts.family == "convolution" and set(layer.kernel_size) == {1})  # type: ignore[attr-defined]


class _Ending:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers = {ref: call for call in graph.calls for ref in call.outputs}
        self.outputs: list[Ref] = flatten(graph.outputs_struct)
        self.heads: list[Call] = []

    def features(self) -> Ref:
        cuts: dict[Ref, None] = {}
        for output in self.outputs:
            heads = self._heads(output)
            self.heads += [head for head in heads if head not in self.heads]
            cuts.update(dict.fromkeys([next(refs_in([head.args, head.kwargs])) for head in heads] or [output]))
        ref = next(iter(cuts)) if len(cuts) == 1 else self._common(list(cuts))
        if ref not in self.makers:
            raise ModelError(f"'{self.graph.name}' has no layers before its classifier, so it has no features.")
        return ref

    def _heads(self, output: Ref) -> list[Call]:
        """Return the calls of the last layers with kernels before `output`; none if it is a feature."""
        heads: list[Call] = []
        ways = [(output, "")]
        for ref, nearest in ways:  # grows while going back
            call = self.makers.get(ref)
            if call is None:
                return []
            layer, facts = call.leaf.layer, facts_of(call.leaf.layer)
            if facts.family != "recurrent":  # its activation is part of the recurrence
                nearest = nearest or activation_of(layer)
            if is_hidden(nearest):
                return []
            if is_layer(layer) and layer.weights and (facts.mixes_channels or facts.kernels):
                if not self._is_head(call, facts, output, predicts=is_squashing(nearest)):
                    return []
                heads += [call] if call not in heads else []
                continue
            rescales = not is_layer(layer) or not layer.weights or type(layer).__name__ == "Normalization"
            if not rescales and not is_squashing(nearest):
                return []
            ways += [(given, nearest) for given in refs_in([call.args, call.kwargs]) if (given, nearest) not in ways]
        return heads

    def _is_head(self, call: Call, facts: LayerFacts, output: Ref, *, predicts: bool) -> bool:
        """Return True if the last layer with a kernel on the way to `output` is (part of) a classifier."""
        layer = call.leaf.layer
        if predicts:
            return True
        if width_of(layer) is None and facts.family != "einsum":
            return False
        scores = len(output.shape or ()) == 2 and _is_pointwise(facts, layer)
        return scores or any(
            is_layer(other.leaf.layer) and other.leaf.layer.weights
            for other in self._needed(next(refs_in([call.args, call.kwargs])))
        )

    def _common(self, cuts: list[Ref]) -> Ref:
        """Return the last tensor that all of `cuts` depend on, alone."""
        cuts = list(dict.fromkeys(self._before_no_ops(ref) for ref in cuts))
        if len(cuts) == 1:
            return cuts[0]
        for call in reversed(self.graph.calls):
            if len(call.outputs) == 1 and self._all_pass(cuts, call.outputs[0]):
                kept = self._kernels(self._needed(call.outputs[0]))
                if kept and 2 * kept >= self._kernels(self.graph.calls) - len(self.heads):
                    return call.outputs[0]
                break
        ends = ", ".join(f"'{head.leaf.path}'" for head in self.heads) or f"{len(self.outputs)} outputs"
        raise ModelError(
            f"'{self.graph.name}' ends in several layers ({ends}) that share no one tensor near the end; pass layer= "
            "with the name of the layer whose output the features are."
        )

    def _before_no_ops(self, ref: Ref) -> Ref:
        while (call := self.makers.get(ref)) is not None and facts_of(call.leaf.layer).absent:
            ref = next(refs_in(call.args))
        return ref

    def _all_pass(self, cuts: list[Ref], gate: Ref) -> bool:
        """Return True if no input of the model reaches `cuts` except through `gate`."""
        ways, seen = [ref for ref in cuts if ref != gate], {gate, *cuts}
        for ref in ways:  # grows while going back
            call = self.makers.get(ref)
            if call is None:
                return False
            new = [given for given in refs_in([call.args, call.kwargs]) if given not in seen]
            seen.update(new)
            ways += new
        return True

    def _needed(self, ref: Ref) -> list[Call]:
        """Return the calls that `ref` depends on."""
        wanted, kept = {ref}, []
        for call in reversed(self.graph.calls):
            if wanted.intersection(call.outputs):
                kept.append(call)
                wanted.update(refs_in([call.args, call.kwargs]))
        return kept

    @staticmethod
    def _kernels(calls: list[Call]) -> int:
        return sum(
            is_layer(call.leaf.layer) and any(len(w.shape) > 1 for w in call.leaf.layer.weights) for call in calls
        )
