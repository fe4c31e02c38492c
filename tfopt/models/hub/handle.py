"""Location of a TF-Hub module: a folder, an archive, or a handle that TF-Hub resolves through its cache."""

import atexit
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError

from tfopt.base import keras_compat
from tfopt.base.limits import HARMLESS_BYTES, MOST_EXPANSION
from tfopt.errors import ModelError

_GRAPH = "saved_model.pb"


def folder_of(handle: str | os.PathLike[str]) -> Path:
    """Return the local folder of the SavedModel that `handle` refers to; it holds `saved_model.pb`.

    `handle` is such a folder, a folder that contains one, a `.tar.gz` of either, or a TF-Hub handle (a URL), which is
    looked up in TF-Hub's cache folder and downloaded there if missing. An archive is unpacked to a temporary folder
    that is deleted when Python exits.

    Raises:
        ModelError: there is no such folder; the message says what to do.
    """
    if not isinstance(handle, str | os.PathLike):
        raise ModelError(
            "Expected a TF-Hub module as the path of a folder or .tar.gz file, or as a handle (URL); got "
            f"{type(handle).__name__}."
        )
    path = Path(handle)
    if path.is_dir():
        return _inside(path, str(handle))
    if path.is_file():
        return _inside(_unpacked(path), str(handle))
    if "://" in str(handle):
        return _inside(_resolved(str(handle)), str(handle))
    raise ModelError(
        f"{handle}: no such folder or file; give the folder of a SavedModel, its .tar.gz, or a TF-Hub handle such as "
        "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5."
    )


def _inside(folder: Path, handle: str) -> Path:
    if (folder / _GRAPH).is_file():
        return folder
    found = sorted(each.parent for each in folder.glob(f"*/{_GRAPH}"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{handle} holds several modules: {', '.join(each.name for each in found)}. Give one of them.")
    raise ModelError(
        f"{handle} holds no {_GRAPH}, neither directly nor one folder down; expected the folder of a SavedModel."
    )


def _unpacked(path: Path) -> Path:
    """Unpack an archive into a new folder that is deleted when Python exits, and return the folder."""
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            _refuse(path, members)
            folder = Path(tempfile.mkdtemp(prefix="tfopt-hub-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            for member in members:
                target = folder / member.name
                content = archive.extractfile(member)
                if content is None:  # a folder
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} is not a complete .tar.gz archive ({reason}); give the folder of a SavedModel or its .tar.gz, "
            "downloaded or packed again."
        ) from error
    return folder


def _refuse(path: Path, members: list[tarfile.TarInfo]) -> None:
    """Raise ModelError for an archive that would write elsewhere or unpack to far more than its size."""
    for member in members:
        name = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()) or name.is_absolute() or ".." in name.parts:
            raise ModelError(
                f"{path} holds '{member.name}', which is not a file or lies outside: a module holds only its own files "
                "and folders. Do not trust where it came from."
            )
    size = sum(member.size for member in members)
    if size > max(HARMLESS_BYTES, MOST_EXPANSION * path.stat().st_size):
        raise ModelError(
            f"{path} would grow from {path.stat().st_size:,} to {size:,} bytes when unpacked, which no module does. Do "
            "not trust where it came from."
        )


def _resolved(handle: str) -> Path:
    hub = keras_compat.hub()
    cache = hub.resolver.tfhub_cache_dir(use_temp=True)
    elsewhere = (
        f"tfopt looked for it in TF-Hub's cache folder {cache} (set TFHUB_CACHE_DIR to use another). You can also "
        "download it on another machine and give its folder or .tar.gz instead of the handle."
    )
    try:
        folder = Path(hub.resolve(handle))
    except HTTPError as error:
        raise ModelError(f"The server refuses {handle} (HTTP {error.code} {error.reason}). {elsewhere}") from error
    except Exception as error:  # each protocol has its own errors
        raise ModelError(f"{handle} needs the network, which does not answer ({error}). {elsewhere}") from error
    if not folder.is_dir():
        raise ModelError(f"TF-Hub resolves {handle} to {folder}, which is not a folder here. {elsewhere}")
    return folder
