"""`spectrnn demo` in a real browser: the page predicts what PyTorch predicts, for files and a microphone."""

import csv
import http.server
import io
import json
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spectrnn import load
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.model import serialization
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import RollingClassifier

MARKUP = "<img src=x onerror=alert(1)>"  # label of an untrusted model file
NPM_ERRORS = ("npm is not installed", "npm cannot download it")


def demo(*arguments):
    return [sys.executable, "-m", "spectrnn", "demo", *map(str, arguments)]


def skip_without_npm(stderr):
    if any(message in stderr for message in NPM_ERRORS):
        pytest.skip(stderr.splitlines()[-1])


@pytest.fixture(scope="module")
def browser(launch_browser, tone, tmp_path_factory):
    """Chromium with a fake microphone that plays a tone of the class ``middle`` in a loop."""
    recording = tone(tmp_path_factory.mktemp("microphone") / "middle.wav", 4.0, 48000, frequency=945)
    browser = launch_browser(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}",
    )
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def served(trained_run, interruptible):
    """Address at which the command serves the page, until it is interrupted by Ctrl-C."""
    command = demo(f"run={trained_run}", "port=0", "open_browser=false")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **interruptible)
    stderr = ""
    for line in process.stderr:
        stderr += line
        if address := re.search(r"http://127\.0\.0\.1:\d+/", line):
            break
    else:
        skip_without_npm(stderr)
        pytest.fail(stderr)
    yield address[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def static(trained_run, tmp_path_factory):
    """Folder of the page, for a model with tuned thresholds and a label with markup."""
    folder = tmp_path_factory.mktemp("static")
    classifier, config = serialization.load(trained_run / "model.safetensors")
    classifier.labels = [MARKUP if label == "high" else label for label in classifier.labels]
    tuned = TunedThresholds(
        by_label={MARKUP: 0.6, "low": 0.3},
        background=["middle"],
        max_false_alarms_per_hour=1.0,
        hours=2.0,
        window=0.3,
        hop=0.05,
        smoothing_windows=4,
        offset_ratio=0.7,
        min_event_seconds=0.1,
    )
    serialization.save(classifier, config, folder / "model.safetensors", tuned_thresholds=asdict(tuned))
    command = demo(f"run={folder / 'model.safetensors'}", f"out={folder / 'page'}", "data.root=nowhere")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    skip_without_npm(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "the page has no examples: data.root=nowhere" in done.stderr
    return folder / "page"


@pytest.fixture(scope="module")
def causal(trained_run, tmp_path_factory):
    """Folder of the page for a causal model, with the model in the folder above."""
    folder = tmp_path_factory.mktemp("causal")
    trained, config = serialization.load(trained_run / "model.safetensors")
    config["model"]["bidirectional"] = False
    torch.manual_seed(0)
    classifier = Classifier(build_stages(config, len(trained.labels)), trained.labels).eval()
    classifier.max_train_samples.copy_(trained.max_train_samples)
    classifier.head[1].weight.data *= 20
    serialization.save(classifier, config, folder / "model.safetensors")
    command = demo(f"run={folder}", f"out={folder / 'page'}", "num_examples=0")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    skip_without_npm(done.stderr)
    assert done.returncode == 0, done.stderr
    return folder / "page"


@contextmanager
def visit(browser, address):
    """Opens the page; checks that it logs nothing and requests nothing from other hosts."""
    context = browser.new_context(permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(120_000)  # ms, for machines that do something else
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector("#microphone:enabled")
    yield page
    context.close()
    assert messages == []
    assert {url for url in requests if not url.startswith((address, f"blob:{address}", "data:"))} == set()
    assert f"{address}model.onnx" in requests


@pytest.fixture(scope="module")
def page(browser, served):
    with visit(browser, served) as page:
        yield page


def open_file(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector(f"#source:has-text('{path.name}')")
    page.wait_for_selector("main[aria-busy=false] #label:not(:empty)")


def probabilities(page):
    return {
        bar.get_attribute("aria-label"): float(bar.get_attribute("aria-valuenow"))
        for bar in page.query_selector_all("#bars [role=meter]")
    }


@pytest.mark.parametrize("frequency", [300, 600, 2700])
def test_file_is_classified_as_by_pytorch(page, trained_run, tone, tmp_path, frequency):
    path = tone(tmp_path / "tone.wav", 0.31, frequency=frequency)
    expected = load(trained_run).predict(*soundfile.read(path, dtype="float32"))
    open_file(page, path)
    assert probabilities(page) == pytest.approx(expected.probabilities, abs=1e-3)
    assert page.text_content("#label") == expected.label
    assert page.is_hidden("#recording")


def test_dropped_stereo_file_with_another_rate_is_classified(page, tone, tmp_path):
    path = tone(tmp_path / "stereo.wav", 0.4, 44100, channels=2, frequency=2700)
    page.evaluate(
        """([bytes, name]) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
    }""",
        [list(path.read_bytes()), path.name],
    )
    page.wait_for_selector("#source:has-text('stereo.wav, 0.40 s')")
    page.wait_for_selector("#label:has-text('high')")


def test_resampling_keeps_frequencies_below_the_new_limit_only(page):
    def resampled(frequency):
        wave = np.sin(2 * np.pi * frequency / 48000 * np.arange(9600))
        call = "async (samples) => [...(await import('./audio.js')).resample(samples, 48000, 8000)]"
        return np.array(page.evaluate(call, wave.tolist()))

    expected = np.sin(2 * np.pi * 1000 / 8000 * np.arange(1600))
    np.testing.assert_allclose(resampled(1000)[50:-50], expected[50:-50], atol=2e-3)
    assert abs(resampled(6000)[50:-50]).max() < 2e-3


def test_examples_are_clips_of_the_test_split(page):
    assert page.locator("#examples button").all_text_contents() == ["high", "low", "middle"]
    for label in ("low", "high"):
        page.click(f"#examples button:has-text('{label}')")
        page.wait_for_selector(f"#source:has-text('Example of “{label}”')")
        page.wait_for_selector(f"#label:has-text('{label}')")


def test_long_recording_shows_the_window_at_the_playback_position(page, tmp_path):
    time = np.arange(8000) / 8000
    waveform = np.concatenate([0.5 * np.sin(2 * np.pi * frequency * time) for frequency in (315, 2835)])
    soundfile.write(tmp_path / "long.wav", waveform, 8000)
    open_file(page, tmp_path / "long.wav")
    assert page.is_visible("#timeline")
    assert page.text_content("#label") == "low"
    box = page.locator("#timeline").bounding_box()
    page.locator("#timeline").click(position={"x": box["width"] - 20, "y": 10})
    page.wait_for_selector("#label:has-text('high')")
    page.evaluate("document.querySelector('#audio').currentTime = 0")
    page.wait_for_selector("#label:has-text('low')")


def test_page_names_the_model_and_its_metrics(page, trained_run):
    assert page.text_content("#description").startswith(f"{trained_run.parent.name}/{trained_run.name}: 3 classes (")
    accuracy = json.loads((trained_run / "metrics.json").read_text())["test"]["accuracy"]
    assert page.text_content("#results").startswith(f"On the test split: accuracy {100 * accuracy:.1f}\u00a0% (")


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_text()


def test_several_files_are_listed_and_saved(page, spectrnn, trained_run, tone, tmp_path):
    time = np.arange(8000) / 8000
    waveform = np.concatenate([0.5 * np.sin(2 * np.pi * frequency * time) for frequency in (315, 2835, 300)])
    long, short, note = tmp_path / "long, 1.wav", tmp_path / "short.wav", tmp_path / "note.wav"
    soundfile.write(long, waveform, 8000)
    tone(short, 0.3, frequency=900)
    note.write_text("this is not audio")
    page.set_input_files("#file", [long, note, short])
    page.wait_for_selector("#rows-of-files tr:nth-child(3) td:nth-child(3):has-text('middle')")
    names = page.locator("#rows-of-files button").all_text_contents()
    assert names == ["long, 1.wav", "note.wav", "short.wav"]
    assert "the browser cannot decode it" in page.text_content("#rows-of-files tr.failed")
    assert page.text_content("#source") == "long, 1.wav, 3.00 s"

    window = json.loads(page.evaluate("fetch('model.json').then((response) => response.text())"))["window_seconds"]
    settings = (f"window={window}", f"hop={window / 2}", "smoothing_windows=1", "format=audacity")
    outcome = spectrnn("predict", f"run={trained_run}", long, *settings)
    name, text = saved(page, "#audacity")
    assert name == "long, 1.txt"
    assert text == outcome.out
    assert len(text.splitlines()) >= 3

    _, text = saved(page, "#csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [*rows[0]] == ["file", "start", "end", "label", "probability", "high", "low", "middle"]
    assert {row["file"] for row in rows} == {"long, 1.wav", "short.wav"}
    assert [row["start"] for row in rows[1:-1]] == [row["end"] for row in rows[:-2]]
    assert (rows[-2]["end"], rows[-1]["label"]) == ("3.000000", "middle")
    expected = load(trained_run).predict(*soundfile.read(short, dtype="float32")).probabilities
    assert {label: float(rows[-1][label]) for label in expected} == pytest.approx(expected, abs=1e-3)

    page.click("#rows-of-files button:has-text('short.wav')")
    page.wait_for_selector("#source:has-text('short.wav, 0.30 s')")
    page.wait_for_selector("#label:has-text('middle')")
    assert page.is_hidden("#recording")
    page.click("#rows-of-files button:has-text('long')")
    page.wait_for_selector("#source:has-text('long, 1.wav, 3.00 s')")
    assert page.is_visible("#timeline")
    open_file(page, short)
    assert page.is_hidden("#files")


@pytest.mark.parametrize("count", [0, 3, 10, 13, 20, 27])
def test_ring_buffer_returns_the_latest_samples_in_order(page, count):
    latest = page.evaluate(
        """async (count) => {
        const buffer = new (await import("./audio.js")).RingBuffer(10);
        const samples = [...Array(count).keys()];
        for (let start = 0; start < count; start += 4) buffer.append(samples.slice(start, start + 4));
        return [...buffer.latest()];
    }""",
        count,
    )
    assert latest == [*range(count)][-10:]


REJECT_SAMPLE_RATES = """() => {
    globalThis.AudioContext = class extends AudioContext {
        constructor(options) {
            if (options) throw new DOMException("unsupported sample rate", "NotSupportedError");
            super();
        }
    };
}"""


@pytest.mark.parametrize("script", ["() => null", REJECT_SAMPLE_RATES], ids=["browser-resamples", "page-resamples"])
def test_microphone_is_classified(page, script):
    page.reload()
    page.wait_for_selector("#microphone:enabled")
    page.evaluate(script)
    page.keyboard.press("Space")
    page.wait_for_selector("#microphone[aria-pressed=true]:has-text('Stop microphone')")
    page.wait_for_selector("#label:has-text('middle'):not(.uncertain)")
    assert max(probabilities(page), key=probabilities(page).get) == "middle"
    page.keyboard.press("Space")
    page.wait_for_selector("#microphone[aria-pressed=false]:has-text('Start microphone')")


def test_errors_are_shown_in_the_page(page, tmp_path):
    (tmp_path / "note.wav").write_text("this is not audio")
    page.set_input_files("#file", tmp_path / "note.wav")
    page.wait_for_selector("#error:has-text('note.wav: the browser cannot decode it. Supported are WAV, MP3 and FLAC')")
    page.evaluate(
        "() => navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') }"
    )
    page.click("#microphone")
    page.wait_for_selector("#error:has-text('The browser does not allow microphone access. Allow it in')")
    assert page.get_attribute("#microphone", "aria-pressed") == "false"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def visit_folder(browser, folder):
    """Opens the page of a folder, served by a plain web server."""
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with visit(browser, f"http://127.0.0.1:{server.server_port}/") as page:
            yield page
        server.shutdown()


def test_folder_works_on_any_server_and_labels_are_text(browser, static, tone, tmp_path):
    with visit_folder(browser, static) as page:
        open_file(page, tone(tmp_path / "high.wav", 0.25, frequency=2700))
        assert page.text_content("#label") == MARKUP
        assert page.locator("img").count() == 0
        assert page.is_hidden("#examples")
        marks = page.locator("#bars .mark:not([hidden])")
        assert marks.evaluate_all("marks => marks.map((mark) => mark.style.left)") == ["60%", "30%"]
    assert not (static / "stream.onnx").exists()  # the model is not causal


STREAM = """async ([samples, sizes]) => {
    const { Model } = await import("./model.js"), { Stream } = await import("./stream.js");
    const model = await Model.load(), stream = new Stream(model), results = [];
    for (let start = 0, block = 0; start < samples.length; start += sizes[block++ % sizes.length]) {
        const result = await stream.push(Float32Array.from(samples.slice(start, start + sizes[block % sizes.length])));
        results.push(result && [[...result.probabilities], result.features.length, [...result.features.at(-1)]]);
    }
    return results;
}"""


def test_stream_of_a_causal_model_is_that_of_python(browser, causal):
    classifier, config = serialization.load(causal.parent / "model.safetensors")
    tones = [np.sin(np.arange(4000) * frequency) for frequency in (0.2, 0.7, 2.1, 0.3)]
    samples = (0.3 * np.concatenate(tones) + np.random.default_rng(0).normal(0, 0.02, 16000)).astype(np.float32)
    sizes = [1200, 30, 700, 80, 3000]
    rolling = RollingClassifier(StreamingClassifier(classifier, config), int(classifier.max_train_samples), 4, 1)
    expected = rolling.push(torch.from_numpy(samples))  # an output per frame
    waveform = torch.from_numpy(samples[None])
    features, _ = classifier.frontend(waveform, torch.tensor([len(samples)]))
    with visit_folder(browser, causal) as page:
        found = page.evaluate(STREAM, [samples.tolist(), sizes])
    window, hop = classifier.features.window_size, classifier.features.hop_size
    ends = np.cumsum(np.resize(sizes, len(found))).clip(max=len(samples))
    frames = [0, *((ends - window) // hop + 1).tolist()]
    longest = int(classifier.features.num_frames(classifier.max_train_samples))
    for before, count, result in zip(frames, frames[1:], found, strict=False):
        if count == before:
            assert result is None
            continue
        probabilities, shown, last = result
        assert probabilities == pytest.approx(expected[count - 1].probabilities.tolist(), abs=1e-4)
        assert shown == min(count, longest)
        assert last == pytest.approx(features[0, count - 1].tolist(), abs=1e-3)
    assert np.ptp([row[0] for row in found if row], axis=0).max() > 0.05  # they vary


def test_microphone_is_classified_by_the_stream_of_a_causal_model(browser, causal):
    with visit_folder(browser, causal) as page:
        with page.expect_request("**/stream.onnx"):
            page.click("#microphone")
        page.wait_for_selector("#label:not(:empty)")
        assert sum(probabilities(page).values()) == pytest.approx(1, abs=1e-3)
        assert page.is_hidden("#overlay")  # a stream has no attention weights
        page.click("#microphone")
        assert page.text_content("#error") == ""


def test_folder_is_complete_and_has_the_tuned_settings(static):
    settings = json.loads((static / "model.json").read_text())
    assert dict(zip(settings["labels"], settings["thresholds"], strict=True)) == {
        "low": 0.3,
        "middle": None,
        MARKUP: 0.6,
    }
    assert (settings["window_seconds"], settings["hop_seconds"], settings["smoothing_windows"]) == (0.3, 0.05, 4)
    assert len(settings["center_frequencies"]) == 20
    assert "Copyright (c) Microsoft Corporation" in (static / "runtime" / "LICENSE").read_text()
    assert not (static / "examples").exists()
    for file in static.glob("*.*"):
        assert file.suffix == ".onnx" or not re.search(r"https?://(?!www\.w3\.org)", file.read_text()), file


def test_errors_of_the_command_write_nothing(spectrnn, trained_run, tmp_path):
    (tmp_path / "page").mkdir()
    assert "port=70000: " in spectrnn("demo", f"run={trained_run}", "port=70000").error()
    assert "run=nowhere: no such" in spectrnn("demo", "run=nowhere", "out=other").error()
    assert (
        "out=page: exists already; remove it, or name another folder"
        in spectrnn("demo", f"run={trained_run}", "out=page").error()
    )
    assert [*tmp_path.iterdir()] == [tmp_path / "page"]
    assert not [*(tmp_path / "page").iterdir()]
