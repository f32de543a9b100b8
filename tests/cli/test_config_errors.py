"""Invalid input: one sentence that names the key or file, exit code 1, no traceback, and no partial output."""

import os
import shutil

import numpy as np
import pytest
import soundfile

from spectrnn.errors import FileErrors


@pytest.fixture
def dataset(tones, tmp_path):
    """A copy of the tones that tests may damage."""
    return shutil.copytree(tones, tmp_path / "dataset")


@pytest.fixture
def train_error(spectrnn, tiny, tmp_path):
    """`train_error("data.root=...")`: the error of a training that is rejected and leaves no run folder behind."""

    def run(*arguments):
        message = spectrnn("train", *tiny, f"hydra.run.dir={tmp_path / 'run'}", *arguments).error()
        assert not (tmp_path / "run").exists()
        return message

    return run


def test_missing_root_is_reported(train_error):
    assert train_error("data.root=/none/such") == "spectrnn: data.root=/none/such: no such folder"
    assert train_error() == "spectrnn: data.root: missing; it has no default"


def test_class_folders_without_audio_are_reported(train_error, dataset):
    for label in ("high", "middle"):
        shutil.rmtree(dataset / label)
        (dataset / label).mkdir()
    problem = "contains fewer than two class folders with audio; 2 class folders without audio were ignored"
    expected = f"spectrnn: data.root={dataset}: {problem}: {dataset}/high, {dataset}/middle"
    assert train_error(f"data.root={dataset}") == expected


def test_single_class_is_reported(train_error, dataset):
    shutil.rmtree(dataset / "high")
    shutil.rmtree(dataset / "middle")
    message = "the dataset has a single class ('low'); a classifier needs two or more"
    assert train_error(f"data.root={dataset}") == f"spectrnn: {message}"


def test_label_with_a_single_clip_is_reported(train_error, dataset, tone):
    tone(dataset / "rare" / "only.wav")
    message = "label 'rare': has a single clip; record more, or leave it out by data.labels={rare: null}"
    assert train_error(f"data.root={dataset}") == f"spectrnn: {message}"


def write_nan(path):
    soundfile.write(path, np.array([0.1, np.nan] * 900), 8000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
        (lambda path: path.write_text("no sound"), "cannot be read as audio (Format not recognised)"),
        (write_nan, "contains values that are not finite (NaN or Inf), or far beyond full scale"),
    ],
    ids=["empty", "text", "nan"],
)
def test_unreadable_file_is_reported(train_error, dataset, damage, message):
    path = dataset / "low" / "00.wav"
    damage(path)
    assert train_error(f"data.root={dataset}") == f"spectrnn: {path}: {message}; {FileErrors.REMEDY}"


def test_manifest_without_the_required_columns_is_reported(train_error, tmp_path):
    (tmp_path / "clips.csv").write_text("x,y\na.wav,x\n")
    message = train_error("data=manifest", f"data.path={tmp_path / 'clips.csv'}")
    assert "clips.csv: no column path and no column label (found: x, y)" in message


MANY = {
    "data.group='('": "data.group=(: is not a regular expression (missing ), unterminated subpattern at position 0)",
    "data.storage=gpu": "data.storage=gpu: the run has no GPU; use auto, ram or disk",
    "augment.noise.min_snr_db=60": "augment.noise.max_snr_db=40: below augment.noise.min_snr_db=60; at least that",
    "features.hop_ms=30": "features.hop_ms=30: longer than features.window_ms=25, which skips samples; at most 25 ms",
    "features.n_fft=7": "features.n_fft=7: below the 200 samples of features.window_ms=25; at least that, or null",
    "features.fmax=9000": "features.fmax=9000: above half of features.sample_rate=8000; at most 4000 Hz, or null",
    "normalize.eps=0": "normalize.eps=0: should be greater than 0",
    "model.hidden_size=10": "",  # valid, but not with the next
    "pooling.num_heads=3": "pooling.num_heads=3: does not divide the encoder's 20 outputs; 1, 2, 4, 5, 10 do",
    "head.dropout=2": "head.dropout=2: should be less than 1",
    "optimizer.lr=-1": "optimizer.lr=-1.0: rejected by AdamW (Invalid learning rate: -1.0)",
    "scheduler.warmup_fraction=2": "scheduler.warmup_fraction=2: should be less than 1",
    "trainer.patience=0": "trainer.patience=0: should be greater than 0 or 'auto', or null",
    "trainer.precision=fp16": "trainer.precision=fp16: needs a GPU, but this run is on the CPU; use fp32 or auto",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
}


def test_errors_of_all_groups_are_reported_at_once_before_audio_is_read(spectrnn, tiny, dataset, tmp_path):
    for path in dataset.rglob("*.wav"):
        path.write_text("no sound")
    run = tmp_path / "run"
    outcome = spectrnn("train", *tiny, f"data.root={dataset}", f"hydra.run.dir={run}", "trainer.device=cpu", *MANY)
    assert outcome.code == 1
    expected = [f"  {message}" for message in MANY.values() if message]
    assert outcome.err.splitlines() == ["spectrnn: several errors", *expected]
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["optimizer.betas=[0.9,2]"],
            "optimizer.betas=[0.9, 2.0]: rejected by AdamW (Invalid beta parameter at index 1: 2.0)",
        ),
        (
            ["optimizer=sgd", "optimizer.momentum=0"],
            "optimizer.nesterov=true: rejected by SGD (Nesterov momentum requires a momentum and zero dampening)",
        ),
        (
            ["data.max_seconds=0.03"],
            "data.max_seconds=0.03: a clip has a single frame of features.window_ms, but recurrent layers need "
            "several; at least 0.035 s",
        ),
        (
            ["model=crnn", "model.time_strides=[8,8,1]", "data.max_seconds=0.3"],
            "model.time_strides=[8, 8, 1]: reduces the 28 frames of data.max_seconds=0.3 to one, but recurrent layers "
            "need several; a product below 28",
        ),
        (["data.sample_rate=many"], "data.sample_rate=many: should be a valid integer"),
        (
            ["features.sample_rate=16000"],
            "features.sample_rate=16000: differs from data.sample_rate=8000; use the same",
        ),
        (["features.hop_ms=50"], "features.hop_ms=50: longer than features.window_ms=25, which skips samples"),
        (["features.n_mels=200"], "features.n_mels=200: 29 of the mel bands contain no bin of the 256-point FFT"),
        (
            ["pooling._target_=spectrnn.model.rnn.RNNEncoder"],
            "pooling._target_=spectrnn.model.rnn.RNNEncoder: is of another kind; a subclass of "
            "spectrnn.model.pooling.Pooling is needed",
        ),
        (
            ["augment.noise._target_=torch.nn.Linear"],
            "augment.noise._target_=torch.nn.Linear: is of another kind; a subclass of "
            "spectrnn.frontend.augmentation.WaveformAugmentation or ",
        ),
        (["features.n_mels=${nowhere}"], "features.n_mels: Interpolation key 'nowhere' not found"),
        (["augment=[background_noise]"], "augment.background_noise.path: missing; it has no default"),
        (["augment=[rir]", "augment.rir.path=/none"], "augment.rir.path=/none: not a folder with audio files"),
        (
            ["trainer.ema_decay=0.9", "trainer.average_last=3"],
            "trainer.average_last=3: trainer.ema_decay=0.9 is another average; set it to null",
        ),
        (
            ["augment=[background_noise]", "augment.background_noise.path=/none"],
            "augment.background_noise.path=/none: not a folder with audio files",
        ),
        (["metrics=[uar]"], "metrics=uar: no such option; known here: recall_at_fah"),
        (["sweep=seeds"], "sweep=seeds: needs -m, without which a single run would be trained"),
        (["model.hidden_size=10000000"], "model.hidden_size=10000000: should be less than or equal to 65536"),
        (["augment.noise=null"], "augment.noise: expected a mapping with a _target_, got null"),
        (["pooling=stats", "pooling.eps=1e-5"], "pooling.num_heads: not a key of pooling=stats, but of "),
        (["trainer.metric=uar"], "trainer.metric=uar: no such metric; did you mean auroc?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_error_is_reported_without_its_consequences(train_error, dataset, arguments, message):
    assert train_error(f"data.root={dataset}", *arguments).startswith(f"spectrnn: {message}")


def test_strides_that_leave_two_frames_are_valid(spectrnn, tiny, tones, tmp_path, cache):
    outcome = spectrnn(
        "train",
        *tiny,
        f"data.root={tones}",
        f"hydra.run.dir={tmp_path / 'run'}",
        "trainer.epochs=1",
        "model=crnn",
        "model.channels=[2,2]",
        "model.time_strides=[3,9]",
        "model.frequency_strides=[2,2]",
        "data.max_seconds=0.3",
    )
    assert outcome.code == 0, outcome.err
    assert list((cache / "datasets").iterdir())  # where a rejected training leaves nothing


def test_all_misspelled_arguments_are_reported_at_once(spectrnn):
    arguments = ("trainer.epoch=3", "model=crn", "model.chanels=[8]", "augment=[noise,shfit]", "pooling.num_heads=3")
    assert spectrnn("train", *arguments).err.splitlines() == [
        "spectrnn: several errors",
        "  model=crn: no such option; did you mean model=crnn?",
        "  augment=shfit: no such option; did you mean augment=shift?",
        "  trainer.epoch: no such key; did you mean trainer.epochs?",
        "  model.chanels: no such key; did you mean model.channels?",
        "  pooling.num_heads=3: does not divide the encoder's 256 outputs; 1, 2, 4, 8, 16 do",
    ]


def test_misspelled_key_is_not_reported_as_missing_too(spectrnn):
    message = spectrnn("train", "data=folder", "data.rot=/none").error()
    assert message == "spectrnn: data.rot: no such key; did you mean data.root?"


def test_group_of_another_command_is_reported(spectrnn):
    assert spectrnn("check", "model=gru").error().startswith("spectrnn: model: no such key; known here: data, ")


HALF = "spectrnn: {}: not a key of {}, but of {}, as in: spectrnn {}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "train seed=1 data.root=x data.group=y",  # the second is a key of the same option
            "data.root | data=synthetic_speech | data=folder, annotations, esc50, fsdd, urbansound8k and 1 more | "
            "train seed=1 data=folder data.root=x data.group=y",
        ),
        ("check data.path=x", "data.path | data=synthetic_speech | data=manifest | check data=manifest data.path=x"),
        (
            "tune features.n_mfcc=13",
            "features.n_mfcc | features=logmel | features=mfcc | tune features=mfcc features.n_mfcc=13",
        ),
        (
            "train augment=[noise,gain] augment.mixup.alpha=1",
            "augment.mixup.alpha | augment=[noise,gain] | augment=mixup | "
            "train 'augment=[noise,gain,mixup]' augment.mixup.alpha=1",
        ),
    ],
)
def test_half_command_is_completed(spectrnn, arguments, words):
    assert spectrnn(*arguments.split()).error() == HALF.format(*words.split(" | "))


def test_half_evaluation_is_completed_without_the_dataset_of_the_run(spectrnn, trained_run):
    run = f"run={trained_run}"
    words = ("data.path", "data=folder", "data=manifest", f"eval {run} data=manifest data.path=x")
    assert spectrnn("eval", run, "data.path=x").error() == HALF.format(*words)


def test_options_in_a_folder_of_the_user_are_suggested(spectrnn, tmp_path):
    (tmp_path / "conf" / "pooling").mkdir(parents=True)
    (tmp_path / "conf" / "pooling" / "mine.yaml").write_text("defaults: [attention, _self_]\nnum_heads: 8\n")
    message = spectrnn("train", "--config-dir", tmp_path / "conf", "pooling=mene").error()
    assert message == "spectrnn: pooling=mene: no such option; did you mean pooling=mine?"


def test_all_errors_of_an_evaluation_are_reported_at_once(spectrnn, trained_run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ("split=tset", "batch_size=0", "device=cuda:7", "data.storage=x")
    lines = spectrnn("eval", f"run={trained_run}", *arguments).err.splitlines()
    assert lines[:3] == [
        "spectrnn: several errors",
        "  split=tset: should be 'train', 'val', 'test' or 'all'",
        "  batch_size=0: should be greater than 0",
    ]
    assert any(line.startswith("  device=cuda:7: not available on this machine") for line in lines)
    assert any(line.startswith("  data.storage=x: should be 'auto'") for line in lines)


@pytest.mark.parametrize("command", [("eval",), ("predict", "a.wav")], ids=" ".join)
class TestModel:
    def test_run_folder_without_a_model_is_reported(self, spectrnn, tmp_path, command):
        (tmp_path / "empty").mkdir()
        message = spectrnn(*command, f"run={tmp_path / 'empty'}").error()
        assert f"run={tmp_path / 'empty'}: the folder contains no model.safetensors" in message

    def test_missing_run_is_reported(self, spectrnn, command):
        message = "run=latest: no run in outputs/ contains a model.safetensors; train one, or name a folder"
        assert spectrnn(*command).error() == f"spectrnn: {message}"

    def test_invalid_model_file_is_reported(self, spectrnn, tmp_path, command):
        path = tmp_path / "model.safetensors"
        path.write_text("hello")
        message = spectrnn(*command, f"run={path}").error()
        assert message.startswith(f"spectrnn: {path}: is not a model file (")


def test_invalid_checkpoint_is_reported_and_the_model_kept(spectrnn, trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    os.truncate(copy / "last.ckpt", 900)
    model = (copy / "model.safetensors").read_bytes()
    assert "last.ckpt: cannot be read as a checkpoint" in spectrnn("train", f"resume={copy}").error()
    assert (copy / "model.safetensors").read_bytes() == model


def test_missing_run_to_resume_is_reported(spectrnn):
    assert spectrnn("train", "resume=/none").error().startswith("spectrnn: resume=/none: no such run folder")
