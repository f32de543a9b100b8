"""The cache of vectors: what is kept on disk, and files that cannot be used."""

import sqlite3

import numpy as np
import pytest

from spectrnn.frontend.vector_cache import VectorCache

SIZE = 4


def vectors(number, frames=3):
    return np.random.default_rng(number).normal(size=(frames, SIZE)).astype(np.float32)


def key(number):
    return number.to_bytes(16, "little")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors" / "a.sqlite"


def opened(path, max_bytes=1 << 20):
    cache = VectorCache(SIZE)
    cache.enable(path, max_bytes)
    return cache


def test_another_process_finds_what_is_used_again_bit_for_bit(path):
    cache = opened(path)
    cache.add({key(0): vectors(0), key(1): vectors(1, frames=0)}, will_be_used_again=True)
    cache.add({key(2): vectors(2), key(3): vectors(3)}, will_be_used_again=False)
    cache.get([key(2)])  # from memory, so it is used again
    found = opened(path).get([key(number) for number in range(4)])
    assert found.keys() == {key(0), key(1), key(2)}
    for number, frames in ((0, 3), (1, 0), (2, 3)):
        assert np.array_equal(found[key(number)], vectors(number, frames))


def test_nothing_is_kept_unless_it_is_enabled(path):
    cache = VectorCache(SIZE)
    cache.add({key(0): vectors(0)}, will_be_used_again=True)
    assert cache.get([key(0)]) == {}
    cache = opened(path, max_bytes=0)
    cache.add({key(0): vectors(0)}, will_be_used_again=True)
    assert cache.get([key(0)]) == {}
    assert not path.parent.exists()


def test_the_first_vectors_make_way_when_the_file_is_full(path):
    limit = 100_000
    for start in range(0, 40, 4):
        added = {key(number): vectors(number, frames=500) for number in range(start, start + 4)}  # 8,000 bytes each
        opened(path, limit).add(added, will_be_used_again=True)
    kept = [number for number in range(40) if opened(path, limit).get([key(number)])]
    assert kept == list(range(40 - len(kept), 40))
    assert 5 <= len(kept) <= limit // 8000
    assert path.stat().st_size < 2 * limit


@pytest.mark.parametrize("content", [b"not a database " * 100, b""])
def test_a_damaged_file_is_replaced(path, content, caplog):
    path.parent.mkdir()
    path.write_bytes(content)
    cache = opened(path)
    assert cache.get([key(0)]) == {}
    cache.add({key(0): vectors(0)}, will_be_used_again=True)
    assert np.array_equal(cache.get([key(0)])[key(0)], vectors(0))
    if content:
        assert "file is not a database, so removed; vectors are kept in memory only" in caplog.text
        opened(path).add({key(0): vectors(0)}, will_be_used_again=True)
    assert opened(path).get([key(0)])


def test_rows_of_another_size_are_not_used(path):
    opened(path).add({key(0): vectors(0)}, will_be_used_again=True)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE vectors SET data = X'001122'")
    database.close()
    assert opened(path).get([key(0)]) == {}


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "vectors").write_text("a file")
    cache = opened(tmp_path / "vectors" / "a.sqlite")
    for number in range(2):
        cache.add({key(number): vectors(number)}, will_be_used_again=True)
    assert cache.get([key(0), key(1)]).keys() == {key(0), key(1)}
    assert caplog.text.count("vectors are kept in memory only") == 1
