"""Archives that would unpack to many times their size, or to somewhere else."""

import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from tfopt.errors import ModelError

# Keras stores weights uncompressed. Even a model of zeros that someone compressed stays under this ratio
# (deflate reaches 1,032 at most), or else under the number of bytes that no machine minds.
MOST_EXPANSION = 100
HARMLESS_BYTES = 256 * 2**20


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises ModelError for members that would be written outside the folder they are unpacked to, and for bombs."""
    members = archive.infolist()
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ModelError(
                f"{path} holds '{member.filename}', which would be unpacked outside its own folder: Keras writes no "
                "such file. Do not trust where it came from"
            )
    _refuse_expansion(path, path.stat().st_size, sum(member.file_size for member in members))


def check_hdf5(path: Path, source: Any) -> None:
    """Raises ModelError for data sets that claim far more than the file holds, or that lie in other files.

    `source` is the path of the HDF5 file or an open binary file; `path` is named in the message.
    """
    import h5py

    claimed = stored = 0

    def look(group: Any) -> None:
        nonlocal claimed, stored
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _elsewhere(path, f"{group.name}/{name}", link.filename)
            if isinstance(link, h5py.SoftLink):  # another name for what is visited anyway
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                look(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise _elsewhere(path, item.name, "another file")
                claimed, stored = claimed + item.nbytes, stored + item.id.get_storage_size()

    with h5py.File(source, "r") as file:
        look(file)
    _refuse_expansion(path, stored, claimed)


def _refuse_expansion(path: Path, stored: int, claimed: int) -> None:
    if claimed > max(HARMLESS_BYTES, MOST_EXPANSION * stored):
        raise ModelError(
            f"{path} would grow from {stored:,} to {claimed:,} bytes when it is read, which no saved model does. "
            "Do not trust where it came from"
        )


def _elsewhere(path: Path, name: str, other: str) -> ModelError:
    return ModelError(f"{path} takes '{name}' from {other}: a model file holds its own weights. Save it again whole")
