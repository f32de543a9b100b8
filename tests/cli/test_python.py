"""The Python interface: load, predict, events, evaluate, train."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import spectrnn as package

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(trained_run):
    return package.load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def recording(tones):
    path = tones / "middle" / "05.wav"
    return path, *soundfile.read(path, dtype="float32")


def test_public_names_are_listed_and_exist():
    assert {"Model", "Run", "load", "train"} < {*dir(package)}
    assert all(getattr(package, name) for name in dir(package))
    with pytest.raises(AttributeError):
        _ = package.nothing


def test_model_describes_itself(model, trained_run):
    text = repr(model)
    for part in (str(trained_run), "low", "8000 Hz", "LogMelSpectrogram", "test accuracy"):
        assert part in text
        assert part in model._repr_html_()
    assert model.metrics["test"]["accuracy"] >= 0
    assert isinstance(model.classifier, torch.nn.Module)


def test_kinds_of_audio_agree(model, recording):
    path, waveform, rate = recording
    expected = model.predict(str(path))
    assert expected.path == str(path)
    assert expected.label == next(iter(expected.probabilities))
    for predicted in (
        model.predict(path),
        model.predict(waveform, rate),
        model.predict(torch.from_numpy(waveform), rate),
        model.predict(torch.from_numpy(waveform)[None], rate),  # as torchaudio loads it
        model.predict((waveform, rate)),
        model.predict({"array": waveform.astype(np.float64), "sampling_rate": rate}),
        model.predict(np.stack([waveform, waveform]), rate, channels="first"),
        model.predict([path])[0],
        next(model.predict(iter([path]))),
    ):
        assert predicted.label == expected.label
        assert predicted.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_lists_are_batched_in_order(model, recording, tones):
    _, waveform, rate = recording
    files = sorted(map(str, tones.rglob("*.wav")))
    results = model.predict(files, batch_size=4)
    assert [prediction.path for prediction in results] == files
    for prediction in results[::9]:
        assert prediction.probability == pytest.approx(model.predict(prediction.path).probability, abs=1e-5)
    for found, prediction in zip(model.predict_folder(tones), results, strict=True):
        assert found.path == prediction.path
        assert found.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
    mixed = model.predict([files[0], waveform, (waveform, rate)], rate)
    assert [prediction.path for prediction in mixed] == [files[0], None, None]
    assert str(results).count("\n") == 21
    assert str(results).endswith(f"... and {len(files) - 20} more")
    assert results._repr_html_().count("<tr>") == 21
    assert model.predict([]) == []
    assert str(model.predict([])) == "(none)"


def test_iterator_is_read_a_few_batches_ahead(model, recording):
    path, _, _ = recording
    read = []

    def paths():
        for number in range(100_000):
            read.append(number)
            yield path

    assert next(model.predict(paths(), batch_size=4)).path == str(path)
    assert len(read) < 100


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda x: np.stack([x, x]), {}, r"could be channels or several recordings: set channels='first' or"),
        (lambda x: x, {"sample_rate": None}, "needs its sample_rate in Hz"),
        (lambda x: x * np.nan, {}, "not finite"),
        (lambda x: x[:0], {}, r"expected a waveform of shape \(samples,\) or \(channels, samples\), got \(0,\)"),
        (lambda x: np.zeros((2, 3, 4)), {}, r"got \(2, 3, 4\)"),
        (lambda x: (x * 32767).astype(np.int16), {}, "got int16; divide int16 by 32768"),
        (lambda x: [0.1, 0.2], {}, "got a number; a list is taken for several recordings"),
        (lambda x: {"path": "a.wav"}, {}, "expected a dictionary with array and sampling_rate, got path"),
    ],
)
def test_ambiguous_or_invalid_audio_is_rejected(model, recording, change, settings, message):
    _, waveform, rate = recording
    with pytest.raises(ValueError, match=message):
        model.predict(change(waveform), **{"sample_rate": rate} | settings)


def test_file_that_cannot_be_read_is_named(model, recording, tmp_path):
    with pytest.raises(package.UserError, match=r"nothing\.wav: no such file"):
        model.predict([recording[0], tmp_path / "nothing.wav"])


def test_prediction_shows_itself_in_a_notebook(model, recording):
    path, waveform, rate = recording
    for prediction in (model.predict(path), model.predict(waveform, rate)):
        html = prediction._repr_html_()
        assert "data:image/png;base64," in html
        assert "data:audio/" in html
        assert prediction.label in html
    assert "media" not in repr(prediction)


def test_events_are_those_of_the_command(spectrnn, model, trained_run, tones, tmp_path):
    clips = [soundfile.read(tones / label / "07.wav", dtype="float32")[0] for label in ("low", "high")]
    samples = np.concatenate(clips * 3)
    soundfile.write(tmp_path / "long.wav", samples, 8000)
    settings = {"window": 0.2, "hop": 0.1, "threshold": 0.4, "background": ["middle"]}
    events = model.events(tmp_path / "long.wav", **settings)
    overrides = [f"{name}={value}".replace("'", "") for name, value in settings.items()]
    outcome = spectrnn("predict", tmp_path / "long.wav", f"run={trained_run}", *overrides, "format=jsonl")
    assert len(events) == len(outcome.out.splitlines()) > 1
    assert f"{events[0].probability:.3f}" in str(events)
    assert model.events(samples, 8000, **settings)[0].label == events[0].label
    with pytest.raises(package.UserError, match="hop=2: longer than the window"):
        model.events(samples, 8000, window=1, hop=2)


def test_evaluation_is_that_of_the_command(spectrnn, model, trained_run, tones, tmp_path):
    pandas = pytest.importorskip("pandas")
    pairs = [(str(path), path.parent.name) for path in sorted(tones.rglob("*.wav"))]
    table = pandas.DataFrame(pairs, columns=["path", "label"])
    table.to_csv(tmp_path / "clips.csv", index=False)
    evaluations = [model.evaluate(source) for source in (pairs, table, tmp_path / "clips.csv", tones)]
    for evaluation in evaluations:
        assert evaluation.metrics == pytest.approx(evaluations[0].metrics)
        assert evaluation.report["clips"] == len(pairs)
    table.loc[0, ["start", "end", "group"]] = [0.0, 0.1, "ann"]  # missing in the other rows
    predictions = model.evaluate(table).predictions
    assert [(clip.end, clip.group) for clip in predictions.clips] == [(0.1, "ann"), *[(None, None)] * 35]
    frame = evaluations[0].to_frame()
    assert (frame["label"] == frame["predicted"]).mean() == pytest.approx(evaluations[0].metrics["accuracy"])
    assert "confusion matrix" in str(evaluations[0])
    with pytest.raises(package.UserError, match="knows none"):
        model.evaluate([(pairs[0][0], "owl")])


def test_training_returns_a_run(tiny, tones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = package.train([*tiny, f"data.root={tones}", "trainer.epochs=1"])
    assert run.path.parts[0] == "outputs"
    assert [epoch["epoch"] for epoch in run.history] == [1]
    assert f"{run.metrics['test']['accuracy']:.4f}" in str(run)
    assert run.model.labels == ["high", "low", "middle"]
    assert (run.path / "train.log").read_text().count("computing on") == 1
    assert package.train([*tiny, f"data.root={tones}"], folder=tmp_path / "own").path == tmp_path / "own"
    for overrides, message in (
        (["data=folder", "data.rot=x"], "data.rot: no such key; did you mean data.root?"),
        (["data=folder", "data.root=nothing"], "data.root=nothing: no such folder"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: only the command line has it"),
    ):
        with pytest.raises(package.UserError, match=message):
            package.train(overrides)
    with pytest.raises(package.UserError, match="contains a run already"):
        package.train([*tiny, f"data.root={tones}"], folder=tmp_path / "own")


@pytest.mark.slow
def test_notebook_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "notebook.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "confusion matrix" in done.stdout
