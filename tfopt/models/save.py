"""Saving of models as `.keras` files."""

import os
import uuid
from pathlib import Path
from typing import Any

from tfopt.errors import ModelError, OutputError


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
        reason = str(error).rstrip(".")
        raise ModelError(f"The model '{getattr(model, 'name', '?')}' cannot be saved: {reason}.") from error
    finally:
        temporary.unlink(missing_ok=True)
