"""Recordings that FFmpeg decodes, through the package av; its wheels contain FFmpeg."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, cast

import numpy as np

from spectrnn.data.readers.reader import AudioReader, FloatSamples

# Demuxers of files that hold sound, without those of playlists, which may name other files and addresses, and without
# those that accept almost any content.
_DEMUXERS = (
    "3dostr,aa,aax,ac3,act,adx,aea,aiff,amr,apac,ape,apc,ast,asf,au,avi,avr,bonk,caf,dsf,dss,dtshd,eac3,ea,flac,flv,gxf,"
    "hca,ilbc,ircam,iff,kvag,laf,matroska,mlp,mmf,mov,mpc,mpc8,mpeg,mpegts,mtaf,mxf,nistsphere,nsv,nut,nuv,ogg,oma,osq,"
    "paf,pvf,qcp,qoa,rka,rm,rso,sbc,shn,siff,smjpeg,sox,tak,truehd,tta,vqf,voc,vividas,w64,wav,wavarc,wsaud,wsvqa,wv,xa,"
    "xwma"
)
_EXACT_TIMES = {"mov"}  # demuxers whose times are exact to a frame
_SHORT_MEMORY = {"aac", "alac", "flac", "mp3"}  # encodings that can be entered after a short warm-up
_WARM_UP = 1.0  # s
_MISSING = 0.25  # s by which decoded audio may be shorter than its container says
_TIMED = ("mov", "matroska", "caf", "wv", "tta", "ape", "flac", "asf")  # demuxers whose durations are not estimates
_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31}
_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
_MAX_PLANES = 8  # channels of a planar frame that av gives access to
_BARE = {"aac": (b"\xff", b"ID3"), "loas": (b"\x56",), "dts": (b"\x7f", b"\xfe", b"\x1f", b"\xff")}  # without a header
_MAX_DAMAGED = 1000  # packets
EXTRA = "the package av (pip install 'spectrnn[ffmpeg]')"


def import_av() -> Any:
    """Imports the package av, and silences FFmpeg.

    Raises:
        ImportError: It is not installed.
    """
    import av

    av.logging.set_libav_level(-8)  # AV_LOG_QUIET
    return av


class FFmpegReader(AudioReader):
    """Reader of the first audio stream of any format of FFmpeg.

    Args:
        file: Binary file, which is closed with the reader. One that is not seekable is read once, as it arrives.
        head: Its first bytes.

    Raises:
        ImportError: The package av is not installed.
        av.FFmpegError: A file that is not recognized, or without audio.
    """

    def __init__(self, file: Any, head: bytes) -> None:
        self.av, self.file, self.warnings = import_av(), file, list[str]()
        self.container = cast(Any, None)
        demuxers = [_DEMUXERS, *(name for name, start in _BARE.items() if head.startswith(start))]
        self.options = {"format_whitelist": ",".join(demuxers), "protocol_whitelist": "none"}
        self._open()
        self.start: Any = next(self.decoded, None)  # not the header, which differs from it with HE-AAC
        if self.start is None:
            raise self.av.error.InvalidDataError(0, "no audio can be decoded")
        if self.start.format.is_planar and len(self.start.layout.channels) > _MAX_PLANES:
            raise self.av.error.InvalidDataError(0, f"more than {_MAX_PLANES} channels are not supported")
        if self.start.format.name.startswith("s64"):  # which av cannot convert to an array
            raise self.av.error.InvalidDataError(0, "integers of 64 bits are not supported")
        codec, self.container_name = self.stream.codec_context.name, self.container.format.name.partition(",")[0]
        self.sample_rate, self.channels = self.start.sample_rate, len(self.start.layout.channels)
        self._format = f"{self.container_name} {codec}".upper()
        self.is_float = codec.startswith("pcm_f")
        self.frames, duration = None, Fraction(self.container.duration or 0, 10**6)
        if self.stream.duration:
            duration = self.stream.duration * self.stream.time_base
        if self.container_name in _TIMED and duration > 0:
            self.frames = round(duration * self.sample_rate)
        self.can_enter = (
            self.container_name in _EXACT_TIMES
            and codec in _SHORT_MEMORY
            and self.stream.time_base == Fraction(1, self.sample_rate)
            and self.start.pts is not None
        )

    def _open(self) -> None:
        """Opens the file at its beginning."""
        if self.container is not None:
            self.container.close()
            self.file.seek(0)
        self.container = self.av.open(self.file, options=self.options, metadata_errors="replace")
        if not self.container.streams.audio:
            raise self.av.error.InvalidDataError(0, "it has no audio")
        self.stream = self.container.streams.audio[0]
        self.decoded, self.is_fresh = self._decoded(), True

    def _decoded(self) -> Iterator[Any]:
        """Yields frames of av, without damaged packets."""
        packets, damaged = self.container.demux(self.stream), 0
        while damaged < _MAX_DAMAGED:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                yield from packet.decode()
            except self.av.error.EOFError:
                break
            except (self.av.FFmpegError, ValueError):
                damaged += 1
        if damaged:
            self.warnings.append(f"{damaged} damaged packets are left out")

    @property
    def format(self) -> str:
        """Container and encoding."""
        return self._format

    def read(self, first: int, last: int | None, size: int) -> Iterator[FloatSamples]:
        """Reads frames, from the beginning of the file unless its times are exact."""
        if not self.is_fresh:
            self._open()
            self.start = next(self.decoded, None)
        self.is_fresh, frames, position = False, chain([self.start], self.decoded), 0
        target = first - round(_WARM_UP * self.sample_rate)
        if self.can_enter and target > 0:
            origin = self.start.pts
            self.container.seek(origin + target, stream=self.stream)
            self.decoded = self._decoded()
            begin = next(self.decoded, None)
            frames, position = chain([begin] if begin else [], self.decoded), begin.pts - origin if begin else 0
        pending: list[FloatSamples] = []
        count = 0
        for frame in frames:
            if (frame.sample_rate, len(frame.layout.channels)) != (self.sample_rate, self.channels):
                self.warnings.append(
                    f"its format changes after {position / self.sample_rate:.3f} s; the rest is not used"
                )
                break
            samples = _to_float(frame)[max(0, first - position) :]
            position += frame.samples
            if last is not None and position > last:
                samples = samples[: max(0, len(samples) - (position - last))]
            pending.append(samples)
            count += len(samples)
            is_end = last is not None and position >= last
            if count >= size or is_end or not self.file.seekable():
                yield from _in_blocks(pending, size)
                pending, count = [], 0
            if is_end:
                return
        yield from _in_blocks(pending, size)
        if self.frames is not None and position > self.frames - _MISSING * self.sample_rate:
            self.frames = position

    def close(self) -> None:
        """Closes the file."""
        if self.container is not None:
            self.container.close()
        self.file.close()


def _to_float(frame: Any) -> FloatSamples:
    """Samples of a frame of av, float32 (frames, channels)."""
    kind, channels = frame.format.name.removesuffix("p"), len(frame.layout.channels)
    if frame.format.is_planar:  # not to_ndarray, which reads beyond the eight planes of a frame
        planes = [np.frombuffer(frame.planes[index], _TYPES[kind])[: frame.samples] for index in range(channels)]
        samples = np.stack(planes, axis=1)
    else:
        samples = frame.to_ndarray().reshape(-1, channels)
    if kind in ("flt", "dbl"):
        with np.errstate(over="ignore"):  # infinite values are reported like others
            return samples.astype(np.float32)
    if kind == "u8":
        samples = samples.astype(np.float32) - 128
    return (samples / np.float32(_SCALES[kind])).astype(np.float32)


def _in_blocks(parts: list[FloatSamples], size: int) -> Iterator[FloatSamples]:
    samples = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
