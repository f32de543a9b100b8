"""`spectrnn train`, end to end on tones."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spectrnn.training.trainer import Trainer


@pytest.fixture
def train(spectrnn, tones, tiny):
    """`train("run", "model=gru")`: a tiny run on the tones in a folder."""

    def run(folder, *arguments):
        outcome = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={folder}", *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def comparable(folder):
    """The metrics without what a clock decides."""
    figures = metrics(folder)
    del figures["train"]["clips_per_second"]
    return figures


def test_a_run_leaves_model_metrics_events_and_config(trained):
    figures = metrics(trained)
    assert figures["train"]["clips_per_second"] > 0
    for split in ("val", "test"):
        assert {"accuracy", "macro_f1", "loss"} <= figures[split].keys()
    assert figures["test"]["accuracy"] >= 0.5
    names = {path.name for path in trained.iterdir()}
    assert {"model.safetensors", "last.ckpt", "metrics.json", "train.log", "config.yaml"} <= names
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["hidden_size"] == 12
    assert config["features"]["sample_rate"] == 8000  # resolved
    assert "epoch" in (trained / "train.log").read_text()


def test_tensorboard_holds_curves_pictures_sound_and_hyperparameters(trained):
    events = EventAccumulator(str(trained)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "val/accuracy",
        "step/learning_rate",
        "step/gradient_norm",
        "train/clips_per_second",
    } <= scalars
    assert [event.step for event in events.Scalars("train/loss")] == [27, 54]  # clips seen
    images = set(events.Tags()["images"])
    assert {
        "train_clips/features",
        "train_clips/features_augmented",
        "train_clips/attention",
        "test/confusion",
    } <= images
    sounds = events.Tags()["audio"]
    assert len(sounds) == 8
    assert all(tag.endswith(("_low", "_middle", "_high")) for tag in sounds)
    plugins = events.summary_metadata
    content = plugins["_hparams_/session_start_info"].plugin_data.content
    for name in (b"model.hidden_size", b"pooling", b"seed"):
        assert name in content
    best = json.loads((trained / "metrics.json").read_text())
    for split, tag in (("test", "test/accuracy"), ("val", "val/best_accuracy")):
        assert [event.value for event in events.Scalars(tag)] == [pytest.approx(best[split]["accuracy"])]
        assert tag.encode() in plugins["_hparams_/experiment"].plugin_data.content


def test_the_summary_names_the_stages_and_the_parameters(train, tmp_path):
    text = train(tmp_path / "run", "trainer.epochs=1").err
    for stage in ("waveform", "features", "normalize", "model", "pooling", "head"):
        assert f"\n  {stage}" in text
    total = sum(
        tensor.numel()
        for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items()
        if not name.startswith(("normalize", "longest", "temperature"))
    )
    assert f"{total:,} parameters" in text


def test_the_same_seed_gives_the_same_run_and_another_another(train, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, f"seed={seed}")
    assert comparable(tmp_path / "a") == comparable(tmp_path / "b") != comparable(tmp_path / "c")


def test_resume_ends_as_a_run_that_never_stopped(train, spectrnn, tmp_path, monkeypatch):
    settings = (
        "trainer.epochs=3",
        "trainer.ema_decay=0.9",
        "model=crnn",
        "model.channels=[4,4]",
        "trainer.grad_accum_steps=2",
    )
    train(tmp_path / "whole", *settings)

    original, calls = Trainer._train_epoch, []

    def killed(self, *arguments):
        calls.append(self.epoch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", killed)
        with pytest.raises(AssertionError, match="interrupted"):
            train(tmp_path / "stopped", *settings)
    assert not (tmp_path / "stopped" / "metrics.json").exists()
    outcome = spectrnn("train", f"resume={tmp_path / 'stopped'}")
    assert outcome.code == 0, outcome.err
    assert "going on after epoch 2\n" in outcome.err

    assert comparable(tmp_path / "stopped") == comparable(tmp_path / "whole")
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    curves = EventAccumulator(str(tmp_path / "stopped")).Reload().Scalars("val/loss")
    assert [event.step for event in curves] == [27, 54, 81]


def test_resume_with_another_model_is_refused(spectrnn, trained):
    told = spectrnn("train", f"resume={trained}", "model.hidden_size=16").mistake()
    assert "model.hidden_size was 12 and is 16" in told


def test_a_refused_resume_leaves_the_run_resumable(spectrnn, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    assert "optimizer.lr was 0.02 and is 0.5" in spectrnn("train", f"resume={copy}", "optimizer.lr=0.5").mistake()
    assert spectrnn("train", f"resume={copy}", "trainer.epochs=3").code == 0
    assert spectrnn("train", f"resume={copy}", "trainer.epochs=4").code == 0
    assert metrics(copy)["epochs"] == 4


def test_a_run_goes_on_with_its_own_clips_only(spectrnn, trained, tones, tmp_path):
    copy, dataset = shutil.copytree(trained, tmp_path / "copy"), shutil.copytree(tones, tmp_path / "dataset")
    (dataset / "low").rename(dataset / "lower")
    told = spectrnn("train", f"resume={copy}", f"data.root={dataset}").mistake()
    assert "resume: the dataset has other labels or clips" in told


def test_more_batches_a_step_than_a_report(train, tmp_path):
    train(tmp_path / "run", "trainer.grad_accum_steps=3", "trainer.log_every_n_steps=2", "trainer.epochs=1")


def test_another_rate_of_the_features_is_refused(spectrnn, tones, tiny):
    told = spectrnn("train", *tiny, f"data.root={tones}", "features.sample_rate=16000").mistake()
    assert "features.sample_rate=16000: the dataset has data.sample_rate=8000 Hz; the same" in told


def test_a_folder_that_holds_a_run_is_left_alone(spectrnn, tones, tiny, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    told = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={trained}").mistake()
    assert "holds a run already" in told
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


def test_multirun_gives_a_folder_each(spectrnn, tones, tiny, tmp_path):
    outcome = spectrnn(
        "train",
        "-m",
        *tiny,
        f"data.root={tones}",
        "model=gru,conv1d_rnn",
        "+model.channels=[8]",
        "+model.time_strides=[2]",
        "trainer.epochs=1",
    )
    assert outcome.code == 1  # gru has no channels: told, while the other run goes on
    assert "model.channels: no such key" in outcome.err
    runs = list(tmp_path.glob("outputs/sweeps/*/*/*/model.safetensors"))
    assert len(runs) == 1


def test_sweeps_run_every_combination(spectrnn, tones, tiny, tmp_path):
    outcome = spectrnn(
        "train", *tiny, f"data.root={tones}", "pooling.hidden_size=4,8", "trainer.epochs=1", "seed=3,4", "-m"
    )
    assert outcome.code == 0, outcome.err
    runs = sorted(tmp_path.glob("outputs/sweeps/*/*/*/metrics.json"))
    assert [path.parent.name for path in runs] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=sgd", "scheduler=onecycle", "task.class_weights=balanced"),
        ("optimizer=adam", "scheduler=plateau", "data.max_seconds=0.25", "trainer.metric=loss"),
        ("scheduler=constant", "data.val_fraction=0", "trainer.grad_accum_steps=3", "trainer.max_grad_norm=null"),
        ("augment=[mixup,speed,shift,noise,gain,specaugment]", "data.storage=ram", "trainer.patience=1"),
        ("normalize=cmvn", "features=mfcc", "pooling=last", "~pooling.num_heads"),
    ],
    ids=lambda settings: settings[0],
)
def test_every_way_of_training_runs(spectrnn, tones, tiny, tmp_path, settings):
    chosen = [setting for setting in tiny if not (setting.startswith("pooling") and "pooling=last" in settings)]
    settings = [setting for setting in settings if not setting.startswith("~")]
    outcome = spectrnn("train", *chosen, f"data.root={tones}", f"hydra.run.dir={tmp_path / 'run'}", *settings)
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path / "run")["test"]["loss"] > 0


def test_noise_from_a_folder(spectrnn, tones, tiny, tmp_path):
    arguments = ("augment=[background_noise]", f"augment.background_noise.path={tones}", "trainer.epochs=1")
    outcome = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={tmp_path / 'run'}", *arguments)
    assert outcome.code == 0, outcome.err
    missing = spectrnn(
        "train", *tiny, f"data.root={tones}", "augment=[background_noise]", "augment.background_noise.path=/none"
    )
    assert "augment.background_noise.path=/none: no folder with audio files" in missing.mistake()


def test_early_stopping_ends_before_the_last_epoch(train, tmp_path):
    train(tmp_path / "run", "trainer.epochs=40", "trainer.patience=2", "optimizer.lr=1e-9")
    assert metrics(tmp_path / "run")["epochs"] == 3
