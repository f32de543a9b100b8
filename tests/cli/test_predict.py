"""`spectrnn predict` and `spectrnn.load`, end to end on tones."""

import csv
import json

import numpy as np
import pytest
import soundfile

import spectrnn as package


def rows(text):
    return list(csv.DictReader(text.splitlines()))


def test_files_folders_and_globs_of_all_formats(spectrnn, trained_run, tones, tone, tmp_path):
    tone(tmp_path / "in" / "a.flac", 0.3, 16000, 2, 300)
    tone(tmp_path / "in" / "deep" / "b.ogg", 0.3, 44100, 1, 2700)
    tone(tmp_path / "c=1.mp3", 0.4, 22050, 1, 900)
    outcome = spectrnn("predict", tmp_path / "in", tmp_path / "c=1.mp3", f"{tones}/low/0[01].wav", f"run={trained_run}")
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


def test_jsonl_is_written_to_a_file(spectrnn, trained_run, tones, tmp_path):
    outcome = spectrnn(
        "predict", tones / "high", f"run={trained_run}", "format=jsonl", "top_k=2", f"out={tmp_path}/deep/p.jsonl"
    )
    assert (outcome.code, outcome.out) == (0, "")
    lines = [json.loads(line) for line in (tmp_path / "deep" / "p.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert all(len(line["predictions"]) == 2 for line in lines)


def test_unreadable_files_are_reported_and_the_others_predicted(spectrnn, trained_run, tones, tmp_path):
    (tmp_path / "bad.wav").write_text("not audio")
    outcome = spectrnn("predict", tones / "low", tmp_path / "bad.wav", tmp_path / "gone.wav", f"run={trained_run}")
    assert outcome.error() == "spectrnn: 2 of 14 files could not be predicted; the others were"
    assert f"{tmp_path / 'bad.wav'}: cannot be read as audio (Format not recognised)" in outcome.err
    assert f"{tmp_path / 'gone.wav'}: no such file" in outcome.err
    assert len(rows(outcome.out)) == 12


def test_missing_recordings_are_reported(spectrnn, trained_run, tmp_path):
    assert spectrnn("predict", f"run={trained_run}").error() == (
        "spectrnn: paths: missing; name files, folders or globs: spectrnn predict recordings/ run=outputs/..."
    )
    (tmp_path / "empty").mkdir()
    outcome = spectrnn("predict", tmp_path / "empty", tmp_path / "no*.wav", f"run={trained_run}")
    assert outcome.error() == "spectrnn: none of the 2 files could be predicted"
    assert f"{tmp_path / 'empty'}: is a folder without audio files" in outcome.err
    assert "no*.wav: no such file" in outcome.err


def test_command_and_python_agree_for_any_batch(spectrnn, trained_run, tones):
    path = tones / "middle" / "05.wav"
    single = float(rows(spectrnn("predict", path, f"run={trained_run}").out)[0]["probability"])
    batched = {
        row["path"]: float(row["probability"]) for row in rows(spectrnn("predict", tones, f"run={trained_run}").out)
    }
    model = package.load(trained_run)
    waveform, rate = soundfile.read(path, dtype="float32")
    prediction = model.predict(waveform, rate)
    assert single == pytest.approx(batched[str(path)], abs=2e-6)
    assert single == pytest.approx(prediction.probability, abs=2e-6)
    assert set(prediction.probabilities) == {"low", "middle", "high"}
    stereo = np.stack([waveform, waveform])
    for audio, channels in ((stereo, "first"), (stereo.T, "last")):
        predicted = model.predict(audio, rate, channels=channels)
        assert predicted.probability == pytest.approx(prediction.probability, abs=1e-6)


def test_waveform_of_another_sample_rate_is_resampled(trained_run, tones):
    model = package.load(trained_run / "model.safetensors")
    own, resampled = (
        model.predict(0.5 * np.sin(2 * np.pi * 900 * np.arange(0, 0.3, 1 / rate, dtype=np.float32)), rate)
        for rate in (8000, 48000)
    )
    assert resampled.probabilities == pytest.approx(own.probabilities, abs=0.02)


def test_long_recording_is_the_mean_of_its_chunks(spectrnn, trained_run, tones, tmp_path):
    model = package.load(trained_run)
    samples = np.concatenate(
        [soundfile.read(tones / label / "07.wav", dtype="float32")[0] for label in ("low", "high", "middle", "high")]
        * 50
    )
    soundfile.write(tmp_path / "long.wav", samples, 8000)
    count = round(len(samples) / model._predictor.window)
    assert count > 100
    starts = [*range(0, model._predictor.window * (count - 1), model._predictor.window)]
    chunks = [samples[start : start + model._predictor.window] for start in starts[:-1]] + [samples[starts[-1] :]]
    chunks[-1:] = np.array_split(chunks[-1], round(len(chunks[-1]) / model._predictor.window))
    logits = np.zeros(3)
    for chunk in chunks:
        probabilities = model.predict(chunk, 8000).probabilities
        logits += [len(chunk) / len(samples) * np.log(probabilities[label]) for label in model.labels]
    expected = np.exp(logits) / np.exp(logits).sum()
    (row,) = rows(spectrnn("predict", tmp_path / "long.wav", f"run={trained_run}").out)
    ranked = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
    assert ranked == pytest.approx(sorted(expected, reverse=True), abs=2e-6)
    whole = model.predict(samples, 8000)
    assert whole.probability == pytest.approx(float(row["probability"]), abs=2e-6)


def test_cropped_clip_is_predicted_as_it_was_evaluated(spectrnn, tiny, tones, tmp_path):
    run = tmp_path / "run"
    settings = (f"data.root={tones}", "data.max_seconds=0.25", "trainer.epochs=1", f"hydra.run.dir={run}")
    assert spectrnn("train", *tiny, *settings).code == 0
    with (run / "predictions.csv").open() as file:
        evaluated = list(csv.DictReader(file))
    seconds = [soundfile.info(clip["path"]).duration for clip in evaluated]
    assert min(seconds) < 0.25  # one crop
    assert max(seconds) > 0.375  # three
    predicted = rows(spectrnn("predict", *(clip["path"] for clip in evaluated), f"run={run}").out)
    model = package.load(run)
    assert model._predictor.window == 2000
    for clip, row in zip(evaluated, predicted, strict=True):
        names = ("", "_2", "_3")
        assert [float(row[f"probability{name}"]) for name in names] == pytest.approx(
            [float(clip[row[f"label{name}"]]) for name in names], abs=1e-5
        )
        samples, rate = soundfile.read(clip["path"], dtype="float32")
        assert model.predict(samples, rate).probability == pytest.approx(float(row["probability"]), abs=1e-5)


def test_window_is_the_longest_training_clip(trained_run, tones):
    lengths = [soundfile.info(path).frames for path in tones.rglob("*.wav")]
    assert sorted(lengths)[-6] <= package.load(trained_run)._predictor.window <= max(lengths)


def test_file_that_is_damaged_near_its_end_is_reported(spectrnn, trained_run, tones, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 600_000).astype(np.float32)
    noise[-10] = np.nan
    soundfile.write(tmp_path / "bad.wav", noise, 8000, subtype="FLOAT")
    outcome = spectrnn("predict", tmp_path / "bad.wav", tones / "low" / "00.wav", f"run={trained_run}")
    assert outcome.error() == "spectrnn: 1 of 2 files could not be predicted; the others were"
    assert "bad.wav: contains values that are not finite (NaN or Inf), or far beyond full scale" in outcome.err
    assert [row["path"] for row in rows(outcome.out)] == [str(tones / "low" / "00.wav")]
