"""Parameter transfer in a recipe: the new task's model begins with the weights of another."""

from typing import Any, Literal

from typing_extensions import override

from tfopt.base.config import config
from tfopt.data import Dataset
from tfopt.models.sources import model_from
from tfopt.transfer.parameters import transfer_weights
from tfopt.transfer.transfer import Transfer, Transferred


@config
class ParameterTransfer(Transfer):
    """The source's weights in a fresh model with the outputs, and the input size, of the new task.

    Attributes:
        target: path of a model that has the architecture; None takes the source's own.
        match: "name", "order" or a mapping; see `transfer_weights`.
        first: how many of the layers with weights are transferred, or the last one of them; None: all that fit.
        adapt: bring the first convolution to another number of input channels.
    """

    target: str | None = None
    match: Literal["name", "order"] | dict[str, str] = "name"
    first: int | str | None = None
    adapt: bool = True

    @override
    def untrained(self, source: Any, data: Dataset) -> Transferred:
        source = model_from(source)
        fresh = self.fresh(source if self.target is None else model_from(self.target), data)
        moved = transfer_weights(source, fresh, match=self.match, first=self.first, adapt=self.adapt)
        return Transferred(moved.model, moved.notes)
