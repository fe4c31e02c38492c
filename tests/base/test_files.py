"""A failed write leaves either the old content or the new one, and no leftovers."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tfopt.base import files
from tfopt.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("data", "expected"), [(b"\x00\xff", b"\x00\xff"), ("µ\n", b"\xc2\xb5\n")])
def test_write_atomically(tmp_path: Path, data: bytes | str, expected: bytes) -> None:
    target = tmp_path / "new" / "file.bin"
    assert files.write_atomically(target, b"old") == target
    files.write_atomically(target, data)
    assert target.read_bytes() == expected
    assert names(target.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_atomic_path_keeps_the_old_file_on_any_failure(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "model.keras"
    target.write_text("old")
    with pytest.raises(error), files.atomic_path(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".keras")
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["model.keras"]


def test_write_atomically_removes_what_a_full_disk_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        files.write_atomically(tmp_path / "file", b"data")
    assert names(tmp_path) == []


def test_atomic_path_wants_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Nothing was written"), files.atomic_path(tmp_path / "file"):
        pass
    with pytest.raises(OutputError, match="is a folder"), files.atomic_path(tmp_path):
        pass


def test_atomic_path_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_prepare_folder_makes_it_and_deletes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert files.prepare_folder(folder) == folder
    assert files.prepare_folder(folder) == folder  # empty: fine
    (folder / "kept").touch()
    with pytest.raises(OutputError, match=r"not empty\. Pass --overwrite"):
        files.prepare_folder(folder)
    files.prepare_folder(folder, overwrite=True)
    assert names(folder) == ["kept"]


def test_prepare_folder_refuses_a_file_and_what_is_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        files.prepare_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="Cannot make"):
        files.prepare_folder(tmp_path / "file" / "folder")


def test_prepare_folder_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(OutputError, match="Permission denied"):
        files.prepare_folder(tmp_path)


def test_output_folder_is_filled_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "one"
    with files.output_folder(target) as folder:
        (folder / "model").write_text("new")
        assert names(target) == [".tfopt"]
    assert names(target) == ["model"]
    assert names(target.parent) == ["one"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_output_folder_keeps_the_old_one_on_any_failure(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "one"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(error), files.output_folder(target, overwrite=True) as folder:
        (folder / "new").touch()
        raise error
    assert names(target) == ["old"]
    assert names(tmp_path) == ["one"]


def test_output_folder_replaces_the_old_one_only_on_request(tmp_path: Path) -> None:
    target = tmp_path / "one"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(OutputError, match="not empty"), files.output_folder(target):
        pytest.fail("the block must not run")
    with files.output_folder(target, overwrite=True) as folder:
        (folder / "new").touch()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["one"]


def test_output_folder_does_not_lose_results_when_the_place_was_taken(tmp_path: Path) -> None:
    target = tmp_path / "one"
    (tmp_path / "one-2").mkdir()
    with pytest.raises(OutputError, match="not empty") as caught, files.output_folder(target) as folder:
        (folder / "new").touch()
        (target / "other").touch()
    assert str(caught.value).endswith(f"The results are in {tmp_path / 'one-3'}.")
    assert names(tmp_path / "one-3") == ["new"]
    assert names(target) == [".tfopt", "other"]


def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(OutputError, match="never replaced"):
        files.prepare_folder("..", overwrite=True)


def test_output_folder_puts_the_old_one_back_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "one"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def failing(path: Path, to: Path) -> Path:
        if path.name == "second":
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="Input/output error"), files.output_folder(target, True) as folder:
        (folder / "first").touch()
        (folder / "second").touch()
    assert names(target) == [".tfopt", "old"]
    assert names(tmp_path / "one-2") == ["first", "second"]


def test_the_leftovers_of_dead_processes_go(tmp_path: Path) -> None:
    target = tmp_path / "one"
    places = (".tfopt/new-0123456789ab", ".tfopt/old-0123456789ab", ".tfopt/checkpoint", "../.one.0123456789ab")
    for place in places:
        (target / place).mkdir(parents=True)
        (target / place / "file").touch()
    (target / ".tfopt" / "checkpoint" / ".state_1.0123456789ab.npz").touch()
    for other in (".two.0123456789ab", ".one.backup", ".one.0123456789ab.tflite"):
        (tmp_path / other).touch()
    with files.working_folder(target) as work:
        assert names(work) == ["checkpoint", "lock"]
    assert names(target) == [".tfopt", "file"]  # of the old result
    assert names(target / ".tfopt" / "checkpoint") == ["file"]
    assert names(tmp_path) == [".one.0123456789ab.tflite", ".one.backup", ".two.0123456789ab", "one"]


# Run in a process that is killed at one of its moves.
SWAP = """
import os, sys
from pathlib import Path
from tfopt.base.files import output_folder
rename, left = Path.rename, iter(range(int(sys.argv[2]) - 1, -1, -1))

def killed(path, to):
    if next(left, 1) == 0:
        os.kill(os.getpid(), 9)
    return rename(path, to)

with output_folder(sys.argv[1], overwrite=True) as new:
    for name in ("b", "c"):
        (new / name).write_text("new")
    Path.rename = killed
"""


@pytest.mark.parametrize("old", [(), ("a", "b")])
def test_a_kill_between_two_moves_leaves_no_mixture(tmp_path: Path, old: tuple[str, ...]) -> None:
    moves = len(old) + 2
    for number in range(1, moves + 2):
        target = tmp_path / str(number)
        target.mkdir()
        for name in old:
            (target / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", SWAP, target, str(number)], check=False)
        assert (done.returncode == 0) == (number > moves)
        if not old and number <= moves:  # what the dead process put there does not bind the next command
            files.prepare_folder(target)
        with files.working_folder(target):
            assert {path.name: path.read_text() for path in target.iterdir() if path.is_file()} == {
                "b": "new",
                "c": "new",
            }
            if number <= moves:
                with files.output_folder(target) as new:
                    (new / "d").write_text("newer")
                assert names(target) == [".tfopt", "d"]
        assert names(target) == (["d"] if number <= moves else ["b", "c"])


def test_what_others_add_to_an_interrupted_result_binds(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SWAP, tmp_path, "2"], check=False)
    (tmp_path / "mine").touch()
    with pytest.raises(OutputError, match="not empty"):
        files.prepare_folder(tmp_path)


def test_a_kill_while_the_old_files_are_deleted_brings_none_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    source = SWAP.replace(
        "Path.rename = killed", "import shutil; shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", source, tmp_path, "1"], check=False).returncode == -9
    with files.working_folder(tmp_path):
        pass
    assert [name for name in names(tmp_path) if name != ".tfopt"] == ["b", "c"]


def test_a_folder_has_one_user(tmp_path: Path) -> None:
    said = rf"is in use by process {os.getpid()} on .*, since \d{{4}}-"
    one, two = tmp_path / "one", tmp_path / "two"
    with files.working_folder(one), files.working_folder(two), pytest.raises(OutputError, match=said):  # noqa: SIM117
        with files.working_folder(one):
            pytest.fail("the block must not run")
    with files.working_folder(tmp_path / "one"):
        pass
    assert names(tmp_path / "one") == names(tmp_path / "two") == []


def test_a_killed_process_holds_no_folder(tmp_path: Path) -> None:
    source = (
        "import sys, time; from pathlib import Path; from tfopt.base.files import working_folder\n"
        "with working_folder(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", source, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"in\n"
        with pytest.raises(OutputError, match=f"in use by process {process.pid} "), files.working_folder(tmp_path):
            pytest.fail("the block must not run")
        process.kill()
    with files.working_folder(tmp_path):
        pass


def test_results_go_into_a_folder_in_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount point, or in a read-only parent."""
    (tmp_path / "out").mkdir()
    before = names(tmp_path)
    made = Path.mkdir

    def only_inside(path: Path, *args: Any, **kwargs: Any) -> None:
        assert tmp_path / "out" in path.parents or path.exists()
        made(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", only_inside)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with files.working_folder(tmp_path / "out"), files.output_folder(tmp_path / "out") as folder:
        (folder / "model").touch()
    assert names(tmp_path / "out") == ["model"] and names(tmp_path) == before
    assert files.beside(tmp_path / "out", ".tflite") == tmp_path / "out" / "out.tflite"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "in any language"), True),
        (RuntimeError("checkpoint.tmp; No space left on device"), True),  # as TensorFlow says it
        (ValueError("the file is full"), False),
        (OSError(errno.EIO, "Input/output error"), False),
    ],
)
def test_whether_a_full_disk_is_the_reason(error: Exception, full: bool) -> None:
    outer = ValueError("The file cannot be written.")
    outer.__cause__ = error
    assert files.is_full(error) == files.is_full(outer) == full
    assert not files.is_full(None)


def test_a_signal_right_after_a_move_leaves_the_old_result_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python handles one when the system call returns."""
    target = tmp_path / "one"
    target.mkdir()
    (target / "first").write_text("old")
    rename = Path.rename

    def interrupted(path: Path, to: Path) -> Path:
        moved = rename(path, to)
        if path.name == "second":
            monkeypatch.undo()  # it comes once
            raise KeyboardInterrupt
        return moved

    with pytest.raises(KeyboardInterrupt), files.output_folder(target, True) as folder:
        (folder / "first").write_text("new")
        (folder / "second").write_text("new")
        monkeypatch.setattr(Path, "rename", interrupted)
    assert [name for name in names(target) if name != ".tfopt"] == ["first"]
    assert (target / "first").read_text() == "old"
