"""Write class names, and how inputs are made, into a `.tflite` in the metadata format that apps read."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfopt.data import Dataset, FrontEnd, Preprocessing
from tfopt.data.beside import image_preprocessing
from tfopt.data.text import VOCABULARY_FILE
from tfopt.tflite.read import Port, metadata
from tfopt.tflite.read.flatbuffer import items, packed, unpacked
from tfopt.tflite.read.graph import FileGraph

_PARSER_VERSION = "1.0.0"  # has all that is written here
_FILE_KINDS = {metadata.FRONT_END_FILE: metadata.DESCRIPTIONS, VOCABULARY_FILE: metadata.VOCABULARY}
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # so that equal models make equal files


def with_metadata(data: bytes, source: Any) -> bytes:
    """Return the .tflite `data` with what `source`, a Dataset, says about its only input and output.

    These are the class names, if the output has one number for each, and color, size and normalization of images, in
    the public schema of TensorFlow Lite's metadata. For other samples, such as texts, these are the settings and the
    files of their front end. Names and files are in an archive behind the file. A file with nothing to say, and one for
    other data, is unchanged.
    """
    if not isinstance(source, Dataset):
        return data
    graph = FileGraph(data)
    given, made = graph.ports("inputs"), graph.ports("outputs")
    labels = labels_for(source, made)
    preprocessing = image_preprocessing(source)
    image = _image(preprocessing, given[0]) if preprocessing else None
    files = _front_end_files(source.preprocessing)
    if len(given) != 1 or not (labels or image or files):
        return data
    output: dict[int, Any] = {metadata.TENSOR_NAME: made[0].name}
    if labels:
        output[metadata.FILES] = [_file(metadata.LABELS_FILE, metadata.AXIS_LABELS)]
    made_of: dict[int, Any] = {metadata.FILES: [_file(name, _FILE_KINDS[name]) for name in files]} if files else {}
    subgraph = {
        metadata.INPUTS: [{metadata.TENSOR_NAME: given[0].name, **(image or made_of)}],
        metadata.OUTPUTS: [output, *({metadata.TENSOR_NAME: port.name} for port in made[1:])],
    }
    described = {metadata.SUBGRAPHS: [subgraph], metadata.NEEDED_VERSION: _PARSER_VERSION}
    written = with_entry(data, metadata.NAME, _flatbuffer(described))
    if labels:
        files[metadata.LABELS_FILE] = ("\n".join(labels) + "\n").encode()
    return _with_archive(written, files) if files else written


def _file(name: str, kind: int) -> dict[int, Any]:
    return {metadata.FILE_NAME: name, metadata.FILE_KIND: np.int8(kind)}


def _front_end_files(front_end: FrontEnd) -> dict[str, bytes]:
    """Return what makes inputs of other samples than images and numbers, as files by name."""
    if isinstance(front_end, Preprocessing):
        return {}
    settings = json.dumps(front_end.to_dict(), indent=2) + "\n"
    return {metadata.FRONT_END_FILE: settings.encode(), **front_end.files()}


def labels_for(source: Dataset, made: Sequence[Port]) -> tuple[str, ...]:
    """Return the class names of `source` if `made`, the only output of a file, has one number for each, else ()."""
    names = tuple(source.class_names or ())
    fits = [port.shape[-1:] for port in made] == [(len(names),)]
    return names if fits else ()


def _image(preprocessing: Preprocessing, port: Port) -> dict[int, Any] | None:
    """Return what an image as input is, and how it is normalized; None for what the schema cannot say."""
    shape = port.shape
    colors = {1: metadata.GRAYSCALE, 3: metadata.RGB}
    if len(shape) != 4 or shape[-1] not in colors or preprocessing.order != "rgb":
        return None
    properties: dict[int, Any] = {metadata.COLOR: np.int8(colors[shape[-1]])}
    if shape[1] and shape[2]:
        properties[metadata.SIZE] = {0: np.uint32(shape[2]), 1: np.uint32(shape[1])}  # width, height
    factors = (np.atleast_1d(np.asarray(part, float)) for part in (preprocessing.scale, preprocessing.offset))
    scale, offset = np.broadcast_arrays(*factors)
    normalization = {metadata.MEAN: (-offset / scale).tolist(), metadata.STD: (1 / scale).tolist()}
    return {
        metadata.CONTENT: {0: np.int8(metadata.IMAGE), 1: properties},
        metadata.STEPS: [{0: np.int8(metadata.NORMALIZATION), 1: normalization}],
    }


def with_entry(data: bytes, name: bytes, content: bytes) -> bytes:
    """Return the .tflite `data` with one more metadata entry."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(data)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*items(model.metadata), entry]
    return packed(model, len(data))


def _with_archive(data: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return the file with an archive of `files` behind it."""
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content)
    return stream.getvalue()


def _flatbuffer(table: Mapping[int, Any]) -> bytes:
    """Return a flatbuffer of nested tables, by the numbers of their fields: texts, numbers of NumPy, tables, lists."""
    import flatbuffers

    builder = flatbuffers.Builder(256)
    builder.Finish(_written(builder, table), file_identifier=metadata.IDENTIFIER)
    return bytes(builder.Output())


def _written(builder: Any, table: Mapping[int, Any]) -> int:
    # Tables and texts lie outside of the table that refers to them, so they come first.
    apart = {slot: _apart(builder, value) for slot, value in table.items() if not isinstance(value, np.generic)}
    builder.StartObject(max(table) + 1)
    for slot, place in apart.items():
        builder.PrependUOffsetTRelativeSlot(slot, place, 0)
    for slot, value in table.items():
        if isinstance(value, np.int8):
            builder.PrependInt8Slot(slot, int(value), 0)
        elif isinstance(value, np.uint32):
            builder.PrependUint32Slot(slot, int(value), 0)
    return int(builder.EndObject())


def _apart(builder: Any, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        return _written(builder, value)
    tables = isinstance(value[0], Mapping)
    parts = [_written(builder, part) for part in value] if tables else value
    builder.StartVector(4, len(parts), 4)
    for part in reversed(parts):
        (builder.PrependUOffsetTRelative if tables else builder.PrependFloat32)(part)
    return int(builder.EndVector())
