"""What a model file holds, layer by layer or operator by operator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import models
from tfopt.litert import LiteModel
from tfopt.measure import deflated_bytes, sparsity, unique_weights
from tfopt.report import bias_tensors


@dataclass(frozen=True)
class Part:
    """A layer of a Keras model or an operator of a `.tflite`.

    `parameters` counts all its numbers; `sparsity`, `unique` and `dtype` are those of its largest weight.
    """

    name: str
    kind: str
    shape: str
    parameters: int
    sparsity: float | None
    unique: int | None
    dtype: str


@dataclass(frozen=True)
class Inspection:
    """A file: its parts, and its size in bytes as it is and after zlib at level 9."""

    path: str
    kind: str
    parts: list[Part]
    bytes: int
    deflated_bytes: int

    def table(self) -> Any:
        """As a `rich.table.Table`."""
        from rich.table import Table

        total = sum(part.parameters for part in self.parts)
        table = Table(
            title=f"{self.path}: {self.kind}, {total:,} parameters, {self.bytes:,} bytes, "
            f"{self.deflated_bytes:,} deflated",
            title_justify="left",
        )
        for name in ("name", "kind", "output"):
            table.add_column(name, overflow="fold")
        for name in ("parameters", "sparsity", "unique", "dtype"):
            table.add_column(name, justify="right")
        for part in self.parts:
            table.add_row(
                part.name,
                part.kind,
                part.shape,
                f"{part.parameters:,}" if part.parameters else "",
                "" if part.sparsity is None else f"{part.sparsity:.3f}",
                "" if part.unique is None else f"{part.unique:,}",
                part.dtype,
            )
        return table


def inspect_file(path: str | Path) -> Inspection:
    """Look into any Keras model file or `.tflite`. Raises `ModelError` for what is neither."""
    path = Path(path)
    kind = models.kind(path)
    parts = _lite_parts(LiteModel(path)) if kind == "tflite" else _keras_parts(models.load_model(path))
    content = _content(path)
    return Inspection(str(path), kind, parts, len(content), deflated_bytes(content))


def _content(path: Path) -> bytes:
    """The file, or all files of a folder one after the other."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return b"".join(file.read_bytes() for file in files)


def _keras_parts(model: Any, prefix: str = "") -> list[Part]:
    parts: list[Part] = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            parts += _keras_parts(layer, f"{prefix}{layer.name}/")
            continue
        weights = [np.asarray(weight) for weight in layer.get_weights()]
        shape = getattr(layer, "output_shape", None) or layer.output.shape
        parts.append(_part(prefix + layer.name, type(layer).__name__, _shape(shape), weights))
    return parts


def _shape(shape: Any) -> str:
    """A layer's output shape as text; a Keras 2 input layer gives a list of one shape."""
    return str(tuple(shape[0] if isinstance(shape, list) else shape))


def _lite_parts(lite: LiteModel) -> list[Part]:
    tensors = {tensor.index: tensor for tensor in lite.tensors() if tensor.subgraph == 0}
    weights = {weight.tensor.index: weight.values for weight in lite.weights() if weight.tensor.subgraph == 0}
    biases = {tensor.index: lite.values(tensor) for tensor in bias_tensors(lite) if tensor.subgraph == 0}
    parts = []
    for op in (op for op in lite.ops() if op.subgraph == 0):
        constants = [(weights | biases)[index] for index in op.inputs if index in weights or index in biases]
        output = tensors[op.outputs[0]]
        part = _part(str(op.index), op.name, str(output.shape), constants)
        parts.append(part if part.dtype else Part(part.name, part.kind, part.shape, 0, None, None, output.dtype))
    return parts


def _part(name: str, kind: str, shape: str, weights: list[np.ndarray]) -> Part:
    if not weights:
        return Part(name, kind, shape, 0, None, None, "")
    largest = max(weights, key=lambda weight: weight.size)
    return Part(
        name=name,
        kind=kind,
        shape=shape,
        parameters=sum(weight.size for weight in weights),
        sparsity=sparsity(largest),
        unique=unique_weights(largest),
        dtype=str(largest.dtype),
    )
