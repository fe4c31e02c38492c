"""What a layer learned by `adapt` and keeps in lookup tables, which are no weights and stand in no config."""

from typing import Any


def copy(layer: Any, twin: Any) -> None:
    """Gives `twin`, made from the config of `layer` in the same Keras, its vocabulary or bin boundaries."""
    if type(layer).__name__ in ("StringLookup", "IntegerLookup", "TextVectorization"):
        vocabulary = layer.get_vocabulary(include_special_tokens=False)
        if vocabulary and twin.get_vocabulary(include_special_tokens=False) != vocabulary:
            twin.set_vocabulary(vocabulary)
    elif type(layer).__name__ == "Discretization":
        twin.bin_boundaries = layer.bin_boundaries
