"""`spectrnn check` as a user runs it."""

import json
from pathlib import Path

import soundfile


def test_a_sound_corpus_ends_well_and_leaves_a_report_and_nothing_else(spectrnn, tones, monkeypatch):
    run = spectrnn("check", "data=folder", f"data.root={tones}", "data.sample_rate=8000")
    assert run.code == 0, run
    assert run.out.startswith("36 clips of 3 classes")
    assert "0 errors" in run.out.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["check.json"]
    assert json.loads(Path("check.json").read_text())["clips"] == 36


def test_an_error_is_exit_code_1_and_names_the_file(spectrnn, tones, tone):
    for path in tones.rglob("*.wav"):
        copy = Path("dataset") / path.relative_to(tones)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    Path("dataset/low/broken.wav").write_bytes(b"no sound")
    run = spectrnn("check", "data=folder", "data.root=dataset", "data.sample_rate=8000", "out=clean.csv", "report=null")
    assert "the dataset has errors" in run.mistake()
    assert "dataset/low/broken.wav: cannot be read as audio" in run.out
    assert max(map(len, run.out.splitlines())) <= 100
    run = spectrnn("check", "data=manifest", "data.path=clean.csv", "data.sample_rate=8000", "report=null")
    assert run.code == 0, run


def test_a_mistake_in_the_limits_names_the_key(spectrnn, tones):
    run = spectrnn("check", "data=folder", f"data.root={tones}", "limits.tiny=few")
    assert "limits.tiny" in run.mistake()


def test_training_warns_of_copies_in_another_split(spectrnn, tiny, tones, tmp_path):
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
    assert "1 sounds are in more than one split" in run.err
    assert "spectrnn check" in run.err
