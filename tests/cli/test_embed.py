"""`spectrnn embed`, `search` and `review`, end to end on tones."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import spectrnn as package
from spectrnn.data.audio import load_audio, to_float
from spectrnn.inference import pipeline
from spectrnn.inference.predictor import embedding_hash, model_hash
from spectrnn.model.serialization import load as load_model
from spectrnn.model.serialization import save, save_thresholds


def pooled(model, samples):
    with torch.inference_mode():
        return model.classifier.trace(torch.from_numpy(samples)[None], torch.tensor([len(samples)])).pooled[0].numpy()


@pytest.fixture
def embeddings(spectrnn, trained_run, tones, tmp_path):
    outcome = spectrnn("embed", tones, f"run={trained_run}")
    assert outcome.code == 0, outcome.err
    return tmp_path / "embeddings.npz"


def test_embeddings_are_the_inputs_of_the_head_for_any_batch(embeddings, spectrnn, trained_run, tones):
    model = package.load(trained_run, device="cpu")
    with np.load(embeddings) as columns:
        paths, vectors, ends = columns["path"], columns["vector"], columns["end"]
    assert paths.tolist() == sorted(map(str, tones.rglob("*.wav")))
    for row in (0, 17, 35):
        samples = to_float(load_audio(paths[row], 8000))
        np.testing.assert_allclose(vectors[row], pooled(model, samples), atol=1e-5)
        assert ends[row] == len(samples) / 8000
    single = spectrnn("embed", paths[17], f"run={trained_run}", "out=one.npz", "dtype=float16")
    assert single.code == 0, single.err
    with np.load("one.npz") as columns:
        assert columns["vector"].dtype == np.float16
        np.testing.assert_allclose(columns["vector"][0], vectors[17], atol=1e-3)
    assert not list(Path().glob("*.rows")) + list(Path().glob(".*"))


def test_windows_are_embedded_as_clips(spectrnn, trained_run, tone, tmp_path):
    path = tone(tmp_path / "long.wav", 1.05, frequency=900)
    outcome = spectrnn("embed", path, f"run={trained_run}", "window=0.4", "hop=0.25")
    assert outcome.code == 0, outcome.err
    model, samples = package.load(trained_run, device="cpu"), to_float(load_audio(path, 8000))
    with np.load("embeddings.npz") as columns:
        assert columns["start"].tolist() == [0, 0.25, 0.5, 0.65]
        assert columns["end"].tolist() == [0.4, 0.65, 0.9, 1.05]
        for start, vector in zip(columns["start"], columns["vector"], strict=True):
            part = samples[round(start * 8000) : round((start + 0.4) * 8000)]
            np.testing.assert_allclose(vector, pooled(model, part), atol=1e-5)


def test_the_mean_of_a_long_recording_has_its_logits(spectrnn, trained_run, tone, tmp_path):
    path = tone(tmp_path / "long.wav", 2.0, frequency=500)
    model = package.load(trained_run, device="cpu")
    probabilities = model._predictor.probabilities_of(model.embed(path)[None])[0]
    expected = model.predict(path).probabilities
    np.testing.assert_allclose(probabilities, [expected[label] for label in model.labels], atol=1e-5)


def test_python_and_command_agree(embeddings, trained_run, tones):
    model = package.load(trained_run)
    path = tones / "low" / "03.wav"
    waveform, rate = soundfile.read(path, dtype="float32")
    with np.load(embeddings) as columns:
        row = columns["path"].tolist().index(str(path))
        for vector in (model.embed(path), model.embed(waveform, rate), model.embed([path, path])[1]):
            np.testing.assert_allclose(vector, columns["vector"][row], atol=1e-5)
    assert model.embed([path, path]).shape == (2, len(vector))


def test_a_killed_command_resumes_to_an_equal_file(embeddings, spectrnn, trained_run, tones, monkeypatch):
    expected = embeddings.read_bytes()
    monkeypatch.setattr(pipeline, "_GROUP_BATCHES", 1)
    command = ("embed", tones, f"run={trained_run}", "batch_size=6", "out=other.npz")
    process, calls = pipeline.predict_groups, 0

    def killed(*arguments):
        for group in process(*arguments):
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt
            yield group

    monkeypatch.setattr(pipeline, "predict_groups", killed)
    assert spectrnn(*command).code == 130
    assert "journal" in "".join(path.name for path in Path().glob(".*"))
    resumed = spectrnn(*command)
    assert resumed.code == 0, resumed.err
    assert "resuming: " in resumed.err
    assert spectrnn("embed", tones, f"run={trained_run}", "batch_size=6", "out=whole.npz").code == 0
    assert Path("other.npz").read_bytes() == Path("whole.npz").read_bytes()
    with np.load("other.npz") as columns, np.load(embeddings) as before:
        np.testing.assert_allclose(columns["vector"], before["vector"], atol=1e-5)
    assert embeddings.read_bytes() == expected


def test_shards_are_merged(embeddings, spectrnn, trained_run, tones):
    command = ("embed", tones, f"run={trained_run}", "out=shards.npz")
    assert spectrnn(*command, "shard=2/2").code == 0
    assert not Path("shards.npz").exists()
    assert spectrnn(*command, "shard=1/2").code == 0
    assert Path("shards.npz").read_bytes() == embeddings.read_bytes()


def test_errors_of_embed(spectrnn, trained_run, tones, tmp_path):
    (tmp_path / "bad.wav").write_text("not audio")
    outcome = spectrnn("embed", tones / "low", "bad.wav", f"run={trained_run}")
    assert outcome.error() == "spectrnn: 1 of 13 files could not be embedded; the others were"
    with np.load("embeddings.npz") as columns:
        assert len(columns["vector"]) == 12
    for arguments, message in (
        ((), "paths: missing; name files, folders or globs: spectrnn embed recordings/"),
        ((tones, "hop=1"), "hop=1: requires a window, as in window=2 hop=1"),
        ((tones, "out=e.csv"), "out=e.csv: the name should end in .npz or .parquet"),
        (("-",), "-: embed reads files, not standard input"),
    ):
        assert spectrnn("embed", *arguments, f"run={trained_run}").error() == f"spectrnn: {message}"


def test_search_finds_the_recording_itself_first(embeddings, spectrnn, trained_run, tones):
    path = tones / "middle" / "05.wav"
    command = ("search", embeddings, f"like={path}", f"run={trained_run}", "n=3")
    rows = [json.loads(line) for line in spectrnn(*command, "format=jsonl").out.splitlines()]
    assert rows[0] == {"path": str(path), "start": 0.0, "end": 0.3, "similarity": 1.0}
    assert all(Path(row["path"]).parent.name == "middle" for row in rows)
    table = list(csv.DictReader(spectrnn(*command, "format=csv").out.splitlines()))
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert spectrnn(*command).out.split()[:4] == ["path", "start", "end", "similarity"]


def changed(model, path, scale):
    """Writes a copy of a model file with other values of the tensors that a function scales."""
    with safe_open(model, "pt") as file:
        tensors = {name: file.get_tensor(name) * scale(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, file.metadata())
    return path


def test_embeddings_stay_valid_while_only_decisions_change(embeddings, spectrnn, trained_run, tones, tmp_path):
    command = ("search", embeddings, f"like={tones}/low/00.wav", "format=csv")
    other = tmp_path / "other.safetensors"
    changed(trained_run / "model.safetensors", other, lambda name: 2 if name.startswith(("head.", "temp")) else 1)
    save_thresholds(other, {"by_label": {"low": 0.25}})
    assert model_hash(other) != model_hash(trained_run / "model.safetensors")
    assert embedding_hash(other) == embedding_hash(trained_run / "model.safetensors")
    save_thresholds(other, None)
    assert spectrnn(*command, f"run={other}").out == spectrnn(*command, f"run={trained_run}").out


@pytest.mark.parametrize("part", ["features", "normalization", "encoder", "pooling", "max_train_samples"])
def test_another_part_that_embeddings_depend_on_is_another_model(trained_run, tmp_path, part):
    model = trained_run / "model.safetensors"
    other = changed(model, tmp_path / "other.safetensors", lambda name: 2 if name.startswith(part) else 1)
    has_part = any(name.startswith(part) for name in load_file(model))
    assert (embedding_hash(other) != embedding_hash(model)) == has_part
    classifier, config = load_model(model)
    config["model"]["dropout"] = 0.125
    save(classifier, config, other)
    assert embedding_hash(other) != embedding_hash(model)


def test_search_refuses_embeddings_of_another_model(embeddings, spectrnn, trained_run, tones, tmp_path):
    other = changed(trained_run / "model.safetensors", tmp_path / "other.safetensors", lambda name: 1 + ("ih" in name))
    error = spectrnn("search", embeddings, f"like={tones}/low/00.wav", f"run={other}").error()
    assert "is of another model" in error
    assert error.endswith("name that one with run=, or embed the recordings again")
    assert "like: missing" in spectrnn("search", embeddings, f"run={trained_run}").error()


@pytest.fixture
def folder(spectrnn, trained_run, tones, tmp_path):
    outcome = spectrnn("review", tones, f"run={trained_run}", "n=12")
    assert outcome.code == 0, outcome.err
    return tmp_path / "review"


def table_of(folder):
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_review_writes_clips_and_an_edited_table_trains(folder, spectrnn, tiny, trained_run, tones):
    rows = table_of(folder)
    assert len(rows) == 12 == len({row["path"] for row in rows})
    assert {row["predicted"] for row in rows} <= {"low", "middle", "high"}
    for row in rows:
        assert row["label"] == ""
        source, clip = soundfile.read(row["group"])[0], soundfile.read(folder / row["path"])[0]
        np.testing.assert_allclose(clip, source, atol=1e-4)
    edited = [[row["path"], Path(row["group"]).parent.name, row["group"]] for row in rows]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "group"], *edited])
    assert "has a labels.csv already" in spectrnn("review", tones, f"run={trained_run}").error()
    settings = [setting for setting in tiny if not setting.startswith(("data=", "trainer.epochs"))]
    data = ("data=manifest", f"data.path={folder}/labels.csv", "data.val_fraction=0", "data.test_fraction=0")
    outcome = spectrnn("train", *settings, *data, "trainer.epochs=1", "hydra.run.dir=new")
    assert outcome.code == 0, outcome.err
    assert Path("new/model.safetensors").exists()


def test_windows_are_cut_at_the_sample_rate_of_the_recording(spectrnn, trained_run, tone, tmp_path):
    path = tone(tmp_path / "night.flac", 2.0, rate=16000)
    assert spectrnn("review", path, f"run={trained_run}", "window=0.5", "hop=0.25", "n=3").code == 0
    samples = soundfile.read(path)[0]
    for row in table_of(tmp_path / "review"):
        clip, rate = soundfile.read(tmp_path / "review" / row["path"])
        assert (len(clip), rate) == (8000, 16000)
        first = round(float(row["from_seconds"]) * 16000)
        np.testing.assert_allclose(clip, samples[first : first + 8000], atol=1e-4)


def test_the_page_makes_no_requests(folder):
    page = (folder / "review.html").read_text()
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert re.findall(r"https?://[^\"' <]+", page) == ["http://www.w3.org/2000/svg"]


@pytest.mark.slow
def test_clips_are_labelled_by_keys(folder, open_page):
    page, messages = open_page(folder / "review.html")
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("j")
    page.keyboard.press("/")
    page.keyboard.type("other")
    page.keyboard.press("Enter")
    page.keyboard.press("k")
    page.keyboard.press("3")
    page.keyboard.press("k")
    page.keyboard.press("x")
    assert page.text_content("#count") == "3 of 12 clips labelled."
    with page.expect_download() as download:
        page.click("#save")
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    names = sorted(["low", "middle", "high"])
    expected = {0: names[0], 1: names[1], 3: "other"}
    clips = table_of(folder)
    assert [(row["path"], row["label"]) for row in rows] == [
        (str(folder / clips[number]["path"]), label) for number, label in expected.items()
    ]
    page.reload()
    assert page.text_content("#count") == "3 of 12 clips labelled."
    assert not [message for message in messages if "review.html" not in message]
