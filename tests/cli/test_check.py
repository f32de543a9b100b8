"""The `check` command as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import soundfile


def test_valid_dataset_exits_with_0_and_writes_no_file(spectrnn, tones):
    run = spectrnn("check", "data=folder", f"data.root={tones}", "data.sample_rate=8000")
    assert run.code == 0, run
    assert run.out.startswith("36 clips of 3 classes")
    assert "0 errors" in run.out.splitlines()[-1]
    assert not list(Path().iterdir())


def test_report_is_written_on_request(spectrnn, tones):
    run = spectrnn("check", "data=folder", f"data.root={tones}", "data.sample_rate=8000", "report=check.json")
    assert run.code == 0, run
    assert [path.name for path in Path().iterdir()] == ["check.json"]
    assert json.loads(Path("check.json").read_text())["clips"] == 36


def test_issues_are_printed_as_json(spectrnn, tones):
    outcome = spectrnn("check", "data=folder", f"data.root={tones}", "format=json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["clips"] == 36


def test_dataset_with_errors_exits_with_1_and_is_cleaned_on_request(spectrnn, tones):
    shutil.copytree(tones, "dataset")
    Path("dataset/low/broken.wav").write_bytes(b"no sound")
    command = ("check", "data=folder", "data.root=dataset", "data.sample_rate=8000")
    remedy = "out=clean.csv writes a manifest without the clips that can be dropped"
    assert spectrnn(*command).error() == f"spectrnn: the dataset has errors; {remedy}"
    run = spectrnn(*command, "out=clean.csv")
    recheck = "clean.csv is without the clips that can be dropped: spectrnn check data=manifest data.path=clean.csv"
    assert run.error() == f"spectrnn: the dataset has errors; {recheck}"
    assert "dataset/low/broken.wav: cannot be read as audio" in " ".join(run.out.split())
    assert "wrote clean.csv with 36 clips; dropped: 1 unreadable or silent" in run.err
    assert max(map(len, run.out.splitlines())) <= 80
    run = spectrnn("check", "data=manifest", "data.path=clean.csv", "data.sample_rate=8000")
    assert run.code == 0, run


def test_cleaned_manifest_has_no_errors(spectrnn, tones):
    """Whatever leaks between its splits: a copy, an excerpt, a group, overlapping segments."""
    waves = {path: soundfile.read(path)[0] for path in sorted(tones.rglob("*.wav"))}
    first = next(iter(waves))
    long = np.random.default_rng(0).normal(0, 0.1, 40_000)
    soundfile.write("copy.flac", waves[first], 8000)
    soundfile.write("long.wav", long, 8000)
    soundfile.write("excerpt.wav", long[12_000:30_000], 8000)
    rows = [
        f"{path},{path.parent.name},{'test' if number % 3 == 0 else 'train'},{number % 9},,"
        for number, path in enumerate(waves)
    ]
    rows += ["copy.flac,low,train,,,", "long.wav,low,test,,,", "excerpt.wav,low,train,,,"]
    rows += ["long.wav,high,train,,0,2", "long.wav,high,test,,1,3", "long.wav,high,train,,2.5,4"]
    Path("table.csv").write_text("\n".join(["path,label,split,group,start,end", *rows]))
    arguments = ("check", "data=manifest", "data.sample_rate=8000")
    run = spectrnn(*arguments, "data.path=table.csv", "out=clean.csv", "report=issues.json")
    assert run.code == 1
    kinds = {issue["kind"] for issue in json.loads(Path("issues.json").read_text())["issues"]}
    assert {"duplicates across splits", "overlapping segments across splits"} <= kinds
    run = spectrnn(*arguments, "data.path=clean.csv")
    assert run.code == 0, run


def test_errors_that_no_manifest_removes_are_named(spectrnn, tone):
    for number in range(40):
        tone(Path(f"data/{'ab'[number % 2]}/{number}.{('wav', 'flac')[number % 2]}"), 0.2 + 0.01 * number)
    arguments = ("check", "data=folder", "data.root=data", "data.sample_rate=8000")
    remaining = "no choice of clips removes: predictable from format"
    assert spectrnn(*arguments).error().endswith(remaining)
    run = spectrnn(*arguments, "out=clean.csv")
    assert run.error().endswith(f"spectrnn check data=manifest data.path=clean.csv; {remaining}")


def test_invalid_limit_is_reported(spectrnn, tones):
    run = spectrnn("check", "data=folder", f"data.root={tones}", "limits.min_clips_per_class=few")
    assert run.error() == "spectrnn: limits.min_clips_per_class=few: should be a valid integer"


def test_training_warns_about_duplicates_in_another_split(spectrnn, tiny, tones, tmp_path):
    rows = ["path,label,split"]
    for row, path in enumerate(sorted(tones.rglob("*.wav"))):
        rows.append(f"{path},{path.parent.name},{'test' if row % 3 == 0 else 'train'}")
    wave, rate = soundfile.read(rows[1].split(",")[0])
    soundfile.write(tmp_path / "copy.flac", wave, rate)
    rows += ["copy.flac,low,train"]
    Path("table.csv").write_text("\n".join(rows))
    overrides = [override for override in tiny if override != "data=folder"]
    run = spectrnn("train", *overrides, "data=manifest", "data.path=table.csv", "trainer.epochs=1")
    assert run.code == 0, run
    assert "1 recording is in more than one split, so test metrics may be optimistic: " in run.err
    assert "spectrnn check" in run.err
