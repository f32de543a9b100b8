"""Download of archives: resumed after an interruption, verified before they are unpacked, and unpacked atomically."""

import hashlib
import logging
import tarfile
import time
import zipfile
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from spectrnn.errors import UserError
from spectrnn.files import atomic_directory
from spectrnn.progress import progress_bar

ATTEMPTS = 5  # interrupted connections in a row without progress
PAUSE = 1.0  # s before the second attempt, doubled for each further one
TIMEOUT = 60.0  # s without data
BLOCK = 1 << 16  # bytes per read
_MAX_SIZE_RATIO = 2  # of what the server sends to the archive's approximate size

_RETRY_CODES = {408, 429, 500, 502, 503, 504}  # HTTP status codes
_INTERRUPTED = (URLError, HTTPException, ConnectionError, TimeoutError, SSLError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive of a published dataset.

    Attributes:
        name: Name for messages.
        url: HTTP(S) address of a .zip or tar file.
        checksum: ``sha256:<hex>`` or ``md5:<hex>``.
        size: Approximate size in bytes; twice as much ends the download.
    """

    name: str
    url: str
    checksum: str
    size: int


def fetch(archive: Archive, folder: Path) -> None:
    """Downloads an archive and unpacks it into a folder, unless the folder has contents.

    An interrupted download is kept next to the folder as a ``.part`` file, and resumed by the next call. If several
    processes need the same folder, one downloads and the others wait.

    Args:
        archive: Archive to download.
        folder: Folder for its contents, without a single top-level folder of the archive.

    Raises:
        UserError: A server that refuses, keeps disconnecting or sends too much; a wrong checksum; an archive that
            cannot be unpacked; or a full disk. The folder does not exist then.
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
            with atomic_directory(folder) as temporary:
                _unpack(archive, part, temporary)
            part.unlink()
    except OSError as error:
        raise UserError(f"{folder}: {archive.name} cannot be stored here: {error.strerror or error}") from error


def _download(archive: Archive, part: Path) -> None:
    """Completes `part`, with any number of connections as long as each makes progress."""
    furthest, failures = _size(part), 0
    while True:
        try:
            return _resume(archive, part)
        except _INTERRUPTED as error:
            reached = _size(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures == ATTEMPTS:
                raise UserError(
                    f"{archive.url}: {ATTEMPTS} connections in a row were interrupted at {reached / 1e6:.1f} MB "
                    f"({error}); the same command resumes the download"
                ) from error
            log.warning("%s: interrupted at %.1f MB (%s); resuming", archive.url, reached / 1e6, error)
            time.sleep(PAUSE * 2 ** (failures - 1))


def _resume(archive: Archive, part: Path) -> None:
    """Resumes `part` with one connection, to the end or to one of the errors in _INTERRUPTED."""
    present, max_size = _size(part), _MAX_SIZE_RATIO * archive.size
    headers = {"User-Agent": "spectrnn"} | ({"Range": f"bytes={present}-"} if present else {})
    try:
        response = urlopen(Request(archive.url, headers=headers), timeout=TIMEOUT)
        if not isinstance(response, HTTPResponse):
            raise ValueError(f"{response.url} is not HTTP")
    except HTTPError as error:
        if error.code == 416 and present:  # there are no more bytes, or even fewer, which the checksum detects
            return
        if error.code in _RETRY_CODES:
            raise
        raise UserError(f"{archive.url}: the server returned {error.code} {error.reason}") from error
    except (ValueError, InvalidURL) as error:
        raise UserError(f"{archive.url}: leads to an invalid address ({error})") from error
    with response, part.open("r+b" if present else "wb") as file:
        start = present if response.status == 206 else 0  # 0 for a server that ignores Range
        file.seek(start)
        file.truncate()
        total = None if response.length is None else start + response.length
        with progress_bar(total or archive.size, archive.name, "B", initial=start, unit_scale=True) as progress:
            while block := response.read(BLOCK):
                if file.tell() + len(block) > max_size:
                    file.truncate(0)
                    limit = f"{max_size / 1e6:.1f} MB"
                    raise UserError(f"{archive.url}: sends more than {limit}, so it is not {archive.name}")
                file.write(block)
                progress.update(len(block))
        if total is not None and file.tell() < total:  # http.client does not report an early end
            raise ConnectionError(f"closed after {file.tell()} of {total} bytes")


def _verify(archive: Archive, part: Path) -> None:
    """Deletes `part` if its checksum is wrong."""
    algorithm, _, expected = archive.checksum.partition(":")
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if actual != expected:
        part.unlink()
        raise UserError(
            f"{archive.url}: its {algorithm} checksum is {actual}, but {expected} was expected; the download was "
            f"deleted. Try again, or unpack a trusted copy as data.root"
        )


def _unpack(archive: Archive, file: Path, folder: Path) -> None:
    """Unpacks a verified tar or zip, without its single top-level folder."""
    description = f"{archive.name}: unpacking"
    try:
        if archive.url.endswith(".zip"):
            with zipfile.ZipFile(file) as zipped:
                zipped.extractall(folder, progress_bar(None, description, "file", iterable=zipped.namelist()))
        else:
            with tarfile.open(file) as tar:
                tar.extractall(folder, progress_bar(None, description, "file", iterable=tar), filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive.url}: cannot be unpacked: {error}") from error
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if len(entries) == 1 and entries[0].is_dir():
        top = entries[0].rename(folder / ".top")  # its members may have the same name
        for entry in top.iterdir():
            entry.rename(folder / entry.name)
        top.rmdir()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
