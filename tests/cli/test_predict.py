"""`spectrnn predict` and `spectrnn.load`, end to end on tones."""

import csv
import json

import numpy as np
import pytest
import soundfile

import spectrnn as package


def rows(text):
    return list(csv.DictReader(text.splitlines()))


def test_files_folders_and_globs_of_any_format(spectrnn, trained, tones, tone, tmp_path):
    tone(tmp_path / "in" / "a.flac", 0.3, 16000, 2, 300)
    tone(tmp_path / "in" / "deep" / "b.ogg", 0.3, 44100, 1, 2700)
    tone(tmp_path / "c=1.mp3", 0.4, 22050, 1, 900)
    outcome = spectrnn("predict", tmp_path / "in", tmp_path / "c=1.mp3", f"{tones}/low/0[01].wav", f"run={trained}")
    assert outcome.code == 0, outcome.err
    table = rows(outcome.out)
    assert [row["path"] for row in table] == [
        str(tmp_path / "in" / "a.flac"),
        str(tmp_path / "in" / "deep" / "b.ogg"),
        str(tmp_path / "c=1.mp3"),
        f"{tones}/low/00.wav",
        f"{tones}/low/01.wav",
    ]
    for row in table:
        ranked = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        assert ranked == sorted(ranked, reverse=True)
        assert sum(ranked) == pytest.approx(1, abs=1e-4)


def test_jsonl_into_a_file(spectrnn, trained, tones, tmp_path):
    outcome = spectrnn(
        "predict", tones / "high", f"run={trained}", "format=jsonl", "top_k=2", f"out={tmp_path}/deep/p.jsonl"
    )
    assert (outcome.code, outcome.out) == (0, "")
    lines = [json.loads(line) for line in (tmp_path / "deep" / "p.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert all(len(line["predictions"]) == 2 for line in lines)


def test_an_unreadable_file_is_reported_and_the_rest_predicted(spectrnn, trained, tones, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    outcome = spectrnn("predict", tones / "low", tmp_path / "bad.wav", tmp_path / "gone.wav", f"run={trained}")
    assert outcome.mistake() == "spectrnn: 2 of 14 files could not be predicted; the others were"
    assert f"{tmp_path / 'bad.wav'}: cannot be read as audio" in outcome.err
    assert f"{tmp_path / 'gone.wav'}: no such file" in outcome.err
    assert len(rows(outcome.out)) == 12


def test_nothing_to_predict(spectrnn, trained, tmp_path):
    assert "paths: missing" in spectrnn("predict", f"run={trained}").mistake()
    (tmp_path / "empty").mkdir()
    outcome = spectrnn("predict", tmp_path / "empty", tmp_path / "no*.wav", f"run={trained}")
    assert outcome.mistake() == "spectrnn: none of the 2 files could be predicted"
    assert f"{tmp_path / 'empty'}: is a folder without audio files" in outcome.err
    assert "no*.wav: no such file" in outcome.err


def test_predict_agrees_with_python_whatever_the_batch(spectrnn, trained, tones):
    path = tones / "middle" / "05.wav"
    alone = float(rows(spectrnn("predict", path, f"run={trained}").out)[0]["probability"])
    among = {row["path"]: float(row["probability"]) for row in rows(spectrnn("predict", tones, f"run={trained}").out)}
    model = package.load(trained)
    waveform, rate = soundfile.read(path, dtype="float32")
    prediction = model.predict(waveform, rate)
    assert alone == pytest.approx(among[str(path)], abs=2e-6)
    assert alone == pytest.approx(prediction.probability, abs=2e-6)
    assert set(prediction.probabilities) == {"low", "middle", "high"}
    stereo = np.stack([waveform, waveform])
    assert model.predict(stereo, rate).probability == pytest.approx(prediction.probability, abs=1e-6)
    assert model.predict(stereo.T, rate).probability == pytest.approx(prediction.probability, abs=1e-6)


def test_another_rate_in_python_is_resampled(trained, tones):
    model = package.load(trained / "model.safetensors")
    time = np.arange(0, 0.3, 1 / 48000, dtype=np.float32)
    narrow = np.arange(0, 0.3, 1 / 8000, dtype=np.float32)
    wide = model.predict(0.5 * np.sin(2 * np.pi * 900 * time), 48000).probabilities
    own = model.predict(0.5 * np.sin(2 * np.pi * 900 * narrow), 8000).probabilities
    assert all(wide[label] == pytest.approx(own[label], abs=0.02) for label in own)


def test_an_empty_waveform_is_refused(trained):
    with pytest.raises(ValueError, match="shape"):
        package.load(trained).predict(np.zeros(0), 8000)


def test_a_long_recording_is_the_mean_of_its_pieces(spectrnn, trained, tones, tmp_path):
    model = package.load(trained)
    samples = np.concatenate(
        [soundfile.read(tones / label / "07.wav", dtype="float32")[0] for label in ("low", "high", "middle", "high")]
        * 50
    )
    soundfile.write(tmp_path / "long.wav", samples, 8000)
    count = round(len(samples) / model.window)
    assert count > 100
    starts = [*range(0, model.window * (count - 1), model.window)]
    pieces = [samples[start : start + model.window] for start in starts[:-1]] + [samples[starts[-1] :]]
    pieces[-1:] = np.array_split(pieces[-1], round(len(pieces[-1]) / model.window))
    expected = np.zeros(3)
    for piece in pieces:
        found = model.predict(piece, 8000).probabilities
        expected += [len(piece) * found[label] for label in model.labels]
    (row,) = rows(spectrnn("predict", tmp_path / "long.wav", f"run={trained}").out)
    for probability, place in (("probability", 0), ("probability_2", 1), ("probability_3", 2)):
        assert float(row[probability]) == pytest.approx(sorted(expected / len(samples), reverse=True)[place], abs=2e-6)
    whole = model.predict(samples, 8000)
    assert whole.probability == pytest.approx(float(row["probability"]), abs=2e-6)


def test_the_window_is_the_longest_clip_that_was_trained_on(trained, tones):
    lengths = [soundfile.info(path).frames for path in tones.rglob("*.wav")]
    assert sorted(lengths)[-6] <= package.load(trained).window <= max(lengths)


def test_a_file_that_breaks_off_after_its_first_pieces_is_reported(spectrnn, trained, tones, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 600_000).astype(np.float32)
    noise[-10] = np.nan
    soundfile.write(tmp_path / "bad.wav", noise, 8000, subtype="FLOAT")
    outcome = spectrnn("predict", tmp_path / "bad.wav", tones / "low" / "00.wav", f"run={trained}")
    assert outcome.mistake() == "spectrnn: 1 of 2 files could not be predicted; the others were"
    assert "bad.wav: holds values that are not finite" in outcome.err
    assert [row["path"] for row in rows(outcome.out)] == [str(tones / "low" / "00.wav")]
