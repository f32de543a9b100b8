"""The samples of a dataset, in memory and on disk: the same answers, in order, read ahead and no further."""

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
    np.arange(10000, dtype=np.int16).tofile(tmp_path / "wave.int16")
    return tmp_path / "wave.int16"


def requests() -> Iterator[Request]:
    generator = np.random.default_rng(0)
    for samples in (1, 7, 100, 1000, 10000):
        yield generator.integers(0, 10000 - samples + 1, 5), samples


@pytest.mark.parametrize("storage", ["disk", "ram", "auto"])
def test_rows_are_the_samples_from_their_starts(path: Path, storage: str):
    answers = list(open_samples(path, storage, CPU).gather(requests()))
    for (starts, samples), rows in zip(requests(), answers, strict=True):
        assert rows.dtype == torch.int16
        assert rows.tolist() == [list(range(start, start + samples)) for start in starts]


def test_a_corpus_in_memory_is_read_and_one_on_disk_is_not(path: Path):
    assert isinstance(open_samples(path, "ram", CPU), InMemorySamples)
    for storage in ("disk", "auto"):  # without a GPU the system's cache does as well
        assert isinstance(open_samples(path, storage, CPU), OnDiskSamples)
    held = open_samples(path, "ram", CPU)
    path.unlink()
    assert next(held.gather([(np.array([3]), 2)])).tolist() == [[3, 4]]


def test_a_gpu_that_is_not_there(path: Path):
    with pytest.raises(UserError, match=r"^data.storage=gpu: the run has no GPU; use auto, ram or disk$"):
        open_samples(path, "gpu", CPU)


def test_two_readers_at_once_do_not_disturb_each_other(path: Path):
    wave = OnDiskSamples(path, CPU)
    pairs = zip(wave.gather(requests()), wave.gather(requests()), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_file_that_vanishes_while_it_is_read_is_an_error(path: Path):
    answers = OnDiskSamples(path, CPU).gather((np.array([0]), 1) for _ in range(10))
    next(answers)
    path.unlink()
    with pytest.raises(OSError, match=r"wave\.int16"):
        list(answers)


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_no_noise(path: Path):
    with path.open("r+b") as file:
        file.truncate(2 * 500)
    with pytest.raises(OSError, match=r"wave\.int16: is shorter than when it was opened"):
        next(OnDiskSamples(path, CPU).gather([(np.array([0, 450]), 100)]))


READING = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from spectrnn.data.wave import place
wave = place(Path(sys.argv[1]), sys.argv[2], torch.device("cpu"))
rows = next(wave.gather([(np.arange(64) * 10, 8000)]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for rows in wave.gather((np.arange(64) * 16000 + start, 8000) for start in range(0, 99_000_000, 64 * 16000)):
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_resident_memory_stays_flat_whatever_the_size_of_the_corpus(tmp_path: Path):
    path = tmp_path / "wave.int16"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    command = [sys.executable, "-c", READING, str(path), "disk"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20  # MiB; mapped, it would be nearly 200
