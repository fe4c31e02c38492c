"""What became of each weight of a model that took over those of another."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal

from tfopt.base.terminal import rendered

Status = Literal["matched", "adapted", "skipped"]

LISTED = 3  # names of layers in a note


@dataclass(frozen=True)
class Move:
    """What became of one weight of the target.

    Attributes:
        layer: path of its layer in the target.
        weight: its name in the layer.
        source: path of the source's layer that was compared with it; "" for none.
        status: "matched", taken as it is; "adapted", brought to another number of input channels; "skipped", left as
            it was in the target.
        note: how the layers were found to correspond, what was done, or why nothing.
    """

    layer: str
    weight: str
    source: str
    status: Status
    note: str = ""


@dataclass(frozen=True)
class TransferredWeights:
    """What `transfer_weights` returns: a model like the target, and what became of each of its weights."""

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
        told = (f"{_listed(list(layers))} {status}: {note}" for (status, note), layers in alike.items())
        return (f"{len(self.moves)} weights: {said}", *told)

    def table(self) -> Any:
        """A row for the weights of a layer that went the same way, as a `rich.table.Table`."""
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
