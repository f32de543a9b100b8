"""The commands on a table of addresses, which are what reports and lists name."""

import csv
import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def table(tones, tmp_path):
    """A table of all tones on a server, of which one file is missing; the server; and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tones))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    lines = [f"{url}/{path.relative_to(tones).as_posix()},{path.parent.name}" for path in sorted(tones.rglob("*.wav"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines, f"{url}/low/gone.wav,low", ""]))
    yield tmp_path / "table.csv", server, url
    server.shutdown()
    thread.join()
    server.server_close()


def test_train_and_eval_on_addresses(spectrnn, tiny, table, tmp_path):
    path, server, url = table
    settings = ("data=manifest", f"data.path={path}", "data.on_error=skip", f"data.cache={tmp_path / 'cache'}")
    overrides = [override for override in tiny if override != "data=folder"]
    outcome = spectrnn("train", *overrides, *settings, f"hydra.run.dir={tmp_path / 'run'}", "trainer.epochs=1")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "skipped.txt").read_text() == f"{url}/low/gone.wav: no such file\n"
    server.shutdown()
    server.server_close()
    # Without the network, and without the permission to use it, which a model file does not give.
    out = tmp_path / "eval"
    outcome = spectrnn("eval", f"run={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", f"out={out}")
    assert outcome.code == 0, outcome.err
    page = (out / "report.html").read_text()
    assert f'"folder": "{url}"' in page or f'"folder":"{url}"' in page
    assert re.search(r'"(?:low|middle|high)/\d\d\.wav"', page)
    assert f"{tmp_path / 'cache'}/" not in page  # the copies; the config names the folder


def test_check_writes_addresses(spectrnn, table, tmp_path):
    path, _, url = table
    out, report = tmp_path / "clean" / "clean.csv", tmp_path / "report.json"
    cache = tmp_path / "cache"
    settings = ("data=manifest", f"data.path={path}", "data.sample_rate=8000", f"data.cache={cache}")
    outcome = spectrnn("check", *settings, f"out={out}", f"report={report}")
    assert outcome.code == 1  # the missing file
    with out.open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths
    assert all(re.fullmatch(rf"{url}/(low|middle|high)/\d\d\.wav", name) for name in paths)
    text = json.dumps(json.loads(report.read_text()))
    assert "gone.wav: no such file" in text
    assert str(cache) not in text
    assert str(cache) not in outcome.out


def test_addresses_cannot_be_predicted(spectrnn, tmp_path):
    assert spectrnn("predict", "s3://bucket/a.wav", f"run={tmp_path}").error() == (
        "spectrnn: s3://bucket/a.wav: is not on this machine; only a table of data=manifest may name addresses"
    )
