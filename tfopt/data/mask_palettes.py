"""Palettes of masks: a class must have the same color in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tfopt.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Color = tuple[int, int, int]
Colors = tuple[Color, ...]
_GRAY: Colors = tuple((value, value, value) for value in range(256))


def colors_of(mask: Image.Image) -> Colors | None:
    """Return the colors of a palette by index; None for a mask without a palette."""
    if mask.mode != "P":
        return None
    found = mask.getpalette() or []
    return tuple(zip(found[::3], found[1::3], found[2::3], strict=False))


@dataclass(frozen=True)
class _Seen:
    """A value of a mask: its color, the palette, the path, and whether the mask has a palette."""

    value: int
    colors: Colors
    path: Path
    indexed: bool

    @property
    def color(self) -> Color:
        return self.colors[self.value]

    def __str__(self) -> str:
        shown = "#" + "".join(f"{part:02x}" for part in self.color)
        return f"{shown} with the value {self.value} in {self.path}" + (
            "" if self.indexed else ", which has no palette"
        )


@dataclass
class Palettes:
    """Compares the palettes of masks.

    The classes in a mask with a palette are indices into it. Programs that make small files order the colors of each
    palette anew, so that one class has several indices. Colors that a mask does not use do not matter. Values of a mask
    without a palette are shades of gray.
    """

    _by_value: dict[int, _Seen] = field(default_factory=dict)
    _by_color: dict[Color, _Seen] = field(default_factory=dict)
    _plain: dict[int, Path] = field(default_factory=dict)

    def add(self, path: Path, colors: Colors | None, values: Iterable[int]) -> None:
        """Compare the mask in `path`, which has these `colors` or no palette, and these `values`, to those before.

        Raises:
            DataError: a value has another color in another mask, or a color another value.
        """
        if colors is None:
            for value in values:
                self._plain.setdefault(value, path)
            return
        for value in values:
            if value < len(colors):
                self._compare(_Seen(value, colors, path, indexed=True))

    def finish(self) -> None:
        """Compare masks without a palette to those with one. Raise `DataError` as `add` does."""
        if self._by_value:
            for value, path in self._plain.items():
                if value < len(_GRAY):
                    self._compare(_Seen(value, _GRAY, path, indexed=False))

    def _compare(self, seen: _Seen) -> None:
        before = self._by_value.setdefault(seen.value, seen)
        if before.color != seen.color:
            _refuse(before, seen)
        before = self._by_color.setdefault(seen.color, seen)
        if before.value != seen.value and not _have_twice(before, seen):
            _refuse(before, seen)


def _have_twice(one: _Seen, other: _Seen) -> bool:
    """Return whether a palette has the color of these at both of their values, so that it tells nothing."""
    values = {one.value, other.value}
    return any(
        all(value < len(each.colors) and each.colors[value] == each.color for value in values) for each in (one, other)
    )


def _refuse(one: _Seen, other: _Seen) -> None:
    raise DataError(
        f"Expected masks whose palettes have one color for each class, got {one}, and {other}; save all masks with the "
        "same palette, or in grayscale with the numbers of the classes as values."
    )
