"""The folder of a checkpoint in use, and what is left of one."""

import json

import numpy as np
import pytest

import tfopt
from tfopt.base.progress import Progress
from tfopt.errors import DataError, OutputError
from tfopt.run import run_folder
from tfopt.run.run_folder import in_use, open_run_folder
from tfopt.training.backup import State

STAGE = "stage_1_0123456789ab"


class Said(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def opened(path, seed=1, **more):
    return open_run_folder(path, {"format": 3, "seed": seed}, **{"progress": Said(), **more})


@pytest.fixture
def kept(tmp_path):
    """A checkpoint with progress."""
    path = tmp_path / "checkpoint"
    (path / STAGE).mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"format": 3, "seed": 1}))
    np.savez(path / STAGE / "state_0.npz", a=1)
    np.savez(path / "stages.npz", a=1)
    return path


def test_the_lock_stays_when_the_checkpoint_of_another_run_is_replaced(kept):
    with in_use(kept):
        before = (kept / ".lock").stat().st_ino
        opened(kept, seed=2, overwrite=True)
        assert (kept / ".lock").stat().st_ino == before
        assert [each.name for each in kept.iterdir()] == [".lock"]


@pytest.mark.parametrize("part", ["stages.npz", "stage_1_0123456789ab", "batch_sizes.json", "transferred.npz"])
def test_remains_of_a_checkpoint_are_replaced(tmp_path, part):
    """As a process leaves them that is killed while it removes its checkpoint."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / part).touch()
    found = opened(tmp_path / "kept")
    assert found.progress.lines == [
        f"note: The checkpoint {tmp_path / 'kept'} lacks run.json, which says of which run it is. It is replaced."
    ]
    assert not any(found.path.iterdir())


def test_files_of_others_stay(kept):
    """Whether the checkpoint is replaced or removed."""
    (kept / "thesis.txt").write_text("mine")
    (kept / "photos").mkdir()
    (kept / "photos" / "a.jpg").write_text("mine")
    found = opened(kept, seed=2, overwrite=True)
    assert not (kept / "stages.npz").exists()
    found.begin()
    found.remove()
    assert sorted(str(each.relative_to(kept)) for each in kept.rglob("*")) == ["photos", "photos/a.jpg", "thesis.txt"]


@pytest.mark.parametrize("text", ['{"lr": 0.1}', '{"format": "yaml"}', "{}"])
def test_a_run_file_of_another_tool_is_no_checkpoint(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"has a run\.json of something else, so it is no checkpoint"):
            opened(tmp_path, overwrite=overwrite)
    assert (tmp_path / "run.json").read_text() == text


def test_what_says_of_which_run_it_is_goes_last(kept, monkeypatch):
    class KilledError(Exception):
        pass

    def killed(path, **_):
        raise KilledError

    monkeypatch.setattr(run_folder.shutil, "rmtree", killed)
    with pytest.raises(KilledError):
        opened(kept).remove()
    assert (kept / "run.json").exists()


def test_a_checkpoint_behind_a_link_is_removed(kept, tmp_path):
    (tmp_path / "link").symlink_to(kept, target_is_directory=True)
    opened(tmp_path / "link").remove_finished()
    assert not kept.exists() and not (tmp_path / "link").is_symlink()


def test_a_disk_that_is_full_for_a_moment_costs_no_later_backup(tmp_path, monkeypatch):
    folder = opened(tmp_path / "kept")
    stage = tfopt.Prune()

    def full(*_):
        raise OutputError("No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_atomically", full)
        attempt = folder.attempt(0, stage, tfopt.Training())
        attempt.backup.save(State(0, 1, False, {}, {}))
    assert not (folder.path / "run.json").exists() and not list(folder.path.glob("*/state_*.npz"))
    attempt.backup.save(State(0, 2, False, {}, {}))
    assert json.loads((folder.path / "run.json").read_text()) == {"format": 3, "seed": 1}
    assert [path.name for path in folder.path.glob("*/state_*.npz")] == ["state_0.npz"]


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null"])
def test_settings_of_another_form_are_damage(kept, text):
    (kept / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"is damaged \(run.json holds no settings\)\. Delete it to start over\.$"):
        opened(kept)


@pytest.mark.parametrize("size", [0, -5])
def test_a_batch_size_that_is_none_is_ignored(kept, size):
    (kept / "batch_sizes.json").write_text(json.dumps({"0": size}))
    assert opened(kept).batch_size(0, 32) == 32


@pytest.mark.parametrize("every", [0, -60, float("nan")])
def test_the_interval_is_a_time(tmp_path, every):
    with pytest.raises(OutputError, match="Expected a checkpoint every number of seconds above 0, got"):
        opened(tmp_path / "kept", every=every)


def test_a_finished_network_of_a_study_is_progress(tmp_path):
    """It may have taken hours, and is not thrown away for another run."""
    first = opened(tmp_path / "kept")
    first.cache().mkdir()
    (first.path / "transfer" / "network.npz").touch()
    with pytest.raises(DataError, match="belongs to another run"):
        opened(tmp_path / "kept", seed=2)
