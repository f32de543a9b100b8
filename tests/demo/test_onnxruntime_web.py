"""What npm brings is what was pinned, or is not used; and what else can go wrong is said."""

import os
import stat

import pytest

from spectrnn.demo import onnxruntime_web
from spectrnn.errors import UserError


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts a program of one's own in npm's place: `npm("exit 1")`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")

    def write(script):
        program = folder / "npm"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return write


def test_a_package_of_another_checksum_is_not_used(npm, tmp_path):
    npm("printf something > other.tgz")
    with pytest.raises(UserError, match="another checksum"):
        onnxruntime_web.runtime_dir(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


def test_a_failure_is_passed_on(npm, tmp_path):
    npm("echo 'npm error network is off' >&2; exit 1")
    with pytest.raises(onnxruntime_web.FetchError, match="network is off"):
        onnxruntime_web.fetch(tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


def test_without_npm_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(onnxruntime_web.FetchError, match=r"install Node\.js"):
        onnxruntime_web.runtime_dir(tmp_path / "cache")


def test_what_is_there_is_not_fetched_again(npm, tmp_path):
    npm("exit 1")
    folder = tmp_path / f"{onnxruntime_web.PACKAGE}-{onnxruntime_web.VERSION}"
    folder.mkdir()
    assert onnxruntime_web.runtime_dir(tmp_path) == folder
