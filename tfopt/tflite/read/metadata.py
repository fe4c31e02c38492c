"""Class names stored in a `.tflite`.

They are in a metadata buffer of the flatbuffer. The associated files of the TFLite Metadata schema would be an archive
after the flatbuffer, which a rewrite of the file would lose.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.base.reading import parse_json, reading
from tfopt.errors import ModelError
from tfopt.tflite.read.flatbuffer import items, packed, unpacked

LABELS = b"tfopt.labels"


def with_labels(data: bytes, names: Sequence[str]) -> bytes:
    """Return the .tflite `data` with the class `names` as a JSON list in UTF-8, replacing older ones.

    Args:
        data: the file.
        names: class names, in the order of the outputs.

    Raises:
        ModelError: as in `flatbuffer.unpacked`.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(data)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(list(names), ensure_ascii=False).encode(), np.uint8)
    entry.name, entry.buffer = LABELS, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [old for old in items(model.metadata) if old.name != LABELS] + [entry]
    return packed(model, len(data))


def labels_of(model: Any) -> tuple[str, ...]:
    """Return the class names in a `ModelT`, or (). Raise ModelError if the entry is not a JSON list of strings."""
    for entry in items(model.metadata):
        if entry.name == LABELS:
            with reading(lambda why: ModelError(f"The class names in the .tflite cannot be read ({why}).")):
                names = parse_json(bytes(model.buffers[entry.buffer].data))
                if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                    raise TypeError("expected a JSON list of strings")
                return tuple(names)
    return ()
