"""Folders of recordings: every audio file in them, and a list of everything that is passed over."""

import heapq
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spectrnn.data.audio import EXTENSIONS
from spectrnn.messages import preview

log = logging.getLogger(__name__)

# What operating systems, file servers, version control and notebooks leave in folders.
_SYSTEM_NAME = re.compile(
    r"__MACOSX|\.DS_Store|\._.*|\.Spotlight-V100|\.Trash(es)?|\.fseventsd|\.TemporaryItems|\.DocumentRevisions-V100"
    r"|\.apdisk|\.localized|\.AppleDouble|(eh)?Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information"
    r"|@eaDir|#recycle|lost\+found|\.directory|\.git(ignore|attributes|keep)?|\.svn|\.hg|\.dvc|\.ipynb_checkpoints"
    r"|__pycache__",
    re.IGNORECASE,
)
# How the formats that decoders recognise by their content start, besides MP3 without a tag.
_SIGNATURES = (
    (b"RIFF", 8, b"WAVE"),
    (b"RIFX", 8, b"WAVE"),
    (b"RF64", 8, b"WAVE"),
    (b"BW64", 8, b"WAVE"),
    (b"FORM", 8, b"AIF"),
    (b"fLaC", 0, b""),
    (b"OggS", 0, b""),
    (b"ID3", 0, b""),
    (b"caff", 0, b""),
    (b".snd", 0, b""),
    (b"dns.", 0, b""),
    (b"NIST_1A", 0, b""),
    (b"Creative Voice File", 0, b""),
    (b"riff\x2e\x91\xcf\x11", 0, b""),
)
# Of each ending that is not one of audio, so many files are looked into, and all others only if one of them is audio.
_PROBES, _MAX_FAILED_PROBES = 100, 2000
_MAX_ENDINGS, _MAX_FOLDERS = 5, 20  # that a message lists

# What is counted, as singular and plural, the most severe first.
KINDS = {
    "unreadable": ("folder or link that cannot be read", "folders and links that cannot be read"),
    "empty class": ("class folder without audio", "class folders without audio"),
    "broken link": ("broken link", "broken links"),
    "linked twice": (
        "link to a folder that contains it or is scanned already",
        "links to folders that contain them or are scanned already",
    ),
    "no class": ("audio file outside the class folders", "audio files outside the class folders"),
    "other kind": ("file of other kinds", "files of other kinds"),
    "special file": ("device, pipe or socket", "devices, pipes and sockets"),
    "hidden": ("hidden file or folder", "hidden files and folders"),
}


class Ignored(NamedTuple):
    """A file or folder that was passed over.

    Attributes:
        kind: Key of `KINDS`.
        path: Path of the file or folder.
        reason: Reason in a few words, such as ``permission denied``, or the ending of a file of another kind.
    """

    kind: str
    path: str
    reason: str

    def __str__(self) -> str:
        reason = f"of another kind ({self.reason})" if self.kind == "other kind" else self.reason
        return f"{printable(self.path)}: {reason}"


class FolderScan(NamedTuple):
    """Content of a folder. All paths start with that of the folder, and are sorted part by part.

    Attributes:
        files: Audio files.
        folders: Folders that could be read, without the scanned one.
        ignored: Everything else but the files of operating systems.
    """

    files: list[str]
    folders: list[str]
    ignored: list[Ignored]


def scan_folder(root: str | Path) -> FolderScan:
    """Lists the audio files in a folder and its subfolders, each once, in an order that does not depend on the machine.

    An audio file has an ending of `EXTENSIONS`, or starts as one. Linked folders are scanned, after all others, unless
    they contain the link or are scanned already.

    Args:
        root: Folder.

    Raises:
        OSError: The folder itself cannot be read.
    """
    root = str(Path(root).expanduser())
    files: list[str] = []
    others: dict[str, list[str]] = defaultdict(list)  # by ending
    folders: list[str] = []
    ignored: list[Ignored] = []
    seen = {identity for parent in Path(os.path.realpath(root)).parents if (identity := _identity(parent))}
    pending, links = [root], list[tuple[list[str], str]]()
    while pending or links:
        is_link = not pending
        folder = pending.pop() if pending else heapq.heappop(links)[1]
        try:
            if identity := _identity(folder):
                if identity in seen:
                    ignored.append(Ignored("linked twice", folder, "links to a folder that is scanned already"))
                    continue
                seen.add(identity)
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            if folder == root and not is_link:
                raise
            ignored.append(Ignored("unreadable", folder, _reason(error)))
            continue
        folders.append(folder)
        prefix = "" if folder == os.curdir else os.path.join(folder, "")
        for entry in found:
            if _SYSTEM_NAME.fullmatch(entry.name):
                continue
            path = prefix + entry.name
            kind, reason = _classify(entry)
            if kind == "file":
                (files if reason in EXTENSIONS else others[reason]).append(path)
            elif kind == "folder":
                pending.append(path)
            elif kind == "linked folder":
                heapq.heappush(links, (_parts(path), path))
            else:
                ignored.append(Ignored(kind, path, reason))
    audio = _audio_by_content(others)
    files += audio
    for ending, paths in others.items():
        reason = ending if ending.isprintable() and ending else "without an ending"
        ignored += [Ignored("other kind", path, reason) for path in paths if path not in audio]
    folders.remove(root)
    ignored.sort(key=lambda item: _parts(item.path))
    return FolderScan(sorted(files, key=_parts), sorted(folders, key=_parts), ignored)


def summarize(ignored: Iterable[Ignored]) -> dict[str, str]:
    """Describes what was passed over: a sentence per kind, with the number, an example, and the most common endings."""
    by_kind: dict[str, list[Ignored]] = defaultdict(list)
    for item in ignored:
        by_kind[item.kind].append(item)
    sentences = {}
    for kind, names in KINDS.items():
        if items := by_kind.get(kind):
            verb = "was" if len(items) == 1 else "were"
            text = f"{len(items)} {names[len(items) > 1]} {verb} ignored"
            if kind == "empty class":
                sentences[kind] = f"{text}: {preview([printable(item.path) for item in items], _MAX_FOLDERS)}"
                continue
            if kind in ("other kind", "unreadable"):
                reasons = Counter(item.reason for item in items).most_common()
                more = len(reasons) - _MAX_ENDINGS
                listed = [f"{count} {reason}" for reason, count in reasons[:_MAX_ENDINGS]]
                text += f": {', '.join(listed)}" + (f" and {more} more endings" if more > 0 else "")
            sentences[kind] = f"{text} (such as {printable(items[0].path)})"
    return sentences


def warn_about_ignored(ignored: Iterable[Ignored], name: str) -> None:
    """Logs a warning for each kind of what was passed over, which starts with a name."""
    for sentence in summarize(ignored).values():
        log.warning("%s: %s", name, sentence)


def printable(path: str) -> str:
    """Returns a path with escapes for bytes that are not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def _classify(entry: os.DirEntry[str]) -> tuple[str, str]:
    """Returns ``file`` with its ending, ``folder``, ``linked folder``, or else a kind of `KINDS` with the reason."""
    if entry.name.startswith("."):
        return "hidden", "hidden"
    try:
        if entry.is_dir():
            return "linked folder" if entry.is_symlink() else "folder", ""
        if entry.is_file():
            return "file", os.path.splitext(entry.name)[1].lower()
    except OSError as error:  # of the target of a link
        return "unreadable", _reason(error)
    if entry.is_symlink():
        return "broken link", "broken link"
    return "special file", "neither a file nor a folder"


def _audio_by_content(others: Mapping[str, Sequence[str]]) -> set[str]:
    """Finds the audio files among files by ending that is not one of audio."""
    audio: set[str] = set()
    failed = 0
    for ending, paths in sorted(others.items()):
        is_audio_ending = False
        for number, path in enumerate(sorted(paths, key=_parts)):
            if ending == ".raw" or (not is_audio_ending and (number >= _PROBES or failed >= _MAX_FAILED_PROBES)):
                break  # raw samples have no header
            if _starts_as_audio(path):
                audio.add(path)
                is_audio_ending = True
            else:
                failed += 1
        if is_audio_ending:
            own = [path for path in paths if path in audio]
            log.info("%d files are audio by their content, such as %s", len(own), printable(min(own)))
    return audio


def _starts_as_audio(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(24)
    except OSError:
        return False
    if any(head.startswith(start) and head.startswith(form, at) for start, at, form in _SIGNATURES):
        return True
    # A frame of MPEG layer III, with a valid bit rate and sample rate.
    is_frame = len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08
    return is_frame and 0x10 <= head[2] < 0xF0 and head[2] & 0x0C != 0x0C


def _identity(folder: str | Path) -> tuple[int, int] | None:
    """Device and inode; None where the file system has none."""
    stat = os.stat(folder)
    return (stat.st_dev, stat.st_ino) if stat.st_ino else None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _parts(path: str) -> list[str]:
    return path.split(os.sep)
