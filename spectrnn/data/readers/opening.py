"""From a file to its reader: the content decides, not the name."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import soundfile

from spectrnn.data.readers.chained import ChainedReader
from spectrnn.data.readers.flac import correct_flac
from spectrnn.data.readers.libsndfile import LibsndfileReader
from spectrnn.data.readers.mpeg import MPEGCorrection, correct_mpeg
from spectrnn.data.readers.ogg import has_end, ogg_links
from spectrnn.data.readers.reader import AudioReader
from spectrnn.data.readers.sizes import HEAD, correct_sizes
from spectrnn.data.readers.spliced import Segment, SplicedFile

_QUIET = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"riff")  # not decoded by libmpg123
_MP3_IN_WAV = b"\x55\0"


class UnreadableError(Exception):
    """A file that no reader can read."""


def open_reader(path: str | Path) -> AudioReader:
    """Opens a recording with libsndfile, or with FFmpeg if libsndfile does not read it and the package av is installed.

    Raises:
        UnreadableError: A file that is not recognized.
        OSError: A file that cannot be opened.
    """
    file = open(path, "rb", buffering=0)  # noqa: SIM115  (the reader closes it)
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("not a regular file")
        head = file.read(HEAD)
        try:
            return _open_with_libsndfile(path, file, head, status.st_size)
        except soundfile.SoundFileError as error:
            reason = str(error).split(": ")[-1].rstrip(".")
            # The MP3 decoder reports a file without any MP3 frame as missing.
            reason = "Format not recognised" if reason.startswith("File does not exist") else reason
            return _open_with_ffmpeg(path, head, reason)
    except BaseException:
        file.close()
        raise


def _open_with_libsndfile(path: str | Path, file: BinaryIO, head: bytes, size: int) -> AudioReader:
    segments: list[Segment] | None = None
    warning = None
    mpeg: MPEGCorrection | None = None
    if head.startswith(b"fLaC"):
        segments, warning = correct_flac(file, head, size)
    elif head.startswith(b"OggS"):
        links = ogg_links(file, size)
        if len(links) > 1:
            file.close()
            return ChainedReader([lambda link=link: _open_part(path, [link]) for link in links])  # type: ignore[misc]
        if not has_end(file, size):
            warning = "its last page is missing, so it is probably truncated"
    elif head[:3] == b"ID3" or head[:1] == b"\xff":
        mpeg = correct_mpeg(file, head, size)
    else:
        segments, warning = correct_sizes(file, head, size)
    try:
        prints = mpeg is not None or head[20:22] == _MP3_IN_WAV or head[:4] not in _QUIET
        reader = _open(path, file, mpeg.segments if mpeg else segments, mpeg is None or mpeg.has_frames, prints)
    except soundfile.SoundFileError:
        mpeg = correct_mpeg(file, head, size) if mpeg is None else None
        if mpeg is None:
            raise
        reader = _open(path, file, mpeg.segments, mpeg.has_frames, prints=True)
    if mpeg is None and reader.format.startswith(("MP3", "MPEG")):  # entered within a frame
        reader.close()
        file = open(path, "rb", buffering=0)  # noqa: SIM115  (the reader closes it)
        mpeg = correct_mpeg(file, head, size) or MPEGCorrection()
        reader = _open(path, file, mpeg.segments, mpeg.has_frames, prints=True)
    warning = mpeg.warning if mpeg else warning
    reader.warnings += [warning] if warning else []
    return reader


def _open(
    path: str | Path, file: BinaryIO, segments: list[Segment] | None, has_frames: bool, prints: bool
) -> LibsndfileReader:
    if segments is None and str(path).lower().endswith(".raw"):  # by this name, samples without a header are expected
        segments = [(0, os.fstat(file.fileno()).st_size)]
    if segments is None:
        reader = LibsndfileReader(path, has_frames, prints)
        file.close()
        return reader
    return LibsndfileReader(SplicedFile(file, segments), has_frames, prints)


def _open_part(path: str | Path, segments: list[Segment]) -> LibsndfileReader:
    file = open(path, "rb", buffering=0)  # noqa: SIM115  (the reader closes it)
    try:
        return LibsndfileReader(SplicedFile(file, segments), has_frames=True, prints=False)
    except BaseException:
        file.close()
        raise


def _open_with_ffmpeg(path: str | Path, head: bytes, reason: str) -> AudioReader:
    from spectrnn.data.readers.ffmpeg import EXTRA, FFmpegReader, import_av

    try:
        av = import_av()
    except ImportError as error:
        raise UnreadableError(f"{reason}; the formats of FFmpeg need {EXTRA}") from error
    file = open(path, "rb")  # noqa: SIM115  (the reader closes it)
    try:
        return FFmpegReader(file, head)
    except (av.FFmpegError, ValueError, OSError) as error:
        file.close()
        raise UnreadableError(reason) from error
