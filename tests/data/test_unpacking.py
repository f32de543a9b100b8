"""Unpacking: what an archive holds lies in the folder, and nowhere else."""

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

NOISE = random.Random(0).randbytes(100_000)  # does not shrink
CONTENTS = {"dataset/list.txt": b"one two", "dataset/audio/noise.wav": NOISE}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, bytes], Archive]]:
    """Puts bytes on a server on the loopback: `publish(name, content)` -> the archive."""
    folder = tmp_path_factory.mktemp("published")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:

        def published(name: str, content: bytes) -> Archive:
            (folder / name).write_bytes(content)
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            checksum = "md5:" + hashlib.md5(content).hexdigest()
            return Archive(name="the dataset", url=url, checksum=checksum, size=len(content))

        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield published
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
    """A tar with one member that is no plain file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("dataset/special")
        info.type = kind
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info)
    return buffer.getvalue()


def locked(archive: bytes) -> bytes:
    """The zip with the flag of a password in both of its headers."""
    changed = bytearray(archive)
    changed[6] |= 1
    changed[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


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
def test_a_single_folder_at_the_top_is_left_out(publish: Callable, tmp_path: Path, pack, members, unpacked):
    name = {tar: "dataset.tar.gz", zipped: "dataset.zip"}[pack]
    fetch(publish(name, pack(members)), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == unpacked
    assert {path.name for path in (tmp_path / "dataset").iterdir()} == {member.split("/")[0] for member in unpacked}


def evil_archives(outside: Path) -> dict[str, bytes]:
    good = {"dataset/a": b"1"}
    return {
        "up.tar.gz": tar(good | {"../evil": b"!"}),
        "deep.tar.gz": tar(good | {"dataset/../../evil": b"!"}),
        "root.tar.gz": tar(good | {str(outside / "evil"): b"!"}),
        "link.tar.gz": tar(good, ("dataset/link", str(outside))),
        "linkup.tar.gz": tar(good, ("dataset/link", "../../outside")),
        "up.zip": zipped(good | {"../evil": b"!"}),
        "backslash.zip": zipped(good | {"..\\evil": b"!"}),
        "root.zip": zipped(good | {str(outside / "evil"): b"!"}),
        "hard.tar.gz": special(tarfile.LNKTYPE, linkname=str(outside / "evil")),
        "hardup.tar.gz": special(tarfile.LNKTYPE, linkname="../outside/evil"),
        "device.tar.gz": special(tarfile.CHRTYPE, devmajor=1, devminor=5),
        "fifo.tar.gz": special(tarfile.FIFOTYPE),
        "through.tar.gz": tar(good, ("dataset/link", ".."), ("dataset/link/link", "..")),
        "time.tar.gz": special(tarfile.REGTYPE, pax_headers={"mtime": "1e400"}),
        "bomb.tar.gz": tar({"dataset/a": bytes(30_000_000)}),
        "many.tar.gz": tar({f"dataset/{number}": b"" for number in range(6000)}),
        "bomb.zip": zipped({f"dataset/{number}": bytes(3_000_000) for number in range(10)}),
        "drive.zip": zipped(good | {"C:\\evil": b"!"}),
        "locked.zip": locked(zipped(good)),
        "garbage.zip": b"PK\x03\x04" + random.Random(1).randbytes(500),
        "garbage.tar.gz": random.Random(1).randbytes(500),
        "torn.tar.gz": tar(CONTENTS)[:50_000],
        "torn.zip": zipped(CONTENTS)[:1000],
    }


@pytest.mark.parametrize("name", evil_archives(Path("/")))
def test_an_archive_that_leaves_the_folder_is_refused(publish: Callable, tmp_path: Path, name: str):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    with pytest.raises(UserError, match=rf"/{name}: cannot be unpacked: "):
        fetch(publish(name, evil_archives(outside)[name]), inside / "dataset")
    assert list(outside.iterdir()) == []
    assert leftovers(inside) == {f"dataset-{name}.part"}
    assert leftovers(tmp_path) == {"outside", "inside"}
