"""Runs the command line as a user does, within this process where that shows the same."""

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from spectrnn.cli import main

# A classifier that learns the three tones of the `tones` dataset in seconds.
TINY = (
    "data=folder",
    "features.n_mels=20",
    "model.hidden_size=12",
    "model.num_layers=1",
    "pooling.num_heads=2",
    "trainer.epochs=2",
    "trainer.batch_size=8",
    "optimizer.lr=0.02",
    "data.sample_rate=8000",
    "trainer.report=false",
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The overrides of a tiny classifier."""
    return TINY


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def mistake(self) -> str:
        """The one sentence that a user's mistake ends in: no traceback, nothing else of the kind."""
        assert self.code == 1, self
        assert "Traceback" not in self.err
        sentences = [line for line in self.err.splitlines() if line.startswith("spectrnn: ")]
        assert len(sentences) == 1, self.err
        return sentences[0]


@pytest.fixture
def spectrnn(monkeypatch, capfd, tmp_path) -> Callable[..., Outcome]:
    """`spectrnn("train", "model=gru")` in an empty folder -> exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["spectrnn", *map(str, arguments)])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        capfd.readouterr()
        code, threads = 0, torch.get_num_threads()
        try:
            main.main()
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            torch.set_num_threads(threads)
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            for handler in logging.getLogger().handlers[:]:
                if type(handler) in (logging.FileHandler, logging.StreamHandler):  # Hydra's, on a captured stream
                    logging.getLogger().removeHandler(handler)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def listening() -> dict[str, Any]:
    """What a sub-process needs to hear SIGINT, which a shell's background jobs, such as these tests, may ignore."""
    return {} if sys.platform == "win32" else {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}


@pytest.fixture(scope="session")
def trained(tones, tmp_path_factory) -> Path:
    """The folder of a run on the tones, made by a process of its own; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "-m", "spectrnn", "train", *TINY, f"data.root={tones}", f"hydra.run.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, as playwright has it; skips where this machine has none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium: chromium, chromium-browser or google-chrome")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
