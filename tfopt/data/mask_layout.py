"""How folders of images and masks are called, and folders that look like them under other names."""

from __future__ import annotations

import re
from pathlib import Path

from tfopt.errors import DataError

IMAGES, MASKS = ("images", "image"), ("masks", "mask", "annotations", "segmentations")
"""Names of folders of images and of their masks, in any case."""
_LIKE_IMAGES = re.compile(r"images?|imgs?|jpegimages|pngimages|photos|pictures|inputs?|originals?|leftimg8bit|rgb")
_LIKE_MASKS = re.compile(
    r"masks?|labels?|annotations?|annots?|trimaps|gts?|segmentation(s|class|object)?|segs?|groundtruth|gtfine"
)
_PART = re.compile(
    r"^(?:train|training|validation|valid|val|testing|test)|(?:training|train|validation|valid|val|test)$"
)
_WORDS = "masks?|labels?|annotations?|segmentations?|segs?|gt|images?|imgs?"
_ADDED = re.compile(rf"^(?:{_WORDS})[\W_]+|[\W_]+(?:{_WORDS})$", re.IGNORECASE)
"""What files of images or masks have in front of or behind a name that they share."""
_MOST = 0.9
"""The share of files that have a file of the same name in the other folder, from which on they are pairs."""


def has_masks(folders: list[Path]) -> bool:
    """Return whether these are a folder of images and one of masks, such as `images/` and `masks/`."""
    names = sorted(folder.name.lower() for folder in folders)
    return len(names) == 2 and any(sorted((one, other)) == names for one in IMAGES for other in MASKS)


def require_no_masks(folder: Path, classes: list[Path]) -> None:
    """Raise `DataError` if two class folders look like images and their masks.

    Their names decide, such as `imgs` and `labels`, or `train` and `train_masks`, together with those of their files:
    nearly all are the same but for an ending such as "_mask". Class folders may well number their files alike.

    Args:
        folder: has the class folders.
        classes: the class folders.
    """
    named = {each: _part_and_kind(each) for each in classes}
    for masks in (each for each, (_, kind) in named.items() if _LIKE_MASKS.fullmatch(kind)):
        part = named[masks][0]
        for images, (same, kind) in named.items():
            is_like_images = bool(_LIKE_IMAGES.fullmatch(kind)) or (part and not kind)
            if part == same and is_like_images and _are_paired(images, masks):
                raise DataError(
                    f"Expected one folder per class in {folder}, got {images.name} and {masks.name} with files of the "
                    "same names, which look like images and their masks. For segmentation, call the two folders images "
                    "and masks, give each mask the name of its image, and move other folders away. Rename the folders "
                    "if they are classes."
                )


def _part_and_kind(folder: Path) -> tuple[str, str]:
    """Return the part and the rest of a name such as "train_masks", in lower case and without separators."""
    name = re.sub(r"[\W_]", "", folder.name.lower())
    found = _PART.search(name)
    return (found[0], _PART.sub("", name, count=1)) if found else ("", name)


def _are_paired(images: Path, masks: Path) -> bool:
    """Return whether nearly all files of the folder that has fewer have one of the same name in the other."""
    stems = [
        {_ADDED.sub("", path.stem) for path in each.iterdir() if not path.name.startswith(".")}
        for each in (images, masks)
    ]
    both, fewer = stems[0] & stems[1], min(map(len, stems))
    return bool(both) and len(both) >= _MOST * fewer
