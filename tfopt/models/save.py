"""Saving of models as `.keras` files."""

import os
import uuid
from pathlib import Path
from typing import Any

from tfopt.base.keras_compat import keras_of
from tfopt.errors import ModelError, OutputError


def why_not_saved(model: Any) -> str:
    """Return why Keras cannot write `model` to a file, as far as its config tells; "" if nothing is known."""
    try:
        keras_of(model).saving.serialize_keras_object(model)
    except Exception as error:  # of the caller's class
        return _cannot_be_saved(model, error)
    return ""


def _cannot_be_saved(model: Any, error: Exception) -> str:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
    return f"The model '{getattr(model, 'name', '?')}' cannot be saved: {reason}."


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write `model`, of either Keras, to `path` atomically, in the `.keras` format of its Keras.

    Raises:
        ModelError: the name does not end in `.keras`, the folder does not exist, or the model cannot be saved.
        OutputError: the file cannot be written, e.g. because the disk is full.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ModelError(f"Expected a file name that ends in .keras, got {path.name}.")
    if not path.parent.is_dir():
        raise ModelError(f"{path.parent}: no such folder; create it first.")
    # Not tempfile, which would make the file readable by its owner only.
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.keras")
    try:
        model.save(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:
        raise ModelError(_cannot_be_saved(model, error)) from error
    finally:
        temporary.unlink(missing_ok=True)
