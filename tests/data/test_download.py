"""Downloads from a local server that disconnects, announces wrong lengths, ignores Range, and sends wrong bytes."""

import hashlib
import io
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spectrnn.data.sources import download
from spectrnn.data.sources.download import Archive, fetch
from spectrnn.errors import UserError

NOISE = random.Random(0).randbytes(320_000)  # incompressible
CONTENTS = {"dataset/list.txt": b"one two", "dataset/audio/noise.wav": NOISE}
Response = Callable[["Handler", int], None]


class Server(ThreadingHTTPServer):
    """Responds to request n with responses[n], and to all later ones with the last response."""

    daemon_threads = True
    payload = b""
    responses: tuple[Response, ...] = ()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.closing = threading.Event()

    def archive(self, payload: bytes, *responses: Response, checksum: str = "") -> Archive:
        self.payload, self.responses = payload, responses
        url = f"http://127.0.0.1:{self.server_port}/dataset.tar.gz"
        checksum = checksum or "sha256:" + hashlib.sha256(payload).hexdigest()
        return Archive(name="the dataset", url=url, checksum=checksum, size=len(payload))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        response = self.server.responses[min(len(self.server.ranges), len(self.server.responses)) - 1]
        response(self, int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0)

    def send(self, code: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def complete(handler: Handler, first: int, stop: int | None = None, extra: int = 0) -> None:
    """Sends the range up to `stop`, and announces `extra` bytes that do not exist."""
    payload = handler.server.payload
    if first >= len(payload):
        handler.send(416, Content_Range=f"bytes */{len(payload)}")
        return
    length = len(payload) - first + extra
    span = {"Content_Range": f"bytes {first}-{len(payload) - 1}/{len(payload)}"} if first else {}
    handler.send(206 if first else 200, payload[first:stop], Content_Length=length, **span)


def disconnecting(handler: Handler, first: int) -> None:
    complete(handler, first, stop=first + (len(handler.server.payload) - first) // 2)


def overstating(handler: Handler, first: int) -> None:
    complete(handler, first, extra=1000)


def rangeless(handler: Handler, first: int) -> None:
    complete(handler, 0)


def rangeless_disconnecting(handler: Handler, first: int) -> None:
    complete(handler, 0, stop=len(handler.server.payload) // 2)


def understating(handler: Handler, first: int) -> None:
    handler.send(200, handler.server.payload, Content_Length=len(handler.server.payload) // 2)


def without_length(handler: Handler, first: int) -> None:
    handler.send(200, handler.server.payload)


def misplaced(handler: Handler, first: int) -> None:
    handler.send(206, handler.server.payload, Content_Range=f"bytes {first + 7}-{first + 9}/99")


def busy(handler: Handler, first: int) -> None:
    handler.send(503)


def gone(handler: Handler, first: int) -> None:
    handler.send(404)


def endless(handler: Handler, first: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(NOISE)
    except OSError:  # the client has closed the connection
        pass


def silent(handler: Handler, first: int) -> None:
    complete(handler, first, stop=first + 100_000)
    handler.wfile.flush()
    handler.server.closing.wait(20)


def redirecting(address: str) -> Response:
    def redirect(handler: Handler, first: int) -> None:
        if handler.path == "/dataset.tar.gz":
            handler.send(302, Location=address)
        else:
            complete(handler, first)

    return redirect


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


PAYLOAD = tar(CONTENTS)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".dataset.lock"}


UNPACKED = {"list.txt": b"one two", "audio/noise.wav": NOISE}


@pytest.mark.parametrize(
    "responses",
    [
        (complete,),
        (disconnecting, complete),
        7 * (disconnecting,) + (complete,),  # no limit as long as each connection makes progress
        (rangeless_disconnecting, rangeless),
        (overstating,),  # the next request, at the end of the file, results in a 416
        (without_length,),
        (busy, complete),
    ],
    ids=lambda responses: "-".join(response.__name__ for response in responses),
)
def test_archive_is_downloaded_and_unpacked(server: Server, tmp_path: Path, responses: tuple[Response, ...]):
    fetch(server.archive(PAYLOAD, *responses), tmp_path / "deep" / "dataset")
    assert files(tmp_path / "deep" / "dataset") == UNPACKED
    assert leftovers(tmp_path / "deep") == {"dataset"}


def test_interrupted_download_is_resumed_by_the_next_call(server: Server, tmp_path: Path):
    message = r"dataset.tar.gz: 5 connections in a row were interrupted at 0.2 MB \(.*503.*\); the same command resumes"
    with pytest.raises(UserError, match=message):
        fetch(server.archive(PAYLOAD, disconnecting, *download.ATTEMPTS * [busy]), tmp_path / "dataset")
    half = len(PAYLOAD) // 2
    assert (tmp_path / "dataset-dataset.tar.gz.part").read_bytes() == PAYLOAD[:half]
    assert not (tmp_path / "dataset").exists()
    server.ranges.clear()
    fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    assert server.ranges == [f"bytes={half}-"]
    assert files(tmp_path / "dataset") == UNPACKED


def test_connections_without_progress_are_limited(server: Server, tmp_path: Path):
    half, whole = len(PAYLOAD) // 2, len(PAYLOAD)
    with pytest.raises(
        UserError, match=rf"dataset.tar.gz: 5 connections in a row .*closed after {half} of {whole} bytes"
    ):
        fetch(server.archive(PAYLOAD, rangeless_disconnecting), tmp_path / "dataset")
    assert server.ranges == [None] + [f"bytes={half}-"] * 4


def test_missing_file_is_not_requested_again(server: Server, tmp_path: Path):
    with pytest.raises(UserError, match=r"/dataset.tar.gz: the server returned 404 Not Found$"):
        fetch(server.archive(PAYLOAD, gone), tmp_path / "dataset")
    assert server.ranges == [None]


def test_refused_connections_are_reported(server: Server, tmp_path: Path):
    archive = server.archive(PAYLOAD, complete)
    server.server_close()
    with pytest.raises(UserError, match=r"5 connections in a row were interrupted at 0.0 MB .*refused"):
        fetch(archive, tmp_path / "dataset")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_wrong_checksum_is_reported_and_the_download_deleted(server: Server, tmp_path: Path, algorithm: str):
    expected, actual = (hashlib.new(algorithm, data).hexdigest() for data in (b"the dataset", PAYLOAD))
    archive = server.archive(PAYLOAD, complete, checksum=f"{algorithm}:{expected}")
    message = (
        f"{archive.url}: its {algorithm} checksum is {actual}, but {expected} was expected; the download was deleted. "
        "Try again, or unpack a trusted copy as data.root"
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        fetch(archive, tmp_path / "dataset")
    assert leftovers(tmp_path) == set()
    fetch(server.archive(PAYLOAD, complete, checksum=f"{algorithm}:{actual}"), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


@pytest.mark.parametrize("responses", [(understating,), (disconnecting, misplaced)])
def test_wrong_length_or_range_fails_the_checksum(server: Server, tmp_path: Path, responses: tuple[Response, ...]):
    with pytest.raises(UserError, match=r"dataset.tar.gz: its sha256 checksum is"):
        fetch(server.archive(PAYLOAD, *responses), tmp_path / "dataset")
    assert leftovers(tmp_path) == set()


def test_part_that_is_longer_than_the_archive_is_deleted(server: Server, tmp_path: Path):
    (tmp_path / "dataset-dataset.tar.gz.part").write_bytes(PAYLOAD + b"more")
    with pytest.raises(UserError, match=r"checksum is"):
        fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_part_is_overwritten_if_the_server_ignores_the_range(server: Server, tmp_path: Path):
    (tmp_path / "dataset-dataset.tar.gz.part").write_bytes(PAYLOAD + b"more")
    fetch(server.archive(PAYLOAD, rangeless), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_folder_with_contents_is_not_changed(server: Server, tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.wav").touch()
    fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == {"mine.wav": b""}
    assert server.ranges == []


def test_empty_folder_is_filled(server: Server, tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_concurrent_calls_download_once(server: Server, tmp_path: Path):
    archive = server.archive(PAYLOAD, complete)
    threads = [threading.Thread(target=fetch, args=(archive, tmp_path / "dataset")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path / "dataset") == UNPACKED
    assert server.ranges == [None]


@pytest.mark.parametrize(
    "response", [endless, lambda handler, first: handler.send(200, 30 * NOISE, Content_Length=10**15)]
)
def test_download_that_is_too_large_is_stopped(server: Server, tmp_path: Path, response: Response):
    with pytest.raises(UserError, match=r"dataset.tar.gz: sends more than 0.6 MB, so it is not the dataset$"):
        fetch(server.archive(PAYLOAD, response), tmp_path / "dataset")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_connection_without_data_is_renewed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    fetch(server.archive(PAYLOAD, silent, complete), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED
    assert server.ranges == [None, f"bytes={download.BLOCK}-"]


@pytest.mark.parametrize("address", ["/mirror", "http://127.0.0.1:{port}/mirror"])
def test_redirect_is_followed(server: Server, tmp_path: Path, address: str):
    response = redirecting(address.format(port=server.server_port))
    fetch(server.archive(PAYLOAD, response), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("file:///etc/passwd", "the server returned 302"),
        ("data:text/plain,hello", "the server returned 302"),
        ("ftp://127.0.0.1/dataset.tar.gz", "5 connections in a row were interrupted at 0.0 MB"),
        ("http://[", "leads to an invalid address"),
        ("http://127.0.0.1:port/", "leads to an invalid address"),
        ("/dataset.tar.gz", "the server returned 302"),  # endlessly
    ],
)
def test_invalid_redirect_is_reported(server: Server, tmp_path: Path, address: str, message: str):
    with pytest.raises(UserError, match=f"/dataset.tar.gz: {message}"):
        fetch(server.archive(PAYLOAD, redirecting(address)), tmp_path / "dataset")
    assert leftovers(tmp_path) == set()


def test_unwritable_folder_is_reported(server: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/dataset: the dataset cannot be stored here: File exists$"):
        fetch(server.archive(PAYLOAD, complete), tmp_path / "file" / "dataset")


def test_progress_is_shown_on_stderr(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # in a file, short work shows none
    fetch(server.archive(PAYLOAD, complete), tmp_path / "dataset")
    shown = capsys.readouterr()
    assert "the dataset:" in shown.err
    assert "the dataset: unpacking" in shown.err
    assert shown.out == ""


def test_other_protocols_are_rejected(tmp_path: Path):
    (tmp_path / "dataset.tar.gz").write_bytes(b"x")
    url = (tmp_path / "dataset.tar.gz").as_uri()
    with pytest.raises(UserError, match=r"file:.*: leads to an invalid address \(file:.* is not HTTP\)$"):
        fetch(Archive(name="the dataset", url=url, checksum="md5:0", size=1), tmp_path / "dataset")
