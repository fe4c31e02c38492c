"""The checkpoint of a run: a folder with all that the same run needs to go on after an interruption."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt, TypeAdapter

from tfopt.base.archives import read_state
from tfopt.base.differences import differences
from tfopt.base.files import (
    WORK,
    atomic_path,
    prepare_folder,
    remove_empty,
    remove_leftovers,
    require_space,
    write_atomically,
)
from tfopt.base.limits import MIB
from tfopt.base.locks import locked
from tfopt.base.progress import Progress
from tfopt.base.reading import parse_json, reading
from tfopt.errors import DataError, ModelError, OutputError, TfoptError
from tfopt.run.checkpoint import Checkpoint, as_file, loaded_model
from tfopt.run.identity import digest, identity_of, plain
from tfopt.run.recipe import Recipe
from tfopt.stages import Stage
from tfopt.training.backup import EVERY, KEPT, Backup
from tfopt.training.settings import Training
from tfopt.transfer import Transferred

STATE_SIZE = 6
"""What a backup takes, in sizes of the model: itself, masks, two slots of the optimizer, the best epoch, an average."""
_PROGRESS = ("*.npz", "transfer/*", "*/state_*.npz", "*/choice.json", "*/calibrated.npz", "batch_sizes.json")
_COUNTED = ("*.npz", "stage_*/*.npz")  # in `require_space`
_ABOUT = "run.json"
_LOCK = ".lock"
_CHOICE = TypeAdapter(tuple[str, list[str]])
_SIZES = TypeAdapter(dict[int, PositiveInt])
_OWN = re.compile(r"stage_\d+_[0-9a-f]{12}|(stages|transferred|generation_\d+)\.npz|batch_sizes\.json")
"""Names of what only a checkpoint holds."""
_COMMON = re.compile(rf"{re.escape(_ABOUT)}|transfer|generation_\d+")
"""Names of what a checkpoint holds, and other folders may hold as well."""


@dataclass(frozen=True)
class Attempt:
    """What is kept of one try of a stage.

    Attributes:
        folder: for it; None keeps nothing.
        backup: of its training.
    """

    folder: Path | None
    backup: Backup

    def choice(self) -> tuple[Stage, list[str]] | None:
        """Return the stage with its measured choices made, and notes on them; None if they are not known."""
        if self.folder is None or not (path := self.folder / "choice.json").exists():
            return None
        try:
            with reading(DataError):
                recipe, notes = _CHOICE.validate_json(path.read_bytes(), strict=True)
                (stage,) = Recipe.from_json(recipe).stages
        except TfoptError:
            return None  # it is made again
        return stage, notes

    def keep_choice(self, stage: Stage, notes: list[str]) -> None:
        """Keep what `choice` returns."""
        if self.folder is None or not self.backup.writes:
            return
        try:
            write_atomically(self.folder / "choice.json", json.dumps([Recipe(stages=(stage,)).to_json(), notes]))
        except OutputError as error:
            self.backup.progress.say(f"note: the checkpoint does not keep the choices of a stage ({error})")


@dataclass(frozen=True)
class RunFolder:
    """The folder that keeps the progress of one run, from `open_run_folder`.

    Attributes:
        path: of the folder.
        about: all that decides the result of the run, as plain data.
        every: seconds between two backups within an epoch.
        progress: tells where a training goes on.
        writes: whether this process writes to it, or only goes on from it, as all workers but the chief do.
    """

    path: Path
    about: dict[str, Any]
    every: float
    progress: Progress
    writes: bool = True

    @property
    def key(self) -> str:
        """The SHA-256 that identifies the run."""
        return digest(self.about)

    @property
    def stages(self) -> Checkpoint:
        """The stages that are finished."""
        return Checkpoint(self.path / "stages.npz", self.key)

    def about_recipe(self, recipe: Recipe) -> dict[str, Any]:
        """Return what the run would be about with another `recipe`."""
        return {**self.about, "recipe": plain(identity_of(recipe))}

    def cache(self) -> Path | None:
        """Return the folder for the finished parts of a transfer; None if there are none, and none are written."""
        self.begin()
        folder = self.path / "transfer"
        return folder if self.writes or folder.exists() else None

    def attempt(self, position: int, stage: Stage, training: Training) -> Attempt:
        """Return what is kept of a try of `stage`, the one at `position` of the recipe, with these settings."""
        self.begin()
        name = digest([identity_of(Recipe(stages=(stage,), training=training))])[:12]
        folder = self.path / f"stage_{position + 1}_{name}"
        return Attempt(folder, Backup(folder, self.every, self.progress, writes=self.writes, begin=self._write_about))

    def batch_size(self, position: int, given: int) -> int:
        """Return the batch size of the stage at `position`: `given`, or what it was lowered to by then."""
        return min([given, *(size for at, size in self._lowered().items() if at <= position)])

    def keep_batch_size(self, position: int, size: int) -> None:
        """Keep that the batch size was lowered to `size` in the stage at `position`, for it and later ones."""
        if not self.writes:
            return
        try:
            write_atomically(self.path / "batch_sizes.json", json.dumps({**self._lowered(), position: size}))
        except OutputError as error:
            self.progress.say(f"note: the checkpoint does not keep the batch size ({error})")

    def _lowered(self) -> dict[int, int]:
        """Return the lowered batch sizes, by the position of the stage."""
        try:
            with reading(DataError):
                return _SIZES.validate_json((self.path / "batch_sizes.json").read_bytes())
        except TfoptError:
            return {}  # none is lowered; or it is lowered again

    def begin(self) -> None:
        """Write what the checkpoint is about, before anything else."""
        try:
            self._write_about()
        except OutputError as error:
            self.progress.say(f"note: no checkpoint is written ({error})")

    def _write_about(self) -> None:
        """Write what the checkpoint is about, unless it is there. Raise `OutputError` if it cannot be written."""
        if self.writes and not (self.path / _ABOUT).exists():
            write_atomically(self.path / _ABOUT, json.dumps(self.about, indent=2) + "\n")

    def forget_attempts(self) -> None:
        """Remove what is kept of tries: their stage is finished, and `stages` holds its result."""
        for folder in self.path.glob("stage_*_*"):
            shutil.rmtree(folder, ignore_errors=True)

    def transferred(self, like: Any) -> Transferred | None:
        """Return the result of the transfer from the model `like`, if it is finished."""
        path = self.path / "transferred.npz"
        if not path.exists():
            return None
        try:
            with reading(lambda why: DataError(f"The checkpoint {path} is damaged ({why}).")):
                stored = read_state(path)
                notes, names = parse_json(str(stored["about"]))
                model = loaded_model(stored["model"].tobytes(), like)
                files = {str(name): stored[f"file_{number}"].tobytes() for number, name in enumerate(names)}
                return Transferred(model, tuple(map(str, notes)), files)
        except (DataError, ModelError) as error:
            self.progress.say(f"note: {error} The transfer starts over.")
            return None

    def keep_transferred(self, made: Transferred) -> None:
        """Keep the result of a transfer."""
        if not self.writes:
            return
        self.begin()
        files = {f"file_{number}": _bytes(content) for number, content in enumerate(made.files.values())}
        about = json.dumps([made.notes, list(made.files)])
        try:
            with atomic_path(self.path / "transferred.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, about=about, model=_bytes(as_file(made.model)), **files)  # type: ignore[arg-type]
        except (OSError, TfoptError) as error:  # a full disk, or a model that cannot be saved
            self.progress.say(f"note: the checkpoint does not keep the transfer ({error}); the run goes on")
            return
        shutil.rmtree(self.path / "transfer", ignore_errors=True)

    def require_space(self, model: int, file: int) -> None:
        """Raise `OutputError` if the disk is too full for this checkpoint and a result beside it.

        Args:
            model: bytes of the weights.
            file: bytes of the exported file.
        """
        if not self.writes:
            return
        needed = (KEPT + 1) * STATE_SIZE * model + 3 * model + 2 * file + MIB
        there = sum(each.stat().st_size for kind in _COUNTED for each in self.path.glob(kind))  # a run that goes on
        require_space(self.path, needed - there, "The run with its checkpoint")

    def remove_if_useless(self) -> None:
        """Remove the folder if nothing in it spares any work."""
        if not _holds_progress(self.path):
            self.remove()

    def clear(self) -> None:
        """Remove the checkpoint from the folder, but not the lock, which this process holds, nor files of others.

        First all that belongs to the run, and then what says which run it is: without it, the rest is of no use.
        """
        remove_leftovers(self.path)
        for each in sorted(self.path.iterdir(), key=lambda entry: entry.name == _ABOUT):
            if not (_OWN.fullmatch(each.name) or _COMMON.fullmatch(each.name)):
                continue
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)

    def remove_finished(self) -> None:
        """Remove the folder, as the run is complete; not if another process uses it, or has begun another run there."""
        if not self.path.is_dir():
            return
        try:
            with in_use(self.path):
                if _about_of(self.path) in (None, self.about):
                    self.remove()
        except TfoptError as error:
            self.progress.say(f"note: the checkpoint is not removed: {error}")

    def remove(self) -> None:
        """Remove the folder, which this process has locked; files of others stay in it."""
        with contextlib.suppress(OSError):
            self.clear()
        folder = self.path.resolve()
        with contextlib.suppress(OSError):
            if all(each.name == _LOCK for each in folder.iterdir()):
                (folder / _LOCK).unlink(missing_ok=True)
        remove_empty(folder)
        if self.path.is_symlink() and not folder.exists():
            self.path.unlink()
        if self.path.parent.name == WORK:
            remove_empty(self.path.parent)


@contextmanager
def in_use(path: str | Path | None) -> Iterator[None]:
    """Hold the lock of the checkpoint in the folder `path`; None for none.

    Raises:
        OutputError: the folder cannot be written, or another process uses it.
    """
    if path is None:
        yield
        return
    _require_writable(Path(path))
    with locked(Path(path) / _LOCK, f"The checkpoint {path}"):
        yield


def _require_writable(path: Path) -> None:
    try:
        prepare_folder(path, overwrite=True)
    except OutputError as error:
        raise OutputError(f"The checkpoint {path} cannot be written: {error} Give another folder.") from error


def open_run_folder(
    path: str | Path,
    about: dict[str, Any],
    *,
    every: float = EVERY,
    overwrite: bool = False,
    progress: Progress,
    writes: bool = True,
) -> RunFolder:
    """Return the checkpoint of the run `about` in the folder `path`; make it, if there is none.

    Args:
        path: of the folder.
        about: from `about_run`.
        every: seconds between two backups within an epoch.
        overwrite: replace the checkpoint of another run, with a note.
        progress: gets that note.
        writes: whether this process writes to it.

    Raises:
        OutputError: the folder cannot be written, or holds something else.
        DataError: it is damaged, or of another run.
    """
    if not every > 0:
        raise OutputError(f"Expected a checkpoint every number of seconds above 0, got {every!r}.")
    found = RunFolder(Path(path), about, every, progress, writes)
    if _are_remains(found.path):
        progress.say(f"note: The checkpoint {path} lacks {_ABOUT}, which says of which run it is. It is replaced.")
        found.clear()
    there = _about_of(found.path)
    if there is not None and there != about:
        if _holds_progress(found.path) and not overwrite:
            raise of_another_run(path, there, about)
        progress.say(f"note: {_which(path, there, about)} It is replaced.")
        found.clear()
    _require_writable(found.path)
    remove_leftovers(found.path)
    return found


def require_same_run(path: Path, about: dict[str, Any]) -> None:
    """Raise `DataError` if the folder `path` is the checkpoint of a run that is not `about`, and holds progress."""
    if path.is_dir() and _holds_progress(path) and (there := _about_of(path)) not in (None, about):
        raise of_another_run(path, there, about)


def of_another_run(path: str | Path, there: Any, about: Any) -> DataError:
    """Return the error for what lies at `path`, made by a run about `there`, where one about `about` is to begin."""
    return DataError(
        f"{_which(path, there, about)} Go on with that run by the command that began it, with the same versions and "
        "devices; or delete the checkpoint, pass --overwrite, or give another folder."
    )


def _which(path: str | Path, there: Any, about: Any) -> str:
    # First the recipe, since people change that most.
    said = sorted(differences(there, about), key=lambda each: not each.startswith("recipe."))
    return f"The checkpoint {path} belongs to another run: {'; '.join(said)}."


def _holds_progress(path: Path) -> bool:
    """Return whether the checkpoint in the folder `path` spares any work."""
    return any(next(path.glob(each), None) for each in _PROGRESS)


def _are_remains(path: Path) -> bool:
    """Return whether the folder `path` holds only parts of a checkpoint, and not what it is about."""
    names = [each.name for each in path.iterdir() if not each.name.startswith(".")] if path.is_dir() else []
    return bool(names) and all(map(_OWN.fullmatch, names))


def _about_of(path: Path) -> Any:
    """Return what the checkpoint in the folder `path` is about; None if there is none."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"The checkpoint {path} cannot be written: it is a file; expected a folder. Give another.")
    if not path.is_dir() or not any(not each.name.startswith(".") for each in path.iterdir()):
        return None
    if not (path / _ABOUT).exists():
        raise OutputError(
            f"The folder {path} holds files but no {_ABOUT}, so it is no checkpoint. Give another folder."
        )
    with reading(lambda why: DataError(f"The checkpoint {path} is damaged ({why}). Delete it to start over.")):
        about = parse_json((path / _ABOUT).read_bytes())
        if not isinstance(about, dict):
            raise ValueError(f"{_ABOUT} holds no settings")
    if not isinstance(about.get("format"), int):
        raise OutputError(f"The folder {path} has a {_ABOUT} of something else, so it is no checkpoint. Give another.")
    return about


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
