"""A failed write leaves either the old content or the new one, and no leftovers."""

from pathlib import Path

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


def test_output_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "one"
    with files.output_folder(target) as folder:
        (folder / "model").write_text("new")
        assert not target.exists()
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
    with pytest.raises(OutputError, match="not empty") as caught, files.output_folder(target) as folder:
        (folder / "new").touch()
        target.mkdir()
        (target / "other").touch()
    assert str(folder) in str(caught.value)
    assert names(target) == ["other"]
    assert names(folder) == ["new"]


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
        if (path / "new").exists():
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="Input/output error"), files.output_folder(target, True) as folder:
        (folder / "new").touch()
    assert names(target) == ["old"]
    assert names(folder) == ["new"]
