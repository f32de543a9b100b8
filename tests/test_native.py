"""Compilation of C kernels: found in the cache, without a compiler, with a failing one, in read-only places."""

import logging
import os
import shutil

import pytest

from spectrnn.native import Kernels

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }")
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def test_kernels_are_compiled_once(source, folder):
    assert Kernels(source).call("answer") == 42
    (library,) = folder.iterdir()
    modified = library.stat().st_mtime_ns
    assert Kernels(source).call("answer") == 42
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [modified]


def test_a_changed_source_is_compiled_again(source, folder):
    assert Kernels(source).library
    source.write_text("int answer(void) { return 43; }")
    assert Kernels(source).call("answer") == 43
    assert len([*folder.iterdir()]) == 2


def test_a_changed_header_is_compiled_again(source, folder, tmp_path, monkeypatch):
    header = tmp_path / "answer.h"
    header.write_text("enum { ANSWER = 42 };")
    monkeypatch.setattr("spectrnn.native._HEADER", header)
    source.write_text('#include "answer.h"\nint answer(void) { return ANSWER; }')
    assert Kernels(source).call("answer") == 42
    header.write_text("enum { ANSWER = 43 };")
    assert Kernels(source).call("answer") == 43


@pytest.mark.parametrize(("name", "value"), [("CC", "no-such-compiler"), ("SPECTRNN_NATIVE", "0")])
def test_without_a_compiler_there_are_no_kernels(source, folder, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert Kernels(source).library is None
    assert not folder.exists()


def test_a_failing_compiler_is_a_warning(source, folder, caplog):
    source.write_text("int answer(void) { return nothing; }")
    with caplog.at_level(logging.WARNING):
        assert Kernels(source).library is None
    assert "answer.c: not compiled" in caplog.text
    assert "nothing" in caplog.text
    assert not [*folder.iterdir()]


def test_a_cache_that_cannot_be_written_is_no_obstacle(source, folder):
    folder.parent.write_text("a file")
    assert Kernels(source).call("answer") == 42


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to change the owner of a file")
def test_a_library_of_another_user_is_not_loaded(source, folder):
    assert Kernels(source).library
    (library,) = folder.iterdir()
    os.chown(library, 12345, -1)
    library.write_text("not a library")
    assert Kernels(source).call("answer") == 42
    assert library.read_text() == "not a library"


def test_a_missing_compiler_is_logged(source, folder, monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.INFO):
        assert Kernels(source).library is None
    assert caplog.messages == ["answer.c: no C compiler (cc); PyTorch's slower operations are used"]
