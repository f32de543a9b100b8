"""What is planted is found, by its name and under its kind, and the clean dataset gives no alarm."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soxr
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from spectrnn.check.check import all_issues, analyse_dataset, build_limits, check_dataset
from spectrnn.check.clean import clean_table, write_manifest
from spectrnn.config.paths import CONFIG_DIR

LIMITS = build_limits(OmegaConf.load(CONFIG_DIR / "check.yaml").limits)


def alarms(source):
    """Kind -> examples, of errors and warnings."""
    findings = all_issues(analyse_dataset(source), LIMITS, source.sample_rate)
    return {f.kind: list(f.examples) for f in findings if f.level != "note" and f.kind != "empty splits"}


def test_a_clean_corpus_gives_no_alarm(dataset, manifest):
    assert alarms(manifest(dataset)) == {}


def nan(wave):
    return np.append(wave, np.nan)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("broken", nan),
        ("silent", lambda wave: wave * 1e-4),
        ("clipped", lambda wave: np.clip(wave * 10, -0.8, 0.8)),
        ("offset", lambda wave: wave + 0.1),
        ("bandwidth", lambda wave: soxr.resample(wave[: len(wave) // 3], 2000, 8000)),
    ],
)
def test_a_bad_file_is_named(dataset, manifest, sound, write, tmp_path, kind, change):
    path = write(tmp_path / "planted.wav", change(sound(1000, 0.6)), subtype="FLOAT")
    found = alarms(manifest([*dataset, dataset[0]._replace(path=str(path))]))
    assert "planted.wav" in "".join(found[kind])
    assert len(found[kind]) == 1


@pytest.mark.parametrize("content", [b"", b"no sound"])
def test_a_file_without_sound_is_named_and_the_others_are_examined(dataset, manifest, tmp_path, content):
    (tmp_path / "planted.wav").write_bytes(content)
    found = alarms(manifest([dataset[0]._replace(path=str(tmp_path / "planted.wav")), *dataset]))
    assert list(found) == ["broken"]
    assert "planted.wav" in found["broken"][0]


def test_a_header_is_measured(dataset, manifest, write, sound, tmp_path):
    wave = np.stack([sound(1, 0.5), 0.5 * sound(1, 0.5)], axis=1)
    path = write(tmp_path / "stereo.flac", wave, 16000)
    row = analyse_dataset(manifest([dataset[0]._replace(path=str(path)), *dataset])).rows[0]
    assert (row.container, row.rate, row.channels, row.seconds) == ("FLAC PCM_16", 16000, 2, 0.25)
    assert row.peak == pytest.approx(np.abs(wave).max(), abs=1e-4)
    assert row.rms == pytest.approx(wave.mean(1).std(), abs=1e-4)


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
def test_a_copy_in_the_test_split_is_found(dataset, manifest, write, sound, tmp_path, name):
    kind, change, settings = COPIES[name]
    path = write(tmp_path / name, change(sound(0)), **settings)
    found = alarms(manifest([*dataset, dataset[0]._replace(path=str(path), split="test")]))
    assert list(found) == [f"{kind} across splits"]
    (example,) = found[f"{kind} across splits"]
    assert {part.rsplit("/")[-1] for part in example.split()} >= {"cata.wav", name}


def test_another_rate_is_the_same_sound(dataset, manifest, write, sound, tmp_path):
    path = write(tmp_path / "fast.wav", soxr.resample(sound(0), 8000, 44100), 44100)
    found = alarms(manifest([*dataset, dataset[0]._replace(path=str(path), split="test")]))
    assert len(found["near-duplicates across splits"]) == 1


def test_copies_in_one_split_and_under_another_label(dataset, manifest):
    found = alarms(manifest([*dataset, dataset[0]._replace(label="dog")]))
    assert list(found) == ["duplicates with different labels", "duplicates"]


def test_groups_and_parts_of_files_on_both_sides(dataset, manifest):
    grouped = [clip._replace(group="ann" if row in (0, 25) else f"person {row}") for row, clip in enumerate(dataset)]
    assert alarms(manifest(grouped)) == {"groups across splits": ["'ann': test, train"]}
    halves = [dataset[0]._replace(end=0.3), dataset[0]._replace(start=0.2, split="test"), *dataset[1:]]
    found = alarms(manifest(halves))
    assert len(found["parts across splits"]) == 1
    apart = [dataset[0]._replace(end=0.2), dataset[0]._replace(start=0.2, split="test"), *dataset[1:]]
    assert list(alarms(manifest(apart))) == ["files across splits"]


def test_a_recording_cut_into_clips_on_both_sides(dataset, manifest, write, tmp_path):
    generator = np.random.default_rng(1)
    loudness = np.interp(np.arange(96000), np.arange(0, 96001, 4000), generator.uniform(0.5, 30, 25))
    wave = generator.normal(0, 0.005, 96000) * loudness

    def cut(name, order):
        return [
            dataset[part]._replace(
                path=str(write(tmp_path / f"{name}{row:03d}.wav", wave[4000 * part :][:4000])),
                label=("cat", "dog")[row % 2],
                split=("train", "test")[row % 4 == 0],
            )
            for row, part in enumerate(order)
        ]

    assert list(alarms(manifest([*dataset, *cut("take", range(24))]))) == ["cut recordings across splits"]
    assert alarms(manifest([*dataset, *cut("other", generator.permutation(24))])) == {}


@pytest.mark.parametrize(
    ("kind", "ending", "change", "rate"),
    [
        ("told by format", "mp3", lambda wave: wave, 8000),
        ("told by rate", "wav", lambda wave: soxr.resample(wave, 8000, 16000), 16000),
        ("told by level", "wav", lambda wave: 2 * wave, 8000),
        ("told by length", "wav", lambda wave: wave[:4000], 8000),
    ],
)
def test_a_class_that_can_be_told_without_listening(
    dataset, manifest, write, sound, tmp_path, kind, ending, change, rate
):
    dogs = [
        clip._replace(path=str(write(tmp_path / f"changed{row}.{ending}", change(sound(30 + row)), rate)))
        for row, clip in enumerate(dataset[30:])
    ]
    found = alarms(manifest([*dataset[:30], *dogs]))
    assert {name for name in found if name.startswith("told by")} == {kind}


def test_classes_and_splits_that_are_too_small(dataset, manifest):
    found = alarms(manifest([*dataset, dataset[0]._replace(label="owl"), dataset[1]._replace(label="owl")]))
    assert found["tiny classes"] == ["owl: 2"]
    assert found["missing classes"] == ["owl: none in test"]


def test_a_corpus_that_cannot_be_split_is_a_finding(dataset, manifest):
    found = alarms(manifest([clip._replace(split=None, fold="1") for clip in dataset]))
    assert "data.fold" in found["splits"][0]


def checked(table, *overrides):
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        settings = ["data=manifest", f"data.path={table}", "data.sample_rate=8000", *overrides]
        return check_dataset(compose("check", overrides=settings))


def messy(dataset, write, sound, folder):
    """The dataset with a copy across splits, one of another label, a part, and a broken and a silent file."""
    (folder / "broken.wav").write_bytes(b"")
    planted = {"copy.mp3": sound(0), "part.wav": sound(31)[1500:], "silent.wav": np.zeros(4000)}
    clips = [dataset[0]._replace(path=str(write(folder / name, wave)), split="test") for name, wave in planted.items()]
    clips[1] = clips[1]._replace(label="dog")
    return [*dataset, *clips, dataset[1]._replace(label="dog"), dataset[2]._replace(path=str(folder / "broken.wav"))]


@pytest.mark.parametrize("given", [True, False])
def test_the_clean_manifest_is_clean(dataset, manifest, write, sound, tmp_path, capsys, given):
    clips = messy(dataset, write, sound, tmp_path)
    table = manifest(clips if given else [clip._replace(split=None) for clip in clips])
    clean, report = tmp_path / "sub" / "clean.csv", tmp_path / "check.json"
    assert "error" in {finding.level for finding in checked(table.path, f"out={clean}", f"report={report}")}
    report = json.loads(report.read_text())
    assert report["errors"] == sum(finding["level"] == "error" for finding in report["findings"]) > 2
    with clean.open() as file:
        rows = list(csv.DictReader(file))
    names = {Path(row["path"]).name: row for row in rows}
    assert not {"broken.wav", "silent.wav", "catb.wav"} & set(names)
    assert len({"copy.mp3", "cata.wav"} & set(names)) == 1
    if given:  # what tests stays; its like in the training part goes
        assert "copy.mp3" in names
        assert "dogb.wav" not in names
    else:
        assert names["part.wav"]["split"] == names["dogb.wav"]["split"]
        assert names["part.wav"]["group"] == names["dogb.wav"]["group"] != ""
    assert "error" not in {finding.level for finding in checked(clean, "report=null")}
    assert "0 errors" in capsys.readouterr().out.splitlines()[-1]


def test_groups_that_duplicates_connect_become_one(dataset, manifest, tmp_path):
    clips = [clip._replace(split=None, group=f"person {row % 15}") for row, clip in enumerate(dataset)]
    table = clean_table(clips, [4], [[0, 1]], [[2, 3]], manifest(clips))
    assert table.dropped == {"broken or silent": 1, "duplicates": 1}
    groups = {Path(clip.path).name: clip.group for clip in table.clips}
    assert groups["cata.wav"] == groups["catq.wav"] == "person 0"
    assert groups["catc.wav"] == groups["catd.wav"] == "person 2"
    splits = {group: {clip.split for clip in table.clips if clip.group == group} for group in groups.values()}
    assert all(len(among) == 1 for among in splits.values())
    write_manifest(table.clips, tmp_path / "deep" / "clean.csv")
    assert (tmp_path / "deep" / "clean.csv").read_text().splitlines()[1].startswith("../cata.wav,cat,")


def test_the_real_digits_give_one_alarm(source, real_digits):
    # One clip is truly clipped: 20 of its 1,455 samples are exactly 2048
    assert alarms(source("fsdd", root=real_digits)) == {"clipped": ["3_nicolas_19.wav: 0.6%"]}
