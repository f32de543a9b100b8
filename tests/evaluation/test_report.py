"""Numbers, audio, images and size of the report; tests/cli/test_report.py opens it in a browser."""

import base64
import io
import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from spectrnn.config.instantiate import to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.clips import Clip
from spectrnn.data.dataset import open_dataset, open_dataset_for_evaluation
from spectrnn.evaluation.confusion import Confusion
from spectrnn.evaluation.evaluate import compute_metrics, predict_batches
from spectrnn.evaluation.metrics import Metric, Outcome, metrics_of, wilson_interval
from spectrnn.evaluation.report import html as report_page
from spectrnn.evaluation.report.answers import Answers
from spectrnn.evaluation.report.html import EvaluationResult, build_page, clip_source
from spectrnn.evaluation.report.map import principal_components
from spectrnn.evaluation.report.media import (
    audio_data_url,
    downsample,
    quantize_attention,
    render_clips,
    spectrogram_png,
)
from spectrnn.evaluation.report.tables import accuracy_by_group, accuracy_by_quantile, class_scores, reliability
from spectrnn.evaluation.report.text import class_rows, text_report
from spectrnn.evaluation.report.thresholds import operating_points
from spectrnn.evaluation.report.training import Training, learning_curves, package_versions, read_training
from spectrnn.messages import format_table
from spectrnn.model.classifier import Classifier, build_stages

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
    return Classifier(build_stages(to_container(config, ""), len(labels)), labels).eval()


@pytest.fixture(scope="module")
def evaluation(source, tone, tmp_path_factory):
    """Twelve tones per class; classes, groups and files have names with HTML that must not be interpreted."""
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
    outcome = predict_batches(model, dataset.batches("all", 8, torch.device("cpu")), with_embeddings=True)
    custom = {"clips_per_class": Metric(lambda p, t: len(t) / p.shape[1], "<clips> per class", is_fraction=False)}
    metrics = compute_metrics(outcome, dataset.labels, metrics_of(model.task, custom))
    return EvaluationResult(
        model, dataset, "all", outcome, metrics, 8, root / "<model>.safetensors", ["A <note>."], True
    )


def blocks(page: bytes) -> dict[str, dict]:
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page.decode(), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def listed_clips(report: dict) -> list[SimpleNamespace]:
    """The clips of a page's data, with names as answers.js gives them."""
    names = ("path", "start", "end", "group", "actual", "predicted", "seconds", "level", "scores")
    return [SimpleNamespace(**dict(zip(names, clip, strict=True))) for clip in report["clips"]]


def decoded(url: str) -> tuple[str, io.BytesIO]:
    kind, _, content = url.removeprefix("data:").partition(";base64,")
    return kind, io.BytesIO(base64.b64decode(content))


@pytest.mark.parametrize(("correct", "clips"), [(0, 1), (1, 1), (0, 10), (5, 10), (10, 10), (977, 1000)])
def test_wilson_interval_ends_where_the_score_test_rejects(correct, clips):
    for end in wilson_interval(correct, clips):
        spread = np.sqrt(end * (1 - end) / clips)
        assert abs(correct / clips - end) == pytest.approx(1.959964 * spread, abs=1e-6)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_reliability_equals_scikit_learn():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 500)
    correct = generator.random(500) < confidence
    rows = reliability(confidence, correct)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10)
    np.testing.assert_allclose([row[4] for row in rows], accuracy, atol=1e-4)
    np.testing.assert_allclose([row[2] for row in rows], mean, atol=1e-4)
    assert sum(row[3] for row in rows) == 500
    assert reliability(np.array([1.0]), np.array([True]))[0][:5] == [0.9, 1.0, 1.0, 1, 1.0]


def test_quantile_bins_contain_each_clip_once_in_similar_numbers():
    values = np.random.default_rng(1).gamma(2, size=400)
    correct = values > 1
    rows = accuracy_by_quantile(values, correct)
    assert len(rows) == 8
    for low, high, count, accuracy, *_ in rows:
        inside = (values >= low) & (values <= high)
        assert (inside.sum(), round(correct[inside].mean(), 4)) == (count, accuracy)
        assert 45 <= count <= 55
    assert sum(row[2] for row in rows) == 400
    assert [row[:3] for row in accuracy_by_quantile(np.ones(50), correct[:50])] == [[1.0, 1.0, 50]]
    assert len(accuracy_by_quantile(values[:3], correct[:3])) == 1


def test_groups_are_listed_by_accuracy_if_there_are_several():
    rows = accuracy_by_group(["a", "b", None, "a", "b", "c"], np.array([1, 0, 1, 1, 1, 1], bool))
    assert [row[:3] for row in rows] == [["b", 2, 0.5], ["a", 2, 1.0], ["c", 1, 1.0]]
    assert accuracy_by_group(["a", "a", None], np.ones(3, bool)) == accuracy_by_group([None], np.ones(1, bool)) == []
    assert len(accuracy_by_group([str(number) for number in range(100)], np.ones(100, bool))) == 40


@pytest.mark.parametrize("rate", [4000, 8000, 16000, 22050, 44100, 96000])
def test_audio_is_the_clip(rate):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate, dtype=np.float32)
    kind, file = decoded(audio_data_url(wave, rate))
    assert kind == "audio/mpeg"
    audio, audio_rate = soundfile.read(file)
    assert audio_rate in (16000, 22050, 44100, 48000)  # of MPEG-1 and 2
    assert len(audio) / audio_rate == pytest.approx(1, abs=0.01)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(audio)) / audio_rate)
    inner = slice(audio_rate // 10, -audio_rate // 10)
    assert np.abs(audio - expected)[inner].max() < 0.05


def test_audio_of_very_short_and_long_clips_has_a_bounded_size():
    assert len(soundfile.read(decoded(audio_data_url(np.ones(1, np.float32), 8000))[1])[0]) == 2  # at twice the rate
    audio, rate = soundfile.read(decoded(audio_data_url(np.zeros(70 * 8000, np.float32), 8000))[1])
    assert len(audio) / rate == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("stage", ["logmel", "mfcc"])
def test_spectrogram_of_a_tone_is_darkest_at_its_frequency(evaluation, stage):
    settings = (f"features={stage}", "features.n_mels=32", "features.deltas=1", "normalize=global", "model=bigru")
    model = classifier(evaluation.dataset.labels, *settings)
    row = next(row for row, clip in enumerate(evaluation.dataset.clips) if clip.path.endswith("3/11.wav"))
    (clip,) = render_clips(lambda _: model, evaluation.dataset, np.array([row]), 8)
    kind, file = decoded(clip["spectrogram"])
    image = np.asarray(Image.open(file).convert("L")).astype(float)
    assert kind == "image/png"
    assert image.shape == (32, int(model.features.num_frames(torch.tensor([round(0.32 * 8000)]))))
    hertz = model.features.center_frequencies.tolist()
    darkest = 31 - image.mean(1).argmin()
    assert hertz[darkest] == pytest.approx(300 * 1.05**14, rel=0.15)
    assert np.shape(clip["attention"]) == (4, image.shape[1])
    assert np.max(clip["attention"]) == 99


def test_spectrogram_and_attention_of_long_clips_are_downsampled():
    mel = np.random.default_rng(0).normal(size=(10_000, 200)).astype(np.float32)
    assert Image.open(decoded(spectrogram_png(mel))[1]).size == (400, 128)
    np.testing.assert_allclose(downsample(mel, 100), mel.reshape(100, 100, 200).mean(1), atol=1e-5)
    assert downsample(mel, 10_000) is mel
    assert np.shape(quantize_attention(mel[:, :3].T)) == (3, 200)


def test_audio_is_cropped_as_it_was_classified(evaluation):
    dataset = evaluation.dataset
    dataset.max_seconds = 0.15
    try:
        (clip,) = render_clips(lambda _: evaluation.classifier, dataset, dataset.rows("all")[11:12], 8)
    finally:
        dataset.max_seconds = None
    audio, rate = soundfile.read(decoded(clip["audio"])[1])
    assert len(audio) / rate == pytest.approx(0.15, abs=0.001)


def test_page_notes_clips_that_are_classified_in_crops(evaluation):
    evaluation.dataset.max_seconds = 0.15
    try:
        report = blocks(build_page(evaluation, 30_000_000))["report"]
    finally:
        evaluation.dataset.max_seconds = None
    assert report["notes"] == [
        "A <note>.",
        "36 of 48 clips are longer than 0.15 s (data.max_seconds); they are classified in overlapping crops, and the "
        "page shows the 0.15 s in their middle.",
    ]
    assert max(clip.seconds for clip in listed_clips(report)) == 0.15
    assert report["lengths"][-1][1] == 0.32  # of the whole clips


def test_page_contains_the_results(evaluation):
    found = blocks(build_page(evaluation, 30_000_000))
    report, clips = found["report"], listed_clips(found["report"])
    probabilities, targets = evaluation.outcome.probabilities, evaluation.outcome.targets
    is_error = probabilities.argmax(1) != targets
    assert report["count"] == len(clips) == len(found) - 1 == 48
    assert report["correct"] == 48 - is_error.sum()
    assert report["notes"] == ["A <note>."]
    errors = [clip for clip in clips if clip.actual != clip.predicted]
    assert all([clip.scores[0][0]] == clip.predicted for clip in clips)
    assert clips[: len(errors)] == errors
    assert len(errors) == is_error.sum() > 0
    confidence = [clip.scores[0][1] for clip in errors]
    assert confidence == sorted(confidence, reverse=True)
    assert confidence[0] == pytest.approx(probabilities.max(1)[is_error].max(), abs=1e-4)
    assert {clip.level for clip in clips} == {-9.0}  # a sine of amplitude 0.5, dBFS
    assert sorted({clip.seconds for clip in clips}) == pytest.approx([0.1 + 0.02 * index for index in range(12)])
    assert sum(row[3] for row in report["reliability"]) == sum(row[2] for row in report["lengths"]) == 48
    assert [row[1] for row in report["groups"]] == [16, 16, 16]
    assert [metric["title"] for metric in report["metrics"]] == [
        "accuracy",
        "balanced accuracy",
        "macro F1",
        "loss",
        "top-3 accuracy",
        "mean average precision",
        "AUROC",
        "calibration error",
        "<clips> per class",
    ]
    assert [metric["higher_is_better"] for metric in report["metrics"]] == [
        *(True, True, True, False, True, True, True, False, True)
    ]
    assert [metric["interval"] is None for metric in report["metrics"]] == [False] * 7 + [True] * 2
    assert report["metrics"][0]["value"] == (~is_error).mean()
    assert report["metrics"][8] | {"interval": None} == {
        "title": "<clips> per class",
        "higher_is_better": True,
        "is_fraction": False,
        "value": 12,
        "interval": None,
    }


def test_page_has_the_map_of_the_listed_clips(evaluation, monkeypatch):
    found = blocks(build_page(evaluation, 30_000_000))["report"]["map"]
    assert found["size"] == evaluation.outcome.embeddings.shape[1]
    assert [number for number, _, _ in found["points"]] == [*range(48)]
    order = Answers.of(evaluation.outcome).order()
    places, _ = principal_components(evaluation.outcome.embeddings[order])
    scaled = (places - places.min(0)) * 2000 / np.ptp(places, axis=0).max()
    assert np.abs(np.array(found["points"])[:, 1:] - scaled).max() <= 0.5 + 1e-6
    monkeypatch.setattr(report_page, "_MAX_CLIPS", 10)
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    assert [number for number, _, _ in report["map"]["points"]] == [*range(10)]
    unknown = evaluation._replace(outcome=evaluation.outcome._replace(embeddings=None))
    assert blocks(build_page(unknown, 30_000_000))["report"]["map"] is None


def test_names_are_not_interpreted_as_html(evaluation):
    page = build_page(evaluation, 30_000_000).decode()
    assert page.count("<script") == page.count("</script") == 48 + 2
    assert "<img" not in page
    assert "<model>" not in page
    report = blocks(page.encode())["report"]
    assert sorted(report["labels"]) == sorted(HOSTILE)
    first = listed_clips(report)[0]
    assert first.group.startswith("</script>")
    assert "<b>" in first.path


def test_page_stays_within_its_size_and_notes_omissions(evaluation, monkeypatch):
    whole = build_page(evaluation, 30_000_000)
    limit = len(whole) * 2 // 3
    page = build_page(evaluation, limit)
    found = blocks(page)
    rendered = len(found) - 1
    assert limit * 0.9 < len(page) <= limit
    assert 0 < rendered < 48
    assert {f"clip-{number}" for number in range(rendered)} < found.keys()  # the first of the list
    assert len(found["report"]["clips"]) == 48
    assert found["report"]["notes"][1] == (
        f"Audio and spectrogram of {48 - rendered} of the 48 listed clips are omitted, "
        f"to stay under {limit / 1e6:g} MB (report_max_mb)."
    )
    monkeypatch.setattr(report_page, "_MAX_CLIPS", 10)
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    assert len(report["clips"]) == 10
    assert report["notes"][1] == (
        "38 of 48 clips are omitted from the list of clips, as a page lists at most 10; "
        "the metrics include all of them."
    )
    assert report["count"] == 48


def test_format_table_aligns_columns():
    table = format_table(["class", "F1"], [["cat", "0.5"], ["a longer one", "0.25"]])
    assert table.splitlines() == ["class           F1", "cat            0.5", "a longer one  0.25"]


def test_text_report_contains_all_tables(evaluation):
    lines = text_report("all", evaluation.metrics | {"ece_uncalibrated": 0.25}).split("\n")
    assert lines[0].split() == ["all:", "48", "clips", "95", "%", "CI"]
    low, high = evaluation.metrics["intervals_95"]["accuracy"]
    assert lines[1].split() == ["accuracy", f"{evaluation.metrics['accuracy']:.4f}", f"{low:.4f}", "to", f"{high:.4f}"]
    assert lines[10].split() == ["calibration", "error,", "uncalibrated", "0.2500"]
    assert lines[12].split() == ["class", "precision", "recall", "F1", "clips"]
    counts = evaluation.metrics["confusion"]["counts"]
    for index, label in enumerate(evaluation.dataset.labels):
        row = evaluation.metrics["per_class"][label]
        values = [f"{row['precision']:.3f}", f"{row['recall']:.3f}", f"{row['f1']:.3f}", "12"]
        assert lines[13 + index].removeprefix(label).split() == values
        assert lines[-4 + index].removeprefix(f" {index} {label}").split() == [
            str(count or ".") for count in counts[index]
        ]
    large = {"labels": [*map(str, range(41))], "counts": np.zeros((41, 41), int).tolist()}
    assert text_report("all", evaluation.metrics | {"confusion": large}).splitlines()[-1] == (
        "(the confusion matrix of 41 classes is in confusion.png and metrics.json)"
    )


def test_page_has_the_labels_that_it_names(evaluation, monkeypatch):
    whole = blocks(build_page(evaluation, 30_000_000))["report"]
    for name in ("_MAX_MATRIX", "_MAX_CLASSES", "_MAX_CONFUSIONS", "_MAX_CLIPS", "_TOP_K"):
        monkeypatch.setattr(report_page, name, 1)
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    (clip,), ((true, predicted, *_),) = listed_clips(report), report["confusions"]
    assert [label for label, _ in clip.scores] == [*clip.predicted, *clip.actual]
    named = {*report["matrix"][0], report["classes"][0][0], true, predicted, *clip.predicted, *clip.actual}
    assert len(named) < len(HOSTILE)
    assert report["labels"] == [label if index in named else "" for index, label in enumerate(whole["labels"])]


def test_answers_of_label_sets():
    probabilities = np.array([[0.9, 0.6], [0.1, 0.2], [0.3, 0.8]])
    outcome = Outcome(probabilities, probabilities > 0.5, np.array([[True, True], [False, False], [True, False]]))
    answers = Answers.of(outcome)
    assert (answers.actual, answers.predicted) == ([[0, 1], [], [0]], [[0, 1], [], [1]])
    assert answers.correct.tolist() == [True, True, False]
    assert answers.confidence == pytest.approx([0.6, 0.8, 0.7])


def test_answers_of_a_single_label_are_in_order_of_interest():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    answers = Answers.of(Outcome(probabilities, probabilities.argmax(1), np.array([0, 0, 0, 0])))
    assert (answers.actual, answers.predicted) == ([[0]] * 4, [[0], [1], [1], [0]])
    assert answers.correct.tolist() == [True, False, False, True]
    assert answers.order().tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize(("clips", "digits"), [(7, 3), (300, 1), (300, 6), (5000, 7)])
def test_operating_points_equal_scikit_learn(clips, digits):
    generator = np.random.default_rng(clips + digits)
    is_positive = generator.random(clips) < 0.3
    is_positive[:2] = [True, False]
    scores = np.float32((generator.random(clips) * 0.6 + 0.4 * is_positive).round(digits))
    result = operating_points(scores, is_positive)
    assert result["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(is_positive, scores))
    assert result["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(is_positive, scores))
    assert (result["positives"], result["negatives"]) == (is_positive.sum(), (~is_positive).sum())
    thresholds = [threshold for threshold, _, _ in result["points"]]
    assert thresholds == sorted(thresholds)
    assert 0.5 in thresholds
    assert len(thresholds) == min(400, len({*scores.tolist(), 0.5}))
    assert result["points"][0][1:] == [is_positive.sum(), (~is_positive).sum()]  # all are detected
    for threshold, detected, false in result["points"]:
        is_detected = scores >= np.float32(threshold)
        assert [detected, false] == [(is_detected & is_positive).sum(), (is_detected & ~is_positive).sum()]


def test_learning_curves_have_finite_values_and_the_kept_epoch():
    rows = [
        {"epoch": 1, "train": {"loss": 2.0}, "val": {"macro_f1": 0.5, "loss": 1.5}},
        {"epoch": 2, "train": {"loss": float("nan")}, "val": {"macro_f1": 0.75, "loss": 1.25}},
    ]
    training = Training(rows, "macro_f1", 2, {})
    line = {"run": 0, "kept": 2}
    assert learning_curves([[training]], "macro_f1") == [
        {"title": "validation macro f1", "lines": [line | {"train": False, "points": [[1, 0.5], [2, 0.75]]}]},
        {
            "title": "loss",
            "lines": [
                line | {"train": False, "points": [[1, 1.5], [2, 1.25]]},
                line | {"train": True, "points": [[1, 2.0]]},
            ],
        },
    ]
    alone = [Training([row | {"val": None} for row in rows], "accuracy", None, {})]
    assert [(plot["title"], len(plot["lines"])) for plot in learning_curves([alone], "accuracy")] == [("loss", 1)]


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"history": 1}', '{"history": [{}], "metric": "loss", "best_epoch": 1, "versions": {}}', "[" * 100_000],
)
def test_training_of_a_damaged_file_is_unknown(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    assert read_training(tmp_path) is None
    assert read_training(tmp_path / "none") is None


def test_training_is_read_as_it_was_written(tmp_path):
    training = Training([{"epoch": 1, "train": {"loss": 1.0}, "val": {}}], "loss", 1, package_versions())
    (tmp_path / "metrics.json").write_text(json.dumps(training._asdict()))
    assert read_training(tmp_path) == training
    assert training.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_largest_errors_of_a_confusion_matrix():
    generator = np.random.default_rng(0)
    predicted, targets = generator.integers(0, 6, (2, 300))
    confusion = Confusion.count(predicted, targets, list("abcdef"))
    matrix = confusion.part(np.arange(6)) * (1 - np.eye(6, dtype=int))
    largest = confusion.largest_errors(10)
    assert [matrix[row, column] for row, column, _ in largest.tolist()] == largest[:, 2].tolist()
    assert largest[:, 2].tolist() == sorted(matrix.ravel().tolist(), reverse=True)[:10]


def test_class_without_clips_is_not_tested(evaluation):
    label, *others = evaluation.dataset.labels
    per_class = evaluation.metrics["per_class"]
    untested = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert class_scores(untested) == [None] * 3
    assert class_scores(per_class[others[0]]) == [per_class[others[0]][name] for name in ("precision", "recall", "f1")]
    metrics = evaluation.metrics | {"per_class": per_class | {label: untested}}
    assert class_rows(metrics)[0][0] == [label, "-", "-", "-", "0"]
    report = blocks(build_page(evaluation._replace(metrics=metrics), 30_000_000))["report"]
    assert report["classes"][-1] == [0, None, None, None, 0, None, None]
    assert report["untested"] == 1


def test_page_has_the_confusions_by_frequency(evaluation):
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    _, predicted, targets, *_ = evaluation.outcome
    for true, other, count, share in report["confusions"]:
        assert count == ((targets == true) & (predicted == other)).sum()
        assert share == pytest.approx(count / 12, abs=1e-4)
    assert sum(row[2] for row in report["confusions"]) == (predicted != targets).sum()


def test_page_has_all_probabilities_if_there_is_room(evaluation, monkeypatch):
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    values = np.frombuffer(base64.b64decode(report["probabilities"]), "<f4").reshape(48, len(HOSTILE))
    assert np.array_equal(values, evaluation.outcome.probabilities[Answers.of(evaluation.outcome).order()])
    monkeypatch.setattr(report_page, "_MAX_COLUMNS", len(HOSTILE) - 1)
    few = blocks(build_page(evaluation, 30_000_000))["report"]
    assert few["probabilities"] is None
    assert few["clips"] == report["clips"]


def test_page_has_configuration_and_versions_of_the_training(evaluation):
    report = blocks(build_page(evaluation, 30_000_000))["report"]
    assert (report["config"], report["curves"], report["trained_with"]) == ("", [], {})
    training = Training([{"epoch": 1, "train": {"loss": 1.0}, "val": {}}], "loss", 1, {"spectrnn": "0.1.0"})
    config = {"model": {"_target_": "</script>", "size": 3}, "labels": ["é"]}
    page = build_page(evaluation._replace(config=config, training=[training]), 30_000_000)
    report = blocks(page)["report"]
    assert yaml.safe_load(report["config"]) == config
    assert report["trained_with"] == {"spectrnn": "0.1.0"}
    assert report["versions"] == package_versions()
    assert page.count(b"</script") == 48 + 2


def test_source_of_a_clip_is_its_part_of_a_file():
    assert clip_source(Clip("data/a/b.wav", "x"), "data/") == ["a/b.wav", 0.0, None]
    assert clip_source(Clip("https://host/b.wav", "x", start=1.5, end=2.0), "") == ["https://host/b.wav", 1.5, 2.0]


@pytest.mark.parametrize(
    ("paths", "prefix", "base"),
    [
        (["data/a/1.wav", "data/b/2.wav"], "data/", "{cwd}/data/"),
        (["1.wav", "b/2.wav"], "", "{cwd}/"),
        (["https://host/a/1.wav", "https://host/a/2.wav"], "https://host/a/", "https://host/a/"),
        (["/data/1.wav", "/data/2.wav"], "/data/", "/data/"),
        (["1.wav", "https://host/2.wav"], "", "{cwd}/"),
    ],
)
def test_page_has_the_paths_of_the_dataset_and_absolute_ones(evaluation, paths, prefix, base):
    clips = [clip._replace(path=paths[row % 2]) for row, clip in enumerate(evaluation.dataset.clips)]
    result = evaluation._replace(dataset=replace(evaluation.dataset, clips=clips))
    report = blocks(build_page(result, 30_000_000))["report"]
    assert (report["prefix"], report["base"]) == (prefix, base.format(cwd=os.getcwd()))
    assert {report["prefix"] + clip.path for clip in listed_clips(report)} == {*paths}


def test_spectrogram_of_a_long_clip_has_more_columns(source, tone, tmp_path):
    for label, seconds in (("long", 70), ("middle", 30), ("short", 2)):
        tone(tmp_path / label / "a.wav", seconds)
    cpu, labels = torch.device("cpu"), ["long", "middle", "short"]
    dataset, _ = open_dataset_for_evaluation(source("folder", root=tmp_path, sample_rate=8000), "all", labels, cpu)
    model = classifier(dataset.labels)
    clips = render_clips(lambda _: model, dataset, np.arange(3), 8)
    widths = [Image.open(decoded(clip["spectrogram"])[1]).size[0] for clip in clips]
    assert widths == [2400, 1200, int(model.features.num_frames(torch.tensor([16000])))]
