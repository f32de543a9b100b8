"""The server provides the files of its folder, to this machine only."""

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
    (tmp_path / "secret").write_text("confidential")
    with Server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, path, method="GET", **headers):
    """Returns status, content type and body of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type", "").partition(";")[0], response.read()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html"),
        ("/main.js", "text/javascript"),
        ("/runtime/a.mjs", "text/javascript"),
        ("/runtime/a.wasm", "application/wasm"),
        ("/model.json", "application/json"),
    ],
)
def test_files_have_their_content_type(server, path, content_type):
    assert request(server, path) == (200, content_type, (path[1:] or "index.html").encode())


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/runtime/..%2f..%2fsecret", "/runtime/", "/none"])
def test_other_files_and_listings_are_not_found(server, path):
    status, _, body = request(server, path)
    assert status == 404
    assert b"confidential" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}"])
def test_other_host_names_are_rejected(server, host):
    assert request(server, "/model.json", Host=host.format(port=server.server_port))[0] == 421


def test_localhost_may_get_files_but_not_post(server):
    assert request(server, "/model.json", Host=f"localhost:{server.server_port}")[0] == 200
    assert request(server, "/model.json", "POST")[0] == 501


def test_another_port_is_used_if_the_port_is_taken(server, tmp_path):
    with Server(tmp_path, server.server_port) as other:
        assert other.server_port != server.server_port
        assert other.server_address[0] == "127.0.0.1"
