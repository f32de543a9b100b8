"""Compilation of C kernels: found in the cache, without a compiler, with a failing one, in read-only places."""

import logging
import shutil

import pytest

from spectrnn.native import load_kernels

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


@pytest.fixture(autouse=True)
def _fresh():
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


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
    assert load_kernels(source).answer() == 42
    (library,) = folder.iterdir()
    modified = library.stat().st_mtime_ns
    load_kernels.cache_clear()
    assert load_kernels(source).answer() == 42
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [modified]


def test_a_changed_source_is_compiled_again(source, folder):
    load_kernels(source)
    load_kernels.cache_clear()
    source.write_text("int answer(void) { return 43; }")
    assert load_kernels(source).answer() == 43
    assert len([*folder.iterdir()]) == 2


@pytest.mark.parametrize(("name", "value"), [("CC", "no-such-compiler"), ("SPECTRNN_NATIVE", "0")])
def test_without_a_compiler_there_are_no_kernels(source, folder, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert load_kernels(source) is None
    assert not folder.exists()


def test_a_failing_compiler_is_a_warning(source, folder, caplog):
    source.write_text("int answer(void) { return nothing; }")
    with caplog.at_level(logging.WARNING):
        assert load_kernels(source) is None
    assert "answer.c: cannot be compiled" in caplog.text
    assert "nothing" in caplog.text
    assert not [*folder.iterdir()]


def test_a_cache_that_cannot_be_written_is_no_obstacle(source, folder):
    folder.parent.write_text("a file")
    assert load_kernels(source).answer() == 42
