"""The kinds of models a teacher can wrap, behind one interface."""

import hashlib
import json
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from tfopt import models
from tfopt.base import keras_compat
from tfopt.base.reading import parse_json, reading
from tfopt.data.beside import files_of
from tfopt.data.front_end import FrontEnd
from tfopt.data.front_ends import front_end_from
from tfopt.errors import DataError, ModelError
from tfopt.graph.keras_internals import sublayers
from tfopt.graph.taps import tapped
from tfopt.models.estimator_outputs import answering, class_names, outputs_of
from tfopt.models.estimators import is_estimator
from tfopt.teachers.estimator_state import state_fingerprint
from tfopt.tflite.read import LiteModel

Shape = tuple[int | None, ...]


class Source(ABC):
    """A model that answers for a batch, in inference mode. It is never changed.

    Attributes:
        name: for messages.
        input_shape: of one sample; None if unknown, as a whole or for an axis.
        input_dtype: of the input; float32 is rounded for integers.
        layers_available: names of the layers whose outputs can be requested; may be empty.
        batch: the fixed batch size; None for any.
        step: the quantization step of the output; None if it is not quantized.
    """

    name: str
    input_shape: Shape | None = None
    input_dtype: str = "float32"
    layers_available: tuple[str, ...] = ()
    batch: int | None = None
    step: float | None = None

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of everything the answers depend on, in its current state; None if unknown."""

    @abstractmethod
    def _answer(self, x: Any, layers: Sequence[str]) -> Any:
        """Return the outputs for a batch of the right shape: tensors, in any structure."""

    def ask(self, x: Any, layers: Sequence[str] = ()) -> list[Any]:
        """Return `[output, *features of layers]` for x (batch, ...) of `input_shape`; works in a `tf.function`.

        Raises:
            ModelError: layers requested from a source without layers, or several outputs.
        """
        import tensorflow as tf

        if layers and not self.layers_available:
            raise ModelError(
                f"The teacher '{self.name}' has no layers to take features from, only a response; got the layers "
                f"{list(layers)}. Pass it as a functional Keras model."
            )
        x = _as_dtype(x, self.input_dtype)

        def answer(part: Any) -> list[Any]:
            found = tf.nest.flatten(self._answer(part, layers))
            if len(found) != 1 + len(layers):
                raise ModelError(
                    f"The teacher '{self.name}' gives {len(found) - len(layers)} outputs; expected one. Pass a model "
                    "with the one to be learned, such as keras.Model(model.inputs, model.outputs[0])."
                )
            return [tf.stop_gradient(tensor) for tensor in found]

        return answer(x) if self.batch is None else _in_batches(answer, x, self.batch, 1 + len(layers))


class KerasSource(Source):
    """A Keras 3 or tf_keras model of any kind."""

    def __init__(self, model: Any, name: str | None = None) -> None:
        self.name = str(name or model.name)
        if not model.built:
            raise ModelError(f"The model '{self.name}' has no weights yet: call it on a batch, or load its weights.")
        if any(getattr(part, "stateful", False) and hasattr(part, "cell") for part in _parts(model)):
            raise ModelError(
                f"The model '{self.name}' has stateful recurrent layers: each answer would depend on the previous "
                "ones. Build it with stateful=False."
            )
        self.model = model
        self._tapped: dict[tuple[str, ...], Any] = {}
        inputs = getattr(model, "inputs", None) or []
        self._inputs = len(inputs)
        if len(inputs) == 1:
            self.batch, *shape = tuple(inputs[0].shape)
            self.input_shape = tuple(shape)
            dtype = inputs[0].dtype
            self.input_dtype = getattr(dtype, "name", dtype)
            self.layers_available = tuple(keras_compat.unwrapped(layer).name for layer in model.layers)

    @property
    @override
    def fingerprint(self) -> str:
        digest = hashlib.sha256(_architecture(self.model).encode())
        for weight in self.model.weights:
            value = np.asarray(weight)
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def _answer(self, x: Any, layers: Sequence[str]) -> Any:
        if self._inputs > 1:
            raise ModelError(
                f"The teacher '{self.name}' has {self._inputs} inputs; expected a model with one, as the student's."
            )
        key = tuple(layers)
        if key not in self._tapped:
            self._tapped[key] = tapped(self.model, key)
        return self._tapped[key](x, training=False)


class SavedSource(Source):
    """A SavedModel without Keras layers: its signature, or the object itself if it is callable."""

    def __init__(self, loaded: Any, name: str, fingerprint: str | None = None) -> None:
        self.name, self._loaded, self._fingerprint = name, loaded, fingerprint
        signatures = dict(getattr(loaded, "signatures", {}))
        self._signature = signatures.get("serving_default") or next(iter(signatures.values()), None)
        if self._signature is None:
            if not callable(loaded):
                raise ModelError(
                    f"The SavedModel '{name}' has no signature and cannot be called; save it with model.export(path)."
                )
            return
        specs = self._signature.structured_input_signature[1]
        if len(specs) != 1:
            raise ModelError(f"The signature of '{name}' has the inputs {sorted(specs)}; expected one.")
        ((self._input, spec),) = specs.items()
        self.input_dtype = spec.dtype.name
        if spec.shape.rank:
            self.batch, *shape = tuple(spec.shape)
            self.input_shape = tuple(shape)

    @property
    @override
    def fingerprint(self) -> str | None:
        return self._fingerprint

    def _answer(self, x: Any, layers: Sequence[str]) -> Any:
        del layers
        if self._signature is not None:
            return self._signature(**{self._input: x})
        try:
            return self._loaded(x, training=False)
        except (TypeError, ValueError):  # it does not distinguish training from inference
            return self._loaded(x)


class _NumpySource(Source):
    """A source that runs outside the graph."""

    _width: list[tuple[Shape, str]] | None = None

    @abstractmethod
    def _run(self, x: np.ndarray) -> list[np.ndarray]: ...

    def _answer(self, x: Any, layers: Sequence[str]) -> Any:
        import tensorflow as tf

        del layers
        if tf.executing_eagerly():
            return [tf.convert_to_tensor(array) for array in self._checked_answers(x.numpy())]
        if self._width is None:
            # The number and the kind of outputs are known only when it runs.
            if not x.shape[1:].is_fully_defined():
                raise ModelError(f"The teacher '{self.name}' gets inputs of shape {x.shape}; fix their size.")
            self._checked_answers(np.zeros((1, *x.shape[1:]), x.dtype.as_numpy_dtype))
        assert self._width is not None
        answers = tf.numpy_function(self._checked_answers, [x], [dtype for _, dtype in self._width])
        for answer, (shape, _) in zip(answers, self._width, strict=True):
            answer.set_shape((x.shape[0], *shape))
        return answers

    def _checked_answers(self, x: np.ndarray) -> list[np.ndarray]:
        answers = self._run(x)
        if any(answer.shape[:1] != x.shape[:1] for answer in answers):
            raise ModelError(
                f"The teacher '{self.name}' answers with shape {answers[0].shape} for {len(x)} samples; expected one "
                "row for each."
            )
        self._width = [(answer.shape[1:], answer.dtype.name) for answer in answers]
        return answers


class LiteSource(_NumpySource):
    """A `.tflite` model, with dequantized inputs and outputs."""

    def __init__(self, lite: LiteModel, name: str | None = None) -> None:
        self.name = name or "tflite"
        if len(lite.inputs) != 1:
            raise ModelError(f"The teacher '{self.name}' has {len(lite.inputs)} inputs; expected one.")
        # Separate interpreters, on all cores: the caller's may be in use.
        self._lite = LiteModel(lite.data, threads=max(lite.threads, _cores()))
        self._lock = threading.Lock()  # LiteRT's interpreters serve one caller at a time
        port, output = lite.inputs[0], lite.outputs[0]
        self.input_shape = tuple(port.shape[1:])
        self.input_dtype = "float32" if port.scales else port.dtype
        self.step = float(output.scales[0]) if output.scales else None

    @property
    @override
    def fingerprint(self) -> str:
        return hashlib.sha256(self._lite.data).hexdigest()

    def _run(self, x: np.ndarray) -> list[np.ndarray]:
        with self._lock:
            found = self._lite.predict(x, batch_size=max(len(x), 1))
        return found if isinstance(found, list) else [found]


class CallableSource(_NumpySource):
    """A function of a batch, called as is: it is not traced, so it may use NumPy and keep state."""

    def __init__(self, function: Callable[[Any], Any], name: str | None = None) -> None:
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self._function = function

    @property
    @override
    def fingerprint(self) -> None:
        return None

    def _run(self, x: np.ndarray) -> list[np.ndarray]:
        import tensorflow as tf

        return [np.asarray(value) for value in tf.nest.flatten(self._function(x))]


class EstimatorSource(_NumpySource):
    """A fitted scikit-learn estimator on rows of numbers: probabilities, else decisions as logits, else values."""

    def __init__(self, estimator: Any, name: str | None = None) -> None:
        self.name = name or type(estimator).__name__
        if not hasattr(estimator, "n_features_in_"):
            raise ModelError(
                f"The estimator '{self.name}' is not fitted: call estimator.fit(data.train.x(), data.train.y())."
            )
        self.input_shape = (int(estimator.n_features_in_),)
        self._estimator = answering(estimator)
        self.class_names = class_names(self._estimator)

    @property
    @override
    def fingerprint(self) -> str | None:
        return state_fingerprint(self._estimator)

    def _run(self, x: np.ndarray) -> list[np.ndarray]:
        return [outputs_of(self._estimator, x).astype(np.float32)]


@dataclass(frozen=True)
class OpenSource:
    """A source, with the metadata stored next to it."""

    source: Source
    class_names: tuple[str, ...] | None = None
    preprocessing: FrontEnd | None = None


def open_source(what: Any, name: str | None = None, *, allow_unsafe: bool = False) -> OpenSource:
    """Return the source for `what`: a model, a path, a `LiteModel`, a SavedModel, an estimator, a function of a batch.

    `allow_unsafe` lets a model file run Python code.

    Raises:
        ModelError: an unsupported object, or a file that cannot be read.
    """
    if isinstance(what, Source):
        return OpenSource(what)
    if isinstance(what, str | os.PathLike):
        return _from_path(Path(what), name, allow_unsafe)
    if keras_compat.is_keras3_model(what) or keras_compat.is_tf_keras_model(what):
        return OpenSource(KerasSource(what, name))
    if isinstance(what, LiteModel):
        return OpenSource(LiteSource(what, name))
    if hasattr(what, "signatures") and hasattr(what, "graph_debug_info"):
        return OpenSource(SavedSource(what, name or "SavedModel"))
    if any(kind.__name__ == "Layer" for kind in type(what).__mro__):
        raise ModelError(
            f"The layer '{getattr(what, 'name', what)}' is not a model: make one from it, keras.Sequential([layer])."
        )
    if is_estimator(what):
        estimator = EstimatorSource(what, name)
        return OpenSource(estimator, estimator.class_names)
    if callable(what):
        return OpenSource(CallableSource(what, name))
    raise ModelError(
        "A teacher must be a Keras 3 or tf_keras model, the path of a model file or of a result folder, a LiteModel, "
        f"a SavedModel, a fitted scikit-learn estimator or a function of a batch; got {type(what).__name__}."
    )


def _from_path(path: Path, name: str | None, allow_unsafe: bool) -> OpenSource:
    if (path / "model.keras").is_file() and (path / "data.json").is_file():
        try:
            with reading(DataError):
                stored = parse_json((path / "data.json").read_text(encoding="utf-8"))
                class_names = stored["class_names"]
                preprocessing = front_end_from(stored["preprocessing"], files_of(path))
                if not all(isinstance(each, str) for each in class_names or ()):
                    raise TypeError("class_names must be strings")
        except DataError as error:
            raise ModelError(
                f"{path / 'data.json'} does not state the class names and preprocessing ({error}); give the path of "
                "model.keras itself, and pass both by hand."
            ) from error
        source = KerasSource(models.load_model(path / "model.keras", allow_unsafe=allow_unsafe), name or path.name)
        return OpenSource(source, tuple(class_names) if class_names else None, preprocessing)
    kind, name = models.kind(path), name or path.stem
    if kind == "tflite":
        return OpenSource(LiteSource(LiteModel(path), name))
    if kind == "saved_model":
        return OpenSource(_from_saved_model(path, name))
    return OpenSource(KerasSource(models.load_model(path, allow_unsafe=allow_unsafe), name))


def _from_saved_model(path: Path, name: str) -> SavedSource:
    import tensorflow as tf

    models.check_graph(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}".encode())
        with file.open("rb") as content:
            for block in iter(lambda: content.read(2**20), b""):
                digest.update(block)
    return SavedSource(tf.saved_model.load(str(path)), name, digest.hexdigest())


def _cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parts(model: Any) -> Iterator[Any]:
    """Yield the layers of `model` and of its submodels."""
    return iter(sublayers(model, recursive=True))


def _architecture(model: Any) -> str:
    """Return the config of `model` as text, without details that affect neither the graph nor the weights.

    Layer names are removed: Keras numbers them by creation order within the process, so two builds of one model differ.
    Compile settings are removed as well.
    """
    try:
        config = json.loads(model.to_json())
    except Exception:  # a subclassed model has no config
        return type(model).__name__
    numbers: dict[str, str] = {}
    for layer in (model, *_parts(model)):
        numbers.setdefault(layer.name, f"layer {len(numbers)}")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("compile_config", "shared_object_id", "keras_version")
            return {key: plain(entry) for key, entry in value.items() if key not in left_out}
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        return numbers.get(value, re.sub(r" at 0x[0-9a-f]+", "", value)) if isinstance(value, str) else value

    return json.dumps(plain(config), sort_keys=True)


def _as_dtype(x: Any, dtype: str) -> Any:
    import tensorflow as tf

    wanted = tf.as_dtype(dtype)
    if x.dtype == wanted or wanted == tf.string:
        return x
    return tf.saturate_cast(tf.round(x) if wanted.is_integer and x.dtype.is_floating else x, wanted)


def _in_batches(answer: Callable[[Any], list[Any]], x: Any, batch: int, outputs: int) -> list[Any]:
    """Return `answer` for any number of samples, in batches of `batch`; the last row pads an incomplete batch."""
    import tensorflow as tf

    count = tf.shape(x)[0]
    padded = tf.concat([x, tf.repeat(x[-1:], tf.math.floormod(-count, batch), axis=0)], axis=0)
    chunks = tf.reshape(padded, (-1, batch, *padded.shape[1:]))
    kinds: list[Any] = []
    tf.function(lambda part: kinds.extend(answer(part))).get_concrete_function(tf.TensorSpec(chunks.shape[1:], x.dtype))
    found = tf.map_fn(answer, chunks, fn_output_signature=[tf.TensorSpec(kind.shape, kind.dtype) for kind in kinds])
    assert len(found) == outputs
    rows = []
    for tensor, kind in zip(found, kinds, strict=True):
        flat = tf.reshape(tensor, tf.concat([[-1], tf.shape(tensor)[2:]], axis=0))[:count]
        flat.set_shape((None, *kind.shape[1:]))
        rows.append(flat)
    return rows
