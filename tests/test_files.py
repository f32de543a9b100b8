"""Files and folders that appear whole or not at all."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectrnn.files import atomic_directory, atomic_write, replace_directory


@pytest.fixture
def umask() -> Iterator[None]:
    """An unusual mask: the group may read, others nothing."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_appears_when_its_block_ends(tmp_path: Path):
    path = tmp_path / "model.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == tmp_path  # the same file system: a rename is atomic
        assert temporary.name.startswith(".")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as reader:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_bytes(b"new")
        assert reader.read() == b"old"  # who reads meanwhile reads one or the other
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_whose_block_fails_stays_as_it_was(tmp_path: Path, error: type[BaseException], before: bytes | None):
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error
    assert (path.read_bytes() if path.exists() else None) == before
    assert [entry.name for entry in tmp_path.iterdir()] == (["a"] if before else [])


def test_a_block_that_writes_nothing_leaves_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("umask")
def test_permissions_are_those_that_the_mask_leaves(tmp_path: Path):
    with atomic_write(tmp_path / "a") as temporary:
        os.close(os.open(temporary, os.O_CREAT, 0o600))  # as safetensors does
    with atomic_directory(tmp_path / "b") as temporary:
        pass
    assert mode(tmp_path / "a") == 0o640
    assert mode(tmp_path / "b") == 0o750
    assert os.umask(0o027) == 0o027  # and the mask is as it was


def test_a_folder_appears_when_its_block_ends(tmp_path: Path):
    path = tmp_path / "not" / "yet" / "there"
    with atomic_directory(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "file").write_text("x")
        assert not path.exists()
        assert temporary.name.startswith(".")
    assert (path / "deep" / "file").read_text() == "x"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_whose_block_fails_never_was(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), atomic_directory(tmp_path / "a") as temporary:  # noqa: PT012
        (temporary / "file").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_first_folder_stays(tmp_path: Path):
    with atomic_directory(tmp_path / "a") as second:
        (second / "file").write_text("second")
        with atomic_directory(tmp_path / "a") as first:
            (first / "file").write_text("first")
    assert (tmp_path / "a" / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_folder_cannot_take_a_file_s_place(tmp_path: Path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(NotADirectoryError), atomic_directory(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_long_names_are_names(tmp_path: Path):
    with atomic_directory(tmp_path / ("n" * 250)):
        pass
    assert (tmp_path / ("n" * 250)).is_dir()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "above" / "folder"
    for content in ("first", "second"):
        with replace_directory(path) as temporary:
            (temporary / content).write_text(content)
        assert [file.name for file in path.iterdir()] == [content]
    with contextlib.suppress(KeyboardInterrupt), replace_directory(path) as temporary:
        (temporary / "third").write_text("third")
        raise KeyboardInterrupt
    assert [file.name for file in path.iterdir()] == ["second"]
    assert [file.name for file in path.parent.iterdir()] == ["folder"]
