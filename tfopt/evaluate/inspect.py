"""List the contents of a model file, by layer or by operator."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import models
from tfopt.base.notebook import table_html
from tfopt.base.reading import reading
from tfopt.base.terminal import plain
from tfopt.base.weight_statistics import deflated_bytes, entropy_bits, sparsity, unique_weights
from tfopt.errors import ModelError
from tfopt.graph.types import flatten
from tfopt.models.sources import model_from
from tfopt.tflite.prove.types import port_in_words
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.parameters import bias_tensors


@dataclass(frozen=True)
class Part:
    """A layer of a Keras model or an operator of a `.tflite`.

    `parameters` counts all its numbers, `not_finite` those that are NaN or infinite; `sparsity`, `unique` and `dtype`
    describe its largest weight.
    """

    name: str
    kind: str
    shape: str
    parameters: int
    sparsity: float | None
    unique: int | None
    dtype: str
    not_finite: int = 0


@dataclass(frozen=True)
class Inspection:
    """The contents of a file: its parts, and its size in bytes, raw and after zlib at level 9.

    `packed_bytes` is the size on disk of a file that `tfopt pack` made, of which `bytes` is the unpacked size.
    """

    path: str
    kind: str
    parts: list[Part]
    bytes: int
    deflated_bytes: int
    weights: "WeightBits | None" = None  # of a .tflite; so are inputs, outputs (in words), class names, how it is fed
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fed: str = ""
    packed_bytes: int | None = None

    def table(self) -> Any:
        """Return the parts as a `rich.table.Table`."""
        from rich.table import Table

        total = sum(part.parameters for part in self.parts)
        packed = "" if self.packed_bytes is None else f"{self.packed_bytes:,} bytes packed, unpacked "
        sizes = f"{total:,} parameters, {packed}{self.bytes:,} bytes, {self.deflated_bytes:,} deflated"
        title = plain(f"{self.path}: {self.kind}, {sizes}")
        if self.weights is not None:
            title += f"\n{self.weights.describe(self.packed_bytes or self.deflated_bytes)}"
        if self.inputs:
            title += "\n" + plain(f"{'; '.join(self.inputs)} -> {'; '.join(self.outputs)}")
        if self.fed:
            title += "\n" + plain(self.fed)
        if self.labels:
            title += "\n" + plain(f"{len(self.labels)} classes: {', '.join(self.labels)}")
        if broken := [f"{part.name} ({part.not_finite:,})" for part in self.parts if part.not_finite]:
            title += "\n" + plain(f"NaN or infinite numbers in {', '.join(broken)}")
        table = Table(title=title, title_justify="left")
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

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return table_html(self.table())


def inspect_file(path: str | Path, *, allow_unsafe: bool = False) -> Inspection:
    """Inspect any Keras model file or `.tflite`; `allow_unsafe` lets a model file run Python code.

    Raises:
        ModelError: the file is neither.
    """
    path = Path(path)
    kind = models.kind(path)
    if kind == "tflite":
        lite = LiteModel(path)
        try:
            with reading(lambda why: ModelError(f"It is damaged ({why}); export it again.")):
                return _lite_inspection(path, lite)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    content = _content(path)
    parts = _keras_parts(model_from(path, allow_unsafe=allow_unsafe))
    return Inspection(str(path), kind, parts, len(content), deflated_bytes(content))


def _lite_inspection(path: Path, lite: LiteModel) -> Inspection:
    return Inspection(
        path=str(path),
        kind="tflite",
        parts=_lite_parts(lite),
        bytes=lite.size,
        deflated_bytes=lite.deflated,
        weights=weight_bits(lite),
        inputs=tuple(map(port_in_words, lite.inputs)),
        outputs=tuple(map(port_in_words, lite.outputs)),
        fed=lite.preprocessing.describe() if lite.preprocessing else "",
        labels=lite.labels,
        packed_bytes=size if (size := path.stat().st_size) != lite.size else None,
    )


@dataclass(frozen=True)
class WeightBits:
    """The weights of a `.tflite`: their number, their size in bytes, and their smallest possible size.

    `entropy_bytes` is the lower bound for coding single values, with one code per tensor (see
    `weight_statistics.entropy_bits`); it excludes everything else in the file, such as graph and biases.
    """

    number: int
    bytes: int
    entropy_bytes: float

    def describe(self, packed: int) -> str:
        """Return a description in words, for a file of `packed` bytes when entropy-coded."""
        if not self.number:
            return "no weights"
        stored, all_packed, least = (8 * size / self.number for size in (self.bytes, packed, self.entropy_bytes))
        return (
            f"{self.number:,} weights: {stored:.2f} bits each, {all_packed:.2f} with the whole file deflated; the "
            f"entropy of their values is {least:.2f} bits ({self.entropy_bytes:,.0f} bytes)"
        )


def weight_bits(lite: LiteModel) -> WeightBits:
    """Count the weights of a `.tflite` and the entropy of their stored values."""
    weights = lite.weights()
    return WeightBits(
        number=sum(weight.values.size for weight in weights),
        bytes=sum(weight.tensor.bytes for weight in weights),
        entropy_bytes=sum(entropy_bits(weight.values) for weight in weights) / 8,
    )


def _content(path: Path) -> bytes:
    """Return the contents of the file, or of all files of a folder, concatenated."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return b"".join(file.read_bytes() for file in files)


def _keras_parts(model: Any, prefix: str = "") -> list[Part]:
    parts: list[Part] = []
    for layer in model.layers:
        if hasattr(layer, "layers"):
            parts += _keras_parts(layer, f"{prefix}{layer.name}/")
            continue
        weights = [np.asarray(weight) for weight in layer.get_weights()]
        parts.append(_part(prefix + layer.name, type(layer).__name__, ", ".join(_output_shapes(layer)), weights))
    return parts


def _output_shapes(layer: Any) -> list[str]:
    """Return the shape of each output of a layer as text."""
    shape = getattr(layer, "output_shape", None)  # of tf_keras; one or several, in any nesting
    if shape is None:
        return [str(tuple(output.shape)) for output in flatten(layer.output)]
    if isinstance(shape, dict):
        shape = list(shape.values())
    several = any(isinstance(part, list | tuple) for part in shape)
    return [str(tuple(part)) for part in shape] if several else [str(tuple(shape))]


def _lite_parts(lite: LiteModel) -> list[Part]:
    tensors = {tensor.index: tensor for tensor in lite.tensors() if tensor.subgraph == 0}
    weights = {weight.tensor.index: weight.values for weight in lite.weights() if weight.tensor.subgraph == 0}
    biases = {tensor.index: lite.values(tensor) for tensor in bias_tensors(lite) if tensor.subgraph == 0}
    parts = []
    for op in (op for op in lite.ops() if op.subgraph == 0):
        constants = {index: (weights | biases)[index] for index in op.inputs if index in weights or index in biases}
        given = [tensors[index] for index in op.outputs[:1]]  # an operator that writes a variable has no output
        part = _part(str(op.index), op.name, "".join(str(tensor.shape) for tensor in given), list(constants.values()))
        largest = max(constants, key=lambda index: constants[index].size, default=None)
        shown = given if largest is None else [tensors[largest]]
        parts.append(replace(part, dtype="".join(tensor.dtype for tensor in shown)))  # as stored: NumPy has no int4
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
        not_finite=sum(int(np.count_nonzero(~np.isfinite(weight))) for weight in weights if weight.dtype.kind == "f"),
    )
