"""onnxruntime-web, which computes in the page: one version, fetched by npm and held against its checksum.

A wheel brings it along, so that an installed demo works offline; a checkout fetches it once into the cache. The module
imports nothing heavy, and nothing but spectrnn's ground floor, as the wheel's build calls it, too.
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
# npm's dist.integrity of that version. A new version is these two lines.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # the build that needs neither WebGPU nor WebGL

_HERE = Path(__file__).resolve().parent
_SECONDS = 600  # that npm may take for 33 MB


class FetchError(UserError):
    """npm is missing, or did not bring the package."""


def runtime_dir(cache: Path) -> Path:
    """The folder of the runtime's files, fetched where it is not there yet.

    Args:
        cache: the folder of downloads.

    Raises:
        UserError: it cannot be fetched, is not what was pinned, or cannot be written.
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
        raise UserError(f"cache={cache}: cannot hold {PACKAGE} ({error.strerror})") from error
    return folder


def fetch(folder: Path) -> None:
    """Fetches the package by npm, and unpacks what the page needs.

    Args:
        folder: where the files, and the licence, shall lie; it comes to be as a whole or not at all.

    Raises:
        NotFetched: npm is missing or fails.
        UserError: what came is not what was pinned.
    """
    with tempfile.TemporaryDirectory() as empty, atomic_directory(folder) as unfinished:
        archive = _packed(Path(empty))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != INTEGRITY:
            raise UserError(f"{PACKAGE}@{VERSION}: npm brought a package of another checksum, which is not used")
        with tarfile.open(archive) as package:
            for name in FILES:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None, name
                with member, (unfinished / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
        shutil.copyfile(_HERE / "onnxruntime.LICENSE", unfinished / "LICENSE")  # the package brings none


def _packed(folder: Path) -> Path:
    """The package as npm packs it, in an empty folder."""
    whole = f"the page needs {PACKAGE} {VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            f"{whole}, which npm fetches once, and there is no npm: install Node.js, or a wheel of "
            "spectrnn, which brings it along"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{whole}, and npm could not fetch it ({error})") from error
    found = [*folder.glob("*.tgz")]
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise FetchError(f"{whole}, and npm could not fetch it ({said[0]:.200}): is there a network?")
    return found[0]
