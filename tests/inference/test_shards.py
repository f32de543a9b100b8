"""Shards of a list of recordings: complete, disjoint, in order, balanced by size, and the same for every process."""

from pathlib import Path

import pytest

from spectrnn.errors import UserError
from spectrnn.inference import shards
from spectrnn.inference.shards import Shard, describe, divide, work_units


@pytest.fixture
def files(tmp_path):
    """Files of 0 to 99 bytes, and one of 2,000."""
    paths = [tmp_path / f"{number:03}.wav" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(2000 if number == 40 else number))
    return [str(path) for path in paths]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(shards, "_UNIT_BYTES", 150)
    monkeypatch.setattr(shards, "_UNIT_RECORDINGS", 8)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 200])
def test_shards_in_order_are_the_list(files, count):
    divided = divide(work_units(files), count)
    assert len(divided) == count
    assert [path for shard in divided for unit in shard for path in unit] == files


def test_units_are_limited_by_size_and_number(files):
    units = work_units(files)
    assert [len(unit) for unit in units[:2]] == [8, 8]  # 0 to 28, and 92 bytes
    for unit in units[2:-1]:
        sizes = [Path(path).stat().st_size for path in unit]
        assert len(unit) <= 8
        assert sum(sizes[:-1]) < 150
        assert sum(sizes) >= 150 or len(unit) == 8


def test_shards_have_about_the_same_size(files):
    sizes = [
        sum(Path(path).stat().st_size for unit in shard for path in unit) for shard in divide(work_units(files), 3)
    ]
    assert sum(sizes) == sum(range(100)) - 40 + 2000
    assert max(sizes) - min(sizes) < 2000  # the largest unit


def test_missing_files_are_divided_too(tmp_path):
    missing = [str(tmp_path / f"{number}.wav") for number in range(32)]
    assert [len(shard) for shard in divide(work_units(missing), 2)] == [2, 2]
    assert divide([], 2) == [[], []]


def test_description_depends_on_files_and_sizes(files):
    before = describe(divide(work_units(files), 4))
    assert before.startswith("100 files (")
    assert describe(divide(work_units(files), 4)) == before
    Path(files[0]).write_bytes(bytes(500))
    assert describe(divide(work_units(files), 4)) != before
    assert describe(divide(work_units(files[:99]), 4)).startswith("99 files (")


def test_parts_sort_in_the_order_of_the_shards():
    parts = Shard(3, 16).all_paths(Path("out/labels.csv"))
    assert parts == sorted(parts)
    assert [str(parts[2]), str(parts[15])] == ["out/labels.03-of-16.csv", "out/labels.16-of-16.csv"]
    assert Shard(3, 16).path(Path("labels")) == Path("labels.03-of-16")


@pytest.mark.parametrize("text", ["0/16", "17/16", "abc", "3", "3/", "/3", "-1/3", "1/0", "1/2/3", "", "1.0/2"])
def test_other_texts_are_rejected(text):
    with pytest.raises(UserError) as caught:
        Shard.parse(text)
    assert str(caught.value) == (f"shard={text}: should be NUMBER/COUNT with a number from 1 to COUNT, such as 3/16")


def test_numbers_are_parsed():
    assert Shard.parse("3/16") == (3, 16)
    assert Shard.parse("03/16") == (3, 16)
