"""Recordings at addresses: fetched once each, kept after an interruption, and then read without the network."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from spectrnn.data import remote
from spectrnn.data.clips import Clip, DataSource, common_folder
from spectrnn.data.dataset import Dataset, open_dataset
from spectrnn.data.remote import fetch, is_address, local_copy
from spectrnn.data.splits import assign_splits, clip_keys
from spectrnn.errors import FileErrors, UserError

CPU = torch.device("cpu")
FETCH = """
import signal
import sys
from pathlib import Path
from spectrnn.data.remote import fetch

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
fetch(sys.argv[2:], Path(sys.argv[1]))
"""


class Server(ThreadingHTTPServer):
    """Serves a folder, and counts the requests for each file."""

    daemon_threads = True
    delay = 0.0  # s
    failing: Callable[["Handler"], bool] = staticmethod(lambda handler: False)  # whether a response was sent instead

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.requests = root, Counter[str]()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        time.sleep(self.server.delay)
        if self.server.failing(self):
            return
        file = self.server.root / self.path.lstrip("/")
        self.send(200, file.read_bytes()) if file.is_file() else self.send(404)

    def send(self, code: int, body: bytes = b"", length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tones: Path) -> Iterator[Server]:
    with Server(tones) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def bucket(tones: Path) -> Iterator[str]:
    """Address of a bucket with the tones, on a server on this machine."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3")
        client.create_bucket(Bucket="recordings")
        for path in tones.rglob("*.wav"):
            client.upload_file(str(path), "recordings", f"tones/{path.relative_to(tones).as_posix()}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield "s3://recordings/tones"
    s3fs.S3FileSystem.clear_instance_cache()
    moto.stop()


@pytest.fixture
def table(tmp_path: Path, source: Callable[..., DataSource]) -> Callable[..., DataSource]:
    """Builds the source of a manifest: `table([(path, label), ...], **settings)`, with a cache of its own."""

    def build(rows: list[tuple[str, str]], **settings: object) -> DataSource:
        path = tmp_path / "table.csv"
        path.write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
        return source("manifest", path=path, cache=tmp_path / "cache", **{"sample_rate": 8000, **settings})

    return build


def rows(tones: Path, *roots: str) -> list[tuple[str, str]]:
    """Rows of all tones, which are in the given roots in turn."""
    names = sorted(path.relative_to(tones).as_posix() for path in tones.rglob("*.wav"))
    return [(f"{roots[number % len(roots)]}/{name}", name.partition("/")[0]) for number, name in enumerate(names)]


def samples(dataset: Dataset) -> list[int]:
    return dataset.cache.samples.read(0, dataset.cache.samples.size).tolist()


def copies(cache: Path) -> list[Path]:
    return [path for path in (cache / "remote").rglob("*") if path.is_file()]


def test_local_and_remote_recordings_are_one_dataset(
    table: Callable[..., DataSource], tones: Path, server: Server, bucket: str
):
    expected = open_dataset(table(rows(tones, str(tones))), CPU)
    mixed = rows(tones, str(tones), server.url, bucket)
    dataset = open_dataset(table(mixed), CPU)
    assert samples(dataset) == samples(expected)
    assert [clip.path for clip in dataset.clips] == [path for path, _ in mixed]
    assert sorted(server.requests.values()) == [1] * 12


def test_splits_are_those_of_local_files(table: Callable[..., DataSource], tones: Path, server: Server, bucket: str):
    expected = [clip.split for clip in assign_splits(table(rows(tones, str(tones))).clips(), table([]))]
    assert {"train", "val", "test"} == set(expected)
    for root in (server.url, bucket):
        source = table(rows(tones, root))
        assert [clip.split for clip in assign_splits(source.clips(), source)] == expected


def test_second_run_needs_no_network(table: Callable[..., DataSource], tones: Path, tmp_path: Path):
    with Server(tones) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        source = table(rows(tones, server.url))
        first = open_dataset(source, CPU)
        server.shutdown()
        thread.join()
    second = open_dataset(source, CPU)
    assert samples(second) == samples(first)
    assert second.split_checksums == first.split_checksums
    other = open_dataset(table(rows(tones, server.url), sample_rate=4000), CPU)  # decoded again, not fetched
    assert other.cache.sample_rate == 4000


def test_all_missing_files_are_reported_at_once(
    table: Callable[..., DataSource], tones: Path, server: Server, bucket: str, tmp_path: Path
):
    gone = [f"{server.url}/gone.wav", f"{bucket}/gone.wav", "s3://nobody/a.wav", "gone.wav"]
    table_rows = [*rows(tones, server.url), *((path, "low") for path in gone)]
    with pytest.raises(UserError) as caught:
        table(table_rows).clips()
    manifest, places = tmp_path / "table.csv", [*gone[:3], str(tmp_path / "gone.wav")]
    assert str(caught.value).splitlines()[:-1] == [
        f"{manifest}, line {line}: no such file: {path}" for line, path in enumerate(places, 38)
    ]
    dataset = open_dataset(table(table_rows, on_error="skip"), CPU)
    assert dataset.skipped == [f"{path}: no such file" for path in places]
    assert len(dataset.clips) == 36


def test_unreadable_recording_is_reported_by_its_address(
    table: Callable[..., DataSource], tmp_path: Path, tone: Callable[..., Path]
):
    for number in range(6):
        tone(tmp_path / "web" / f"{number}.wav")
    (tmp_path / "web" / "0.wav").write_text("not audio")
    with Server(tmp_path / "web") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        source = table([(f"{server.url}/{number}.wav", "ab"[number % 2]) for number in range(6)])
        clips = source.clips()
        server.shutdown()
    with pytest.raises(UserError) as caught:
        open_dataset(source, CPU)
    problem = "cannot be read as audio (Format not recognised)"
    assert str(caught.value) == f"{clips[0].path}: {problem}; {FileErrors.REMEDY}"


def test_interrupted_fetch_continues(server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "_CONNECTIONS", 1)
    addresses = [path for path, _ in rows(tones, server.url)]

    def refuse(handler: Handler) -> bool:
        refused = handler.path == "/low/05.wav"
        if refused:
            handler.send(403)
        return refused

    server.failing = refuse
    with pytest.raises(UserError) as caught:
        fetch(addresses, tmp_path)
    assert str(caught.value) == f"data.path: {server.url}/low/05.wav cannot be fetched (status 403)"
    before = [address for address in addresses if os.path.exists(local_copy(address, tmp_path))]
    assert before[:17] == addresses[:17]
    assert len(before) < 36
    server.failing = lambda handler: False
    assert fetch(addresses, tmp_path) == []
    assert {server.requests[address.removeprefix(server.url)] for address in before} == {1}
    for address in addresses:
        original = tones / address.removeprefix(f"{server.url}/")
        assert Path(local_copy(address, tmp_path)).read_bytes() == original.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_process_leaves_no_partial_recording(server: Server, tones: Path, tmp_path: Path):
    addresses = [path for path, _ in rows(tones, server.url)]

    def stall(handler: Handler) -> bool:
        if handler.path < "/middle":
            return False
        handler.send(200, b"RIFF", length=1000)
        stalled.set()
        time.sleep(30)
        return True

    stalled, server.failing = threading.Event(), stall
    process = subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path), *addresses])
    assert stalled.wait(30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(path.parent.name == ".tmp" or len(path.read_bytes()) > 1000 for path in copies(tmp_path))
    server.failing = lambda handler: False
    assert fetch(addresses, tmp_path) == []
    assert sorted(map(str, copies(tmp_path))) == sorted(local_copy(address, tmp_path) for address in addresses)
    assert sum(path.stat().st_size for path in copies(tmp_path)) == sum(
        path.stat().st_size for path in tones.rglob("*.wav")
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_running_transfers(server: Server, tmp_path: Path):
    def endless(handler: Handler) -> bool:
        handler.send(200, b"RIFF", length=1 << 40)
        with contextlib.suppress(OSError):  # the client has closed the connection
            while True:
                handler.wfile.write(bytes(1 << 18))
                started.set()
                time.sleep(0.005)
        return True

    started, server.failing = threading.Event(), endless
    command = [sys.executable, "-c", FETCH, str(tmp_path), f"{server.url}/low/00.wav"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert started.wait(30)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert copies(tmp_path) == []


def test_processes_share_what_one_fetches(server: Server, tones: Path, tmp_path: Path):
    server.delay = 0.05
    addresses = [path for path, _ in rows(tones, server.url)]
    command = [sys.executable, "-c", FETCH, str(tmp_path), *addresses]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert set(server.requests.values()) == {1}
    assert len(copies(tmp_path)) == len(server.requests) == 36


def test_interrupted_connections_are_repeated(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PAUSE", 0.001)

    def fail(handler: Handler) -> bool:
        count = handler.server.requests[handler.path]
        if count == 1:
            handler.send(503)
        elif count == 2:
            handler.send(200, b"RIFF", length=1000)  # and disconnects
            handler.close_connection = True
        return count <= 2

    server.failing = fail
    assert fetch([f"{server.url}/low/00.wav"], tmp_path) == []
    assert server.requests == {"/low/00.wav": 3}
    assert copies(tmp_path)[0].read_bytes() == (server.root / "low" / "00.wav").read_bytes()


def test_failing_server_is_reported(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    server.failing = lambda handler: handler.send(503) is None
    address = f"{server.url}/low/00.wav"
    with pytest.raises(UserError) as caught:
        fetch([address], tmp_path)
    assert str(caught.value) == f"data.path: {address} cannot be fetched (status 503)"
    assert server.requests == {"/low/00.wav": remote.ATTEMPTS}
    assert copies(tmp_path) == []


def test_missing_credentials_are_reported(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError) as caught:
        fetch([f"{bucket}/low/00.wav"], tmp_path)
    assert str(caught.value) == f"data.path: {bucket}/low/00.wav cannot be fetched (Unable to locate credentials)"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("address", "module", "package"),
    [
        ("s3://bucket/a.wav", "s3fs", "'spectrnn[remote]'"),
        ("https://127.0.0.1/a.wav", "aiohttp", "'spectrnn[remote]'"),
        ("gs://bucket/a.wav", "gcsfs", "gcsfs"),
    ],
)
def test_missing_library_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, module: str, package: str
):
    monkeypatch.setitem(sys.modules, module, None)
    registry = importlib.import_module("fsspec.registry")  # which keeps what was imported before
    monkeypatch.delitem(registry._registry, address.partition(":")[0], raising=False)
    with pytest.raises(UserError) as caught:
        fetch([address], tmp_path)
    assert str(caught.value) == f"data.path: {address} needs {module}; pip install {package}"


def test_unknown_scheme_is_reported(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        fetch(["foo://bucket/a.wav"], tmp_path)
    assert str(caught.value) == "data.path: foo://bucket/a.wav cannot be fetched (Protocol not known: foo)"


def test_chained_addresses_are_rejected(server: Server, tmp_path: Path):
    address = f"reference://a::{server.url}/index.json"
    with pytest.raises(UserError) as caught:
        fetch([address], tmp_path)
    assert str(caught.value) == f"data.path: {address} is a chain of addresses, which is not supported"
    assert not server.requests


def test_nothing_is_fetched_without_permission(table: Callable[..., DataSource], server: Server, tmp_path: Path):
    addresses = [f"{server.url}/low/00.wav", f"{server.url}/high/00.wav"]
    manifest = [(address, "low") for address in addresses]
    with pytest.raises(UserError) as caught:
        table(manifest, download=False).clips()
    assert str(caught.value) == (
        f"{tmp_path / 'table.csv'}: 2 of its 2 remote recordings are not in the cache, such as {addresses[0]}; "
        "data.download=true fetches them"
    )
    assert not server.requests
    table(manifest).clips()
    assert [clip.path for clip in table(manifest, download=False).clips()] == addresses


def test_table_itself_is_local(source: Callable[..., DataSource], server: Server):
    with pytest.raises(UserError, match="should be a local file; the paths in it may be addresses"):
        source("manifest", path=f"{server.url}/table.csv")
    assert not server.requests


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://b/a.wav", True), ("https://h/a.wav", True), ("a.wav", False), ("C:\\a.wav", False), ("/x://a", False)],
)
def test_addresses_have_a_scheme(path: str, expected: bool):
    assert is_address(path) is expected


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["s3://b/x/a.wav", "s3://b/x/y/a.wav"], "s3://b/x/"),
        (["s3://b/xa.wav", "s3://b/xb.wav"], "s3://b/"),
        (["https://h/a.wav"], "https://h/"),
        (["/d/a.wav", "s3://b/a.wav"], ""),
        (["/d/a.wav", "/e/a.wav"], "/"),
        (["a.wav", "b.wav"], ""),
        ([], ""),
    ],
)
def test_common_folder(paths: list[str], folder: str):
    assert common_folder(paths) == folder


def test_keys_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clips = [Clip("s3://b/x/a.wav", "a", copy="c"), Clip("s3://b/x/y/b.wav", "a", copy="d")]
    before = clip_keys(clips)
    monkeypatch.chdir(tmp_path)
    assert clip_keys(clips) == before == ["a.wav 0.0 None", "y/b.wav 0.0 None"]
