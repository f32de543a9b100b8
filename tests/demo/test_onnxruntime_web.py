"""Download of onnxruntime-web by npm: the checksum, and errors."""

import os
import stat

import pytest

from spectrnn.demo import onnxruntime_web
from spectrnn.errors import UserError


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Replaces npm by a shell script: `npm("exit 1")`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")

    def write(script):
        program = folder / "npm"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return write


def test_package_with_another_checksum_is_discarded(npm, tmp_path):
    npm("printf something > other.tgz")
    with pytest.raises(UserError, match="the downloaded package has another checksum and was discarded"):
        onnxruntime_web.runtime_dir(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


def test_error_of_npm_is_reported(npm, tmp_path):
    npm("echo 'npm error network is off' >&2; exit 1")
    with pytest.raises(
        onnxruntime_web.FetchError, match=r"npm cannot download it \(npm error network is off\); check the network"
    ):
        onnxruntime_web.fetch(tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


def test_missing_npm_is_reported_with_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        onnxruntime_web.FetchError, match=r"npm is not installed: install Node\.js, or a wheel of spectrnn"
    ):
        onnxruntime_web.runtime_dir(tmp_path / "cache")


def test_existing_runtime_is_not_downloaded_again(npm, tmp_path):
    npm("exit 1")
    folder = tmp_path / f"{onnxruntime_web.PACKAGE}-{onnxruntime_web.VERSION}"
    folder.mkdir()
    assert onnxruntime_web.runtime_dir(tmp_path) == folder
