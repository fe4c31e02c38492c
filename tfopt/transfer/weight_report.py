"""The report of a weight transfer: what happened to each weight."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal

from tfopt.base.terminal import rendered

Status = Literal["matched", "adapted", "skipped"]

LISTED = 3  # layer names per note


@dataclass(frozen=True)
class Move:
    """The outcome for one weight of the target.

    Attributes:
        layer: path of its layer in the target.
        weight: its name in the layer.
        source: path of the source layer it was compared with; "" for none.
        status: "matched", copied unchanged; "adapted", converted to another number of input channels; "skipped", left
            as it was in the target.
        note: how the layers were matched, what was done, or why nothing was.
    """

    layer: str
    weight: str
    source: str
    status: Status
    note: str = ""


@dataclass(frozen=True)
class TransferredWeights:
    """The result of `transfer_weights`: a model like the target, and what happened to each of its weights.

    Examples:
        >>> moved = tfopt.transfer.transfer_weights(model, network(8), first="first")
        >>> moved.counts
        {'matched': 2, 'adapted': 0, 'skipped': 4}
        >>> isinstance(moved, tfopt.transfer.TransferredWeights)
        True
        >>> moved.moves[0].layer, moved.moves[0].status
        ('first', 'matched')
    """

    model: Any
    moves: tuple[Move, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of weights by status."""
        return {
            status: sum(move.status == status for move in self.moves) for status in ("matched", "adapted", "skipped")
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """The counts, and which layers were adapted or skipped and why, in words."""
        said = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        alike: dict[tuple[str, str], dict[str, None]] = {}
        for move in self.moves:
            if move.status != "matched":
                alike.setdefault((move.status, move.note), {})[move.layer] = None
        lines = (f"{_listed(list(layers))} {status}: {note}" for (status, note), layers in alike.items())
        return (f"{len(self.moves)} weights: {said}", *lines)

    def table(self) -> Any:
        """Return a `rich.table.Table` with one row for the weights of a layer that share a status."""
        from rich.table import Table

        table = Table(title=self.notes[0], title_justify="left")
        for name in ("layer", "weights", "from", "status", "note"):
            table.add_column(name, overflow="fold")
        for layer, names, move in self._rows():
            table.add_row(layer, names, move.source or "-", move.status, move.note)
        return table

    def _rows(self) -> list[tuple[str, str, Move]]:
        alike = itertools.groupby(self.moves, key=lambda move: dataclasses.replace(move, weight=""))
        return [(same.layer, ", ".join(move.weight for move in moves), same) for same, moves in alike]

    def __str__(self) -> str:
        return rendered(self.table(), 120).rstrip()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
