"""Structure transfer in a recipe: the new model has the architecture of another, at a different size."""

from typing import Any

from pydantic import PositiveFloat, PositiveInt
from typing_extensions import override

from tfopt.base.config import config
from tfopt.data import Dataset
from tfopt.models.sources import model_from
from tfopt.surgery.depth import repeatable_blocks
from tfopt.transfer.transfer import Transfer, Transferred


@config
class StructureTransfer(Transfer):
    """The source's architecture with fresh weights, and the outputs and the input size of the new task.

    Attributes:
        width: multiplier of the units and filters of all layers but the last.
        depth: multiplier of the number of blocks in each stage.
        divisor: new widths are multiples of it.

    Examples:
        >>> made = tfopt.transfer.StructureTransfer(width=2.0).transferred(model, data)
        >>> made.model.get_layer("first").filters
        16
    """

    width: PositiveFloat = 1.0
    depth: PositiveFloat = 1.0
    divisor: PositiveInt = 8

    @override
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        source = model_from(source)
        made = self.fresh(source, data, width=self.width, depth=self.depth, divisor=self.divisor)
        before, after = source.count_params(), made.count_params()
        said = f"the structure of '{source.name}' with fresh weights: {after:,} parameters, {before:,} in the source"
        stages = repeatable_blocks(source, self.depth) if self.depth != 1 else ()
        return Transferred(made, (said, *map(str, stages)))
