"""What tells that two clips hold the same samples."""

import hashlib

import numpy as np

from spectrnn.data.audio import Samples

SIZE = 16  # bytes of a digest


class Digest:
    """Of a wave that comes in pieces. Digital silence before and behind it does not count."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=SIZE)
        self._begun = False
        self._zeros = 0  # behind the last sample that is not zero, so far

    def update(self, wave: Samples) -> "Digest":
        """Takes the next piece: int16 (samples,)."""
        loud = np.flatnonzero(wave)
        if not len(loud):
            self._zeros += len(wave) if self._begun else 0
            return self
        start = 0 if self._begun else int(loud[0])
        self._hash.update(bytes(2 * self._zeros))
        self._hash.update(np.ascontiguousarray(wave[start : loud[-1] + 1]).tobytes())
        self._begun, self._zeros = True, len(wave) - 1 - int(loud[-1])
        return self

    def value(self) -> bytes:
        """`SIZE` bytes, all zero where nothing but silence came."""
        return self._hash.digest() if self._begun else bytes(SIZE)
