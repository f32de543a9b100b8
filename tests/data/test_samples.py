"""The samples of a dataset in memory and on disk."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spectrnn.data.samples import InMemorySamples, OnDiskSamples, Request, open_samples
from spectrnn.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(10000, dtype=np.int16).tofile(tmp_path / "samples.int16")
    return tmp_path / "samples.int16"


def requests() -> Iterator[Request]:
    generator = np.random.default_rng(0)
    for samples in (1, 7, 100, 1000, 10000):
        yield generator.integers(0, 10000 - samples + 1, 5), samples


@pytest.mark.parametrize("storage", ["disk", "ram", "auto"])
def test_rows_are_gathered_from_their_starts(path: Path, storage: str):
    gathered = list(open_samples(path, storage, CPU).gather(requests()))
    for (starts, samples), rows in zip(requests(), gathered, strict=True):
        assert rows.dtype == torch.int16
        assert rows.tolist() == [list(range(start, start + samples)) for start in starts]


def test_storage_determines_whether_the_file_is_loaded(path: Path):
    for storage in ("disk", "auto"):  # auto: without a GPU the page cache is as fast
        assert isinstance(open_samples(path, storage, CPU), OnDiskSamples)
    samples = open_samples(path, "ram", CPU)
    assert isinstance(samples, InMemorySamples)
    path.unlink()
    assert next(samples.gather([(np.array([3]), 2)])).tolist() == [[3, 4]]


def test_missing_gpu_is_reported(path: Path):
    with pytest.raises(UserError, match=r"^data.storage=gpu: the run has no GPU; use auto, ram or disk$"):
        open_samples(path, "gpu", CPU)


def test_concurrent_iterators_are_independent(path: Path):
    samples = OnDiskSamples(path, CPU)
    pairs = zip(samples.gather(requests()), samples.gather(requests()), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_file_that_is_deleted_meanwhile_is_reported(path: Path):
    rows = OnDiskSamples(path, CPU).gather((np.array([0]), 1) for _ in range(10))
    next(rows)
    path.unlink()
    with pytest.raises(OSError, match=r"samples\.int16"):
        list(rows)


def test_file_that_is_truncated_meanwhile_is_reported(path: Path):
    with path.open("r+b") as file:
        file.truncate(2 * 500)
    with pytest.raises(OSError, match=r"samples\.int16: is shorter than when it was opened$"):
        next(OnDiskSamples(path, CPU).gather([(np.array([0, 450]), 100)]))


READ_ALL = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from spectrnn.data.samples import open_samples
samples = open_samples(Path(sys.argv[1]), "disk", torch.device("cpu"))
rows = next(samples.gather([(np.arange(64) * 10, 8000)]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for rows in samples.gather((np.arange(64) * 16000 + start, 8000) for start in range(0, 99_000_000, 64 * 16000)):
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_resident_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path):
    path = tmp_path / "samples.int16"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    result = subprocess.run([sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 20  # MiB; almost 200 if the file were memory-mapped
