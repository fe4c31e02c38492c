"""The sizes of images and of their masks, and which of them are turned, from their headers alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tfopt.base.reading import reading
from tfopt.data.images import (
    ON_ITS_SIDE,
    TURNED,
    Size,
    in_threads,
    open_image,
    orientation_of,
    shown_size,
    unreadable,
)
from tfopt.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_CLASS_NUMBERS = ("L", "P", "1", "I;16", "I;16L", "I;16B", "I;16N", "I")  # modes with one number for each pixel
_BYTES = ("L", "P", "1")
_AGREE = "save the images turned, e.g. with PIL.ImageOps.exif_transpose, so that both agree"
_PNG_START, _PIXELS, _WITH_EXIF = 8, b"IDAT", (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


@dataclass(frozen=True)
class Header:
    """What the files of an image and its mask say about them.

    Args:
        image: the path.
        mask: the path.
        size: (height, width) of the image as it is to be seen.
        orientation: EXIF orientation of the image.
        mask_size: (height, width) of the mask as it is to be seen.
        mask_turned: whether the mask has an EXIF orientation itself.
        narrow: whether a value of the mask takes a byte.
    """

    image: Path
    mask: Path
    size: Size
    orientation: int
    mask_size: Size
    mask_turned: bool
    narrow: bool

    @property
    def leaves_open(self) -> bool:
        """Whether the image is turned, and the mask may be meant for the image before or after that."""
        return self.orientation in TURNED and not self.mask_turned

    @property
    def mask_is_stored(self) -> bool:
        """Whether the mask has the size of the image before it is turned, and not that after it."""
        return self._tells and self.mask_size == self.size[::-1]

    @property
    def mask_is_shown(self) -> bool:
        """Whether the mask has the size of the image after it is turned, and not that before it."""
        return self._tells and self.mask_size == self.size

    @property
    def _tells(self) -> bool:
        return self.leaves_open and self.orientation in ON_ITS_SIDE and self.size[0] != self.size[1]


def read_headers(images: list[Path], masks: list[Path], source: str) -> list[Header]:
    """Return the headers of all pairs of an image and its mask.

    Args:
        images: the paths.
        masks: the paths of their masks.
        source: the origin, for messages.

    Raises:
        DataError: a file cannot be read, a mask has colors, or a mask has another size than its image.
    """
    headers = list(in_threads(_read, list(zip(images, masks, strict=True)), source, "headers of masks"))
    for header in headers:
        if header.mask_size != header.size and not header.mask_is_stored:
            raise DataError(
                f"Expected masks in the size of their images, got {_in_words(header.mask_size)} in {header.mask} and "
                f"{_in_words(header.size)} in {header.image}; resize one of them."
            )
    return headers


def masks_turn(headers: list[Header]) -> tuple[bool, tuple[str, ...]]:
    """Return whether masks are to be turned as the EXIF orientation of their images says, and notes.

    Images are turned, and masks may have been drawn before or after that. The sizes of quarter-turned images that are
    not square tell, for all images of the set.

    Raises:
        DataError: nothing tells, or the sizes contradict each other.
    """
    own = sum(header.mask_turned for header in headers)
    notes = [f"{own:,} of {len(headers):,} masks are turned as their own EXIF orientation says"] if own else []
    turned = [header for header in headers if header.leaves_open]
    stored = [header for header in turned if header.mask_is_stored]
    shown = [header for header in turned if header.mask_is_shown]
    if stored and shown:
        raise DataError(
            f"Expected masks that all have the size of their images before or all after the images are turned as their "
            f"EXIF orientation says, got {stored[0].mask} in the size before and {shown[0].mask} in the size after; "
            f"{_AGREE}."
        )
    if turned and not stored and not shown:
        raise DataError(
            f"Expected images and masks of which it is known how they lie on each other, got an EXIF orientation of "
            f"{turned[0].orientation} in {turned[0].image} ({len(turned):,} of {len(headers):,} images have one), and "
            f"no size tells whether masks are for images before or after that turn; {_AGREE}."
        )
    if stored:
        said = "their masks are turned with them, since they have the size of the images before the turn"
    else:
        said = "their masks are not, since they have the size of the images after the turn"
    if turned:
        notes.append(f"{len(turned):,} of {len(headers):,} images are turned as their EXIF orientation says: {said}")
    return bool(stored), tuple(notes)


def require_one_size(headers: list[Header]) -> None:
    """Raise `DataError` for images of several sizes."""
    first = headers[0]
    if other := next((header for header in headers if header.size != first.size), None):
        raise DataError(
            f"Expected images of one size, got {first.size[0]}x{first.size[1]} in {first.image} and "
            f"{other.size[0]}x{other.size[1]} in {other.image}; pass size=(height, width) to resize all of them."
        )


def _in_words(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _read(pair: tuple[Path, Path]) -> Header:
    image, mask = pair
    with open_image(image) as pixels:
        orientation = _orientation(pixels, image, "image")
        size = shown_size(pixels, orientation)
    with open_image(mask, "mask") as classes:
        if classes.mode not in _CLASS_NUMBERS:
            raise DataError(
                f"Expected masks with one value for each pixel, got mode {classes.mode} in {mask}; save it in "
                "grayscale."
            )
        own = _orientation(classes, mask, "mask")
        return Header(image, mask, size, orientation, shown_size(classes, own), own in TURNED, classes.mode in _BYTES)


def _orientation(image: Image.Image, file: Path, what: str) -> int:
    """Return the EXIF orientation. Decode a PNG, as Pillow does to find it, only if there may be one behind pixels."""
    from PIL import Image

    with reading(partial(unreadable, file, what=what)):
        if image.format == "PNG" and "exif" not in image.info and not _has_data_behind_pixels(file):
            return orientation_of(image, Image.Image.getexif)
        return orientation_of(image)


def _has_data_behind_pixels(file: Path) -> bool:
    """Return whether a PNG has chunks behind its pixels that may hold EXIF data."""
    seen = False
    with file.open("rb") as content:
        content.seek(_PNG_START)
        while len(head := content.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if seen and kind in _WITH_EXIF:
                return True
            seen |= kind == _PIXELS
            content.seek(size + 4, 1)
    return False
