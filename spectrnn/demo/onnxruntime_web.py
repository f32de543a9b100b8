"""onnxruntime-web, the runtime of the page: a pinned version, downloaded by npm and verified by its checksum.

Wheels include it, so that an installed demo works offline; a checkout downloads it once into the cache. The build of
the wheel imports this module, so it must not import other dependencies.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from spectrnn.errors import UserError
from spectrnn.files import atomic_directory

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# npm's dist.integrity of that version; update both lines together.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # the build that needs neither WebGPU nor WebGL

_HERE = Path(__file__).resolve().parent
_TIMEOUT = 600  # s, for 33 MB


class FetchError(UserError):
    """npm is missing, or cannot download the package."""


def runtime_dir(cache: Path) -> Path:
    """Returns the folder of the runtime, and downloads it first if necessary.

    Args:
        cache: Folder for downloads.

    Raises:
        UserError: A download that fails, has another checksum, or cannot be written.
    """
    from filelock import FileLock

    folder = cache / f"{PACKAGE}-{VERSION}"
    for place in (_HERE / "runtime", folder):
        if place.is_dir():
            return place
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                fetch(folder)
    except OSError as error:
        raise UserError(f"cache={cache}: {PACKAGE} cannot be written ({error.strerror})") from error
    return folder


def fetch(folder: Path) -> None:
    """Downloads the package with npm, and extracts the files that the page needs.

    Args:
        folder: Folder for these files and the license; created completely or not at all.

    Raises:
        FetchError: npm is missing or fails.
        UserError: A package with another checksum.
    """
    with tempfile.TemporaryDirectory() as empty, atomic_directory(folder) as unfinished:
        archive = _download(Path(empty))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != INTEGRITY:
            raise UserError(f"{PACKAGE}@{VERSION}: the downloaded package has another checksum and was discarded")
        with tarfile.open(archive) as package:
            for name in FILES:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None, name
                with member, (unfinished / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
        shutil.copyfile(_HERE / "onnxruntime.LICENSE", unfinished / "LICENSE")  # not part of the package


def _download(folder: Path) -> Path:
    """Downloads the package to an empty folder."""
    needs = f"the page needs {PACKAGE} {VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"{needs}, which npm downloads, but npm is not installed: install Node.js, or a wheel of spectrnn, which "
            "includes it"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{needs}, but npm cannot download it ({error})") from error
    archives = [*folder.glob("*.tgz")]
    if done.returncode or not archives:
        reason = [line for line in done.stderr.splitlines() if line.strip()] or ["no error message"]
        raise FetchError(f"{needs}, but npm cannot download it ({reason[0]:.200}); check the network")
    return archives[0]
