"""A SavedModel as one layer of either Keras, for modules that cannot be rebuilt from native layers."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.models.hub.function import SavedFunction

_ALLOWED: set[str] = set()  # folders opened in this process, by the user or through a model file


def saved_model_layer(package: str) -> Any:
    """Return the layer class of `package` (`keras` or `tf_keras`) that wraps a SavedModel; registers both classes.

    Its arguments are `folder`, the path of a SavedModel from `allow_folder`, and `sample_shape`, which fills in
    axes that the module leaves open. Its weights are the variables of the module. In training it uses the module's
    training function, if there is one; with `trainable=False` it never does. Losses that the module adds are ignored.

    A `.keras` file of Keras 3 contains a copy of the folder; a tf_keras file refers to it. Call this function before
    loading such a file in a new process.
    """
    bridge.register_twin(_keras3_class(), _tf_keras_class())
    return _keras3_class() if package == "keras" else _tf_keras_class()


def allow_folder(folder: Path) -> str:
    """Allow `folder`, named by the user, and return it as the layers expect it. They open no other folder."""
    _ALLOWED.add(str(folder.resolve()))
    return str(folder.resolve())


@functools.cache
def _keras3_class() -> Any:
    import keras

    layer_class: Any = keras.layers.Layer

    @keras.saving.register_keras_serializable("tfopt")
    class SavedModelLayer(layer_class):  # type: ignore[misc]
        """A SavedModel as a layer of Keras 3; see `saved_model_layer`.

        Loaded from a file, it has weights but cannot compute until the assets of the file are loaded.
        """

        trainable: Any  # of the base class

        def __init__(self, folder: str, sample_shape: Sequence[int | None] | None = None, **kwargs: Any) -> None:
            super().__init__(autocast=False, **kwargs)
            if keras.config.backend() != "tensorflow":
                raise ModelError(f"A SavedModel runs only on TensorFlow; Keras runs on {keras.config.backend()}.")
            self.supports_jit = False
            self._folder = folder
            self._sample_shape = sample_shape
            self._function: SavedFunction | None = None
            if folder in _ALLOWED:
                function = SavedFunction(Path(folder), sample_shape)
                self._add_weights([(v.name, v.numpy(), v.trainable) for v in function.variables])
                self._output = [list(function.output_shape), function.inference.outputs[0].dtype.name]
                self._compute_with(function)

        def _add_weights(self, found: Sequence[tuple[str, np.ndarray, bool]]) -> None:
            self._carried = [
                self.add_weight(
                    name=name.partition(":")[0].replace("/", "_"),
                    shape=value.shape,
                    dtype=value.dtype.name,
                    initializer=lambda shape, dtype=None, value=value: value,
                    trainable=trainable,
                    autocast=False,
                )
                for name, value, trainable in found
            ]
            if not self.trainable:  # it was set before there were weights
                self.trainable = False

        def _compute_with(self, function: SavedFunction) -> None:
            function.use([weight.value for weight in self._carried])
            self._function, self._module = function, function.module  # tracked, so that its tables are exported too

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "folder": self._folder, "sample_shape": self._sample_shape}

        def get_build_config(self) -> dict[str, Any]:
            weights = [[v.name, list(v.shape), v.dtype, keras_internals.made_trainable(self, v)] for v in self._carried]
            return {"weights": weights, "output": self._output}

        def build_from_config(self, config: dict[str, Any]) -> None:
            if self._function is None:
                self._output = config["output"]
                self._add_weights(
                    [(name, np.zeros(shape, dtype), live) for name, shape, dtype, live in config["weights"]]
                )

        def save_assets(self, folder: str) -> None:
            self._here()
            shutil.copytree(self._folder, folder, dirs_exist_ok=True)

        def load_assets(self, folder: str) -> None:
            """Open the copy in a model file, temporarily in `folder`; the weights are already loaded."""
            if self._function is not None:
                return
            kept = Path(tempfile.mkdtemp(prefix="tfopt-hub-"))
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            function = SavedFunction(kept, self._sample_shape)
            if [tuple(v.shape) for v in function.variables] != [tuple(v.shape) for v in self._carried]:
                raise ModelError(f"The SavedModel in the file is not that of the layer '{self.name}': save it again.")
            self._folder = allow_folder(kept)
            self._compute_with(function)

        def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
            shape, dtype = self._output
            return keras.KerasTensor((inputs.shape[0], *shape[1:]), dtype)

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self._here()(inputs, training=bool(training) and self.trainable)

        def _here(self) -> SavedFunction:
            if self._function is None:
                raise ModelError(
                    f"The SavedModel of the layer '{self.name}' is not available: {self._folder} was not opened in "
                    "this process, and the model did not come from a .keras file. Open the module with open_hub first."
                )
            return self._function

    return SavedModelLayer


@functools.cache
def _tf_keras_class() -> Any:
    tf_keras = keras_compat.tf_keras()
    layer_class: Any = tf_keras.layers.Layer

    @tf_keras.saving.register_keras_serializable("tfopt")
    class SavedModelLayer(layer_class):  # type: ignore[misc]
        """A SavedModel as a layer of tf_keras; see `saved_model_layer`."""

        def __init__(self, folder: str, sample_shape: Sequence[int | None] | None = None, **kwargs: Any) -> None:
            super().__init__(autocast=False, **kwargs)
            if folder not in _ALLOWED:
                raise ModelError(
                    f"The layer '{self.name}' needs the SavedModel in {folder}, which was not opened in this process: "
                    "call open_hub on that folder first."
                )
            self._folder = folder
            self._sample_shape = None if sample_shape is None else tuple(sample_shape)
            self._function = SavedFunction(Path(folder), sample_shape)
            self._module = self._function.module  # tracked, so that its tables are saved too
            self._function.use([
                self.add_weight(
                    name=v.name.partition(":")[0].replace("/", "_"),
                    shape=v.shape,
                    dtype=v.dtype,
                    initializer=lambda shape, dtype=None, given=v, **_: given.numpy(),
                    trainable=v.trainable,
                    experimental_autocast=False,
                )
                for v in self._function.variables
            ])  # fmt: skip

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "folder": self._folder, "sample_shape": self._sample_shape}

        def call(self, inputs: Any, training: Any = None) -> Any:
            output = self._function(inputs, training=bool(training) and self.trainable)
            output.set_shape((inputs.shape[0], *self._function.output_shape[1:]))
            return output

    return SavedModelLayer
