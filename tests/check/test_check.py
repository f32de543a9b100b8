"""Injected problems are reported by kind and name; a clean dataset has no issues."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soxr
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from spectrnn.check.analysis import analyze_dataset
from spectrnn.check.check import check_dataset, find_issues
from spectrnn.check.clean import clean_table, write_manifest
from spectrnn.check.near_duplicates import connected_components
from spectrnn.check.report import json_report, text_report
from spectrnn.config.instantiate import instantiate
from spectrnn.config.paths import CONFIG_DIR

LIMITS = instantiate(OmegaConf.load(CONFIG_DIR / "check.yaml").limits, "limits")


def problems(source):
    """Examples of the errors and warnings by kind, but empty splits."""
    issues = find_issues(analyze_dataset(source), LIMITS, source.sample_rate)
    return {x.kind: list(x.examples) for x in issues if x.level != "note" and x.kind != "empty splits"}


def test_clean_dataset_has_no_issues(dataset, manifest):
    assert problems(manifest(dataset)) == {}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("unreadable", lambda wave: np.append(wave, np.nan)),
        ("silent", lambda wave: wave * 1e-4),
        ("clipped", lambda wave: np.clip(wave * 10, -0.8, 0.8)),
        ("DC offset", lambda wave: wave + 0.1),
        ("bandwidth", lambda wave: soxr.resample(wave[: len(wave) // 3], 2000, 8000)),
    ],
)
def test_bad_clip_is_reported(dataset, manifest, sound, write_clip, tmp_path, kind, change):
    path = write_clip(tmp_path / "injected.wav", change(sound(1000, 0.6)), subtype="FLOAT")
    found = problems(manifest([*dataset, dataset[0]._replace(path=str(path))]))
    assert "injected.wav" in "".join(found[kind])
    assert len(found[kind]) == 1


@pytest.mark.parametrize("content", [b"", b"not audio"])
def test_unreadable_file_is_reported_and_the_others_are_analyzed(dataset, manifest, tmp_path, content):
    (tmp_path / "injected.wav").write_bytes(content)
    found = problems(manifest([dataset[0]._replace(path=str(tmp_path / "injected.wav")), *dataset]))
    assert list(found) == ["unreadable"]
    assert "injected.wav" in found["unreadable"][0]


def test_missing_file_is_reported_without_changing_the_source(dataset, manifest, tmp_path):
    source = manifest([*dataset, dataset[0]._replace(path=str(tmp_path / "missing.wav"))])
    before = dataclasses.asdict(source)
    assert problems(source) == {"unreadable": [f"{tmp_path / 'missing.wav'}: no such file"]}
    assert dataclasses.asdict(source) == before
    assert source.on_error == "fail"


def test_stereo_file_is_measured(dataset, manifest, write_clip, sound, tmp_path):
    wave = np.stack([sound(1, 0.5), 0.5 * sound(1, 0.5)], axis=1)
    path = write_clip(tmp_path / "stereo.flac", wave, 16000)
    stats = analyze_dataset(manifest([dataset[0]._replace(path=str(path)), *dataset])).stats[0]
    assert (stats.container, stats.rate, stats.channels, stats.seconds) == ("FLAC PCM_16", 16000, 2, 0.25)
    assert stats.peak == pytest.approx(np.abs(wave).max(), abs=1e-4)
    assert stats.rms == pytest.approx(wave.mean(1).std(), abs=1e-4)


COPIES = {
    "copy.wav": ("duplicates", lambda wave: wave, {}),
    "lossless.flac": ("duplicates", lambda wave: wave, {}),
    "padded.wav": ("duplicates", lambda wave: np.pad(wave, (333, 999)), {}),
    "lower.wav": ("near-duplicates", lambda wave: 0.4 * wave, {}),
    "compressed.mp3": ("near-duplicates", lambda wave: wave, {}),
    "vorbis.ogg": ("near-duplicates", lambda wave: wave, {}),
    "coarse.wav": ("near-duplicates", lambda wave: wave, {"subtype": "PCM_U8"}),
    "part.wav": ("overlaps", lambda wave: wave[len(wave) // 3 :], {}),
}


@pytest.mark.parametrize("name", COPIES)
def test_copy_in_the_test_split_is_found(dataset, manifest, write_clip, sound, tmp_path, name):
    kind, change, settings = COPIES[name]
    path = write_clip(tmp_path / name, change(sound(0)), **settings)
    found = problems(manifest([*dataset, dataset[0]._replace(path=str(path), split="test")]))
    assert list(found) == [f"{kind} across splits"]
    (example,) = found[f"{kind} across splits"]
    assert {part.rsplit("/")[-1] for part in example.split()} >= {"cata.wav", name}


def test_copy_at_another_sample_rate_is_a_near_duplicate(dataset, manifest, write_clip, sound, tmp_path):
    path = write_clip(tmp_path / "fast.wav", soxr.resample(sound(0), 8000, 44100), 44100)
    found = problems(manifest([*dataset, dataset[0]._replace(path=str(path), split="test")]))
    assert len(found["near-duplicates across splits"]) == 1


def test_copy_with_another_label_is_reported(dataset, manifest):
    found = problems(manifest([*dataset, dataset[0]._replace(label="dog")]))
    assert list(found) == ["duplicates with different labels", "duplicates"]


def test_groups_and_segments_in_several_splits_are_reported(dataset, manifest):
    grouped = [clip._replace(group="ann" if row in (0, 25) else f"person {row}") for row, clip in enumerate(dataset)]
    assert problems(manifest(grouped)) == {"groups across splits": ["'ann': test, train"]}
    trained = [clip._replace(group=f"person {row}") for row, clip in enumerate(dataset)]
    trained[:2] = [dataset[0]._replace(group="ann", split="train"), dataset[1]._replace(group="ann", split="val")]
    issues = find_issues(analyze_dataset(manifest(trained)), LIMITS, 8000)
    notes = {issue.kind: issue for issue in issues if "groups" in issue.kind}
    assert list(notes) == ["groups in training and validation"]
    note = notes["groups in training and validation"]
    assert (note.level, note.count, note.examples) == ("note", 1, ["'ann': train, val"])
    halves = [dataset[0]._replace(end=0.3), dataset[0]._replace(start=0.2, split="test"), *dataset[1:]]
    found = problems(manifest(halves))
    assert len(found["overlapping segments across splits"]) == 1
    apart = [dataset[0]._replace(end=0.2), dataset[0]._replace(start=0.2, split="test"), *dataset[1:]]
    assert list(problems(manifest(apart))) == ["files across splits"]


def test_cut_recording_in_several_splits_is_reported(dataset, manifest, write_clip, tmp_path):
    generator = np.random.default_rng(1)
    loudness = np.interp(np.arange(96000), np.arange(0, 96001, 4000), generator.uniform(0.5, 30, 25))
    wave = generator.normal(0, 0.005, 96000) * loudness

    def cut(name, order):
        return [
            dataset[part]._replace(
                path=str(write_clip(tmp_path / f"{name}{row:03d}.wav", wave[4000 * part :][:4000])),
                label=("cat", "dog")[row % 2],
                split=("train", "test")[row % 4 == 0],
            )
            for row, part in enumerate(order)
        ]

    assert list(problems(manifest([*dataset, *cut("take", range(24))]))) == ["cut recordings across splits"]
    assert problems(manifest([*dataset, *cut("other", generator.permutation(24))])) == {}


@pytest.mark.parametrize(
    ("feature", "ending", "change", "rate"),
    [
        ("format", "mp3", lambda wave: wave, 8000),
        ("sample rate", "wav", lambda wave: soxr.resample(wave, 8000, 16000), 16000),
        ("level", "wav", lambda wave: 2 * wave, 8000),
        ("duration", "wav", lambda wave: wave[:4000], 8000),
    ],
)
def test_class_that_is_predictable_from_metadata_is_reported(
    dataset, manifest, write_clip, sound, tmp_path, feature, ending, change, rate
):
    dogs = [
        clip._replace(path=str(write_clip(tmp_path / f"changed{row}.{ending}", change(sound(30 + row)), rate)))
        for row, clip in enumerate(dataset[30:])
    ]
    found = problems(manifest([*dataset[:30], *dogs]))
    assert {kind for kind in found if kind.startswith("predictable from")} == {f"predictable from {feature}"}


def test_small_and_missing_classes_are_reported(dataset, manifest):
    found = problems(manifest([*dataset, dataset[0]._replace(label="owl"), dataset[1]._replace(label="owl")]))
    assert found["small classes"] == ["owl: 2"]
    assert found["missing classes"] == ["owl: none in test"]


def test_dataset_that_cannot_be_split_is_reported(dataset, manifest):
    found = problems(manifest([clip._replace(split=None, fold="1") for clip in dataset]))
    assert "data.fold" in found["invalid splits"][0]


def run_check(table, *overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        settings = ["data=manifest", f"data.path={table}", "data.sample_rate=8000", *overrides]
        return check_dataset(compose("check", overrides=settings))


def with_problems(dataset, write_clip, sound, folder):
    """The dataset plus a copy in another split, one with another label, an excerpt, a broken and a silent file."""
    (folder / "broken.wav").write_bytes(b"")
    injected = {"copy.mp3": sound(0), "part.wav": sound(31)[1500:], "silent.wav": np.zeros(4000)}
    clips = [
        dataset[0]._replace(path=str(write_clip(folder / name, wave)), split="test") for name, wave in injected.items()
    ]
    clips[1] = clips[1]._replace(label="dog")
    return [*dataset, *clips, dataset[1]._replace(label="dog"), dataset[2]._replace(path=str(folder / "broken.wav"))]


@pytest.mark.parametrize("predefined", [True, False])
def test_cleaned_manifest_has_no_errors(dataset, manifest, write_clip, sound, tmp_path, capsys, predefined):
    clips = with_problems(dataset, write_clip, sound, tmp_path)
    table = manifest(clips if predefined else [clip._replace(split=None) for clip in clips])
    clean, report = tmp_path / "sub" / "clean.csv", tmp_path / "check.json"
    assert "error" in {issue.level for issue in run_check(table.path, f"out={clean}", f"report={report}")}
    report = json.loads(report.read_text())
    assert report["errors"] == sum(issue["level"] == "error" for issue in report["issues"]) > 2
    with clean.open() as file:
        rows = list(csv.DictReader(file))
    names = {Path(row["path"]).name: row for row in rows}
    assert not {"broken.wav", "silent.wav", "catb.wav"} & set(names)
    assert len({"copy.mp3", "cata.wav"} & set(names)) == 1
    if predefined:  # test clips are kept; their duplicates and excerpts in the training split are dropped
        assert "copy.mp3" in names
        assert "dogb.wav" not in names
    else:
        assert names["part.wav"]["split"] == names["dogb.wav"]["split"]
        assert names["part.wav"]["group"] == names["dogb.wav"]["group"] != ""
    assert "error" not in {issue.level for issue in run_check(clean)}
    assert "0 errors" in capsys.readouterr().out.splitlines()[-1]


def test_groups_with_duplicates_are_merged(dataset, manifest, tmp_path):
    clips = [clip._replace(split=None, group=f"person {row % 15}") for row, clip in enumerate(dataset)]
    table, dropped = clean_table(clips, [4], [[0, 1]], [[2, 3]], manifest(clips))
    assert dropped == {"unreadable or silent": 1, "duplicates": 1}
    groups = {Path(clip.path).name: clip.group for clip in table}
    assert groups["cata.wav"] == groups["catq.wav"] == "person 0"
    assert groups["catc.wav"] == groups["catd.wav"] == "person 2"
    splits = {group: {clip.split for clip in table if clip.group == group} for group in groups.values()}
    assert all(len(splits_of_group) == 1 for splits_of_group in splits.values())
    write_manifest(table, tmp_path / "deep" / "clean.csv")
    assert (tmp_path / "deep" / "clean.csv").read_text().splitlines()[1].startswith("../cata.wav,cat,")


def test_connected_components():
    assert connected_components([]) == []
    assert connected_components([[7, 3], [5], [1, 9, 4], [3, 2], [4, 0]]) == [[0, 1, 4, 9], [2, 3, 7]]
    assert connected_components([[0, 1], [2, 3], [3, 1], [0, 2]]) == [[0, 1, 2, 3]]


def test_real_digits_have_one_issue(source, real_digits):
    # 20 of the 1,455 samples of this clip are exactly 2048.
    assert problems(source("fsdd", root=real_digits)) == {"clipped": ["3_nicolas_19.wav: 0.6%"]}


def test_what_folders_contain_besides_audio_and_similar_labels_are_reported(source, tones, tmp_path):
    root = tmp_path / "tones"
    shutil.copytree(tones / "low", root / "Low")
    shutil.copytree(tones / "high", root / "low ")
    (root / "Low" / "gone.wav").symlink_to("nowhere.wav")
    for number in range(1200):
        (root / "low " / f"{number}.txt").touch()
    built = source("folder", root=root, sample_rate=8000)
    analysis = analyze_dataset(built)
    found = {issue.kind: issue for issue in find_issues(analysis, LIMITS, 8000)}
    assert found["similar labels"].examples == ["'Low' and 'low '"]
    assert found["broken link"].examples == [f"{root}/Low/gone.wav: broken link"]
    assert found["other kind"].text == f"1200 files of other kinds were ignored: 1200 .txt (such as {root}/low /0.txt)"
    report = json_report(analysis, list(found.values()))
    listed = next(issue["examples"] for issue in report["issues"] if issue["kind"] == "other kind")
    assert len(listed) == 1200
    assert len(text_report(analysis, list(found.values())).splitlines()) < 45
