"""The server gives out the files of its folder, and to this machine alone."""

import http.client
import threading

import pytest

from spectrnn.demo.server import Server


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "page"
    (folder / "runtime").mkdir(parents=True)
    for name in ("index.html", "main.js", "runtime/a.mjs", "runtime/a.wasm", "model.json"):
        (folder / name).write_text(name)
    (tmp_path / "secret").write_text("not for you")
    with Server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type", "").partition(";")[0], answer.read()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/main.js", "text/javascript"),
        ("/runtime/a.mjs", "text/javascript"),
        ("/runtime/a.wasm", "application/wasm"),
        ("/model.json", "application/json"),
    ],
)
def test_files_come_as_what_they_are(server, path, kind):
    assert ask(server, path) == (200, kind, (path[1:] or "index.html").encode())


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/runtime/..%2f..%2fsecret", "/runtime/", "/none"])
def test_nothing_else_is_given_out(server, path):
    status, _, body = ask(server, path)
    assert status == 404
    assert b"not for you" not in body


def test_a_name_that_was_made_to_point_here_is_refused(server):
    port = server.server_port
    assert ask(server, "/model.json", Host="evil.example")[0] == 421
    assert ask(server, "/model.json", Host=f"evil.example:{port}")[0] == 421
    assert ask(server, "/model.json", Host=f"localhost:{port}")[0] == 200
    assert ask(server, "/model.json", "POST")[0] == 501


def test_a_taken_port_is_passed_over(server, tmp_path):
    with Server(tmp_path, server.server_port) as other:
        assert other.server_port != server.server_port
        assert other.server_address[0] == "127.0.0.1"
