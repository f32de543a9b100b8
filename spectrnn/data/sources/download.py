"""From a URL to a folder: resumed where it broke off, checked before it is opened, there as a whole or not at all."""

import hashlib
import logging
import lzma
import tarfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path, PurePosixPath, PureWindowsPath
from ssl import SSLError
from typing import IO, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock
from tqdm import tqdm

from spectrnn.errors import UserError
from spectrnn.files import atomic_directory
from spectrnn.progress import progress_bar

ATTEMPTS = 5  # connections in a row that break off at the same place
PAUSE = 1.0  # s before the second attempt; doubles with each further one
TIMEOUT = 60.0  # s of silence after which a connection counts as broken
SLACK = 1 << 20  # bytes
MOST_SENT = 2  # times an archive's size that are taken from a server: the disk is the user's
MOST_UNPACKED = 20  # times an archive's size that its members may take: audio does not shrink so far
MEMBER = 512  # bytes that a member counts for at least, as in a tar
BLOCK = 1 << 16  # bytes read at a time: what a breaking connection can lose

_SCHEMES = ("http://", "https://")
_BUSY = {408, 429, 500, 502, 503, 504}  # HTTP codes that ask to come back later
# What the libraries raise for archives that are none: RuntimeError and NotImplementedError for zips with passwords or
# methods of compression that they lack, ValueError for names with a NUL, OverflowError for dates beyond all clocks.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)
_BROKEN = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published dataset as one file to download."""

    name: str  # in messages
    url: str  # http(s); ends in .zip, or names a tar
    checksum: str  # "sha256:<hex>" or "md5:<hex>"
    size: int  # bytes, about; a multiple of it bounds what is taken from the server and the archive


def fetch(archive: Archive, folder: Path) -> None:
    """Downloads an archive and unpacks it as a folder.

    A download that broke off lies beside the folder as a ``.part`` file, and the next call goes on from there. Several
    processes may ask for the same folder: one downloads, the others wait. A folder that holds anything is left alone.

    Args:
        archive: what to download.
        folder: where its contents shall lie; a single folder at the archive's top is left out.

    Raises:
        UserError: the server refuses, keeps breaking off or sends far too much, the checksum is wrong, a member of the
            archive would be written outside the folder, the members are far too large, or the disk is full. The folder
            does not exist then.
    """
    folder = folder.absolute()
    part = folder.with_name(f"{folder.name}-{archive.url.rpartition('/')[2]}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir() and any(folder.iterdir()):
                return
            _download(archive, part)
            _verify(archive, part)
            with atomic_directory(folder) as fresh:
                _unpack(archive, part, fresh)
            part.unlink()
    except OSError as error:
        raise UserError(f"{folder}: {archive.name} cannot be stored here: {error.strerror or error}") from error


def _download(archive: Archive, part: Path) -> None:
    """Completes `part`, however often the connection breaks, as long as it gets further."""
    furthest, failures = _size(part), 0
    while True:
        try:
            return _resume(archive, part)
        except _BROKEN as error:
            reached = _size(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures == ATTEMPTS:
                raise UserError(
                    f"{archive.url}: {ATTEMPTS} connections in a row broke off at {reached / 1e6:.1f} MB ({error}); "
                    f"the same command goes on from there"
                ) from error
            log.warning("%s broke off at %.1f MB (%s), going on", archive.url, reached / 1e6, error)
            time.sleep(PAUSE * 2 ** (failures - 1))


def _resume(archive: Archive, part: Path) -> None:
    """One connection: goes on where `part` stops, to the end or to one of the errors in _BROKEN."""
    present = _size(part)
    response = _request(archive.url, present)
    if response is None:
        return
    with response, part.open("r+b" if present else "wb") as file:
        start = _start(response, present)
        file.seek(start)
        file.truncate()
        promised = response.length
        total = archive.size if promised is None else start + promised
        with progress_bar(total, archive.name, "B", initial=start, unit_scale=True) as progress:
            _copy(response, file, MOST_SENT * archive.size + SLACK, progress)
        if promised is not None and file.tell() < total:
            # http.client takes an early end for the end.
            raise ConnectionError(f"closed after {file.tell()} of {total} bytes")


def _request(url: str, present: int) -> HTTPResponse | None:
    """The answer to a request for the bytes from `present` on; None where there are no more.

    A ``.part`` that is longer than the file is refused too, and fails the checksum later.
    """
    if not url.startswith(_SCHEMES):
        raise UserError(f"{url}: only http and https addresses can be downloaded")
    headers = {"User-Agent": "spectrnn"} | ({"Range": f"bytes={present}-"} if present else {})
    try:
        response: HTTPResponse = build_opener(_HTTPOnlyRedirects).open(Request(url, headers=headers), timeout=TIMEOUT)
        return response
    except HTTPError as error:
        if error.code == 416 and present:
            return None
        if error.code in _BUSY:
            raise
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (ValueError, InvalidURL) as error:
        raise UserError(f"{url}: the server redirects to an address that is none ({error})") from error


class _HTTPOnlyRedirects(HTTPRedirectHandler):
    """Follows redirects to http and https; the library would follow those to ftp."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.lower().startswith(_SCHEMES):
            raise UserError(f"{req.full_url}: redirects to {newurl!r:.200}; only http and https can be downloaded")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _start(response: HTTPResponse, present: int) -> int:
    """The position in the file of the answer's first byte. A server that ignores Range sends the whole file."""
    if response.status != 206:
        return 0
    _, _, where = response.headers.get("Content-Range", "").partition("bytes ")
    first = where.partition("-")[0]
    if not (first.isascii() and first.isdigit() and len(first) < 20 and int(first) <= present):
        raise ConnectionError(f"asked for the bytes from {present} on, got {where or 'no range'!r:.100}")
    return int(first)


def _copy(response: HTTPResponse, file: BinaryIO, most: int, progress: "tqdm[None]") -> None:
    while block := response.read(BLOCK):
        if file.tell() + len(block) > most:
            file.truncate(0)
            raise UserError(f"{response.url}: sends more than {most / 1e6:.1f} MB, which is no longer this dataset")
        file.write(block)
        progress.update(len(block))


def _verify(archive: Archive, part: Path) -> None:
    """Deletes `part` where its checksum is wrong."""
    algorithm, _, expected = archive.checksum.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected:
        part.unlink()
        raise UserError(
            f"{archive.url}: its {algorithm} checksum is {found}, {expected} was expected; the download has been "
            f"deleted. Try again, or unpack a copy that you trust as data.root"
        )


def _unpack(archive: Archive, file: Path, folder: Path) -> None:
    """Unpacks a tar or zip, and leaves a single folder at its top out."""
    budget = _SizeLimit(MOST_UNPACKED * archive.size + SLACK)
    try:
        if archive.url.endswith(".zip"):
            with zipfile.ZipFile(file) as zipped:
                for member in zipped.infolist():
                    _require_inside(member.filename)
                    budget.take(member.filename, member.file_size)
                zipped.extractall(
                    folder, progress_bar(None, f"{archive.name}: unpacking", "file", iterable=zipped.namelist())
                )
        else:
            with tarfile.open(file) as tar:
                members = progress_bar(None, f"{archive.name}: unpacking", "file", iterable=tar)
                tar.extractall(folder, members, filter=budget.inside)
    except _DAMAGED as error:
        raise UserError(f"{archive.url}: cannot be unpacked: {error}") from error
    _strip_top_directory(folder)


def _require_inside(name: str) -> None:
    # zipfile would quietly rename such a member.
    path = PureWindowsPath(name)  # which takes both slashes for one, and knows drives
    if path.anchor or ".." in path.parts:
        raise zipfile.BadZipFile(f"{name!r} would be written outside the folder")


class _SizeLimit:
    """What an archive may still unpack to, in bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, name: str, size: int) -> None:
        """Counts a member."""
        self.left -= max(size, MEMBER)
        if self.left < 0:
            raise zipfile.BadZipFile(f"{name!r:.100} and those before it are larger than such a dataset could be")

    def inside(self, member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        """A filter of `tarfile`."""
        # The data filter refuses `..`, links that lead out and devices, but quietly renames absolute members.
        if PurePosixPath(member.name).is_absolute():
            raise tarfile.AbsolutePathError(member)
        self.take(member.name, member.size)
        return tarfile.data_filter(member, folder)


def _strip_top_directory(folder: Path) -> None:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if len(entries) == 1 and entries[0].is_dir():
        top = entries[0].rename(folder / ".top")  # out of the way of a member of the same name
        for entry in top.iterdir():
            entry.rename(folder / entry.name)
        top.rmdir()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
