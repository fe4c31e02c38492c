"""Folders of images and masks of the same names, for segmentation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from tfopt.base.reading import reading
from tfopt.data.images import Size, open_image, unreadable
from tfopt.data.mask_headers import Header, masks_turn, read_headers, require_one_size
from tfopt.data.parts import Pair
from tfopt.errors import DataError

IMAGES, MASKS = ("images", "image"), ("masks", "mask", "annotations", "segmentations")
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


def has_masks(folders: list[Path]) -> bool:
    """Return whether these are a folder of images and one of masks, such as `images/` and `masks/`."""
    names = sorted(folder.name.lower() for folder in folders)
    return len(names) == 2 and any(sorted((one, other)) == names for one in IMAGES for other in MASKS)


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


def read_masks(
    masks: dict[str, np.ndarray], images: dict[str, np.ndarray], size: Size | None, source: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the class of each pixel, int32 (n, height, width), by part, and notes.

    The values of all masks, in order, are the classes: 0 and 255 become 0 and 1. Masks lie on their images after these
    are turned as their EXIF orientation says, see `masks_turn`.

    Args:
        masks: paths, by part.
        images: paths of their images.
        size: (height, width) to resize to by the nearest pixel; None keeps that of the images.
        source: the origin, for messages.

    Raises:
        DataError: a mask that cannot be read, has colors, or another size than its image; images of several sizes
            without `size`; or it is unknown how masks lie on turned images.
    """
    headers = read_headers([*np.concatenate(list(images.values()))], [*np.concatenate(list(masks.values()))], source)
    turn, notes = masks_turn(headers)
    if size is None:
        require_one_size(headers)
    all_masks = np.stack([_read(header, size, turn=turn) for header in headers])
    values, classes = np.unique(all_masks, return_inverse=True)
    ends = np.cumsum([len(paths) for paths in masks.values()])[:-1]
    by_part = np.split(classes.reshape(all_masks.shape).astype(np.int32), ends)
    found = dict(zip(masks, by_part, strict=True))
    if np.array_equal(values, np.arange(len(values))):
        return found, notes
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    return found, (*notes, f"the mask values {shown} are the classes 0 to {len(values) - 1}")


def _read(header: Header, size: Size | None, *, turn: bool) -> np.ndarray:
    """Return the values of a mask (height, width), turned as its image is if it is to `turn`."""
    from PIL import Image, ImageOps

    with (
        reading(partial(unreadable, header.mask, what="mask")),
        open_image(header.mask, "mask") as opened,
    ):
        mask = ImageOps.exif_transpose(opened)
        mask = mask.convert("L") if mask.mode == "1" else mask
        if turn and header.leaves_open and (how := _TURNS.get(header.orientation)):
            mask = mask.transpose(Image.Transpose[how])
        if size is not None and (mask.height, mask.width) != size:
            mask = mask.resize((size[1], size[0]), Image.Resampling.NEAREST)
        return np.asarray(mask)
