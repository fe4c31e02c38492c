"""Comparisons of values with themselves, by which models look for NaN."""

from tfopt.errors import PromiseError
from tfopt.tflite.read import LiteModel, Op
from tfopt.tflite.read.layer_names import LayerNames
from tfopt.tflite.settings import Export

_SELF = ("EQUAL", "NOT_EQUAL")


def verify_missing_values(lite: LiteModel, settings: Export, names: LayerNames) -> list[str]:
    """Check that no missing values of a float input are forgotten: integers are never NaN.

    Args:
        lite: the file.
        settings: the requested types.
        names: to name the layers of operators.

    Returns:
        A note where inputs are integers too, which cannot be NaN themselves.

    Raises:
        PromiseError: an operator looks for NaN among integers, and inputs are float.
    """
    if not (found := [op for op in lite.ops() if _compares_integers_with_themselves(op, lite)]):
        return []
    layers = list(dict.fromkeys(name for op in found for name in names.near(op) or [op.name]))
    said = f"{', '.join(layers)} {'compares' if len(layers) == 1 else 'compare'} values with themselves to find NaN"
    if any(port.dtype == "float32" for port in lite.inputs):
        raise PromiseError(
            f"{settings.activations} activations were promised, but {said}, which integers never are. "
            'Fill missing values before the model, or export with activations="float32".'
        )
    return [f"{said}: integers never are"]


def _compares_integers_with_themselves(op: Op, lite: LiteModel) -> bool:
    if op.name not in _SELF or op.inputs[0] != op.inputs[1]:
        return False
    places = {(tensor.subgraph, tensor.index): tensor for tensor in lite.tensors()}
    widened = {
        other.outputs[0]: other.inputs[0]
        for other in lite.ops()
        if (other.subgraph, other.name) == (op.subgraph, "DEQUANTIZE")
    }
    compared = places[op.subgraph, widened.get(op.inputs[0], op.inputs[0])]
    return bool(compared.scales)
