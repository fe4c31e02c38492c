"""Folders of images and masks of the same names, for segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfopt.base.reading import reading
from tfopt.data.parts import Pair
from tfopt.errors import DataError

IMAGES, MASKS = ("images", "image"), ("masks", "mask", "annotations", "segmentations")
_LOSSY = (".jpg", ".jpeg", ".jfif")
_CLASS_NUMBERS = ("L", "P", "1", "I;16", "I")  # modes of Pillow with one number for each pixel


def has_masks(folders: list[Path]) -> bool:
    """Return whether these are a folder of images and one of masks, such as `images/` and `masks/`."""
    names = sorted(folder.name.lower() for folder in folders)
    return len(names) == 2 and any(sorted((one, other)) == names for one in IMAGES for other in MASKS)


def paired_files(folders: list[Path], suffixes: tuple[str, ...]) -> Pair:
    """Return the paths of the images and of their masks, object arrays (n,), in the order of their names.

    Raises:
        DataError: an image without a mask, or a mask without an image.
    """
    images, masks = sorted(folders, key=lambda folder: folder.name.lower() in MASKS)
    found = [
        {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}
        for folder in (images, masks)
    ]
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


def read_masks(
    masks: dict[str, np.ndarray], images: dict[str, np.ndarray], size: tuple[int, int] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the class of each pixel, int32 (n, height, width), by part, and notes.

    The values of all masks, in order, are the classes: 0 and 255 become 0 and 1.

    Args:
        masks: paths, by part.
        images: paths of their images.
        size: (height, width) to resize to by the nearest pixel; None keeps that of the images.

    Raises:
        DataError: a mask that cannot be read, has colors, or another size than its image.
    """
    read = {
        part: np.stack([_read(mask, image, size) for mask, image in zip(paths, images[part], strict=True)])
        for part, paths in masks.items()
    }
    values = np.unique(np.concatenate([np.unique(array) for array in read.values()]))
    found = {part: np.searchsorted(values, array).astype(np.int32) for part, array in read.items()}
    if np.array_equal(values, np.arange(len(values))):
        return found, ()
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    return found, (f"the mask values {shown} are the classes 0 to {len(values) - 1}",)


def _read(mask: Path, image: Path, size: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    with reading(lambda why: DataError(f"Expected a readable mask, got a corrupt file: {mask} ({why}); replace it.")):
        with Image.open(image) as pixels:
            expected = pixels.size
        with Image.open(mask) as opened:
            classes, mode = opened.convert("L") if opened.mode == "1" else opened.copy(), opened.mode
    if mode not in _CLASS_NUMBERS:
        raise DataError(
            f"Expected masks with one value for each pixel, got mode {mode} in {mask}; save it in grayscale."
        )
    if classes.size != expected:
        raise DataError(
            f"Expected masks in the size of their images, got {classes.width}x{classes.height} in {mask} and "
            f"{expected[0]}x{expected[1]} in {image}; resize one of them."
        )
    if size is not None and (classes.height, classes.width) != size:
        classes = classes.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(classes)
