"""`spectrnn demo`: a page that classifies audio in the browser; served on the loopback interface, or as a folder."""

import logging
import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import NonNegativeInt, WindowSeconds
from spectrnn.data.audio import to_float
from spectrnn.demo.examples import load_examples
from spectrnn.demo.onnxruntime_web import runtime_dir
from spectrnn.demo.server import Server
from spectrnn.demo.site import write_page
from spectrnn.errors import UserError
from spectrnn.export.graph import model_metadata, write_onnx
from spectrnn.export.onnx_model import Array, OnnxModel, StreamingOnnxModel
from spectrnn.export.parity import max_abs_differences, parity_cases, require_parity
from spectrnn.export.streaming import streaming_differences, write_streaming_onnx
from spectrnn.files import atomic_directory, cache_folder, reporting_write_errors
from spectrnn.inference.predictor import load
from spectrnn.messages import counted
from spectrnn.model.header import read_header
from spectrnn.runs import find_model
from spectrnn.streaming.classifier import StreamingClassifier

log = logging.getLogger(__name__)

Port = Annotated[int, Ge(0), Le(65535)]


@dataclass(kw_only=True)
class DemoConfig:
    """Top level of demo.yaml."""

    data: dict[str, Any] | None
    run: str
    out: str | None
    window: WindowSeconds | None
    num_examples: NonNegativeInt
    port: Port
    open_browser: bool
    cache: str
    trust: list[str]


def demo(node: DictConfig) -> None:
    """Writes the page, and serves it until interrupted unless `out` is set.

    Args:
        node: Config as demo.yaml composes it.

    Raises:
        UserError: A model that cannot be loaded or exported, no runtime, or a folder that exists already.
    """
    config = DemoConfig(**validate_kwargs({"data": None, **to_container(node, "")}, DemoConfig, ""))
    if config.out is None:
        with tempfile.TemporaryDirectory() as folder:
            write(config, Path(folder))
            serve(Path(folder), config.port, config.open_browser)
        return
    out = Path(config.out).expanduser()
    if out.exists():
        raise UserError(f"out={config.out}: exists already; remove it, or name another folder")
    with reporting_write_errors(f"out={config.out}"), atomic_directory(out) as folder:
        write(config, folder)
    log.info("%s: copy it to any web server; browsers do not load it from file://", out)


def write(config: DemoConfig, folder: Path) -> None:
    """Exports the model, verifies the export, and writes the page with it to an empty folder."""
    model = find_model(config.run)
    predictor = load(str(model), "cpu", config.trust)
    classifier = predictor.classifier
    examples = load_examples(config.data, predictor.labels, config.num_examples, classifier.task.label_format)
    if examples:
        log.info("the page includes %s of the dataset, such as %s", counted(len(examples), "clip"), examples[0].path)
    runtime = runtime_dir(cache_folder(config.cache))
    with tempfile.TemporaryDirectory() as temporary:
        onnx, stream = Path(temporary) / "model.onnx", None
        metadata = model_metadata(classifier, predictor.tuned_thresholds)
        clips = [to_float(example.waveform) for example in examples]
        write_onnx(classifier, onnx, metadata, intermediates=True)
        require_parity(max_abs_differences(classifier, OnnxModel(onnx), parity_cases(classifier, clips)))
        with suppress(UserError):  # a model that is not causal: the page classifies the microphone window by window
            stream = StreamingClassifier(classifier, read_header(model)["config"])
        streaming_onnx = _export_stream(stream, Path(temporary) / "stream.onnx", metadata, clips) if stream else None
        write_page(folder, predictor, model, config.window, onnx, streaming_onnx, runtime, examples)


def _export_stream(
    stream: StreamingClassifier, path: Path, metadata: dict[str, Any], clips: list[Array]
) -> StreamingOnnxModel:
    """Exports a causal model for streams, and verifies the export on clips, or on noise if there are none."""
    write_streaming_onnx(stream, path, metadata, intermediates=True)
    exported = StreamingOnnxModel(path)
    noise = np.random.default_rng(0).normal(0, 0.1, stream.classifier.sample_rate).astype(np.float32)
    require_parity(streaming_differences(stream.classifier, exported, clips or [noise]))
    return exported


def serve(folder: Path, port: int, open_browser: bool) -> None:
    """Serves a folder until Ctrl-C or SIGTERM."""
    with Server(folder, port) as server, until_interrupted():
        log.info("%s  (Ctrl-C to stop)", server.address)
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
