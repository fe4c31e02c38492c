"""Tracing of subclassed models: `call` runs once on symbolic inputs to give a functional model."""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import Ref, flatten, is_layer, map_leaves
from tfopt.graph.variables import unchanged

_NUMBER = r"_\d{1,4}$"
_WAYS_OUT = (
    "There are two ways out: build it as a functional model, keras.Model(inputs, outputs), from the same layers; or "
    "make its `call` traceable: only layers and keras.ops on tensors, no `if` on `training` or on values"
)


def trace(model: Any, where: str) -> Any:
    """Return the functional model that `model.call` builds on inputs of the shapes `model` was built with.

    Raises:
        ModelError: the model was never built, or its `call` cannot be traced.
    """
    given = keras_internals.first_call(model)
    if given is not None and given[1]:
        raise ModelError(
            f"{where} is a subclassed model whose call takes several arguments ({', '.join(given[1])}), where one is "
            f"expected: put them into one list or dict. {_WAYS_OUT}"
        )
    if given is not None:
        return _traced(model, where, _specs(given[0]), _specs(given[1]))
    if model.built:
        raise ModelError(
            f"{where} is a subclassed model ({type(model).__name__} defines its own call), which could not be traced: "
            f"Keras 3 itself failed to trace it when it built the model. {_WAYS_OUT}"
        )
    raise ModelError(
        f"{where} is a subclassed model ({type(model).__name__} defines its own call) that is not built: "
        f"call it once on a batch, so that its inputs are known. {_WAYS_OUT}"
    )


def trace_call(model: Any, where: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Trace one call inside another model, on inputs like those that the `Ref`s in `args` and `kwargs` stand for."""

    def spec(part: Any) -> Any:
        return _Spec(part.shape, part.dtype) if isinstance(part, Ref) else part

    return _traced(model, where, map_leaves(spec, args), map_leaves(spec, kwargs))


class _Spec:
    def __init__(self, shape: Any, dtype: str) -> None:
        self.shape, self.dtype = (None, *tuple(shape)[1:]), dtype


def _specs(shapes: Any) -> Any:
    """Return specs in the nesting of `shapes`: tuples of numbers in Keras 3, tensor specs in tf_keras."""
    if hasattr(shapes, "dtype"):
        return _Spec(shapes.shape, shapes.dtype.name)
    if isinstance(shapes, dict):
        return {key: _specs(value) for key, value in shapes.items()}
    if not isinstance(shapes, (list, tuple)):
        return shapes
    if shapes and all(size is None or isinstance(size, int) for size in shapes):
        return _Spec(shapes, "float32")  # Keras 3 does not store the dtype; its layers cast their inputs
    return [_specs(value) for value in shapes]


def _traced(model: Any, where: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    package: Any
    if keras_compat.is_keras3_model(model):
        import keras

        package = keras
        _count_past(keras_internals.sublayers(model, recursive=True))
    else:
        package = keras_compat.tf_keras()
    inputs: list[Any] = []

    def symbolic(part: Any, name: str | None = None) -> Any:
        if isinstance(part, dict):
            return {key: symbolic(part[key], str(key)) for key in sorted(part)}
        if not isinstance(part, _Spec):
            return part
        name = name or f"input_{len(inputs) + 1}"
        inputs.append(package.Input(batch_shape=part.shape, dtype=part.dtype, name=name))
        return inputs[-1]

    args, kwargs = [_mapped(symbolic, part) for part in args], {k: _mapped(symbolic, v) for k, v in kwargs.items()}
    struct: Any = args[0] if len(args) == 1 and len(inputs) == len(flatten(args[0])) else inputs
    names, _ = keras_internals.call_names(model)
    modes: list[dict[str, Any]] = [{"training": mode} for mode in (False, True)] if "training" in names else [{}]
    if modes[0] and not keras_compat.is_keras3_model(model):
        modes[0] = {"training": None}  # otherwise tf_keras writes False into every call
    try:
        with unchanged(model):
            networks = [keras_internals.traced(model, struct, args, {**kwargs, **mode}) for mode in modes]
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{where} is a subclassed model ({type(model).__name__} defines its own call), which could not be "
            f"traced ({type(error).__name__}: {said}). {_WAYS_OUT}"
        ) from error
    if len({_drawing(network) for network in networks}) > 1:
        raise ModelError(
            f"{where} is a subclassed model ({type(model).__name__}) that behaves differently in training and "
            f"inference, so it has no single graph. {_WAYS_OUT}"
        )
    _rename_operations(networks[0], model)
    return networks[0]


def _rename_operations(network: Any, model: Any) -> None:
    """Name the operations in `network` that the trace of `model` made, so that each trace gives the same names.

    Keras counts them over the whole process.
    """
    known = keras_internals.sublayers(model, recursive=True)
    ids, taken = {id(layer) for layer in known}, {layer.name for layer in known}
    made = {id(layer): layer for layer, *_ in keras_internals.nodes(network) if id(layer) not in ids}
    for layer in made.values():
        stem = re.sub(_NUMBER, "", layer.name)
        names = (f"{stem}_{number}" if number else stem for number in itertools.count())
        name = next(name for name in names if name not in taken)
        taken.add(name)
        keras_internals.rename(layer, name)


def _count_past(layers: Iterable[Any]) -> None:
    """Move the counters by which Keras 3 names operations past the names of `layers`, which it wants unique."""
    import keras

    for layer in layers:
        stem = re.sub(_NUMBER, "", layer.name)
        number = layer.name.removeprefix(stem).strip("_")
        while keras.backend.get_uid(stem) <= int(number or 0):
            pass


def _mapped(symbolic: Callable[[Any], Any], part: Any) -> Any:
    return symbolic(part) if isinstance(part, dict) else map_leaves(symbolic, part)


def _drawing(network: Any) -> tuple[Any, ...]:
    """Return what is called, in order. Operations appear as classes, since each trace makes new ones."""
    return tuple(
        id(layer) if is_layer(layer) and layer.weights else type(layer).__name__
        for layer, *_ in keras_internals.nodes(network)
    )
