"""Give inputs that are bytes, such as pixels, ranges in which bytes go into the file as they are."""

from collections.abc import Iterable, Mapping

import numpy as np

from tfopt.base.byte_values import ByteValues, Range
from tfopt.tflite.read.flatbuffer import items, packed, unpacked


def byte_ranges(samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Range]:
    """Return the ranges of inputs that are bytes, by name."""
    seen: dict[str, ByteValues] = {}
    for sample in samples:
        for name, values in sample.items():
            seen.setdefault(name, ByteValues()).see(values)
    ranges = {name: values.range for name, values in seen.items()}
    return {name: found for name, found in ranges.items() if found is not None}


def with_input_ranges(calibrated: bytes, ranges: Mapping[str, Range]) -> bytes:
    """Return a float .tflite with ranges in which inputs have other ranges, given by name."""
    if not ranges:
        return calibrated
    model = unpacked(calibrated)
    for signature in items(model.signatureDefs):
        for end in items(signature.inputs):
            quantization = model.subgraphs[signature.subgraphIndex].tensors[end.tensorIndex].quantization
            if (found := ranges.get(end.name.decode())) is not None and quantization is not None:
                quantization.min, quantization.max = (np.array([value], np.float32) for value in found)
    return packed(model, len(calibrated))
