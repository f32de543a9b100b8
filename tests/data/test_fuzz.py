"""A short part of scripts/fuzz.py, and a proof that its supervision of the decoder can fail."""

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fuzzing.decoding import DECODED, REPORTED, Decoder
from fuzzing.mutations import MUTATIONS, mutant
from fuzzing.originals import originals
from spectrnn.data.clips import DataSource

MUTANTS = 200
# Fails in the way that the file name states.
FAILING_DECODER = """
import os, signal, time
from pathlib import Path
import numpy as np
from spectrnn.errors import UserError

def decode(path, rate):
    name = Path(path).name
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hangs":
        time.sleep(60)
    if name == "allocates":
        np.empty(1 << 28, np.int16)  # without touching it
    if name == "raises":
        raise ValueError("not a user error")
    if name == "blames nothing":
        raise UserError("a file is broken")
    return np.zeros(0 if name == "empty" else rate, np.int16)
"""


@pytest.fixture(scope="module")
def recordings(source: Callable[..., DataSource]) -> list[tuple[str, str, bytes]]:
    clips = source("synthetic_speech", words=["seven", "three"], speakers=0).clips()
    return list(originals([soundfile.read(clip.path)[0] for clip in clips[::40]]))


def test_mutants_are_decoded_or_reported(recordings: list[tuple[str, str, bytes]], tmp_path: Path):
    kinds = Counter[str]()
    with Decoder(16000, seconds=20, megabytes=200) as decoder:
        for name, suffix, content in recordings:
            (tmp_path / f"whole{suffix}").write_bytes(content)
            assert decoder.decode(tmp_path / f"whole{suffix}").kind == DECODED, name
        for number in range(MUTANTS):
            name, suffix, content = recordings[number % len(recordings)]
            broken = mutant(content, suffix, f"0 {number}")
            path = tmp_path / f"{number}{broken.suffix}"
            path.write_bytes(broken.content)
            outcome = decoder.decode(path)
            kinds[outcome.kind] += 1
            assert outcome.kind in (DECODED, REPORTED), (name, number, broken.what, outcome)
    assert min(kinds[DECODED], kinds[REPORTED]) > MUTANTS / 10


def test_mutants_depend_on_the_seed_only():
    content = np.arange(2000, dtype=np.int16).tobytes()
    first, second = ([mutant(content, ".wav", f"{seed}") for seed in range(50)] for _ in range(2))
    assert first == second
    assert len({broken.content for broken in first}) > 40
    assert {name for broken in first for name in broken.what.split("+")} <= set(MUTATIONS)


def test_every_failure_of_a_decoder_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "failing_decoder.py").write_text(FAILING_DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    expected = {
        "works": DECODED,
        "crashes": "crashed",
        "hangs": "hung",
        "allocates": "took memory",
        "raises": "not caught",
        "blames nothing": "reported badly",
        "empty": "decoded badly",
    }
    with Decoder(8000, 1.0, 100.0, importlib.import_module("failing_decoder").decode) as decoder:
        found = {name: decoder.decode(tmp_path / name).kind for name in expected}
        assert decoder.decode(tmp_path / "works").kind == DECODED
    assert found == expected
