"""Check operations whose arguments contain sizes, which change meaning or fail for inputs of another shape."""

from typing import Any

from tfopt.errors import ModelError
from tfopt.graph.types import Call, Leaf, Ref, flatten, is_layer, refs_in
from tfopt.surgery.widths import Shape

# Elementwise operations. A per-channel list of numbers as an operand must not widen the input.
_ELEMENTWISE = (
    "add", "subtract", "multiply", "divide", "truediv", "truedivide", "maximum", "minimum", "pow", "power",
    "floordivide",
)  # fmt: skip
_CUTTING = ("slice", "stridedslice", "tile", "broadcastto", "gather", "take")


def kind_of(leaf: Leaf) -> str:
    """Return the class of a layer, or the name of an operation of either Keras, in lower case without underscores."""
    name = getattr(leaf.layer, "symbol", None) or type(leaf.layer).__name__
    return str(name).rpartition(".")[2].replace("_", "").lower()


def is_reshape(leaf: Leaf) -> bool:
    """Return True for an operation that reshapes; the layer Reshape has its target in its config."""
    return kind_of(leaf) == "reshape" and (not is_layer(leaf.layer) or hasattr(leaf.layer, "symbol"))


def check_arguments(call: Call, given: Shape, now: Shape) -> None:
    """Raise ModelError if the arguments of an operation hold only for an input of the shape `given`."""
    kind = kind_of(call.leaf)
    changed = [axis + 1 for axis, (old, new) in enumerate(zip(given, now, strict=False)) if old != new]
    if not changed or (is_layer(call.leaf.layer) and not hasattr(call.leaf.layer, "symbol")):
        return
    constants = [part for part in flatten([call.args, call.kwargs]) if not isinstance(part, Ref)]
    cut = kind in _CUTTING or (kind == "split" and not all(isinstance(part, int) for part in constants))
    if kind == "getitem":
        items = _items(call, len(given) + 1)
        cut = any(axis >= len(items) or not _takes_any_size(items[axis]) for axis in changed)
    if cut:
        raise ModelError(
            f"Its arguments refer to places in an input of {given}, which do not apply to one of {now}: keep the sizes "
            "that lead to it."
        )


def check_elementwise(call: Call, given: Shape, made: Shape, now: Shape, result: Shape) -> None:
    """Raise ModelError if per-channel numbers for `given` have widened an input of the shape `now`."""
    one = len(list(refs_in([call.args, call.kwargs]))) == 1
    if one and kind_of(call.leaf) in _ELEMENTWISE and given == made and result != now:
        raise ModelError(
            f"It holds numbers for inputs of {given}, which turn {now} into {result}: keep the channels that lead to "
            "it, or give it a single number."
        )


def check_scaled(leaf: Leaf, given: Shape, made: Shape, result: Shape) -> None:
    """Raise ModelError for a custom layer that fixes its own width, so that no multiplier applies."""
    layer = leaf.layer
    custom = type(layer).__module__.partition(".")[0] not in ("keras", "tf_keras")
    if custom and layer.weights and made[-1:] not in (given[-1:], ()) and made[-1:] == result[-1:]:
        raise ModelError(
            f"It is a custom layer that turns {given[-1]} channels into {made[-1]} by itself, which a width multiplier "
            "cannot change: pass width=1.0, or build it from Keras layers."
        )


def _items(call: Call, rank: int) -> list[Any]:
    """Return the index that an indexing operation uses for each axis, the batch axis first."""
    (key,) = [part for part in [*call.args, *call.kwargs.values()] if not isinstance(part, Ref)]
    items = [item for item in (key if isinstance(key, list | tuple) else (key,)) if item is not None]
    dots = [place for place, item in enumerate(items) if item is Ellipsis]
    full = [slice(None)] * (rank - len(items) + len(dots))
    place = dots[0] if dots else len(items)
    return [*items[:place], *full, *items[place + 1 :]]


def _takes_any_size(item: Any) -> bool:
    """Return True if `item` means the same on an axis of any size: all of it, its first or its last element."""
    if isinstance(item, dict):  # tf_keras writes slices this way
        item = slice(*(item.get(part) for part in ("start", "stop", "step")))
    return item == slice(None) or item in (0, -1)
