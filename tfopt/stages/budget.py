"""What a file may cost, where a stage chooses bits by that."""

from dataclasses import dataclass

from tfopt.errors import PromiseError


@dataclass(frozen=True)
class Budget:
    """At least one of the two.

    Attributes:
        max_drop: of the accuracy, from that of the model as it came in.
        max_bytes: of the file.
    """

    max_drop: float | None
    max_bytes: int | None

    def require(self, before: float | None, after: float | None, size: int) -> None:
        """Raise `PromiseError` where a file of `size` bytes, whose accuracy is `after`, costs more."""
        if self.max_bytes is not None and size > self.max_bytes:
            raise PromiseError(f"The file has {size:,} bytes, more than max_bytes={self.max_bytes:,}.")
        if self.max_drop is None or before is None or after is None or before - after <= self.max_drop:
            return
        raise PromiseError(
            f"The file's accuracy is {after:.4f} on the test set, {before - after:.4f} below the {before:.4f} of the "
            f"model; max_drop={self.max_drop:g} was promised. Train longer, or allow more."
        )
