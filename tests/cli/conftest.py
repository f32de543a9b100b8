"""Fixtures that run the command line, most of them within the process of the tests."""

import gc
import logging
import os
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
    "augment=[noise,gain,speed,specaugment]",
    "normalize=global",
    "model=bigru",
    "model.hidden_size=12",
    "model.num_layers=1",
    "pooling.num_heads=2",
    "trainer.epochs=2",
    "trainer.batch_size=8",
    "trainer.metric=accuracy",  # as with more clips
    "optimizer.lr=0.02",
    "data.sample_rate=8000",
    "trainer.report=false",
)


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The overrides of a tiny classifier; without TensorBoard, whose figures would take most of the time."""
    return (*TINY, "logger=[]")


@pytest.fixture(scope="session")
def tiny_logged() -> tuple[str, ...]:
    """Those of `tiny`, with TensorBoard."""
    return TINY


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def error(self) -> str:
        """Returns the error message of a command that failed with exactly one, and without a traceback."""
        assert self.code == 1, self
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("spectrnn: ")]
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def spectrnn(monkeypatch, capfd, tmp_path) -> Callable[..., Outcome]:
    """Runs a command in an empty folder: `spectrnn("train", "model=gru")` -> exit code, standard output and error."""
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
            os.environ.pop("HYDRA_FULL_ERROR", None)  # set by the command line, and inherited by other processes
            torch.set_num_threads(threads)
            gc.unfreeze()
            gc.enable()
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            for handler in logging.getLogger().handlers[:]:
                if type(handler) in (logging.FileHandler, logging.StreamHandler):  # on a captured stream
                    logging.getLogger().removeHandler(handler)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def interruptible() -> dict[str, Any]:
    """Arguments of Popen for a process that receives SIGINT, even if the tests run as a background job of a shell."""
    return {} if sys.platform == "win32" else {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}


@pytest.fixture(scope="session")
def trained_run(tones, tmp_path_factory) -> Path:
    """Read-only folder of a run trained on `tones` in a separate process."""
    folder = tmp_path_factory.mktemp("trained_run") / "run"
    command = [sys.executable, "-m", "spectrnn", "train", *TINY, f"data.root={tones}", f"hydra.run.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def launch_browser() -> Iterator[Callable[..., Any]]:
    """`launch_browser(*flags)`: a headless Chromium of playwright; skips the test if Chromium is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium: chromium, chromium-browser or google-chrome")
    with playwright.sync_playwright() as running:  # one per process
        yield lambda *flags: running.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])


@pytest.fixture(scope="session")
def browser(launch_browser) -> Iterator[Any]:
    """A headless Chromium."""
    browser = launch_browser()
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., tuple[Any, list[str]]]]:
    """Opens a file: `open_page(path, **settings)` -> page, and a list of its requests, console messages and errors."""
    pages, messages = [], []

    def open_file(path, **settings):
        page = browser.new_page(**settings)
        page.set_default_timeout(120_000)  # ms, for machines that do something else
        pages.append(page)
        page.on("request", lambda request: request.url.startswith("data:") or messages.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append("dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        assert messages.pop(0) == path.as_uri()
        return page, messages

    yield open_file
    for page in pages:
        page.close()
