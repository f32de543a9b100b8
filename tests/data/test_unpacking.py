"""Unpacking: archives with their top-level folder removed, and archives that would write outside the folder."""

import hashlib
import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spectrnn.data.sources.download import Archive, fetch
from spectrnn.errors import UserError

NOISE = random.Random(0).randbytes(100_000)  # incompressible
CONTENTS = {"dataset/list.txt": b"one two", "dataset/audio/noise.wav": NOISE}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, bytes], Archive]]:
    """Serves an archive locally: `publish(name, content)` -> archive."""
    folder = tmp_path_factory.mktemp("published")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:

        def serve(name: str, content: bytes) -> Archive:
            (folder / name).write_bytes(content)
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            checksum = "md5:" + hashlib.md5(content).hexdigest()
            return Archive(name="the dataset", url=url, checksum=checksum, size=len(content))

        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serve
        server.shutdown()
        thread.join()


def tar(members: dict[str, bytes], *links: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def special(kind: bytes, **fields: object) -> bytes:
    """A tar with one member that is not a regular file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("dataset/special")
        info.type = kind
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info)
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".dataset.lock"}


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize(
    ("members", "unpacked"),
    [
        ({"top/a": b"1", "top/b/c": b"2"}, {"a": b"1", "b/c": b"2"}),
        ({"top/a": b"1", ".hidden": b"2"}, {"a": b"1", ".hidden": b"2"}),
        ({"top/top/a": b"1", "top/b": b"2"}, {"top/a": b"1", "b": b"2"}),
        ({"x/a": b"1", "y/a": b"2"}, {"x/a": b"1", "y/a": b"2"}),
        ({"a": b"1"}, {"a": b"1"}),
    ],
)
def test_single_top_level_folder_is_removed(publish: Callable, tmp_path: Path, pack, members, unpacked):
    name = {tar: "dataset.tar.gz", zipped: "dataset.zip"}[pack]
    fetch(publish(name, pack(members)), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == unpacked
    assert {path.name for path in (tmp_path / "dataset").iterdir()} == {member.split("/")[0] for member in unpacked}


GOOD = {"dataset/a": b"1"}


def rejected_archives(outside: Path) -> dict[str, bytes]:
    return {
        "up.tar.gz": tar(GOOD | {"../evil": b"!"}),
        "deep.tar.gz": tar(GOOD | {"dataset/../../evil": b"!"}),
        "link.tar.gz": tar(GOOD, ("dataset/link", str(outside))),
        "linkup.tar.gz": tar(GOOD, ("dataset/link", "../../outside")),
        "through.tar.gz": tar(GOOD, ("dataset/link", ".."), ("dataset/link/link", "..")),
        "hardlink.tar.gz": special(tarfile.LNKTYPE, linkname=str(outside / "evil")),
        "hardlinkup.tar.gz": special(tarfile.LNKTYPE, linkname="../outside/evil"),
        "device.tar.gz": special(tarfile.CHRTYPE, devmajor=1, devminor=5),
        "fifo.tar.gz": special(tarfile.FIFOTYPE),
        "garbage.zip": b"PK\x03\x04" + random.Random(1).randbytes(500),
        "garbage.tar.gz": random.Random(1).randbytes(500),
        "truncated.zip": zipped(CONTENTS)[:1000],
    }


def sanitized_archives(outside: Path) -> dict[str, bytes]:
    """Archives whose members are unpacked inside the folder, as the libraries remove roots, drives and ``..``."""
    return {
        "root.tar.gz": tar(GOOD | {str(outside / "evil"): b"!"}),
        "up.zip": zipped(GOOD | {"../evil": b"!"}),
        "backslash.zip": zipped(GOOD | {"..\\evil": b"!"}),
        "root.zip": zipped(GOOD | {str(outside / "evil"): b"!"}),
        "drive.zip": zipped(GOOD | {"C:\\evil": b"!"}),
    }


@pytest.mark.parametrize("name", rejected_archives(Path("/")))
def test_invalid_archive_is_rejected(publish: Callable, tmp_path: Path, name: str):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    with pytest.raises(UserError, match=rf"/{name}: cannot be unpacked: "):
        fetch(publish(name, rejected_archives(outside)[name]), inside / "dataset")
    assert list(outside.iterdir()) == []
    assert leftovers(inside) == {f"dataset-{name}.part"}
    assert leftovers(tmp_path) == {"outside", "inside"}


@pytest.mark.parametrize("name", sanitized_archives(Path("/")))
def test_members_are_never_written_outside_the_folder(publish: Callable, tmp_path: Path, name: str):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    fetch(publish(name, sanitized_archives(outside)[name]), inside / "dataset")
    assert sorted(files(inside / "dataset").values()) == [b"!", b"1"]
    assert list(outside.iterdir()) == []
    assert leftovers(inside) == {"dataset"}
    assert leftovers(tmp_path) == {"outside", "inside"}
