"""`spectrnn demo`: a page that hears with the model, in the browser alone; served on the loopback, or as a folder."""

import logging
import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeInt, WindowSeconds
from spectrnn.data.audio import FULL_SCALE
from spectrnn.demo.examples import examples
from spectrnn.demo.onnxruntime_web import runtime_dir
from spectrnn.demo.server import Server
from spectrnn.demo.site import write_page
from spectrnn.errors import UserError
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import OnnxModel
from spectrnn.export.parity import max_abs_differences, parity_cases, require_parity
from spectrnn.files import atomic_directory
from spectrnn.inference.predictor import load

log = logging.getLogger(__name__)

Port = Annotated[int, Ge(0), Le(65535)]


@dataclass(kw_only=True)
class DemoConfig:
    """demo.yaml."""

    data: dict[str, Any] | None
    run: str
    out: str | None
    window: WindowSeconds | None
    examples: NonNegativeInt
    port: Port
    open: bool
    cache: str


def demo(node: DictConfig) -> None:
    """Writes the page, and serves it until it is told to stop; or leaves it as a folder.

    Args:
        node: as demo.yaml composes it.

    Raises:
        UserError: a model that cannot be loaded or exported, no runtime, or a folder that is there already.
    """
    config = DemoConfig(**validate_kwargs({"data": None, **to_container(node, "")}, DemoConfig, ""))
    if config.out is None:
        with tempfile.TemporaryDirectory() as folder:
            write(config, Path(folder))
            serve(Path(folder), config.port, config.open)
        return
    out = Path(config.out).expanduser()
    if out.exists():
        raise UserError(f"out={config.out}: is there already; remove it, or name another folder")
    try:
        with atomic_directory(out) as folder:
            write(config, folder)
    except OSError as error:
        raise UserError(f"out={config.out}: cannot be written ({error.strerror})") from error
    log.info("%s: the page, for any web server; a browser loads none of it from file://", out)


def write(config: DemoConfig, folder: Path) -> None:
    """Exports the model, certified, and writes the page with it into an empty folder."""
    predictor = load(config.run, "cpu")
    offered = examples(config.data, predictor.labels, config.examples)
    if offered:
        log.info("the page brings %d clips of the dataset along, such as %s", len(offered), offered[0].path)
    files = runtime_dir(Path(config.cache).expanduser())
    with tempfile.TemporaryDirectory() as beside:
        onnx = Path(beside) / "model.onnx"
        write_onnx(
            predictor.classifier, onnx, model_metadata(predictor.classifier, predictor.tuned_thresholds), inside=True
        )
        clips = [example.waveform.astype(np.float32) / np.float32(FULL_SCALE) for example in offered]
        require_parity(
            max_abs_differences(predictor.classifier, OnnxModel(onnx), parity_cases(predictor.classifier, clips))
        )
        write_page(folder, predictor, config.window, onnx, files, offered)


def serve(folder: Path, port: int, open_browser: bool) -> None:
    """Serves a folder until Ctrl-C or SIGTERM, which both end it well."""
    with Server(folder, port) as server, until_interrupted():
        log.info("%s  (Ctrl-C ends it)", server.address)
        if open_browser:
            webbrowser.open(server.address)
        server.serve_forever()


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Leaves the block on SIGINT or SIGTERM."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
