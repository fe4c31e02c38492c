"""`hub_layer`: a TF-Hub module, or any SavedModel, as a Keras model."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tfopt import bridge, models
from tfopt.base import keras_compat
from tfopt.base.stderr import warnings_held
from tfopt.errors import ModelError
from tfopt.models.hub.function import SavedFunction, fingerprint
from tfopt.models.hub.handle import folder_of
from tfopt.models.hub.layer import allow_folder, saved_model_layer
from tfopt.models.rebuild import check_equal, in_keras, rebuilt

Package = Literal["keras", "tf_keras"]


@dataclass(frozen=True)
class HubModule:
    """A module as a Keras model, with its capabilities.

    Attributes:
        model: one input, one output; not compiled.
        native: True if it consists of native layers, on which every stage works; False if a single layer runs the
            SavedModel, whose weights no compression stage can reach.
        notes: its limitations.
        fingerprint: SHA-256 (hex) of the module's files.

    Examples:
        >>> teacher.export("hub_module", verbose=False)
        >>> module = tfopt.transfer.open_hub("hub_module")
        >>> isinstance(module, tfopt.transfer.HubModule), len(module.fingerprint)
        (True, 64)
        >>> for note in module.notes:
        ...     print(note)
    """

    model: Any
    native: bool
    notes: tuple[str, ...]
    fingerprint: str


def hub_layer(
    handle: str | os.PathLike[str],
    *,
    trainable: bool | None = True,
    input_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    package: Package = "keras",
) -> Any:
    """Return the model of `open_hub`, which a Functional or Sequential model can use like a layer.

    Args:
        handle: as in `open_hub`, like the other arguments.
        trainable: a module that cannot be trained is an error, unless this is False.
        input_shape: of a sample.
        name: of the model.
        package: "keras" or "tf_keras".

    Raises:
        ModelError: as in `open_hub`, or the module cannot be trained.

    Examples:
        >>> teacher.export("hub_module", verbose=False)  # any SavedModel; or a handle of TF-Hub
        >>> layer = tfopt.transfer.hub_layer("hub_module")
        >>> stacked = keras.Sequential([keras.Input((8, 8, 1)), layer, keras.layers.Dense(3, "softmax")])
        >>> stacked.output_shape
        (None, 3)
    """
    return open_hub(handle, trainable=trainable, input_shape=input_shape, name=name, package=package).model


def open_hub(
    handle: str | os.PathLike[str],
    *,
    trainable: bool | None = None,
    input_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    package: Package = "keras",
) -> HubModule:
    """Open a TF-Hub module or any SavedModel as a Keras model, with native layers if it can be rebuilt.

    Tries in this order, comparing each result with the SavedModel on random inputs (1e-4 of the largest output): the
    layers that tf_keras stored with it; layers rebuilt from its graph (see `tfopt.models.rebuild`); one layer that runs
    the SavedModel.

    Args:
        handle: the folder of a SavedModel, its `.tar.gz`, or a handle (URL) that TF-Hub finds in its cache folder or
            downloads.
        trainable: None: as far as possible, see `notes`. True: raise for a module that cannot be trained. False:
            frozen.
        input_shape: the shape of one sample, for axes that the module leaves open; None elsewhere.
        name: the name of the model; None for the module's.
        package: the Keras of the model.

    Raises:
        ModelError: the handle leads to no SavedModel or the network is down; the SavedModel contains code, has no
            function, or one with several inputs or outputs; or as said above. The message says what to do.

    Examples:
        >>> teacher.export("hub_module", verbose=False)
        >>> module = tfopt.transfer.open_hub("hub_module")
        >>> module.native, module.model.output_shape
        (True, (None, 10))
    """
    if package not in ("keras", "tf_keras"):
        raise ModelError(f"The package must be 'keras' or 'tf_keras'; got {package!r}.")
    folder = folder_of(handle)
    function = SavedFunction(folder, input_shape)
    name = name or _name(handle)
    notes: list[str] = []
    for native in _strategies(folder):
        try:
            model, limits = native(folder, function, package, name)
        except ModelError as error:
            notes.append(str(error))
            continue
        if trainable is False:
            model.trainable = False
        return HubModule(model, True, (*notes, *limits), fingerprint(folder))
    frozen = function.frozen_because()
    if trainable and frozen:
        raise ModelError(
            f"The module '{name}' cannot be trained: {frozen}, and it cannot be rebuilt from Keras layers "
            f"({'; '.join(notes)}). Pass trainable=False to use it as it is."
        )
    model = _one_layer(folder, function, package, name, input_shape, trainable is not False and not frozen)
    return HubModule(model, False, (*notes, *_limits(function, package, frozen)), fingerprint(folder))


def _strategies(folder: Path) -> tuple[Any, ...]:
    """Return the functions that give native layers, in the order in which they are tried."""
    return (_from_stored, _from_graph) if models.kind(folder) == "tf_keras" else (_from_graph,)


def _from_stored(folder: Path, function: SavedFunction, package: Package, name: str) -> tuple[Any, tuple[str, ...]]:
    """Build the model from the layers that tf_keras stored in the SavedModel."""
    with warnings_held():  # that a model was not compiled when it was saved
        flat = bridge.to_tf_keras(models.load_model(folder))
    model = in_keras(flat, _package(package), function.spec.shape[1:], name)
    check_equal(model, function.inference, function.spec.shape[0])
    return model, ()


def _from_graph(folder: Path, function: SavedFunction, package: Package, name: str) -> tuple[Any, tuple[str, ...]]:
    del folder
    return rebuilt(function.inference, _package(package), name=name)


def _one_layer(
    folder: Path,
    function: SavedFunction,
    package: Package,
    name: str,
    input_shape: Sequence[int | None] | None,
    trainable: bool,
) -> Any:
    api, spec = _package(package), function.spec
    if spec.shape.rank is None:
        raise ModelError(
            f"The module '{name}' does not state the shape of its inputs; pass that of one sample, such as "
            "input_shape=(224, 224, 3)."
        )
    shape = None if input_shape is None else list(input_shape)
    layer = saved_model_layer(package)(allow_folder(folder), shape, name="module", trainable=trainable)
    inputs = api.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name, name="input")
    return api.Model(inputs, layer(inputs), name=name)


def _limits(function: SavedFunction, package: Package, frozen: str) -> tuple[str, ...]:
    notes = ["it runs as a SavedModel: no stage prunes, clusters or quantizes its weights"]
    if frozen:
        notes.append(f"its weights cannot be trained: {frozen}")
    elif function.training is None:
        notes.append("it trains as in inference: it does not distinguish the two, so nothing is dropped")
    if function.spec.shape[0] is not None:
        notes.append(f"it takes exactly {function.spec.shape[0]} samples at a time")
    if getattr(function.module, "regularization_losses", None):
        notes.append("its regularization losses are not added in training")
    if package == "tf_keras":
        notes.append("saved models name its folder and load only where that folder has been opened")
    return tuple(notes)


def _package(package: Package) -> Any:
    if package == "tf_keras":
        return keras_compat.tf_keras()
    import keras

    return keras


def _name(handle: str | os.PathLike[str]) -> str:
    """Return a model name from a path or URL: its last part that is not a version number."""
    parts = [part for part in PurePosixPath(str(handle).partition("?")[0]).parts if not part.isdigit()]
    name = re.sub(r"[^A-Za-z0-9_]", "_", parts[-1].removesuffix(".tar.gz").removesuffix(".tgz")) if parts else ""
    return name.strip("_") or "module"
