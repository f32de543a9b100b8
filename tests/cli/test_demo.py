"""`spectrnn demo` in a real browser: the page hears what PyTorch hears, from files and from a microphone."""

import http.server
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectrnn import load
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.model import serialization as model_file

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKUP = "<img src=x onerror=alert(1)>"  # a label of a stranger
WITHOUT_NPM = ("there is no npm", "npm could not fetch")


def demo(*arguments):
    return [sys.executable, "-m", "spectrnn", "demo", *map(str, arguments)]


def skip_without_npm(said):
    if any(sentence in said for sentence in WITHOUT_NPM):
        pytest.skip(said.splitlines()[-1])


@pytest.fixture(scope="module")
def browser(tone, tmp_path_factory):
    """Chromium, whose microphone hears the tone of the class ``middle`` all the time."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    fake = tone(tmp_path_factory.mktemp("fake") / "middle.wav", 4.0, 48000, frequency=945)
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={fake}",
    ]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(trained, listening):
    """The address at which the command serves the page; Ctrl-C ends it well."""
    command = demo(f"run={trained}", "port=0", "open=false")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **listening)
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            break
    else:
        skip_without_npm(said)
        pytest.fail(said)
    yield found[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def static(trained, tmp_path_factory):
    """The page as a folder, of a model that has thresholds, and a label that is markup."""
    folder = tmp_path_factory.mktemp("static")
    classifier, config = model_file.load(trained / "model.safetensors")
    classifier.labels = [MARKUP if label == "high" else label for label in classifier.labels]
    tuned_thresholds = TunedThresholds(
        thresholds={MARKUP: 0.6, "low": 0.3},
        background=["middle"],
        max_false_alarms_per_hour=1.0,
        hours=2.0,
        window=0.3,
        hop=0.05,
        smoothing_windows=4,
        offset_ratio=0.7,
        min_event_seconds=0.1,
    )
    model_file.save(classifier, config, folder / "model.safetensors", tuned_thresholds=tuned_thresholds)
    command = demo(f"run={folder / 'model.safetensors'}", f"out={folder / 'page'}", "data.root=nowhere")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    skip_without_npm(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "the page has no examples: data.root=nowhere" in done.stderr
    return folder / "page"


@contextmanager
def visit(browser, address):
    """The page there, which complains of nothing, and asks nobody but its own host."""
    context = browser.new_context(permissions=["microphone"])
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#listen:enabled")
    yield page
    context.close()
    assert said == []
    assert {url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))} == set()
    assert f"{address}model.onnx" in asked


@pytest.fixture(scope="module")
def page(browser, served):
    with visit(browser, served) as page:
        yield page


def give(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector(f"#of:has-text('{path.name}')")
    page.wait_for_selector("main[aria-busy=false] #label:not(:empty)")


def shares(page):
    return {
        row.get_attribute("aria-label"): float(row.get_attribute("aria-valuenow"))
        for row in page.query_selector_all("#bars [role=meter]")
    }


@pytest.mark.parametrize("frequency", [300, 600, 2700])
def test_a_file_is_heard_as_pytorch_hears_it(page, trained, tone, tmp_path, frequency):
    path = tone(tmp_path / "tone.wav", 0.31, frequency=frequency)
    expected = load(trained).predict(*soundfile.read(path, dtype="float32"))
    give(page, path)
    assert shares(page) == pytest.approx(expected.probabilities, abs=1e-3)
    assert page.text_content("#label") == expected.label
    assert page.is_hidden("#course")


def test_a_dropped_file_of_another_rate_and_two_channels_says_the_same(page, tone, tmp_path):
    path = tone(tmp_path / "stereo.wav", 0.4, 44100, channels=2, frequency=2700)
    page.evaluate(
        """([bytes, name]) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
    }""",
        [list(path.read_bytes()), path.name],
    )
    page.wait_for_selector("#of:has-text('stereo.wav, 0.40 s')")
    page.wait_for_selector("#label:has-text('high')")


def test_resampling_keeps_what_the_new_rate_can_hold(page):
    def resampled(frequency):
        sound = np.sin(2 * np.pi * frequency / 48000 * np.arange(9600))
        call = "async (sound) => [...(await import('./audio.js')).resample(sound, 48000, 8000)]"
        return np.array(page.evaluate(call, sound.tolist()))

    expected = np.sin(2 * np.pi * 1000 / 8000 * np.arange(1600))
    np.testing.assert_allclose(resampled(1000)[50:-50], expected[50:-50], atol=2e-3)
    assert abs(resampled(6000)[50:-50]).max() < 2e-3


def test_examples_are_clips_of_the_test_split(page):
    assert page.locator("#examples button").all_text_contents() == ["high", "low", "middle"]
    for label in ("low", "high"):
        page.click(f"#examples button:has-text('{label}')")
        page.wait_for_selector(f"#of:has-text('{label}')")
        page.wait_for_selector(f"#label:has-text('{label}')")


def test_a_long_recording_is_heard_where_it_is_played(page, tmp_path):
    time = np.arange(8000) / 8000
    sound = np.concatenate([0.5 * np.sin(2 * np.pi * frequency * time) for frequency in (315, 2835)])
    soundfile.write(tmp_path / "long.wav", sound, 8000)
    give(page, tmp_path / "long.wav")
    assert page.is_visible("#timeline")
    assert page.text_content("#label") == "low"
    box = page.locator("#timeline").bounding_box()
    page.locator("#timeline").click(position={"x": box["width"] - 20, "y": 10})
    page.wait_for_selector("#label:has-text('high')")
    page.evaluate("audio => document.querySelector('#audio').currentTime = 0")
    page.wait_for_selector("#label:has-text('low')")


@pytest.mark.parametrize("heard", [0, 3, 10, 13, 20, 27])
def test_the_ring_holds_the_latest_samples_in_their_order(page, heard):
    found = page.evaluate(
        """async (heard) => {
        const ring = new (await import("./audio.js")).Ring(10);
        const sound = [...Array(heard).keys()];
        for (let at = 0; at < heard; at += 4) ring.append(sound.slice(at, at + 4));
        return [...ring.latest()];
    }""",
        heard,
    )
    assert found == [*range(heard)][-10:]


REFUSES_RATES = """() => {
    globalThis.AudioContext = class extends AudioContext {
        constructor(options) {
            if (options) throw new DOMException("of another rate", "NotSupportedError");
            super();
        }
    };
}"""


@pytest.mark.parametrize("before", ["() => null", REFUSES_RATES], ids=["resampled by the browser", "by the page"])
def test_the_microphone_is_heard(page, before):
    page.reload()
    page.wait_for_selector("#listen:enabled")
    page.evaluate(before)
    page.keyboard.press("Space")
    page.wait_for_selector("#listen[aria-pressed=true]")
    page.wait_for_selector("#label:has-text('middle'):not(.unsure)")
    assert max(shares(page), key=shares(page).get) == "middle"
    page.keyboard.press("Space")
    page.wait_for_selector("#listen[aria-pressed=false]")


def test_mistakes_are_sentences_in_the_page(page, tmp_path):
    (tmp_path / "note.wav").write_text("this is no sound")
    page.set_input_files("#file", tmp_path / "note.wav")
    page.wait_for_selector("#problem:has-text('note.wav: cannot be decoded')")
    refusal = (
        "() => navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') }"
    )
    page.evaluate(refusal)
    page.click("#listen")
    page.wait_for_selector("#problem:has-text('does not let this page hear the microphone')")
    assert page.get_attribute("#listen", "aria-pressed") == "false"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_the_folder_works_on_any_host_and_labels_are_text(browser, static, tone, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(static))) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        with visit(browser, f"http://127.0.0.1:{host.server_port}/") as page:
            give(page, tone(tmp_path / "high.wav", 0.25, frequency=2700))
            assert page.text_content("#label") == MARKUP
            assert page.locator("img").count() == 0
            assert page.is_hidden("#examples")
            marks = page.locator("#bars .mark:not([hidden])")
            assert marks.evaluate_all("marks => marks.map((mark) => mark.style.left)") == ["60%", "30%"]
        host.shutdown()


def test_the_folder_holds_all_that_it_needs(static):
    told = json.loads((static / "model.json").read_text())
    assert dict(zip(told["labels"], told["thresholds"], strict=True)) == {"low": 0.3, "middle": None, MARKUP: 0.6}
    assert (told["window_seconds"], told["hop_seconds"], told["smoothing_windows"]) == (0.3, 0.05, 4)
    assert "Copyright (c) Microsoft Corporation" in (static / "runtime" / "LICENSE").read_text()
    assert not (static / "examples").exists()
    for file in static.glob("*.*"):
        assert file.suffix == ".onnx" or not re.search(r"https?://(?!www\.w3\.org)", file.read_text()), file


def test_mistakes_leave_nothing_behind(spectrnn, trained, tmp_path):
    out = Path("page")
    assert "port=70000" in spectrnn("demo", f"run={trained}", "port=70000").mistake()
    assert "no such run" in spectrnn("demo", "run=nowhere", f"out={out}").mistake()
    out.mkdir()
    assert "out=page: is there already" in spectrnn("demo", f"run={trained}", f"out={out}").mistake()
    assert [*tmp_path.iterdir()] == [tmp_path / "page"]
