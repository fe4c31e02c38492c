"""The names of a model's inputs and outputs for data that have several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfopt.base.keras_compat import is_keras3_model, is_tf_keras_model
from tfopt.data.dataset import Dataset
from tfopt.data.samples import Split
from tfopt.errors import DataError
from tfopt.graph.ports import Ports
from tfopt.graph.walk import valid_name


def named_as(model: Any, data: Dataset) -> Dataset:
    """Return `data` with the names and the order of the inputs and outputs of `model`.

    Names are those of Keras: of the Input layers, of the output layers, or the keys of a dict. Arrays of a list are in
    the model's order.

    Args:
        model: a Keras model or a `LiteModel`.
        data: with one input and one output, or several by name.

    Raises:
        DataError: the data have other inputs or outputs.
    """
    inputs, outputs = (_names(model, side) for side in ("inputs", "outputs"))
    if not data.has_several and len(inputs) == len(outputs) == 1:
        return data
    takes = _matched(inputs, _given(data.train.inputs), f"'{_name(model)}' takes the inputs")
    gives = _matched(outputs, _given(data.outputs), f"'{_name(model)}' gives the outputs")

    def renamed(part: Split) -> Split:
        weights = _renamed(part.weights, gives)
        return replace(part, inputs=_renamed(part.inputs, takes), labels=_renamed(part.labels, gives), weights=weights)

    if data.outputs is not None and len(outputs) == 1:
        data = data.of_output(next(iter(data.outputs)))
    tasks = None if data.outputs is None else _renamed(dict(data.outputs), gives)
    train, validation, test = (renamed(part) for part in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test, outputs=tasks)


def inputs_named_as(model: Any, inputs: Any) -> Any:
    """Return inputs by name, or one alone, with the names and the order of those of `model`, as `named_as` does."""
    return _renamed(inputs, _matched(_names(model, "inputs"), _given(inputs), f"'{_name(model)}' takes the inputs"))


def output_names(model: Any) -> tuple[str, ...]:
    """Return the names of the outputs of a Keras model or a `LiteModel`."""
    return _names(model, "outputs")


def _name(model: Any) -> str:
    return str(getattr(model, "name", None) or "the file")


def _names(model: Any, side: str) -> tuple[str, ...]:
    if is_keras3_model(model) or is_tf_keras_model(model):
        return Ports(model, side).names
    return tuple(port.name for port in getattr(model, side))


def _given(arrays: Mapping[str, Any] | Any) -> list[str]:
    return list(arrays) if isinstance(arrays, Mapping) else [""]


def _matched(wanted: Sequence[str], given: Sequence[str], what: str) -> dict[str, str]:
    """Return the name in `given` for each of `wanted`: the same, the same as TensorFlow writes it, or by position."""
    if set(wanted) == set(given):
        return {name: name for name in wanted}
    as_written = {valid_name(name): name for name in given if name}
    if set(wanted) == set(as_written):
        return {name: as_written[name] for name in wanted}
    positions = [str(number) for number in range(len(wanted))]
    if list(given) in (positions, [""]) and len(wanted) == len(given):
        return dict(zip(wanted, given, strict=True))
    came = ", ".join(given) if list(given) != [""] else "one without a name"
    missing = [name for name in wanted if name not in given]
    about = f"missing: {', '.join(missing)}" if 0 < len(missing) < len(wanted) else "pass a dict with these names"
    raise DataError(f"{what} {', '.join(wanted)}; the data have {came}. Name the arrays as the model does; {about}.")


def _renamed(arrays: Any, names: Mapping[str, str]) -> Any:
    """Return arrays by the new names, in their order; the array alone if there is one."""
    if not isinstance(arrays, dict):
        return arrays
    found = {new: arrays[old] for new, old in names.items()}
    return next(iter(found.values())) if len(found) == 1 else found
