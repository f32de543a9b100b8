"""Recordings at addresses such as https:// or s3://, each fetched once into the cache folder through fsspec."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from spectrnn.errors import UserError
from spectrnn.messages import counted
from spectrnn.progress import progress_bar

log = logging.getLogger(__name__)

ATTEMPTS = 5  # per recording
PAUSE = 1.0  # s before the second attempt, doubled for each further one
TIMEOUT = 60.0  # s without data
_CONNECTIONS = 32
_RETRY_CODES = {408, 429, 500, 502, 503, 504}  # HTTP status codes
_PER_MAP = 1000  # recordings, whose futures are in memory
_EXTRA = ("http", "https", "s3")  # schemes whose libraries the extra `remote` installs


def is_address(path: str) -> bool:
    """Whether a path is an address with a scheme, and not a file of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def local_copy(address: str, cache: Path) -> str:
    """Returns the path of an address's copy in the cache folder."""
    name = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
    return os.path.join(cache, "remote", name[:2], name[2:])


def absent(addresses: Sequence[str], cache: Path) -> list[str]:
    """Returns the addresses without a copy in the cache folder."""
    return [address for address in addresses if not os.path.isfile(local_copy(address, cache))]


def fetch(addresses: Sequence[str], cache: Path) -> list[str]:
    """Fetches the recordings that are not in the cache folder, many at a time; those of an interrupted call are kept.

    If several processes need recordings, one fetches them and the others wait. Without anything to fetch, the network
    is not used.

    Args:
        addresses: Addresses of any scheme of fsspec. Credentials are those of the scheme's library, such as the
            environment variables and files of the AWS command line.
        cache: Cache folder.

    Returns:
        The addresses at which there is nothing.

    Raises:
        UserError: A library that is not installed, a server that denies access or keeps failing, or a folder that
            cannot be written.
    """
    if not absent(addresses, cache):
        return []
    lock, scratch = cache / "locks" / "remote", cache / "remote" / ".tmp"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            acquired = FileLock(lock).acquire(blocking=False)
        except Timeout:
            log.info("another process is fetching recordings; waiting for it")
            acquired = FileLock(lock).acquire()
        with acquired:
            shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
            scratch.mkdir(parents=True)
            try:
                return _fetch_all(absent(addresses, cache), cache, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(f"data.cache: cannot be written to {cache}: {error.strerror or error}") from error


def _fetch_all(addresses: Sequence[str], cache: Path, scratch: Path) -> list[str]:
    missing: list[str] = []
    stop = Event()
    copy = partial(_copy, cache=cache, scratch=scratch, stop=stop)
    with progress_bar(len(addresses), "fetching", "file") as progress, ThreadPoolExecutor(_CONNECTIONS) as pool:
        try:
            for start in range(0, len(addresses), _PER_MAP):
                some = addresses[start : start + _PER_MAP]
                for address, found in zip(some, pool.map(copy, some), strict=True):
                    missing += [] if found else [address]
                    progress.update()
        finally:
            stop.set()  # after an error or Ctrl-C, threads would continue
    log.info("fetched %s into %s", counted(len(addresses) - len(missing), "recording"), cache / "remote")
    return missing


def _copy(address: str, cache: Path, scratch: Path, stop: Event) -> bool:
    """Copies a recording into the cache folder, atomically; returns whether there is one at its address."""

    def check(*_: Any, **__: Any) -> None:
        if stop.is_set():
            raise UserError(f"{address}: stopped")

    import fsspec

    target = local_copy(address, cache)
    part = os.path.join(scratch, os.path.basename(target))
    failures = 0
    while True:
        try:
            filesystem, path = _open_filesystem(address)
            filesystem.get_file(path, part, callback=fsspec.Callback(hooks={"stop": check}))
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(part, target)
            return True
        except FileNotFoundError:
            return False
        except UserError:
            raise
        except Exception as error:  # each library has its own
            failures += 1
            if failures == ATTEMPTS or not _is_transient(error):
                status = getattr(error, "status", None)
                reason = f"status {status}" if status else str(error).partition("\n")[0] or type(error).__name__
                raise UserError(f"data.path: {address} cannot be fetched ({reason})") from error
            log.warning("%s: interrupted (%s); trying again", address, error)
            stop.wait(PAUSE * 2 ** (failures - 1))
            check()


def _open_filesystem(address: str) -> tuple[Any, str]:
    """Returns fsspec's file system of an address, and the path in it."""
    import fsspec

    if "::" in address:  # such as reference://, whose index may contain code
        raise UserError(f"data.path: {address} is a chain of addresses, which is not supported")
    scheme, options = address.partition("://")[0].lower(), {}
    try:
        if scheme in ("http", "https"):
            import aiohttp

            # By default a recording may take five minutes, and proxies in the environment are ignored.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        return fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        name = getattr(error.__cause__ or error, "name", None) or str(error)
        package = "'spectrnn[remote]'" if scheme in _EXTRA else name
        raise UserError(f"data.path: {address} needs {name}; pip install {package}") from error
    except ValueError as error:
        raise UserError(f"data.path: {address} cannot be fetched ({error})") from error


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed; the libraries of cloud stores have tried several times themselves."""
    status = getattr(error, "status", None)
    if status is not None:
        return status in _RETRY_CODES
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("aiohttp")
