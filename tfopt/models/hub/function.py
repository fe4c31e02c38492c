"""The function of a SavedModel that maps a batch to a tensor, and whether it is trainable."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfopt import models
from tfopt.errors import ModelError

_SIGNATURES = ("serving_default", "default")
_SAVE_AS_KERAS = "If it was a Keras model, save that as .keras, which keeps its layers."
_MAIN_OUTPUT = "default"  # TF-Hub's common signatures use this name if there are several outputs


class SavedFunction:
    """The function of the SavedModel in a folder: the object itself if it is callable, else a signature.

    Attributes:
        name: the name of the folder.
        spec: TensorSpec of its input, as far as it is known.
        module: the loaded object.
        tf1: whether the folder has the TF1 format.
        signature: the name of the signature; None if the object itself is called.
        inference: a ConcreteFunction for inference.
        training: the same for training; None if the module does not distinguish them.
        variables: all variables it uses, trainable ones first.
    """

    def __init__(self, folder: Path, sample_shape: Sequence[int | None] | None = None) -> None:
        """Load the function; `sample_shape` fills in axes of the sample shape that the module leaves open.

        Raises:
            ModelError: the folder cannot be loaded, contains code or has no function; the function has several inputs
                or outputs; or `sample_shape` contradicts it.
        """
        self.name = folder.name
        self.tf1, self.module = _loaded(folder)
        self.signature: str | None = None
        self.training: Any = None
        self._argument = ""
        self.inference = self._of_object(sample_shape) or self._of_signature(sample_shape)
        if self.inference is None:
            raise ModelError(f"The signature '{self.signature}' of the module '{self.name}' does not take one tensor.")
        (self.spec,) = _specs(self.inference)
        handles = [outer for each in (self.inference, self.training) if each for outer, _ in each.graph.captures]
        known = {id(v.handle): v for each in (self.inference, self.training) if each for v in each.variables}
        # In capture order, which is the order in the file; the order of the variables themselves is arbitrary.
        found = list({id(handle): known[id(handle)] for handle in handles if id(handle) in known}.values())
        self.variables = [v for v in found if v.trainable] + [v for v in found if not v.trainable]

    def __call__(self, x: Any, training: bool = False) -> Any:
        """Run the module on `x` with its training function, if it has one and `training` is true."""
        return (self.training if training and self.training is not None else self.inference)(x)

    def use(self, variables: Sequence[Any]) -> None:
        """Compute with these `tf.Variable`s from now on, instead of `self.variables`."""
        new = {id(old.handle): variable for old, variable in zip(self.variables, variables, strict=True)}
        for function in filter(None, (self.inference, self.training)):
            captured = function.captured_inputs
            function.set_variables([new[id(each)] for each in captured if id(each) in new])
            function.set_external_captures([new[id(each)].handle if id(each) in new else each for each in captured])
        self.variables = list(variables)

    def _of_object(self, sample_shape: Sequence[int | None] | None) -> Any:
        """Return the traced object itself; None if it cannot be called with one tensor."""
        functions = getattr(self.module.__call__, "concrete_functions", []) if callable(self.module) else []
        found = [specs[0] for each in functions if len(specs := _specs(each)) == 1]
        if not found:
            return None
        spec = _filled(next((each for each in found if _free_batch(each)), found[0]), sample_shape, self.name)
        self.training = self._traced(spec, training=True)
        plain = self._traced(spec, training=False) if self.training else None
        return plain or self._traced(spec)

    def _of_signature(self, sample_shape: Sequence[int | None] | None) -> Any:
        signatures = dict(self.module.signatures)
        if not signatures:
            raise ModelError(
                f"The module '{self.name}' cannot be called with one tensor and has no signature, so there is nothing "
                "to compute with; save it again with model.export(path), or a tf.Module with a traced __call__."
            )
        self.signature = next((name for name in _SIGNATURES if name in signatures), next(iter(signatures)))
        function = signatures[self.signature]
        specs = function.structured_input_signature[1]
        if len(specs) != 1:
            raise ModelError(
                f"The module '{self.name}' takes the inputs {sorted(specs)}; expected one tensor. {_SAVE_AS_KERAS}"
            )
        ((self._argument, spec),) = specs.items()
        return self._traced(_filled(spec, sample_shape, self.name))

    def _traced(self, spec: Any, **settings: bool) -> Any:
        """Return the function traced on inputs of `spec`; None if it does not accept these `settings`."""
        import tensorflow as tf

        def call(x: Any) -> Any:
            if self.signature is None:
                return self._one(self.module(x, **settings))
            return self._one(self.module.signatures[self.signature](**{self._argument: x}))

        try:
            return tf.function(call, autograph=False).get_concrete_function(spec)
        except (TypeError, ValueError):
            return None

    def _one(self, outputs: Any) -> Any:
        import tensorflow as tf

        found = tf.nest.flatten(outputs)
        if len(found) > 1 and isinstance(outputs, dict) and _MAIN_OUTPUT in outputs:
            return outputs[_MAIN_OUTPUT]
        if len(found) != 1:
            names = f": {', '.join(sorted(outputs))}" if isinstance(outputs, dict) else ""
            raise ModelError(
                f"The module '{self.name}' gives {len(found)} outputs{names}; expected one tensor. {_SAVE_AS_KERAS}"
            )
        return found[0]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of an output batch, None for free axes; measured on zeros if the graph does not specify it."""
        import tensorflow as tf

        shape = self.inference.outputs[0].shape
        if shape.rank is None:
            given = [self.spec.shape[0] or 2, *(size or 64 for size in self.spec.shape[1:])]
            found = self.inference(tf.zeros(given, self.spec.dtype)).shape
            known = self.spec.shape[1:].is_fully_defined()
            return (self.spec.shape[0], *(size if known else None for size in found[1:]))
        return tuple(shape)

    def frozen_because(self) -> str:
        """Return why its variables cannot be trained; "" if they can."""
        import tensorflow as tf

        if self.tf1:
            return "it has the TF1 format, which is for inference only"
        wanted = [v for v in self.variables if v.trainable]
        if not wanted:
            return "it has no trainable variables"
        reached: list[bool] = []

        def gradients(x: Any) -> None:
            with tf.GradientTape() as tape:
                output = self(x, training=True)
            reached.extend(each is not None for each in tape.gradient(output, wanted))

        try:
            tf.function(gradients, autograph=False).get_concrete_function(self.spec)
        except LookupError as error:
            return f"an operation in it has no gradient ({str(error)[:200]})"
        return "" if any(reached) else "no gradient reaches its variables"


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 (hex) of the names and contents of all files in `folder`."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}".encode())
        with file.open("rb") as content:
            for block in iter(lambda: content.read(2**20), b""):
                digest.update(block)
    return digest.hexdigest()


def _loaded(folder: Path) -> tuple[bool, Any]:
    """Return whether the SavedModel in `folder` has the TF1 format, and the object it holds."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        graphs = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs
        tf1 = not any(graph.HasField("object_graph_def") for graph in graphs)
        tags = [list(graph.meta_info_def.tags) for graph in graphs]
        wanted = None if len(tags) == 1 else next((each for each in tags if each in ([], ["serve"])), None)
        models.check_graph(folder, wanted)
        return tf1, tf.saved_model.load(str(folder), tags=wanted)
    except (OSError, ValueError, RuntimeError, LookupError, DecodeError, tf.errors.OpError) as error:
        raise ModelError(
            f"The SavedModel in {folder} cannot be loaded ({' '.join(str(error).split())[:300]}). If it names an "
            "operation that is not registered, import the package that provides it first; otherwise get the module "
            "again."
        ) from error


def _specs(function: Any) -> list[Any]:
    """Return the specs of the input tensors of a ConcreteFunction."""
    import tensorflow as tf

    return [each for each in tf.nest.flatten(function.structured_input_signature) if isinstance(each, tf.TensorSpec)]


def _free_batch(spec: Any) -> bool:
    return not spec.shape.rank or spec.shape[0] is None


def _filled(spec: Any, sample_shape: Sequence[int | None] | None, name: str) -> Any:
    """Return `spec` with its open axes filled in from `sample_shape`."""
    import tensorflow as tf

    if sample_shape is None:
        return tf.TensorSpec(spec.shape, spec.dtype)
    batch = spec.shape[0] if spec.shape.rank else None
    given = tf.TensorShape([batch, *sample_shape])
    if not spec.shape.is_compatible_with(given):
        raise ModelError(
            f"The module '{name}' takes inputs of shape {tuple(spec.shape[1:])}; got input_shape="
            f"{tuple(sample_shape)}. Leave it out, or resize the inputs."
        )
    return tf.TensorSpec(spec.shape.merge_with(given), spec.dtype)
