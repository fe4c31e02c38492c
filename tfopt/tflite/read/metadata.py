"""What a `.tflite` says about itself: class names, and how its inputs are made.

Apps read the metadata of TensorFlow Lite: a flatbuffer (metadata_schema.fbs, identifier "M001") in the entry
TFLITE_METADATA, whose files, such as the class names, are in an archive behind the file. Files of tfopt 0.1 have the
class names in an entry of their own.
"""

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.limits import LARGEST_JSON
from tfopt.base.reading import parse_json, reading
from tfopt.data import FrontEnd, Preprocessing
from tfopt.data.front_ends import front_end_from
from tfopt.errors import ModelError
from tfopt.tflite.read.flatbuffer import items

NAME, IDENTIFIER = b"TFLITE_METADATA", b"M001"
OLD_LABELS = b"tfopt.labels"
LABELS_FILE = "labels.txt"
FRONT_END_FILE = "preprocessing.json"
"""The settings of a front end for other inputs than images; its other files are beside it."""
# Numbers of fields and of members of enumerations and unions in the schema.
SUBGRAPHS, VERSION, NEEDED_VERSION = 3, 2, 7
INPUTS, OUTPUTS = 2, 3
TENSOR_NAME, CONTENT, STEPS, FILES = 0, 3, 4, 6
IMAGE, COLOR, SIZE = 2, 0, 1
RGB, GRAYSCALE = 1, 2
NORMALIZATION, MEAN, STD = 1, 0, 1
FILE_NAME, FILE_KIND = 0, 2
DESCRIPTIONS, AXIS_LABELS, VOCABULARY = 1, 2, 5
_MOST = 10_000
"""Most elements of a vector in the metadata of a file."""


@dataclass(frozen=True)
class FileMetadata:
    """What the metadata of a file say.

    Attributes:
        labels: the class names, in the order of the outputs, or ().
        preprocessing: how images were fed as floats, or what turns other samples into inputs; None if the file does
            not say.
    """

    labels: tuple[str, ...] = ()
    preprocessing: FrontEnd | None = None


def metadata_of(model: Any, data: bytes) -> FileMetadata:
    """Return the metadata of the file `data`, whose `ModelT` is `model`.

    Raises:
        ModelError: they cannot be read.
    """
    with reading(lambda why: ModelError(f"The class names and other metadata of the .tflite cannot be read ({why}).")):
        entries = {bytes(entry.name or b""): entry.buffer for entry in items(model.metadata)}
        if OLD_LABELS in entries:
            return FileMetadata(_old_labels(bytes(model.buffers[entries[OLD_LABELS]].data)))
        if NAME not in entries:
            return FileMetadata()
        held = model.buffers[entries[NAME]].data
        return _read(b"" if held is None else np.asarray(held, np.uint8).tobytes(), data)


def _old_labels(stored: bytes) -> tuple[str, ...]:
    names = parse_json(stored)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("expected a JSON list of strings")
    return tuple(names)


def _read(stored: bytes, data: bytes) -> FileMetadata:
    if stored[4:8] != IDENTIFIER:
        raise ValueError(f"expected the identifier {IDENTIFIER!r}, got {stored[4:8]!r}")
    subgraph = next(iter(_Table.root(stored).tables(SUBGRAPHS)), None)
    if subgraph is None:
        return FileMetadata()
    given, made = (subgraph.tables(side) for side in (INPUTS, OUTPUTS))
    files = made[0].tables(FILES) if len(made) == 1 else []
    name = next((file.text(FILE_NAME) for file in files if file.number(FILE_KIND) == AXIS_LABELS), "")
    packed = zipfile.is_zipfile(io.BytesIO(data))  # a tool that rewrites a file loses what is behind it
    labels = _labels(data, name) if name and packed else ()
    fed = _front_end(data, given[0]) if len(given) == 1 and packed else None
    return FileMetadata(labels, fed or (_preprocessing(given[0]) if len(given) == 1 else None))


def _labels(data: bytes, name: str) -> tuple[str, ...]:
    text = _packed(data, name).decode("utf-8-sig").replace("\r\n", "\n")  # as Windows writes it
    return tuple(text.removesuffix("\n").split("\n"))


def _packed(data: bytes, name: str) -> bytes:
    """Return a file of the archive behind the `.tflite`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.getinfo(name).file_size > LARGEST_JSON:
            raise ValueError(f"{name} is too large")
        return archive.read(name)


def _front_end(data: bytes, tensor: "_Table") -> FrontEnd | None:
    """Return what makes an input of raw samples; None if the file does not say."""
    if FRONT_END_FILE not in {file.text(FILE_NAME) for file in tensor.tables(FILES)}:
        return None
    stated = parse_json(_packed(data, FRONT_END_FILE))
    if not isinstance(stated, dict):
        raise TypeError("expected the settings of a front end as a JSON object")
    return front_end_from(stated, lambda name: _packed(data, name))


def _preprocessing(tensor: "_Table") -> Preprocessing | None:
    """Return (value - mean) / std as a preprocessing of pixels."""
    content = tensor.table(CONTENT)
    steps = [step for step in tensor.tables(STEPS) if step.number(0) == NORMALIZATION]
    options = steps[0].table(1) if steps else None
    if content is None or content.number(0) != IMAGE or options is None:
        return None
    mean, std = (options.floats(slot) for slot in (MEAN, STD))
    if not len(mean) or len(mean) != len(std) or not np.isfinite([*mean, *std]).all() or not np.all(std):
        return None
    scale = tuple(float(1 / np.float64(value)) for value in std)
    offset = tuple(float(-np.float64(low) / np.float64(value)) for low, value in zip(mean, std, strict=True))
    if len(set(scale)) == len(set(offset)) == 1:
        return Preprocessing(scale=scale[0], offset=offset[0])
    return Preprocessing(scale=scale, offset=offset)


class _Table:
    """A table of a flatbuffer, read by the numbers of its fields."""

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def root(cls, stored: bytes) -> "_Table":
        from flatbuffers import encode, number_types, table

        return cls(table.Table(stored, encode.Get(number_types.UOffsetTFlags.packer_type, stored, 0)))

    def _place(self, slot: int) -> int:
        """Return where the field is, 0 if it has no value."""
        offset = self._table.Offset(4 + 2 * slot)
        return int(offset + self._table.Pos) if offset else 0

    def text(self, slot: int) -> str:
        place = self._place(slot)
        return bytes(self._table.String(place)).decode() if place else ""

    def number(self, slot: int) -> int:
        """Return a number of one byte."""
        from flatbuffers import number_types

        place = self._place(slot)
        return int(self._table.Get(number_types.Uint8Flags, place)) if place else 0

    def table(self, slot: int) -> "_Table | None":
        place = self._place(slot)
        return self._at(self._table.Indirect(place)) if place else None

    def tables(self, slot: int) -> "list[_Table]":
        start, count = self._vector(slot)
        return [self._at(self._table.Indirect(start + 4 * number)) for number in range(count)]

    def floats(self, slot: int) -> np.ndarray:
        start, count = self._vector(slot)
        return np.frombuffer(self._table.Bytes, "<f4", count, start)

    def _vector(self, slot: int) -> tuple[int, int]:
        from flatbuffers import number_types

        place = self._place(slot)
        if not place:
            return 0, 0
        start = place + int(self._table.Get(number_types.UOffsetTFlags, place))
        count = int(self._table.Get(number_types.UOffsetTFlags, start))
        if count > _MOST:
            raise ValueError(f"{count:,} elements")
        return start + 4, count

    def _at(self, place: int) -> "_Table":
        from flatbuffers import table

        return _Table(table.Table(self._table.Bytes, int(place)))
