"""Division of a list of recordings among processes that do not know of each other, such as those of an array job."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from spectrnn.errors import UserError

# Limits of a unit: enough for full batches of short recordings, and little enough to divide the work evenly.
_UNIT_BYTES, _UNIT_RECORDINGS = 1 << 25, 512

Unit = list[str]  # paths of consecutive recordings


class Shard(NamedTuple):
    """One of several shards, numbered from 1."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parses ``number/count``.

        Raises:
            UserError: Another text, or a number that is not one of 1 to the count.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        shard = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.total:
            raise UserError(f"shard={text}: should be NUMBER/COUNT with a number from 1 to COUNT, such as 3/16")
        return shard

    def path(self, out: Path) -> Path:
        """Returns the path of this shard's part of an output, such as labels.03-of-16.csv of labels.csv."""
        return out.with_name(f"{out.stem}.{self.number:0{len(str(self.total))}}-of-{self.total}{out.suffix}")

    def all_paths(self, out: Path) -> list[Path]:
        """Returns the paths of the parts of all shards, in order."""
        return [self._replace(number=number).path(out) for number in range(1, self.total + 1)]


def work_units(paths: Iterable[str]) -> list[Unit]:
    """Divides recordings into units, within which they are batched.

    Logits depend on their batch by rounding errors. A batch never contains recordings of two units, so the results are
    identical if the same units are distributed to more or fewer processes.
    """
    units: list[Unit] = []
    size = _UNIT_BYTES
    for path in paths:
        if size >= _UNIT_BYTES or len(units[-1]) == _UNIT_RECORDINGS:
            units.append([])
            size = 0
        units[-1].append(path)
        size += _size(path)
    return units


def divide(units: Sequence[Unit], count: int) -> list[list[Unit]]:
    """Divides units into consecutive shards of about the same number of bytes; a shard may be empty."""
    sizes = [sum(map(_size, unit)) + len(unit) for unit in units]
    shards: list[list[Unit]] = [[] for _ in range(count)]
    total, start = sum(sizes), 0
    for unit, size in zip(units, sizes, strict=True):
        shards[count * (2 * start + size) // (2 * total)].append(unit)  # by its center
        start += size
    return shards


def describe(shards: Sequence[Sequence[Unit]]) -> str:
    """Describes a division, so that a process with another one is detected: the number of files, and 8 hex digits."""
    files, digest = 0, hashlib.sha256()
    for shard in shards:
        for unit in shard:
            digest.update("\0".join([*unit, ""]).encode("utf-8", "surrogateescape") + b"\0")
            files += len(unit)
        digest.update(b"\0\0")
    return f"{files} files ({digest.hexdigest()[:8]})"


def _size(path: str) -> int:
    with suppress(OSError, ValueError):
        return os.path.getsize(path)
    return 0
