"""What a stage does with one layer, said before anything is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """What happens to one layer of the flat twin, or why nothing does.

    Attributes:
        layer: name in the flat twin.
        does: e.g. "60 % zeros", "16 clusters", "int8 weights per channel, int8 output"; "" when left alone.
        why: why the layer is left alone or treated otherwise than most; "" where there is nothing to say.
    """

    layer: str
    does: str = ""
    why: str = ""
