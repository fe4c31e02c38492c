"""What a file or folder holds, by its content, whatever its name."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from tfopt.base.packing import is_packed, unpack
from tfopt.errors import ModelError
from tfopt.models import bombs

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TFLITE = b"TFL3"  # at bytes 4 to 8


def kind(path: str | os.PathLike[str]) -> str:
    """What `path` holds, by its content, whatever its name.

    "keras3" or "tf_keras": a model file or folder that this Keras loads; "saved_model": a SavedModel without
    Keras layers; "weights": weights without a model; "tflite", packed or not. Raises ModelError where nothing is
    there, or something else, or only part of a file, or a file that would unpack to many times its size or elsewhere.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_kind(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file or folder; check the path") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head == _HDF5:
        return _hdf5_kind(path)
    if head[4:8] == _TFLITE or (is_packed(head) and unpack(path.read_bytes())[4:8] == _TFLITE):
        return "tflite"
    what = "is empty" if not head else "is no model file that tfopt knows"
    raise ModelError(f"{path} {what}; expected a .keras file, an HDF5 file, a SavedModel folder or a .tflite file")


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            bombs.check_archive(path, archive)
            broken = archive.testzip()
            version = json.loads(archive.read("metadata.json"))["keras_version"]
            if "model.weights.h5" in archive.namelist() and not broken:
                with archive.open("model.weights.h5") as weights:
                    bombs.check_hdf5(path, weights)
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is a zip file but no .keras file: it has no metadata.json") from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    if broken:
        raise _damaged(path, broken)
    return _of_version(version)


def _hdf5_kind(path: Path) -> str:
    import h5py

    try:
        bombs.check_hdf5(path, path)
        with h5py.File(path, "r") as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
    except OSError as error:
        raise _damaged(path, error) from error
    if config is None:
        return "weights"
    if isinstance(config, bytes):
        config = config.decode()
    if version is not None:
        return _of_version(version)
    # Keras 1 and 2 say batch_input_shape where Keras 3 says batch_shape
    return "keras3" if '"batch_shape"' in config else "tf_keras"


def _folder_kind(path: Path) -> str:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"{path} is a folder without saved_model.pb; give a .keras file, an HDF5 file or a SavedModel folder"
        )
    return "tf_keras" if (path / "keras_metadata.pb").is_file() else "saved_model"


def _of_version(version: Any) -> str:
    text = version.decode() if isinstance(version, bytes) else str(version)
    return "tf_keras" if text[:2] in ("1.", "2.") else "keras3"


def _damaged(path: Path, why: object) -> ModelError:
    return ModelError(f"{path} is damaged or incomplete ({why}); copy or save it again")
