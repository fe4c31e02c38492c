"""Decoding of images to uint8 pixels."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfopt.base.limits import LARGEST_IMAGE
from tfopt.base.reading import reading
from tfopt.base.terminal import console, plain
from tfopt.data.preprocessing import Color, Preprocessing
from tfopt.data.stored import Collector
from tfopt.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
Decoded = tuple[np.ndarray, str, bool, int, Size]
"""The pixels; of the file: its mode, whether it was turned, its largest value if it has 16 bits (else 0), its size."""
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
CHANNELS: dict[Color, int] = {"rgb": 3, "grayscale": 1}
_MODES: dict[Color, str] = {"rgb": "RGB", "grayscale": "L"}
GRAY = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N")
SIXTEEN_BITS = "I;16"
_ORIENTATION = 0x0112  # the EXIF tag
TURNED, ON_ITS_SIDE = range(2, 9), (5, 6, 7, 8)
"""Values of the EXIF orientation for images that are turned or mirrored, and for a quarter turn."""
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
# The formats that `folder.IMAGE_SUFFIXES` allows; other Pillow readers start programs (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*")
_CHUNK = 64  # files per task; makes the overhead negligible next to decoding
_MANY = 2000  # reading this many takes long enough to show progress


def convert_images(images: Any, preprocessing: Preprocessing, name: str) -> Any:
    """Convert uint8 images (n, height, width, 1 or 3) to the size and color of `preprocessing`.

    Raises:
        DataError: the inputs need a conversion but are not such images.
    """
    from PIL import Image

    is_image = images.ndim == 4 and images.shape[-1] in (1, 3)
    channels = CHANNELS[preprocessing.color] if preprocessing.color else images.shape[-1]
    target = (*(preprocessing.size or images.shape[1:3]), channels)
    if (preprocessing.size is None and preprocessing.color is None) or (is_image and images.shape[1:] == target):
        return images
    if not is_image or images.dtype != np.uint8:
        raise DataError(
            f"Expected {name} inputs as uint8 images (n, height, width, 1 or 3) to change size or color, got "
            f"{images.dtype} of shape {images.shape}; convert them first, or leave size and color out."
        )
    color: Color = "rgb" if channels == 3 else "grayscale"
    converted = Collector(f"the {name} images")
    for pixels in images:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        converted.append(_pixels(image, target[:2], color)[None])
    return converted.result()


class _Encoded(io.BytesIO):
    """The bytes of an image in a file, with a name for messages."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self._shown = name

    def __str__(self) -> str:
        return self._shown

    __repr__ = __str__  # in messages of Pillow


def is_encoded(content: bytes) -> bool:
    """Return whether `content` begins as an image file of one of the formats that are read."""
    return any(content.startswith(start) for start in _STARTS) or content[8:12] == b"WEBP"


def is_pillow(value: Any) -> bool:
    """Return whether `value` is an image of Pillow, without importing it."""
    return all(hasattr(value, name) for name in ("mode", "size", "convert", "getexif"))


def decode_image(value: Any, name: str, size: Size | None, color: Color | None) -> np.ndarray:
    """Return an image as uint8 (height, width, 1 or 3), as `read_images` does.

    Args:
        value: the bytes of a file, an image of Pillow, or uint8 (height, width, 1 or 3).
        name: of the image in messages.
        size: (height, width); None keeps it.
        color: None keeps grayscale images so, and makes others RGB.

    Raises:
        DataError: the bytes are no image, or not one of 8 or 16 bits.
    """
    from PIL import Image, ImageOps

    if isinstance(value, np.ndarray):
        image = Image.fromarray(value[..., 0] if value.shape[-1] == 1 else value)
    else:
        image = open_image(_Encoded(name, value)) if isinstance(value, bytes) else value
    if getattr(image, "mode", "F") in ("I", "F"):
        raise DataError(f"Expected an image of 8 or 16 bits in {name}, got {type(value).__name__}; convert it.")
    with reading(partial(unreadable, name)):
        shown = ImageOps.exif_transpose(image)
        return _pixels(shown, size or (shown.height, shown.width), color)


def _pixels(image: Image.Image, size: Size, color: Color | None) -> np.ndarray:
    """Return uint8 (height, width, 1 or 3); without `color` grayscale stays grayscale."""
    from PIL import Image

    wanted = _MODES[color or ("grayscale" if image.mode in GRAY else "rgb")]
    if image.mode.startswith(SIXTEEN_BITS):  # Pillow would clip them at 255
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    image = image.convert(wanted)
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, -1)


def decode_file(file: Path, *, size: Size, color: Color | None, reference: tuple[Path, Size] | None) -> Decoded:
    """Return the pixels of a file uint8 (height, width, channels), and what it is like, as `Decoded` says.

    Args:
        file: the image.
        size: (height, width) to resize to.
        color: to convert to; None keeps grayscale images so, and makes others RGB.
        reference: another file and its (height, width), which this one must have; None for any.

    Raises:
        DataError: the file is no readable image of 8 or 16 bits, or of another size.
    """
    from PIL import ImageOps

    with open_image(file) as image:
        if image.mode in ("I", "F"):
            raise DataError(
                f"Expected an image of 8 or 16 bits, got mode {image.mode} in {file}; convert it to 8 bits."
            )
        with reading(partial(unreadable, file)):  # a PNG may have its EXIF data behind the pixels
            turned, shown = orientation_of(image) in TURNED, shown_size(image, orientation_of(image))
        if reference and shown != size:
            first, (height, width) = reference
            raise DataError(
                f"Expected images of one size, got {height}x{width} in {first} and {shown[0]}x{shown[1]} in {file}; "
                "pass size=(height, width) to resize all of them."
            )
        mode = "P with transparency" if image.mode == "P" and "transparency" in image.info else image.mode
        with reading(partial(unreadable, file)):
            largest = int(np.asarray(image).max()) if mode.startswith(SIXTEEN_BITS) else 0
            pixels = _pixels(ImageOps.exif_transpose(image) if turned else image, size, color)
        return pixels, mode, turned, largest, shown


def orientation_of(image: Image.Image, read: Callable[[Any], Any] | None = None) -> int:
    """Return the EXIF orientation of an image, 1 if there is none; `read` returns its EXIF data."""
    return int((read(image) if read else image.getexif()).get(_ORIENTATION, 1))


def shown_size(image: Image.Image, orientation: int) -> Size:
    """Return (height, width) of an image as it is to be seen."""
    turned = orientation in ON_ITS_SIDE and image.format != "TIFF"  # Pillow has turned the size of a TIFF
    return image.size if turned else (image.height, image.width)


def open_image(file: Path | _Encoded, what: str = "image") -> Image.Image:
    """Return the image after reading only its header. Raise `DataError` if it has too many pixels.

    Args:
        file: the image.
        what: it is, in messages.
    """
    from PIL import Image

    with reading(partial(unreadable, file, what=what)):
        image = Image.open(file, formats=_FORMATS)
        if image.width * image.height > LARGEST_IMAGE:
            raise DataError(
                f"Expected {what}s of at most {LARGEST_IMAGE:,} pixels, got {image.width:,} x {image.height:,} in "
                f"{file}; make it smaller or remove it."
            )
    if image.format == "TIFF":
        # Pillow would map a file of this name into memory, with rows of a wrong length if the image is turned.
        image.filename = ""
    return image


def unreadable(file: Path | _Encoded | str, why: str, what: str = "image") -> DataError:
    """Return the error for a file that is not the image, or `what` it should be, since `why`."""
    return DataError(f"Expected a readable {what}, got a corrupt file: {file} ({why}); replace or remove it.")


def in_threads(
    task: Callable[[_Item], _Found], files: Sequence[_Item], source: str, what: str = "images"
) -> Iterator[_Found]:
    """Yield what `task` returns for each of `files`, in their order; the first failure stops the rest.

    Args:
        task: is called in threads.
        files: its arguments.
        source: the origin, for the progress.
        what: the files are, for the progress.
    """
    from PIL import Image

    Image.init()  # before the threads start, since all of them read the table it fills
    chunks = deque(files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK))
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, _progress(len(files), f"{what} from {source}") as advance:
        ahead: deque[Future[list[_Found]]] = deque()
        try:
            while chunks or ahead:
                while chunks and len(ahead) < 2 * workers:  # a few ahead, or results would fill the memory
                    ahead.append(pool.submit(lambda files: [task(file) for file in files], chunks.popleft()))
                decoded = ahead.popleft().result()
                yield from decoded
                advance(len(decoded))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar in a terminal, one line elsewhere, nothing for few images; always on stderr."""
    title = f"Reading {total:,} {what}"
    if total <= _MANY:
        yield lambda count: None
    elif not sys.stderr.isatty():
        print(plain(title), file=sys.stderr)
        yield lambda count: None
    else:
        from rich.progress import Progress, TextColumn

        columns = (TextColumn("{task.description}", markup=False), *Progress.get_default_columns()[1:])
        with Progress(*columns, console=console(stderr=True)) as bar:
            bar_id = bar.add_task(plain(title), total=total)
            yield lambda count: bar.advance(bar_id, count)
