"""Files and folders that appear complete or not at all."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectrnn.errors import UserError
from spectrnn.files import (
    atomic_directory,
    atomic_write,
    cache_folder,
    make_unique_directory,
    remove_stale_temporaries,
    replace_directory,
)


@pytest.fixture
def umask() -> Iterator[None]:
    """An unusual mask: the group may only read, others have no access."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_file_appears_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "model.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == tmp_path  # on the same file system, renaming is atomic
        assert temporary.name.startswith(".")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_replaced(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as reader:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_bytes(b"new")
        assert reader.read() == b"old"  # a reader sees one or the other
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_file_is_unchanged_if_the_block_fails(tmp_path: Path, error: type[BaseException], before: bytes | None):
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error
    assert (path.read_bytes() if path.exists() else None) == before
    assert [entry.name for entry in tmp_path.iterdir()] == (["a"] if before else [])


def test_block_that_writes_nothing_leaves_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("umask")
def test_permissions_follow_the_mask(tmp_path: Path):
    with atomic_write(tmp_path / "a") as temporary:
        os.close(os.open(temporary, os.O_CREAT, 0o600))  # as safetensors does
    with atomic_directory(tmp_path / "b") as temporary:
        pass
    assert mode(tmp_path / "a") == 0o640
    assert mode(tmp_path / "b") == 0o750
    assert os.umask(0o027) == 0o027  # the mask is unchanged


def test_folder_appears_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "new" / "parent" / "folder"
    with atomic_directory(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "file").write_text("x")
        assert not path.exists()
        assert temporary.name.startswith(".")
    assert (path / "deep" / "file").read_text() == "x"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_folder_does_not_appear_if_the_block_fails(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), atomic_directory(tmp_path / "a") as temporary:  # noqa: PT012
        (temporary / "file").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_kept(tmp_path: Path):
    with atomic_directory(tmp_path / "a") as second:
        (second / "file").write_text("second")
        with atomic_directory(tmp_path / "a") as first:
            (first / "file").write_text("first")
    assert (tmp_path / "a" / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_folder_does_not_replace_a_file(tmp_path: Path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(NotADirectoryError), atomic_directory(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_folder_may_have_a_long_name(tmp_path: Path):
    with atomic_directory(tmp_path / ("n" * 250)):
        pass
    assert (tmp_path / ("n" * 250)).is_dir()


def test_folder_is_replaced_completely_or_not_at_all(tmp_path: Path):
    path = tmp_path / "parent" / "folder"
    for content in ("first", "second"):
        with replace_directory(path) as temporary:
            (temporary / content).write_text(content)
        assert [file.name for file in path.iterdir()] == [content]
    with contextlib.suppress(KeyboardInterrupt), replace_directory(path) as temporary:
        (temporary / "third").write_text("third")
        raise KeyboardInterrupt
    assert [file.name for file in path.iterdir()] == ["second"]
    assert [file.name for file in path.parent.iterdir()] == ["folder"]


def test_unique_folder_gets_a_number(tmp_path: Path):
    path = str(tmp_path / "new" / "run")
    assert [make_unique_directory(path) for _ in range(3)] == [path, f"{path}-2", f"{path}-3"]
    assert [(tmp_path / "new" / name).is_dir() for name in ("run", "run-2", "run-3")] == [True] * 3


@pytest.mark.parametrize(("name", "remaining"), [("a", {"a", ".b.2.tmp"}), ("", {"a"})])
def test_stale_temporaries_are_removed(tmp_path: Path, name: str, remaining: set[str]):
    for file in ("a", ".a.1.tmp", ".b.2.tmp"):
        (tmp_path / file).touch()
    (tmp_path / ".a.3.tmp").mkdir()
    (tmp_path / ".a.3.tmp" / "file").touch()
    remove_stale_temporaries(tmp_path, name)
    assert {path.name for path in tmp_path.iterdir()} == remaining


def test_without_a_home_folder_the_temporary_one_is_the_cache(tmp_path, monkeypatch, caplog):
    def expanduser(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder("~/.cache/spectrnn")
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert caplog.messages == [f"data.cache=~/.cache/spectrnn: no home folder is known; using {folder}"]
    folder.chmod(0o777)  # others could write kernels into it
    with pytest.raises(UserError, match=f"^data.cache: {folder} belongs to another user; name another folder$"):
        cache_folder("~/.cache/spectrnn")
