"""Folders of images and masks of the same names, for segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.reading import reading
from tfopt.data.images import Size, in_threads, open_image, unreadable
from tfopt.data.mask_headers import Header, masks_turn, read_headers, require_one_size
from tfopt.data.mask_layout import MASKS
from tfopt.data.mask_palettes import Colors, Palettes, colors_of
from tfopt.data.parts import Pair
from tfopt.data.split import Plan
from tfopt.data.stored import Collector, StoredArray, rows_at
from tfopt.errors import DataError
from tfopt.tasks.mask_values import require_classes

_LOSSY = (".jpg", ".jpeg", ".jfif")
# What an image is turned by, as its EXIF orientation says (CIPA DC-008, "Orientation").
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def paired_files(folders: list[Path], suffixes: tuple[str, ...]) -> Pair:
    """Return the paths of the images and of their masks, object arrays (n,), in the order of their names.

    Raises:
        DataError: an image without a mask, a mask without an image, or several of one name.
    """
    images, masks = sorted(folders, key=lambda folder: folder.name.lower() in MASKS)
    found = [_by_name(folder, suffixes) for folder in (images, masks)]
    alone = sorted(set(found[0]) ^ set(found[1]))
    if alone or not found[0]:
        raise DataError(
            f"Expected an image in {images} and a mask in {masks} of each name, got "
            f"{'only one of them for ' + ', '.join(alone[:3]) if alone else 'none'}; pair them up."
        )
    if lossy := [path.name for path in found[1].values() if path.suffix.lower() in _LOSSY]:
        raise DataError(f"Expected masks without loss, such as PNG, got {lossy[0]} in {masks}: JPEG changes values.")
    names = sorted(found[0])
    return tuple(np.array([files[name] for name in names], dtype=object) for files in found)  # type: ignore[return-value]


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the samples of a folder by name without suffix; hidden files, such as those of macOS, are none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(
                f"Expected one file of each name in {folder}, got {found[path.stem].name} and {path.name}; remove or "
                "rename one of them."
            )
        found[path.stem] = path
    return found


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Masks that fit their images, by their headers.

    Args:
        headers: by part of the source.
        size: (height, width) to resize to by the nearest pixel; None keeps that of the images.
        turn: whether masks turn as the EXIF orientation of their images says, see `masks_turn`.
        source: the origin, for messages.
        notes: on what the headers say.
    """

    headers: dict[str, list[Header]]
    size: Size | None
    turn: bool
    source: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, pairs: dict[str, Pair], size: Size | None, source: str) -> MaskFiles:
        """Return the masks in `pairs`, paths of images and of masks by part.

        Raises:
            DataError: a mask that cannot be read, has colors, or another size than its image; images of several sizes
                without `size`; or it is unknown how masks lie on turned images.
        """
        images, masks = ([path for pair in pairs.values() for path in pair[side]] for side in (0, 1))
        headers = read_headers(images, masks, source)
        turn, notes = masks_turn(headers)
        if size is None:
            require_one_size(headers)
        each = iter(headers)
        return cls({name: list(islice(each, len(x))) for name, (x, _) in pairs.items()}, size, turn, source, notes)

    def read(
        self, chosen: Plan, known: tuple[int, ...] | None
    ) -> tuple[dict[str, Any], tuple[int, ...], tuple[str, ...]]:
        """Return the classes of the pixels of each split, the values of the classes, and notes.

        The classes are uint8 (n, height, width) (int32 if they are more than 256), in a file if they are many. The
        values of all masks of the source, in order, are the classes: 0 and 255 become 0 and 1.

        Args:
            chosen: the samples of each split; only their masks are kept.
            known: the values, by class; None takes those that there are.

        Raises:
            DataError: a mask is damaged, its values are no classes, or palettes contradict each other.
        """
        wanted = [self.headers[origin][place] for origin, places in chosen.values() for place in places]
        others = [] if known else self._left(chosen)
        narrow = all(header.narrow for header in (*wanted, *others))
        decode = partial(_decode, size=self.size, turn=self.turn, dtype=np.uint8 if narrow else np.int32)
        collector = Collector(f"the masks of {self.source}", rows=len(wanted))
        first: dict[int, Path] = {}
        palettes = Palettes()
        decoded = in_threads(decode, [*wanted, *others], self.source, "masks")
        for number, (pixels, present, path, colors) in enumerate(decoded):
            palettes.add(path, colors, present)
            for value in present:
                first.setdefault(value, path)
            if number < len(wanted):
                collector.append(pixels[None])
        palettes.finish()
        values = known or tuple(sorted(first))
        _check(values, first, self.source, known=known is not None)
        classes = _classes(collector.result(), values)
        ends = np.cumsum([0, *(len(places) for _, places in chosen.values())])
        rows = {name: slice(*bounds) for name, bounds in zip(chosen, pairwise(ends), strict=True)}
        split = {name: rows_at(classes, each) for name, each in rows.items()}
        return split, values, _notes(values)

    def _left(self, chosen: Plan) -> list[Header]:
        """Return the headers of masks that are in no split."""
        used = {(origin, int(place)) for origin, places in chosen.values() for place in places}
        return [
            header
            for name, headers in self.headers.items()
            for place, header in enumerate(headers)
            if (name, place) not in used
        ]


def _check(values: tuple[int, ...], first: dict[int, Path], source: str, *, known: bool) -> None:
    """Raise `DataError` for values, found `first` in these masks, that are no classes."""
    if not known:
        require_classes(values, source)
    if unknown := sorted(set(first) - set(values)):
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise DataError(
            f"Expected masks with the values {shown} alone, which are the classes of the model or of mask_values=, got "
            f"{unknown[0]} in {first[unknown[0]]}; correct the mask, or give data with the classes of the model."
        )


def _notes(values: tuple[int, ...]) -> tuple[str, ...]:
    if values == tuple(range(len(values))):
        return ()
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    classes = "0 and 1" if len(values) == 2 else f"0 to {len(values) - 1}"
    return (f"the mask values {shown} are the classes {classes}",)


def _classes(masks: Any, values: tuple[int, ...]) -> Any:
    """Return the classes of the pixels of `masks`, whose values are all in `values`; overwrite those in memory."""
    dtype = np.dtype(np.uint8 if len(values) <= 256 else np.int32)
    if masks.dtype == dtype and values == tuple(range(len(values))):
        return masks
    order = np.argsort(values).astype(dtype)
    in_order = np.sort(values)
    table = np.zeros(256, dtype)
    if masks.dtype == np.uint8:
        table[in_order[in_order < 256]] = order[in_order < 256]

    def look_up(part: np.ndarray) -> np.ndarray:
        return table[part] if part.dtype == np.uint8 else order[np.searchsorted(in_order, part)]

    if not isinstance(masks, StoredArray) and masks.dtype == dtype:
        for place, mask in enumerate(masks):
            masks[place] = look_up(mask)
        return masks
    found = Collector("the classes of masks", rows=len(masks))
    for mask in masks:
        found.append(look_up(mask)[None])
    return found.result()


def _decode(
    header: Header, *, size: Size | None, turn: bool, dtype: type[np.integer]
) -> tuple[np.ndarray, list[int], Path, Colors | None]:
    """Return the values of a mask (height, width), turned as its image is if it is to `turn`; those that it has.

    Also return its path, and the colors of its palette.
    """
    from PIL import Image, ImageOps

    with (
        reading(partial(unreadable, header.mask, what="mask")),
        open_image(header.mask, "mask") as opened,
    ):
        mask = ImageOps.exif_transpose(opened)
        mask = mask.convert("L") if mask.mode == "1" else mask
        colors = colors_of(mask)
        values = np.flatnonzero(mask.histogram()) if header.narrow else np.unique(np.asarray(mask))
        if turn and header.leaves_open and (how := _TURNS.get(header.orientation)):
            mask = mask.transpose(Image.Transpose[how])
        if size is not None and (mask.height, mask.width) != size:
            mask = mask.resize((size[1], size[0]), Image.Resampling.NEAREST)
        return np.asarray(mask, dtype), values.tolist(), header.mask, colors
