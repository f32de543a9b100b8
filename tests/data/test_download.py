"""Downloads against a server on the loopback that breaks off, lies, ignores Range, and sends wrong bytes."""

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

NOISE = random.Random(0).randbytes(320_000)  # does not shrink
CONTENTS = {"dataset/list.txt": b"one two", "dataset/audio/noise.wav": NOISE}
Answer = Callable[["Handler", int], None]


class Server(ThreadingHTTPServer):
    """Answers request number n with answers[n], and all later ones with the last."""

    daemon_threads = True
    payload = b""
    answers: tuple[Answer, ...] = ()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.closing = threading.Event()

    def archive(self, payload: bytes, *answers: Answer, name: str = "dataset.tar.gz", checksum: str = "") -> Archive:
        self.payload, self.answers = payload, answers
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        checksum = checksum or "sha256:" + hashlib.sha256(payload).hexdigest()
        return Archive(name="the dataset", url=url, checksum=checksum, size=len(payload))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        answer = self.server.answers[min(len(self.server.ranges), len(self.server.answers)) - 1]
        answer(self, int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0)

    def send(self, code: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def honest(handler: Handler, first: int, stop: int | None = None, more: int = 0) -> None:
    """Serves the range; breaks off before `stop`; promises `more` bytes than there are."""
    payload = handler.server.payload
    if first >= len(payload):
        handler.send(416, Content_Range=f"bytes */{len(payload)}")
        return
    length = len(payload) - first + more
    span = {"Content_Range": f"bytes {first}-{len(payload) - 1}/{len(payload)}"} if first else {}
    handler.send(206 if first else 200, payload[first:stop], Content_Length=length, **span)


def breaking(handler: Handler, first: int) -> None:
    honest(handler, first, stop=first + (len(handler.server.payload) - first) // 2)


def boasting(handler: Handler, first: int) -> None:
    honest(handler, first, more=1000)


def rangeless(handler: Handler, first: int) -> None:
    honest(handler, 0)


def rangeless_breaking(handler: Handler, first: int) -> None:
    honest(handler, 0, stop=len(handler.server.payload) // 2)


def understating(handler: Handler, first: int) -> None:
    handler.send(200, handler.server.payload, Content_Length=len(handler.server.payload) // 2)


def unmeasured(handler: Handler, first: int) -> None:
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
    except OSError:  # enough was heard
        pass


def silent(handler: Handler, first: int) -> None:
    honest(handler, first, stop=first + 100_000)
    handler.wfile.flush()
    handler.server.closing.wait(20)


def redirecting(address: str) -> Answer:
    def redirect(handler: Handler, first: int) -> None:
        if handler.path == "/dataset.tar.gz":
            handler.send(302, Location=address)
        else:
            honest(handler, first)

    return redirect


def ranged(content_range: str) -> Answer:
    return lambda handler, first: handler.send(206, handler.server.payload[first:], Content_Range=content_range)


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
    "answers",
    [
        (honest,),
        (breaking, honest),
        (breaking, breaking, breaking, breaking, breaking, breaking, breaking, honest),  # ever further: no limit
        (rangeless_breaking, rangeless),
        (boasting,),  # at the end of the file the next request gets a 416
        (unmeasured,),
        (busy, honest),
        (breaking, misplaced, honest),
    ],
    ids=lambda answers: "-".join(answer.__name__ for answer in answers),
)
def test_whatever_the_server_does_the_contents_are_right(server: Server, tmp_path: Path, answers: tuple[Answer, ...]):
    fetch(server.archive(PAYLOAD, *answers), tmp_path / "deep" / "dataset")
    assert files(tmp_path / "deep" / "dataset") == UNPACKED
    assert leftovers(tmp_path / "deep") == {"dataset"}


def test_a_broken_download_goes_on_where_it_stopped_in_the_next_run(server: Server, tmp_path: Path):
    refusing = [breaking] + [busy] * download.ATTEMPTS
    with pytest.raises(UserError, match=r"5 connections in a row broke off at 0.2 MB .*503"):
        fetch(server.archive(PAYLOAD, *refusing), tmp_path / "dataset")
    half = len(PAYLOAD) // 2
    assert (tmp_path / "dataset-dataset.tar.gz.part").read_bytes() == PAYLOAD[:half]
    assert not (tmp_path / "dataset").exists()
    server.ranges.clear()
    fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    assert server.ranges == [f"bytes={half}-"]
    assert files(tmp_path / "dataset") == UNPACKED


def test_a_server_that_never_keeps_its_word_ends_in_an_error(server: Server, tmp_path: Path):
    half, whole = len(PAYLOAD) // 2, len(PAYLOAD)
    with pytest.raises(
        UserError, match=rf"dataset.tar.gz: 5 connections in a row .*closed after {half} of {whole} bytes"
    ):
        fetch(server.archive(PAYLOAD, rangeless_breaking), tmp_path / "dataset")
    assert server.ranges == [None] + [f"bytes={half}-"] * 4


def test_a_missing_file_is_not_asked_for_twice(server: Server, tmp_path: Path):
    with pytest.raises(UserError, match=r"/dataset.tar.gz: the server answers 404"):
        fetch(server.archive(PAYLOAD, gone), tmp_path / "dataset")
    assert server.ranges == [None]


def test_nobody_listening_ends_in_an_error(server: Server, tmp_path: Path):
    archive = server.archive(PAYLOAD, honest)
    server.server_close()
    with pytest.raises(UserError, match=r"5 connections in a row broke off at 0.0 MB .*refused"):
        fetch(archive, tmp_path / "dataset")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_wrong_bytes_are_deleted_and_both_checksums_named(server: Server, tmp_path: Path, algorithm: str):
    expected, found = (hashlib.new(algorithm, data).hexdigest() for data in (b"the dataset", PAYLOAD))
    with pytest.raises(UserError) as caught:
        fetch(server.archive(PAYLOAD, honest, checksum=f"{algorithm}:{expected}"), tmp_path / "dataset")
    assert all(part in str(caught.value) for part in (expected, found, "http://127.0.0.1"))
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == set()
    fetch(server.archive(PAYLOAD, honest, checksum=f"{algorithm}:{found}"), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_a_length_that_is_too_small_fails_the_checksum(server: Server, tmp_path: Path):
    with pytest.raises(UserError, match=r"checksum is"):
        fetch(server.archive(PAYLOAD, understating), tmp_path / "dataset")
    assert leftovers(tmp_path) == set()


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path):
    (tmp_path / "dataset-dataset.tar.gz.part").write_bytes(PAYLOAD + b"more")
    with pytest.raises(UserError, match=r"checksum is"):
        fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_a_part_is_overwritten_where_the_server_starts_over(server: Server, tmp_path: Path):
    (tmp_path / "dataset-dataset.tar.gz.part").write_bytes(PAYLOAD + b"more")
    fetch(server.archive(PAYLOAD, rangeless), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_a_folder_that_holds_anything_is_left_alone(server: Server, tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.wav").touch()
    fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == {"mine.wav": b""}
    assert server.ranges == []


def test_an_empty_folder_is_filled(server: Server, tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_of_many_at_once_one_downloads(server: Server, tmp_path: Path):
    archive = server.archive(PAYLOAD, honest)
    threads = [threading.Thread(target=fetch, args=(archive, tmp_path / "dataset")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(tmp_path / "dataset") == UNPACKED
    assert server.ranges == [None]


@pytest.mark.parametrize(
    "promise", [endless, lambda handler, first: handler.send(200, 30 * NOISE, Content_Length=10**15)]
)
def test_a_server_that_sends_ever_more_is_left(server: Server, tmp_path: Path, promise: Answer):
    with pytest.raises(UserError, match=r"dataset.tar.gz: sends more than 1.7 MB"):
        fetch(server.archive(PAYLOAD, promise), tmp_path / "dataset")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


def test_a_server_that_falls_silent_is_asked_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    fetch(server.archive(PAYLOAD, silent, honest), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED
    assert server.ranges == [None, f"bytes={download.BLOCK}-"]


@pytest.mark.parametrize("where", ["/mirror", "http://127.0.0.1:{port}/mirror"])
def test_a_redirect_is_followed(server: Server, tmp_path: Path, where: str):
    answer = redirecting(where.format(port=server.server_port))
    fetch(server.archive(PAYLOAD, answer), tmp_path / "dataset")
    assert files(tmp_path / "dataset") == UNPACKED


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("file:///etc/passwd", "redirects to 'file:.*; only http and https|the server answers 302"),
        ("ftp://127.0.0.1/dataset.tar.gz", "redirects to 'ftp:.*; only http and https"),
        ("data:text/plain,hello", "the server answers 302|only http and https"),
        ("http://[", "redirects to an address that is none"),
        ("http://127.0.0.1:port/", "redirects to an address that is none"),
        ("/dataset.tar.gz", "the server answers 302"),  # round and round
    ],
)
def test_a_redirect_to_anything_else_is_refused(server: Server, tmp_path: Path, where: str, sentence: str):
    with pytest.raises(UserError, match=f"/dataset.tar.gz: (the server )?({sentence})"):
        fetch(server.archive(PAYLOAD, redirecting(where)), tmp_path / "dataset")
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("where", ["bytes \xb2-9/10", f"bytes {'9' * 5000}-9/10", "bytes -1-9/10", "bytes", ""])
def test_a_range_that_is_none_is_not_written_anywhere(server: Server, tmp_path: Path, where: str):
    (tmp_path / "dataset-dataset.tar.gz.part").write_bytes(PAYLOAD[:7])
    with pytest.raises(UserError, match=r"5 connections in a row .*asked for the bytes from 7 on"):
        fetch(server.archive(PAYLOAD, ranged(where)), tmp_path / "dataset")
    assert (tmp_path / "dataset-dataset.tar.gz.part").read_bytes() == PAYLOAD[:7]


def test_only_http(tmp_path: Path):
    (tmp_path / "dataset.tar.gz").write_bytes(PAYLOAD)
    url = (tmp_path / "dataset.tar.gz").as_uri()
    with pytest.raises(UserError, match=r"file:.*: only http and https"):
        fetch(Archive(name="the dataset", url=url, checksum="md5:0", size=1), tmp_path / "dataset")


def test_a_place_that_cannot_be_written_is_named(server: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"dataset: the dataset cannot be stored here"):
        fetch(server.archive(PAYLOAD, honest), tmp_path / "file" / "dataset")


def test_progress_is_shown_on_stderr(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fetch(server.archive(PAYLOAD, honest), tmp_path / "dataset")
    shown = capsys.readouterr()
    assert "the dataset:" in shown.err
    assert "the dataset: unpacking" in shown.err
    assert shown.out == ""
