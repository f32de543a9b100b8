"""The report's numbers, sounds, pictures and bytes; tests/cli/test_report.py opens it in a browser."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn.calibration import calibration_curve

from spectrnn.config.instantiate import to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import open_dataset
from spectrnn.evaluation.evaluate import compute_metrics, predict_batches
from spectrnn.evaluation.report import html as report_page
from spectrnn.evaluation.report.html import EvaluationResult, build_page
from spectrnn.evaluation.report.media import audio_data_url, downsample, media, quantize_attention, spectrogram_png
from spectrnn.evaluation.report.tables import accuracy_by_group, accuracy_by_quantile, reliability, wilson_interval
from spectrnn.model.classifier import Classifier

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a<!--b",
    "$\u2028{data}",
]


def classifier(labels, *overrides, rate=8000):
    torch.manual_seed(0)
    settings = [f"data.sample_rate={rate}", "features.n_mels=32", "model.hidden_size=6", "model.num_layers=1"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", [*settings, *overrides])
    stages = {name: to_container(config[name], name) for name in ("features", "normalize", "model", "pooling", "head")}
    return Classifier(stages, labels).eval()


@pytest.fixture(scope="module")
def evaluation(source, tone, tmp_path_factory):
    """Twelve tones a class; the classes, their groups and files have names that would break out of a page."""
    root = tmp_path_factory.mktemp("hostile")
    rows = []
    for number, label in enumerate(HOSTILE):
        for index in range(12):
            frequency = 300 * 1.05 ** (number + index)
            path = tone(root / f"<b>{number}" / f"{index}.wav", 0.1 + 0.02 * index, frequency=frequency)
            rows.append({"path": str(path), "label": label, "group": f"</script>{index % 3}", "split": "train"})
    (root / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = open_dataset(source("manifest", path=root / "clips.jsonl", sample_rate=8000), torch.device("cpu"))
    model = classifier(dataset.labels)
    probabilities, targets = predict_batches(model, dataset.batches("all", 8, torch.device("cpu")))
    figures = compute_metrics(probabilities, targets, dataset.labels)
    return EvaluationResult(
        model, dataset, "all", probabilities, figures, 8, root / "<model>.safetensors", ["A <note>."], True
    )


def blocks(page: bytes) -> dict[str, dict]:
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page.decode(), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def decoded(url: str) -> tuple[str, io.BytesIO]:
    kind, _, content = url.removeprefix("data:").partition(";base64,")
    return kind, io.BytesIO(base64.b64decode(content))


@pytest.mark.parametrize(("right", "clips"), [(0, 1), (1, 1), (0, 10), (5, 10), (10, 10), (977, 1000)])
def test_the_ends_of_an_interval_are_just_compatible_with_what_was_found(right, clips):
    for end in wilson_interval(right, clips):  # by its definition: the score test does not refuse such a share
        spread = np.sqrt(end * (1 - end) / clips)
        assert abs(right / clips - end) == pytest.approx(1.959964 * spread, abs=1e-6)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_reliability_is_sklearns():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 500)
    right = generator.random(500) < confidence
    rows = reliability(confidence, right)
    share, mean = calibration_curve(right, confidence, n_bins=10)
    np.testing.assert_allclose([row[4] for row in rows], share, atol=1e-4)
    np.testing.assert_allclose([row[2] for row in rows], mean, atol=1e-4)
    assert sum(row[3] for row in rows) == 500
    assert reliability(np.array([1.0]), np.array([True]))[0][:5] == [0.9, 1.0, 1.0, 1, 1.0]


def test_bins_of_a_quantity_hold_every_clip_once_in_like_numbers():
    values = np.random.default_rng(1).gamma(2, size=400)
    right = values > 1
    rows = accuracy_by_quantile(values, right)
    assert len(rows) == 8
    for low, high, count, share, *_ in rows:
        inside = (values >= low) & (values <= high)
        assert (inside.sum(), round(right[inside].mean(), 4)) == (count, share)
        assert 45 <= count <= 55
    assert sum(row[2] for row in rows) == 400
    assert [row[:3] for row in accuracy_by_quantile(np.ones(50), right[:50])] == [[1.0, 1.0, 50]]
    assert len(accuracy_by_quantile(values[:3], right[:3])) == 1


def test_groups_come_worst_first_and_only_where_there_are_some():
    rows = accuracy_by_group(["a", "b", None, "a", "b", "c"], np.array([1, 0, 1, 1, 1, 1], bool))
    assert [row[:3] for row in rows] == [["b", 2, 0.5], ["a", 2, 1.0], ["c", 1, 1.0]]
    assert accuracy_by_group(["a", "a", None], np.ones(3, bool)) == accuracy_by_group([None], np.ones(1, bool)) == []
    assert len(accuracy_by_group([str(number) for number in range(100)], np.ones(100, bool))) == 40


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 22050, 44100, 96000])
def test_what_is_heard_is_the_clip(rate):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate, dtype=np.float32)
    kind, file = decoded(audio_data_url(wave, rate))
    assert kind == "audio/mpeg"
    heard, its_rate = soundfile.read(file)
    assert its_rate in (16000, 22050, 44100, 48000)  # of MPEG-1 and 2
    assert len(heard) / its_rate == pytest.approx(1, abs=0.01)
    truth = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / its_rate)
    inner = slice(its_rate // 10, -its_rate // 10)
    assert np.abs(heard - truth)[inner].max() < 0.05


def test_clips_of_a_sample_or_of_hours_have_a_sound_of_bounded_size():
    assert len(soundfile.read(decoded(audio_data_url(np.ones(1, np.float32), 8000))[1])[0]) == 2  # at twice the rate
    heard, rate = soundfile.read(decoded(audio_data_url(np.zeros(70 * 8000, np.float32), 8000))[1])
    assert len(heard) / rate == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("stage", ["logmel", "mfcc"])
def test_a_tone_is_dark_where_the_axis_says(evaluation, stage):
    model = classifier(evaluation.dataset.labels, f"features={stage}", "features.n_mels=32", "features.deltas=1")
    row = next(row for row, clip in enumerate(evaluation.dataset.clips) if clip.path.endswith("3/11.wav"))
    (clip,) = media(model, evaluation.dataset, np.array([row]), 8)
    kind, file = decoded(clip["picture"])
    image = np.asarray(Image.open(file).convert("L")).astype(float)
    assert kind == "image/png"
    assert image.shape == (32, int(model.features.num_frames(torch.tensor([round(0.32 * 8000)]))))
    hertz = model.features.frequencies.tolist()
    darkest = 31 - image.mean(1).argmin()
    assert hertz[darkest] == pytest.approx(300 * 1.05**14, rel=0.15)
    assert np.shape(clip["attention"]) == (4, image.shape[1])
    assert np.max(clip["attention"]) == 99


def test_pictures_and_lines_of_long_clips_are_means_of_runs():
    mel = np.random.default_rng(0).normal(size=(10_000, 200)).astype(np.float32)
    assert Image.open(decoded(spectrogram_png(mel))[1]).size == (400, 128)
    np.testing.assert_allclose(downsample(mel, 100), mel.reshape(100, 100, 200).mean(1), atol=1e-5)
    assert downsample(mel, 10_000) is mel
    assert np.shape(quantize_attention(mel[:, :3].T)) == (3, 200)


def test_a_clip_is_heard_as_it_was_cropped(evaluation):
    dataset = evaluation.dataset
    dataset.max_seconds = 0.15
    try:
        (clip,) = media(evaluation.classifier, dataset, dataset.rows("all")[11:12], 8)
    finally:
        dataset.max_seconds = None
    heard, rate = soundfile.read(decoded(clip["sound"])[1])
    assert len(heard) / rate == pytest.approx(0.15, abs=0.001)


def test_the_page_tells_what_was_found(evaluation):
    found = blocks(build_page(evaluation, 30_000_000))
    report, clips = found["report"], found["report"]["clips"]
    probabilities, targets = evaluation.probabilities, evaluation.dataset.targets(evaluation.dataset.rows("all"))
    wrong = probabilities.argmax(1) != targets
    assert report["count"] == len(clips) == len(found) - 1 == 48
    assert report["right"] == 48 - wrong.sum()
    assert report["notes"] == ["A <note>."]
    errors = [clip for clip in clips if clip[2] != clip[5][0][0]]
    assert clips[: len(errors)] == errors
    assert len(errors) == wrong.sum() > 0
    sure = [clip[5][0][1] for clip in errors]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] == pytest.approx(probabilities.max(1)[wrong].max(), abs=1e-4)
    assert {clip[4] for clip in clips} == {-9.0}  # a sine of amplitude 0.5, dBFS
    assert sorted({clip[3] for clip in clips}) == pytest.approx([0.1 + 0.02 * index for index in range(12)])
    assert sum(row[3] for row in report["reliability"]) == sum(row[2] for row in report["lengths"]) == 48
    assert [row[1] for row in report["groups"]] == [16, 16, 16]


def test_no_name_breaks_out_of_the_page(evaluation):
    page = build_page(evaluation, 30_000_000).decode()
    assert page.count("<script") == page.count("</script") == 48 + 2
    assert "<img" not in page
    assert "<model>" not in page
    report = blocks(page.encode())["report"]
    assert sorted(report["labels"]) == sorted(HOSTILE)
    assert report["clips"][0][1].startswith("</script>")
    assert "<b>" in report["clips"][0][0]


def test_a_page_stays_below_its_limit_and_says_what_it_left_out(evaluation, monkeypatch):
    whole = build_page(evaluation, 30_000_000)
    limit = len(whole) * 2 // 3
    page = build_page(evaluation, limit)
    found = blocks(page)
    rendered = len(found) - 1
    assert limit * 0.9 < len(page) <= limit
    assert 0 < rendered < 48
    assert {f"clip-{number}" for number in range(rendered)} < found.keys()  # the first of the list
    assert len(found["report"]["clips"]) == 48
    assert f"Sound and picture of {48 - rendered} of the 48 listed clips" in found["report"]["notes"][1]
    monkeypatch.setattr(report_page, "_MOST_CLIPS", 10)
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    assert len(report["clips"]) == 10
    assert "38 of 48 clips are left out of the list" in report["notes"][1]
    assert report["count"] == 48
