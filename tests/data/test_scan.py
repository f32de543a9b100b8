"""The scan of folders: every audio file once, and a list of everything else."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from spectrnn.data.clips import similar_labels
from spectrnn.data.scan import Ignored, scan_folder, summarize, warn_about_ignored


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def relative(root: Path, paths: list[str]) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in paths]


def kinds(root: Path) -> dict[str, list[str]]:
    """Names of what is ignored by kind."""
    found: dict[str, list[str]] = {}
    for item in scan_folder(root).ignored:
        found.setdefault(item.kind, []).append(Path(item.path).relative_to(root).as_posix())
    return found


def test_files_are_sorted_part_by_part(tmp_path: Path):
    touch(tmp_path, "b/1.wav", "a.b/2.WAV", "a/c/3.flac", "a/4.ogg", "0.mp3")
    scan = scan_folder(tmp_path)
    assert relative(tmp_path, scan.files) == ["0.mp3", "a/4.ogg", "a/c/3.flac", "a.b/2.WAV", "b/1.wav"]
    assert scan.files == [str(path) for path in sorted(Path(file) for file in scan.files)]
    assert relative(tmp_path, scan.folders) == ["a", "a/c", "a.b", "b"]
    assert scan.ignored == []


def test_paths_start_with_the_folder_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a/1.wav")
    monkeypatch.chdir(tmp_path)
    assert scan_folder(".").files == ["a/1.wav"]
    assert scan_folder("a/").files == ["a/1.wav"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scan_folder("~/a").files == [f"{tmp_path}/a/1.wav"]


def test_everything_else_is_listed(tmp_path: Path):
    touch(tmp_path, "1.wav", "notes.txt", "2.TXT", "3.csv", "README", ".4.wav", ".cache/5.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "self.wav").symlink_to("self.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    found = kinds(tmp_path)
    assert found.pop("other kind") == ["2.TXT", "3.csv", "README", "notes.txt"]
    assert found == {
        "broken link": ["gone.wav"],
        "unreadable": ["self.wav"],
        "special file": ["pipe.wav"],
        "hidden": [".4.wav", ".cache"],
    }


def test_files_of_operating_systems_are_not_listed(tmp_path: Path):
    touch(
        tmp_path, ".DS_Store", "a/Thumbs.db", "a/Desktop.ini", "a/._1.wav", "__MACOSX/._a.wav", ".git/x", "@eaDir/2.wav"
    )
    scan = scan_folder(tmp_path)
    assert (scan.files, scan.ignored) == ([], [])


def test_linked_files_and_folders_are_used(tmp_path: Path):
    touch(tmp_path, "store/1.wav", "root/a/2.wav")
    root = tmp_path / "root"
    (root / "b").symlink_to("../store")
    (root / "a" / "3.wav").symlink_to(tmp_path / "store" / "1.wav")
    scan = scan_folder(root)
    assert relative(root, scan.files) == ["a/2.wav", "a/3.wav", "b/1.wav"]
    assert (relative(root, scan.folders), scan.ignored) == (["a", "b"], [])


def test_circles_of_links_end(tmp_path: Path):
    touch(tmp_path, "root/a/1.wav", "root/b/2.wav")
    root = tmp_path / "root"
    (root / "a" / "here").symlink_to(".")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "above").symlink_to(tmp_path)
    (root / "a" / "beside").symlink_to("../b")  # b's own files remain b's
    (root / "b" / "beside").symlink_to("../a")
    scan = scan_folder(root)
    assert relative(root, scan.files) == ["a/1.wav", "b/2.wav"]
    assert kinds(root) == {"linked twice": ["a/above", "a/beside", "a/here", "a/up", "b/beside"]}


def test_folders_that_cannot_be_read_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a/1.wav", "b/2.wav")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    scan = scan_folder(tmp_path)
    assert relative(tmp_path, scan.files) == ["a/1.wav"]
    assert relative(tmp_path, scan.folders) == ["a"]
    assert scan.ignored == [Ignored("unreadable", str(tmp_path / "b"), "permission denied")]
    assert str(scan.ignored[0]) == f"{tmp_path}/b: permission denied"
    with pytest.raises(PermissionError):
        scan_folder(tmp_path / "b")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind, and not root")
def test_permissions_of_the_file_system_are_named(tmp_path: Path):
    touch(tmp_path, "a/1.wav", "b/2.wav")
    (tmp_path / "b").chmod(0)
    try:
        assert scan_folder(tmp_path).ignored == [Ignored("unreadable", str(tmp_path / "b"), "permission denied")]
    finally:
        (tmp_path / "b").chmod(0o700)


@pytest.mark.parametrize("form", ["WAV", "AIFF", "FLAC", "OGG", "MP3", "CAF", "AU", "W64", "RF64", "NIST", "VOC"])
def test_content_decides_where_the_ending_does_not(tone: Callable[..., Path], tmp_path: Path, form: str):
    tone(tmp_path / "audio.bin", rate=16000, format=form)
    tone(tmp_path / "audio", rate=16000, format=form)
    (tmp_path / "text.bin").write_text("RIFF is a container")
    (tmp_path / "utf16").write_text("path,label", encoding="utf-16")
    scan = scan_folder(tmp_path)
    assert relative(tmp_path, scan.files) == ["audio", "audio.bin"]
    assert kinds(tmp_path) == {"other kind": ["text.bin", "utf16"]}
    assert soundfile.info(scan.files[1]).samplerate == 16000


def test_summary_counts_endings_and_is_short(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    touch(tmp_path, "1.wav", *(f"{number}.txt" for number in range(10)), *(f"x.{number}x" for number in range(7)), ".h")
    ignored = scan_folder(tmp_path).ignored
    other = "17 files of other kinds were ignored: 10 .txt, 1 .0x, 1 .1x, 1 .2x, 1 .3x and 3 more endings"
    assert summarize(ignored) == {
        "other kind": f"{other} (such as {tmp_path}/0.txt)",
        "hidden": f"1 hidden file or folder was ignored (such as {tmp_path}/.h)",
    }
    warn_about_ignored(ignored, "data")
    assert caplog.messages == [f"data: {sentence}" for sentence in summarize(ignored).values()]


def test_names_that_are_not_unicode_are_printable(tmp_path: Path):
    (tmp_path / "caf\udce9.txt").touch()
    (item,) = scan_folder(tmp_path).ignored
    assert str(item) == f"{tmp_path}/caf\\udce9.txt: of another kind (.txt)"


def test_many_files_are_scanned_without_looking_into_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.wav").touch()
        (folder / f"{number}.lab").touch()
    opened = 0
    original = open

    def count(*arguments: object) -> object:
        nonlocal opened
        opened += 1
        return original(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", count)
    start = time.process_time()
    scan = scan_folder(tmp_path)
    assert time.process_time() - start < 1  # 0.03 s
    assert (len(scan.files), len(scan.ignored), opened) == (3000, 3000, 100)


def test_labels_that_look_alike_are_similar():
    assert similar_labels(["dog", "cat", "cats"]) == []
    assert similar_labels(["Dog", "dog", " dog", "big  cat", "big cat"]) == [
        "dog: ' dog' and 'Dog' and 'dog'",
        "big cat: 'big  cat' and 'big cat'",
    ]
    (line,) = similar_labels(["M\u00e9sange", "Me\u0301sange", "other"])
    assert line == "M\u00e9sange: 'Me\\u0301sange' and 'M\\xe9sange'"
