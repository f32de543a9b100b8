"""The library of eSpeak NG (https://github.com/espeak-ng/espeak-ng): voices, languages, synthesis and phonemes."""

import _ctypes
import ctypes
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectrnn.errors import UserError

PACKAGE = "espeakng-loader"
REMEDY = f"pip install --force-reinstall {PACKAGE}, which ships the library and its voices"
# Constants of eSpeak NG's speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _PHONEMES, _BY_CHARACTER, _IPA = 2, 0x8000, 1, 0x100, 1, 2
PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}
_MAX_PATH = 120  # bytes; the library truncates its data path at 160, and then silently searches elsewhere
_VOICE = "spectrnn"  # the voice file that is written for each voice
# A line of a voice file: code and, unless it is the default, priority.
_LANGUAGE = re.compile(r"^[ \t]*language[ \t]+(\S+)(?:[ \t]+([0-9]+)(?!\S))?", re.MULTILINE)
_DEFAULT_PRIORITY = 5


class Espeak:
    """The initialized library.

    Args:
        library: Library, freshly loaded.
        data: Its data folder, with a path of at most `_MAX_PATH` bytes.
        thread: Executor of the synthesis. In the main thread a Ctrl-C would be lost in the callback, with some audio.
    """

    def __init__(self, library: ctypes.CDLL, data: Path, thread: Executor) -> None:
        self._library, self._data, self._thread = library, data, thread
        self.sample_rate: int = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if self.sample_rate <= 0:
            raise UserError(f"data=synthetic_speech: eSpeak NG does not start with its data in {data}; {REMEDY}")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._reads_phonemes = False
        self._chunks: list[bytes] = []
        # The library stores only the address of the callback: it must live as long as this object.
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._collect)
        library.espeak_SetSynthCallback(self._callback)
        self._languages = {  # identifier, such as gmw/en-US -> language codes, each with its priority; lower is better
            path.relative_to(data / "lang").as_posix(): [
                (int(priority or _DEFAULT_PRIORITY), code.lower())
                for code, priority in _LANGUAGE.findall(path.read_text(encoding="utf-8", errors="replace"))
            ]
            for path in (data / "lang").rglob("*")
            if path.is_file()
        }

    def _collect(self, samples: int | None, count: int, events: int) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    def voices(self) -> dict[str, str]:
        """Returns the shipped voices ("variants" in eSpeak NG), which support every language: their files by name."""
        paths = [path for path in (self._data / "voices" / "!v").iterdir() if path.name[0] != "."]
        return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.name != _VOICE}

    def identifier(self, language: str) -> str:
        """Returns the identifier of the best voice file for a language: ``gmw/en-US`` for ``en-us``."""
        code = language.strip().lower().replace("_", "-")
        candidates = [(priority, name) for name, codes in self._languages.items() for priority, c in codes if c == code]
        if not candidates:
            known = sorted({code for codes in self._languages.values() for _, code in codes})
            near = get_close_matches(code, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"data.language={language}: eSpeak NG does not support this language; {hint}")
        return min(candidates)[1]

    def accents(self, language: str) -> list[str]:
        """Returns the identifiers of all voice files of the same language and script, sorted."""
        family = language_and_script(self.identifier(language))
        return sorted(name for name in self._languages if language_and_script(name) == family)

    def synthesize(
        self, text: str, language: str, voice: str, parameters: dict[str, int], noise_seed: int
    ) -> NDArray[np.int16]:
        """Synthesizes a text.

        Args:
            text: Text, or mnemonics of phonemes in double brackets, as in ``[[T|r|'i:]]``.
            language: Identifier of a language, such as ``gmw/en-US``.
            voice: Voice file, its lines.
            parameters: Values by their names in `PARAMETERS`.
            noise_seed: Seed of breath and whisper noise.

        Returns:
            Samples at `sample_rate`, int16 (samples,); empty if the language cannot be loaded.
        """
        self._chunks.clear()
        # The library reads a voice from its data folder at each selection, and has room for 350 files in it: one is
        # written again and again.
        (self._data / "voices" / "!v" / _VOICE).write_text(voice, encoding="utf-8", newline="\n")
        if self._library.espeak_SetVoiceByName(f"{language}+{_VOICE}".encode()) == 0:
            for name, value in parameters.items():
                self._library.espeak_SetParameter(PARAMETERS[name], value, 0)
            # Breath noise comes from the C library's generator, in later versions partly from eSpeak NG's own.
            for name in ("srand", "espeak_ng_SetRandSeed"):
                if hasattr(self._library, name):
                    getattr(self._library, name)(ctypes.c_long(noise_seed))
            self._speak(text)
        return np.frombuffer(b"".join(self._chunks), dtype=np.int16)

    def _speak(self, text: str) -> None:
        data = text.encode() + b"\0"
        extent = (ctypes.c_size_t(len(data)), 0, _BY_CHARACTER, 0)  # the whole text
        self._thread.submit(self._library.espeak_Synth, data, *extent, _UTF8 | _PHONEMES, None, None).result()

    def phonemes(self, text: str, language: str, ipa: bool = False) -> str:
        """Returns the phonemes of a text.

        Args:
            text: Text, as for `synthesize`.
            language: Identifier of a language, such as ``gmw/en-US``.
            ipa: Whether to return them in the International Phonetic Alphabet, else the library's mnemonics for them,
                separated by ``|`` or, between words, blanks.
        """
        self._library.espeak_SetVoiceByName(language.encode())
        if not self._reads_phonemes:  # the conversion below reads brackets as the last synthesis did
            self._speak("[[a]]")
            self._reads_phonemes = True
        buffer = ctypes.create_string_buffer(text.encode())
        position, clauses = ctypes.c_void_p(ctypes.addressof(buffer)), []
        while position.value:
            mode = _IPA if ipa else ord("|") << 8
            clauses.append(self._library.espeak_TextToPhonemes(ctypes.byref(position), _UTF8, mode).decode())
        return " ".join(filter(None, clauses)).rstrip("|_")  # pauses


def language_and_script(identifier: str) -> tuple[str, list[str]]:
    """Language and script of an identifier: its first part, and its parts of four letters (``en-Shaw``; BCP 47)."""
    language, *parts = identifier.rpartition("/")[2].split("-")
    return language, [part for part in parts if len(part) == 4 and part.isalpha()]


@contextmanager
def open_espeak() -> Iterator[Espeak]:
    """Loads eSpeak NG.

    Its data folder (19 MB) is copied, to a short path and to add a voice file.

    The library keeps state between words (pitch flutter, gain control) that its initialization does not reset. Loading
    and unloading it does, so that a process synthesizes the same samples each time.
    """
    with ExitStack() as stack:
        try:
            import espeakng_loader

            data, library = Path(espeakng_loader.get_data_path()), ctypes.CDLL(espeakng_loader.get_library_path())
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(f"data=synthetic_speech: eSpeak NG cannot be loaded ({error}); {REMEDY}") from error
        unload = getattr(_ctypes, "FreeLibrary", None) or _ctypes.dlclose  # on Windows, elsewhere
        stack.callback(unload, library._handle)
        stack.callback(library.espeak_Terminate)
        parent = tempfile.gettempdir()
        parent = parent if len(os.fsencode(parent)) < _MAX_PATH - 40 else "/tmp"
        try:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espeak-", dir=parent)), "data")
            shutil.copytree(data, copy)
        except OSError as error:
            raise UserError(f"data=synthetic_speech: {data} cannot be copied to {parent}: {error}") from error
        yield Espeak(library, copy, stack.enter_context(ThreadPoolExecutor(1)))
