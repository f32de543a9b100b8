"""A row of measurements for every clip: each file is decoded once, in all processes, block by block."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from spectrnn.check.fingerprint import RATE, SECONDS, Landmarks, landmarks, power, spectrogram
from spectrnn.data.audio import make_resampler, open_audio, read_blocks, to_int16, to_mono
from spectrnn.data.cache import AudioHash
from spectrnn.data.clips import Clip
from spectrnn.data.parallel import parallel_map
from spectrnn.errors import UserError

Wave = npt.NDArray[np.float32]

_PLATEAU = 3  # samples in a row at the same extreme: clipped
_LOUD = 0.05  # of full scale; below it such plateaus are coarse quantization
_WINDOW, _WINDOWS = 1024, 64  # of the bandwidth: samples, and how many of a block
_CUTOFF_DB, _CLIFF_BINS = 100.0, 12  # a cliff in a spectrum falls by so much (20 dB) over so many bins
_EDGE = 4  # frames of a clip's first and last moment: 56 ms


class ClipStats(NamedTuple):
    """What a clip's file says. A broken file has a `problem`, and all else is empty.

    Attributes:
        problem: why the file cannot be used, with its path; None where it can.
        container: and subtype, such as ``WAV PCM_16``.
        rate: Hz.
        channels: as in the file.
        seconds: of the clip.
        peak: highest magnitude, of full scale.
        rms: without the offset, of full scale.
        offset: mean, of full scale.
        clipped: share of the samples on plateaus at the extremes.
        bandwidth: Hz; half the rate where the spectrum has no cliff.
        digest: of the samples; zero bytes where all are silent.
        landmarks: uint64 (landmarks,).
        edges: level of the first and the last moment, dB, float32 (2, bands).
    """

    problem: str | None = None
    container: str = ""
    rate: int = 0
    channels: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    rms: float = 0.0
    offset: float = 0.0
    clipped: float = 0.0
    bandwidth: float = 0.0
    digest: bytes = b""
    landmarks: Landmarks = np.empty(0, np.uint64)
    edges: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)


def measure_clips(clips: Sequence[Clip]) -> list[ClipStats]:
    """Measures every clip, with a bar.

    Args:
        clips: the clip table.

    Returns:
        A row a clip, in the table's order. Memory is bounded: some 4 kB a clip, a block a process.
    """
    return [row for rows in parallel_map(_examine, clips, "examining") for row in rows]


def _examine(clips: Sequence[Clip]) -> list[ClipStats]:
    return [measure_clip(clip) for clip in clips]


def measure_clip(clip: Clip) -> ClipStats:
    """Measures one clip."""
    try:
        with open_audio(clip.path) as file:
            measures = _Measures(file, clip.path)
            for samples, last in read_blocks(file, clip.path, RATE, clip.start, clip.end):
                measures.add(samples, last)
            return measures.row()
    except UserError as error:
        return ClipStats(problem=str(error))


class _Measures:
    """Adds up what a row says.

    Args:
        file: open for reading.
        path: of the file.
    """

    def __init__(self, file: soundfile.SoundFile, path: str) -> None:
        self._container = f"{file.format} {file.subtype}"
        self._rate, self._channels = file.samplerate, file.channels
        self._digest = AudioHash()
        self._resampler = make_resampler(file.samplerate, path, RATE)
        self._heard: list[Wave] = []  # at RATE, up to SECONDS
        self._samples = self._peak = self._clipped = 0.0
        self._sum = self._squares = 0.0
        self._power = np.zeros(_WINDOW // 2 + 1)

    def add(self, samples: Wave, last: bool) -> None:
        """Takes the next block: (samples, channels)."""
        wave = to_mono(samples)
        self._digest.update(to_int16(wave))
        if self._samples < SECONDS * self._rate:
            self._heard.append(self._resampler.resample_chunk(wave, last=last) if self._resampler else wave)
        self._samples += len(wave)
        self._peak = max(self._peak, float(np.abs(samples).max()))
        self._sum += float(wave.sum(dtype=np.float64))
        self._squares += float(np.square(wave, dtype=np.float64).sum())
        self._clipped += _count_clipped(samples)
        step = max(_WINDOW // 2, len(wave) // _WINDOWS)
        self._power += power(wave, _WINDOW, step).sum(0, dtype=np.float64)

    def row(self) -> ClipStats:
        """The measurements."""
        offset = self._sum / self._samples
        level = spectrogram(np.concatenate(self._heard)[: round(SECONDS * RATE)] - np.float32(offset))
        return ClipStats(
            container=self._container,
            rate=self._rate,
            channels=self._channels,
            seconds=self._samples / self._rate,
            peak=self._peak,
            rms=max(0.0, self._squares / self._samples - offset**2) ** 0.5,
            offset=offset,
            clipped=self._clipped / self._samples,
            bandwidth=_bandwidth(self._power, self._rate),
            digest=self._digest.value(),
            landmarks=landmarks(level),
            edges=np.stack([level[:_EDGE].mean(0), level[-_EDGE:].mean(0)]).reshape(2, -1, 8).mean(2),
        )


def _count_clipped(samples: Wave) -> float:
    """How many samples of a block lie on plateaus at its extremes, averaged over the channels."""
    count = 0
    for channel in samples.T:
        for extreme in (channel.max(), channel.min()):
            if abs(extreme) < _LOUD:
                continue
            at = np.flatnonzero(channel == extreme)
            runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) >= _PLATEAU else []
            count += sum(len(run) for run in runs if len(run) >= _PLATEAU)
    return count / samples.shape[1]


def _bandwidth(power: npt.NDArray[np.float64], rate: int) -> float:
    """Where the spectrum falls off a cliff and stays down, as behind a resampler; half the rate where it does not.

    A recording of dull sounds falls slowly, and to the noise of its microphone.
    """
    smooth = np.convolve(power, np.ones(3) / 3, "same")
    above = np.maximum.accumulate(smooth[::-1])[::-1]  # the highest from here on
    floor = np.append(above[_CLIFF_BINS:], np.full(_CLIFF_BINS, np.inf))
    cliffs = np.flatnonzero((smooth > _CUTOFF_DB * floor) & (floor < 1e-4 * smooth.max()))
    return rate / 2 if not len(cliffs) else float(cliffs[-1] + _CLIFF_BINS / 2) * rate / _WINDOW
