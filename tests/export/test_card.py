"""Metadata of the model card, and the accuracy by condition that it states."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from spectrnn.data.dataset import open_dataset
from spectrnn.evaluation.evaluate import compute_metrics
from spectrnn.evaluation.metrics import METRICS, Outcome
from spectrnn.export.card_metadata import card_metadata, dataset_name
from spectrnn.export.conditions import accuracy_by_condition, estimate_snr, groups_or_folds

NAMES = ("accuracy", "macro_f1", "loss")


@pytest.fixture
def reports():
    """Metrics of two splits of random probabilities of three classes."""
    generator = np.random.default_rng(0)
    metrics = {name: METRICS[name] for name in NAMES}

    def report(clips):
        probabilities = generator.dirichlet(np.ones(3), clips)
        outcome = Outcome(probabilities, probabilities.argmax(1), np.arange(clips) % 3)
        return compute_metrics(outcome, ["a", "b", "c"], metrics)

    return {"val": report(30), "test": report(40)}


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("unknown", {"license": "unknown"}),
        ("GPL-3.0-only", {"license": "other", "license_name": "GPL-3.0-only"}),
    ],
)
def test_license_is_one_of_the_hub_or_named(source, reports, license, expected):
    content = yaml.safe_load(card_metadata("title", license, source("fsdd"), True, reports))
    assert {key: value for key, value in content.items() if key.startswith("license")} == expected


def test_datasets_are_those_of_the_hub_that_the_model_was_trained_on(source, reports):
    def datasets(name, is_trained_on=True):
        return yaml.safe_load(card_metadata("title", "MIT", source(name), is_trained_on, reports)).get("datasets")

    assert datasets("speech_commands") == ["google/speech_commands"]
    assert datasets("speech_commands", is_trained_on=False) is None
    assert datasets("esc50") is None


def test_dataset_has_the_name_that_its_description_begins_with(source, tmp_path):
    assert dataset_name(source("fsdd")) == "Free Spoken Digit Dataset"
    assert dataset_name(source("synthetic_speech")) == "Synthetic speech"
    assert dataset_name(source("folder", root=tmp_path, description="Doors: three of them")) == "Doors"
    assert dataset_name(source("folder", root=tmp_path)) == "recordings"


def test_metadata_is_read_by_hugging_face(source, reports, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    title = 'Sound classifier with 3 classes: <a>, # "b"'
    metadata = card_metadata(title, "CC-BY-4.0", source("speech_commands"), True, reports)
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n\n# Title\n")
    card = hub.ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "onnx", "audio-classification")
    assert (data.model_name, data.datasets) == (title, ["google/speech_commands"])
    assert {"audio-classification", "onnx"} <= {*data.tags}
    assert data.metrics == ["accuracy", "f1", "loss"]
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    types = dict(zip(NAMES, data.metrics, strict=True))
    assert found == {
        (split, types[name]): round(report[name], 4) for split, report in reports.items() for name in NAMES
    }
    assert {result.task_type for result in data.eval_results} == {"audio-classification"}
    assert {result.dataset_type for result in data.eval_results} == {"google/speech_commands"}


def test_accuracy_by_level_length_and_group(source, tone, tmp_path):
    for number in range(40):  # two amplitudes, two lengths, two speakers
        label, speaker = "ab"[number % 2], "xy"[number // 20]
        seconds, amplitude = (0.1, 0.3)[number // 10 % 2], (0.01, 0.5)[number // 2 % 2]
        tone(tmp_path / label / f"{speaker}_{number:02d}.wav", seconds, amplitude=amplitude)
    data = source("folder", root=tmp_path, group="([xy])_", sample_rate=8000, fold="none", val_fraction=0)
    dataset = open_dataset(data, torch.device("cpu"))
    batches = dataset.batches("train", 8, torch.device("cpu"))
    names = [Path(dataset.clips[row].path).stem for row in batches.rows]
    is_correct = np.array([int(name[2:]) // 2 % 2 == 1 or name[0] == "y" for name in names])  # loud ones, and y
    found = accuracy_by_condition(data, dataset, batches, is_correct)
    assert {(row[0], row[1]) for row in found.lengths} <= {(0.1, 0.1), (0.3, 0.3)}
    quiet, loud = found.levels[0], found.levels[-1]
    for row, amplitude in ((quiet, 0.01), (loud, 0.5)):
        assert row[:2] == pytest.approx([20 * np.log10(amplitude / np.sqrt(2))] * 2, abs=0.2)
    assert (quiet[3], loud[3]) == (0.5, 1.0)
    assert found.group_noun == "group"
    assert [row[:3] for row in found.groups] == [["x", 20, 0.5], ["y", 20, 1.0]]


def test_accuracy_by_estimated_snr(source, tmp_path):
    """Bursts of a tone in noise: the estimate is (signal + noise) / noise; the noisier half of the clips is wrong."""
    generator = np.random.default_rng(0)
    for number in range(40):
        noise = generator.standard_normal(8000)
        tone = np.sqrt(2) * np.sin(0.5 * np.arange(8000)) * (np.arange(8000) // 2000 % 2)
        snr_db = (10, 40)[number // 2 % 2]
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        wave = 0.1 * (tone + 10 ** (-snr_db / 20) * noise)
        soundfile.write(tmp_path / "ab"[number % 2] / f"{snr_db}_{number}.wav", wave, 8000)
    data = source("folder", root=tmp_path, sample_rate=8000, fold="none", val_fraction=0, max_seconds=0.7)
    dataset = open_dataset(data, torch.device("cpu"))
    batches = dataset.batches("train", 8, torch.device("cpu"), cover=True)  # two crops of each
    is_correct = np.array(["/40_" in dataset.clips[row].path for row in batches.rows])
    noisy, *_, clear = found = accuracy_by_condition(data, dataset, batches, is_correct).snrs
    assert sum(row[2] for row in found) == 40
    assert noisy[:2] == pytest.approx([10 * np.log10(11)] * 2, abs=1)
    assert clear[:2] == pytest.approx([40, 40], abs=1)
    assert (noisy[3], clear[3]) == (0, 1)
    short = estimate_snr(generator.standard_normal((2, 8000)), np.array([1599, 8000]), 8000)  # of 9 and 50 frames
    assert np.isnan(short[0])
    assert 0 < short[1] < 3  # steady noise has none


def test_speakers_of_the_official_split_are_its_folds(source, tone, tmp_path):
    for speaker in ("ann", "bob"):
        for index in range(7):
            for digit in (0, 1):
                tone(tmp_path / f"{digit}_{speaker}_{index}.wav")
    data = source("fsdd", root=tmp_path)
    dataset = open_dataset(data, torch.device("cpu"))
    assert groups_or_folds(data, dataset) == ("speaker", [clip.fold for clip in dataset.clips])
    assert {clip.fold for clip in dataset.clips} == {"ann", "bob"}
