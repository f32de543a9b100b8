"""The samples of a dataset in memory and on disk."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spectrnn.data.sample_files import Layout, SampleFiles
from spectrnn.data.samples import (
    InMemorySamples,
    OnDiskSamples,
    Request,
    fastest_storage,
    load_samples,
    open_samples,
    to_device,
)
from spectrnn.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(10000, dtype=np.int16).tofile(tmp_path / "samples.int16")
    return tmp_path / "samples.int16"


def one_file(path: Path) -> SampleFiles:
    """The samples of a file, as one part."""
    size = path.stat().st_size // 2
    return SampleFiles([path.open("rb", buffering=0)], Layout(*np.zeros((3, 1), np.int64)), size, size)


@pytest.fixture
def several(path: Path) -> SampleFiles:
    """The samples 0 to 9999 in parts of 1000, which are in the wrong order in two files, between others."""
    files = []
    for first in (0, 1000):
        content = np.full((10, 1500), -1, np.int16)
        content[:5, 200:1200] = np.arange(10000).reshape(10, 1000)[first // 1000 :: 2][::-1]
        content[:5].tofile(path.with_name(f"{first}.int16"))
        files.append(path.with_name(f"{first}.int16").open("rb", buffering=0))
    part = np.arange(10)
    return SampleFiles(files, Layout(1000 * part, part % 2, 200 + 1500 * (4 - part // 2)), 10000, 1000)


def requests() -> Iterator[Request]:
    generator = np.random.default_rng(0)
    for samples in (1, 7, 100, 1000, 10000):
        yield generator.integers(0, 10000 - samples + 1, 5), samples


@pytest.mark.parametrize("storage", ["disk", "ram", "auto"])
def test_rows_are_gathered_from_their_starts(path: Path, storage: str):
    gathered = list(open_samples(one_file(path), storage, CPU).gather(requests()))
    for (starts, samples), rows in zip(requests(), gathered, strict=True):
        assert rows.dtype == torch.int16
        assert rows.tolist() == [list(range(start, start + samples)) for start in starts]


def test_storage_determines_whether_the_file_is_mapped(path: Path):
    for storage in ("disk", "auto"):  # auto: without a GPU the page cache is fast enough
        assert isinstance(open_samples(one_file(path), storage, CPU), OnDiskSamples)
    samples = open_samples(one_file(path), "ram", CPU)
    assert isinstance(samples, InMemorySamples)
    path.unlink()
    assert next(samples.gather([(np.array([3]), 2)])).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("gpu_memory", "memory", "storage"),
    [(40_000, 0, "gpu"), (39_999, 40_000, "ram"), (39_999, 39_999, "disk")],  # bytes, for a file of 20,000
)
def test_automatic_storage_is_the_fastest_that_fits(monkeypatch, gpu_memory: int, memory: int, storage: str):
    freed: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu_memory if freed else 0, 80_000))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": memory, "SC_PAGE_SIZE": 1}[name])
    assert fastest_storage(20_000, torch.device("cuda:0")) == storage


@pytest.mark.parametrize("storage", ["disk", "ram"])
def test_rows_are_copied_in_another_thread(path: Path, storage: str, monkeypatch):
    samples, threads = open_samples(one_file(path), storage, CPU), set()
    read = samples.read
    monkeypatch.setattr(samples, "read", lambda *args: (threads.add(threading.current_thread()), read(*args)))
    assert len(list(samples.gather(requests()))) == 5
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_disk_needs_no_system_calls_that_only_some_platforms_have(path: Path, monkeypatch):
    for name in ("preadv", "posix_fadvise"):
        monkeypatch.delattr(os, name)
    for (starts, samples), rows in zip(requests(), OnDiskSamples(one_file(path), CPU).gather(requests()), strict=True):
        assert rows.tolist() == [list(range(start, start + samples)) for start in starts]
    samples = OnDiskSamples(one_file(path), CPU)
    os.truncate(path, 2 * 9960)
    with pytest.raises(OSError, match="is shorter than when it was opened"):
        next(samples.gather([(np.array([9950]), 100)]))


def test_missing_gpu_is_reported(path: Path):
    with pytest.raises(UserError, match=r"^data.storage=gpu: the run has no GPU; use auto, ram or disk$"):
        open_samples(one_file(path), "gpu", CPU)


@pytest.mark.parametrize(("device", "is_gpu"), [("cuda:1", True), ("cpu", False), ("mps", False)])
def test_copies_wait_unless_from_pinned_memory_to_a_gpu(monkeypatch, device: str, is_gpu: bool):
    copies: list[tuple[bool, bool]] = []
    pinned = torch.ones(2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device, non_blocking: copies.append((tensor is pinned, non_blocking))
    )
    to_device(torch.zeros(2), torch.device(device))
    assert copies == [(is_gpu, is_gpu)]


def test_concurrent_iterators_are_independent(path: Path):
    samples = OnDiskSamples(one_file(path), CPU)
    pairs = zip(samples.gather(requests()), samples.gather(requests()), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_file_that_is_deleted_meanwhile_can_be_read(path: Path):
    rows = OnDiskSamples(one_file(path), CPU).gather((np.array([number]), 1) for number in range(10))
    next(rows)
    path.unlink()
    assert [row.item() for row in rows] == list(range(1, 10))


def test_file_that_is_truncated_meanwhile_is_reported(path: Path):
    files = one_file(path)
    samples = OnDiskSamples(files, CPU)
    os.truncate(path, 2 * 500)
    for read in (lambda: next(samples.gather([(np.array([0, 450]), 100)])), lambda: files.read(450, 100)):
        with pytest.raises(OSError, match=r"samples\.int16: is shorter than when it was opened$"):
            read()


def test_parts_in_several_files_are_one_sequence(several: SampleFiles):
    assert several.read(0, 10000).tolist() == list(range(10000))
    assert several.read(2990, 3020).tolist() == list(range(2990, 6010))
    assert load_samples(several, CPU).tolist() == [*range(10000), *[0] * 1000]
    starts = np.array([0, 999, 1000, 4500, 9999])
    for storage in ("disk", "ram"):
        (rows,) = open_samples(several, storage, CPU).gather([(starts, 1000)])
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            count = 1000 - start % 1000  # the rest is not of the same part
            assert row[:count] == list(range(start, start + count))


def test_rows_beyond_the_end_of_a_file_are_zero(path: Path):
    for storage in ("disk", "ram"):
        (rows,) = open_samples(one_file(path), storage, CPU).gather([(np.array([9998, 0]), 4)])
        assert rows.tolist() == [[9998, 9999, 0, 0], [0, 1, 2, 3]]


READ_ALL = """
import sys
import numpy as np, torch
from spectrnn.data.sample_files import Layout, SampleFiles
from spectrnn.data.samples import open_samples
def resident():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(sys.argv[3]))
files = SampleFiles([open(sys.argv[1], "rb", 0)], Layout(*np.zeros((3, 1), np.int64)), 100_000_000, 8000)
samples = open_samples(files, sys.argv[2], torch.device("cpu"))
rows = next(samples.gather([(np.arange(64) * 10, 8000)]))
before = resident()
for rows in samples.gather((np.arange(64) * 16000 + start, 8000) for start in range(0, 99_000_000, 64 * 16000)):
    pass
print((resident() - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
@pytest.mark.parametrize(
    ("storage", "kind"),
    [("disk", "VmRSS"), ("ram", "RssAnon")],  # all memory; what is not in the page cache, which processes share
)
def test_memory_of_a_process_does_not_depend_on_the_size_of_the_file(tmp_path: Path, storage: str, kind: str):
    path = tmp_path / "samples.int16"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    command = [sys.executable, "-c", READ_ALL, str(path), storage, kind]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 20  # MiB; almost 200 if the file were copied, or for disk memory-mapped
