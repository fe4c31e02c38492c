"""Parameter transfer in a recipe: the model for the new task starts with the weights of another."""

from typing import Any, Literal

from typing_extensions import override

from tfopt.base.config import config
from tfopt.data import Dataset
from tfopt.models.sources import model_from
from tfopt.transfer.parameters import transfer_weights
from tfopt.transfer.transfer import Transfer, Transferred


@config
class ParameterTransfer(Transfer):
    """The source's weights in a fresh model with the outputs and the input size of the new task.

    Attributes:
        target: path of a model with the architecture to use; None uses the source's.
        match: "name", "order" or a mapping; see `transfer_weights`.
        first: number of layers with weights to transfer, or the last one of them; None transfers all that fit.
        adapt: adapt the first convolution to a different number of input channels.

    Examples:
        >>> made = tfopt.transfer.ParameterTransfer(first="second").transferred(teacher, data)
        >>> bool((made.model.get_layer("first").kernel.numpy() == teacher.get_layer("first").kernel.numpy()).all())
        True
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
