"""Identification of files and folders by content, not by name."""

import os
import zipfile
from pathlib import Path
from typing import Any

from tfopt.base.archives import npz_headers, open_zip
from tfopt.base.files import is_special
from tfopt.base.limits import LARGEST_JSON, room_for
from tfopt.base.packing import is_packed, unpacked_head
from tfopt.base.reading import parse_json, reading
from tfopt.errors import ModelError
from tfopt.models import bombs

_WEIGHTS, _OLD_WEIGHTS = "model.weights.h5", "model.weights.npz"  # the second until Keras 2.12
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TFLITE = b"TFL3"  # at bytes 4 to 8


def kind(path: str | os.PathLike[str]) -> str:
    """Return what `path` holds, judged by content, not by name.

    Returns:
        "keras3" or "tf_keras": a model file or folder that this Keras loads; "saved_model": a SavedModel without Keras
        layers; "weights": weights without a model; "tflite", packed or not.

    Raises:
        ModelError: the path does not exist, holds something else or only part of a file, exceeds a limit of
            `tfopt.base.limits`, or would unpack elsewhere.
    """
    path = Path(path)
    with reading(lambda why: _damaged(path, why)):
        return _folder_kind(path) if path.is_dir() else _file_kind(path)


def _file_kind(path: Path) -> str:
    try:
        if is_special(path):
            raise ModelError(f"{path} is a pipe or a device; expected a file or folder.")
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file or folder; check the path.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head == _HDF5:
        return _hdf5_kind(path)
    if head[4:8] == _TFLITE or (is_packed(head) and unpacked_head(path.read_bytes(), str(path))[4:8] == _TFLITE):
        return "tflite"
    what = "is empty" if not head else "is not a model file that tfopt knows"
    raise ModelError(f"{path} {what}; expected a .keras file, an HDF5 file, a SavedModel folder or a .tflite file.")


def _zip_kind(path: Path) -> str:
    with open_zip(path) as archive:
        bombs.check_archive(path, archive)
        names = archive.namelist()
        if broken := archive.testzip():
            raise _damaged(path, broken)
        try:
            version = _json_in(archive, "metadata.json")["keras_version"]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path} is a zip file but not a .keras file: it has no metadata.json.") from error
        if "config.json" not in names:
            raise ModelError(f"{path} is a zip file but not a .keras file: it has no config.json.")
        _json_in(archive, "config.json")  # rejects JSON that is nested too deeply
        if _WEIGHTS in names:
            with archive.open(_WEIGHTS) as weights:
                bombs.check_hdf5(path, weights, archive.getinfo(_WEIGHTS).file_size)
        if _OLD_WEIGHTS in names:
            with archive.open(_OLD_WEIGHTS) as weights:
                npz_headers(weights, room_for(path.stat().st_size))
    return _of_version(version)


def _json_in(archive: zipfile.ZipFile, name: str) -> Any:
    size = archive.getinfo(name).file_size
    if size > LARGEST_JSON:
        raise ValueError(f"{name} has {size:,} bytes, over the limit of {LARGEST_JSON:,}")
    return parse_json(archive.read(name))


def _hdf5_kind(path: Path) -> str:
    import h5py

    if zipfile.is_zipfile(path):
        raise ModelError(f"{path} is an HDF5 file and an archive at once. Do not trust where it came from.")
    bombs.check_hdf5(path, path, path.stat().st_size)
    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version")
    if config is None:
        return "weights"
    text = config.decode() if isinstance(config, bytes) else config
    if not isinstance(text, str):
        raise TypeError(f"model_config must be a string; it is {type(text).__name__}")
    parse_json(text)  # rejects JSON that is nested too deeply
    if version is not None:
        return _of_version(version)
    # Keras 1 and 2 use batch_input_shape, Keras 3 batch_shape
    return "keras3" if '"batch_shape"' in text else "tf_keras"


def _folder_kind(path: Path) -> str:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"{path} is a folder without saved_model.pb; give a .keras file, an HDF5 file or a SavedModel folder."
        )
    return "tf_keras" if (path / "keras_metadata.pb").is_file() else "saved_model"


def _of_version(version: Any) -> str:
    text = version.decode() if isinstance(version, bytes) else str(version)
    return "tf_keras" if text[:2] in ("1.", "2.") else "keras3"


def _damaged(path: Path, why: object) -> ModelError:
    return ModelError(f"{path} is damaged or incomplete ({why}); copy or save it again.")
