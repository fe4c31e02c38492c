"""Limits on the accuracy drop and the size of a file, by which a stage chooses bits."""

import math
from dataclasses import dataclass

from tfopt.errors import PromiseError


@dataclass(frozen=True)
class Budget:
    """Limits of a file; at least one of the two is set.

    Attributes:
        max_drop: largest drop in accuracy, compared with the model before the stage.
        max_bytes: largest size of the file in bytes.
    """

    max_drop: float | None
    max_bytes: int | None

    def require(self, before: float | None, after: float | None, size: int) -> None:
        """Raise PromiseError if a file of `size` bytes exceeds a limit.

        Args:
            before: the accuracy of the model before the stage; None if the task has none.
            after: that of the file; NaN keeps no limit.
            size: of the file in bytes.
        """
        if self.max_bytes is not None and size > self.max_bytes:
            raise PromiseError(f"The file has {size:,} bytes, more than max_bytes={self.max_bytes:,}. Raise max_bytes.")
        if self.max_drop is None or before is None or after is None or before - after <= self.max_drop:
            return
        if math.isnan(before) or math.isnan(after):
            raise PromiseError(
                f"The accuracy of {'the file' if math.isnan(after) else 'the model'} on the test set is not a number; "
                f"max_drop={self.max_drop:g} was promised. Look for NaN in the weights with `tfopt inspect`."
            )
        raise PromiseError(
            f"The file's accuracy on the test set is {after:.4f}, {before - after:.4f} below the model's {before:.4f}; "
            f"max_drop={self.max_drop:g} was promised. Train longer, or raise max_drop."
        )
