"""Source models for transfer: a model in memory, in a file, or in a TF-Hub module."""

import os
from pathlib import Path
from typing import Any

from tfopt import models
from tfopt.base.annotations import annotate
from tfopt.errors import ModelError
from tfopt.graph.walk import is_model
from tfopt.models.estimators import from_estimator, is_estimator
from tfopt.models.text_layer import behind_text_layer


def model_from(source: Any, *, allow_unsafe: bool = False) -> Any:
    """Return the Keras 3 or tf_keras model of `source`.

    Args:
        source: a model, a model file, a SavedModel, a TF-Hub handle, or an estimator that `load_model` accepts.
        allow_unsafe: let a file run its Python code.

    Raises:
        ModelError: the source is something else or cannot be read.
    """
    if is_model(source):
        return _native(source)
    if is_estimator(source):
        return from_estimator(source)
    if not isinstance(source, str | os.PathLike):
        raise ModelError(f"Expected a Keras model, the path of one, or a TF-Hub handle; got {type(source).__name__}.")
    path = Path(source)
    if not path.exists() and "://" not in str(source):
        raise ModelError(
            f"{source}: no such file or folder. Give the path of a model file or SavedModel folder, or a TF-Hub handle "
            "(a URL such as https://tfhub.dev/...)."
        )
    model = _native(_read(source, path, allow_unsafe))
    if path.exists():
        annotate(model, path=path)
    return model


def _read(source: str | os.PathLike[str], path: Path, allow_unsafe: bool) -> Any:
    if path.is_file() and not path.name.endswith((".tar.gz", ".tgz")):
        return models.load_model(path, allow_unsafe=allow_unsafe)
    if (path / "saved_model.pb").is_file() and models.kind(path) == "tf_keras":
        return _of_tf_keras(path, allow_unsafe)
    return _module(source)


def _native(model: Any) -> Any:
    """Return `model` with native layers in place of TF-Hub modules, as far as possible, with notes on them.

    A model that takes strings is the part behind its layer for texts.
    """
    from tfopt.models.hub import native_if_possible

    model = behind_text_layer(model)
    native, notes = native_if_possible(model)
    if notes:
        annotate(native, notes=notes)
    return native


def _of_tf_keras(folder: Path, allow_unsafe: bool) -> Any:
    """Return the model that tf_keras stored in a SavedModel, or else its graph as native layers."""
    try:
        return models.load_model(folder, allow_unsafe=allow_unsafe)
    except models.UnsafeFileError:
        raise
    except ModelError as error:
        try:
            return _module(folder)
        except ModelError:
            raise error from None


def _module(source: str | os.PathLike[str]) -> Any:
    """Return the model of a SavedModel without Keras layers or of a TF-Hub module, with notes on it."""
    from tfopt.models.hub import open_hub

    module = open_hub(source)
    what = "native layers" if module.native else "one layer that runs the SavedModel"
    annotate(module.model, notes=(f"the module {source} as {what}", *module.notes))
    return module.model
