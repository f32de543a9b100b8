"""`spectrnn train`, end to end on tones."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spectrnn.config.instantiate import instantiate
from spectrnn.data.dataset import open_dataset
from spectrnn.evaluation.evaluate import predict_batches
from spectrnn.evaluation.metrics import METRICS, classification_metrics
from spectrnn.evaluation.predictions import read_predictions
from spectrnn.model import serialization
from spectrnn.training.trainer import Trainer


@pytest.fixture
def train(spectrnn, tones, tiny_logged):
    """`train(folder, "model=gru")`: trains a tiny_logged classifier of the tones in a folder."""

    def run(folder, *arguments):
        outcome = spectrnn("train", *tiny_logged, f"data.root={tones}", f"hydra.run.dir={folder}", *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


def read_metrics(folder, *, with_speed=True):
    metrics = json.loads((folder / "metrics.json").read_text())
    if not with_speed:
        del metrics["train"]["clips_per_second"], metrics["train"]["seconds"]
    return metrics


def test_run_folder_is_complete(trained_run):
    metrics = read_metrics(trained_run)
    assert metrics["train"]["clips_per_second"] > 0
    for split in ("val", "test"):
        assert {"accuracy", "macro_f1", "loss"} <= metrics[split].keys()
    assert metrics["test"]["accuracy"] >= 0.5
    names = {path.name for path in trained_run.iterdir()}
    assert {"model.safetensors", "last.ckpt", "metrics.json", "predictions.csv", "train.log", "config.yaml"} <= names
    assert not {"report.html", "skipped.txt"} & names
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    assert config["model"]["hidden_size"] == 12
    assert config["trainer"]["patience"] is None  # no longer auto
    assert config["features"]["sample_rate"] == 8000  # interpolations are resolved
    assert "epoch" in (trained_run / "train.log").read_text()


def test_benchmark_reads_the_speed_of_the_epochs(trained_run):
    from benchmarks.commands import Outcome
    from benchmarks.training import speed

    assert speed(Outcome(1.0, 50.0, None, (trained_run / "train.log").read_text())) > 1


def test_automatic_metric_and_warnings_are_stored_logged_and_resumed(train, spectrnn, tmp_path):
    outcome = train(tmp_path / "run", "trainer.metric=auto", "trainer.epochs=1", "logger=[]")
    reason = "accuracy needs 100 validation clips, and there are 3"
    assert f"trainer.metric=auto: the best epoch is that of the best loss, as {reason}\n" in outcome.err
    metrics, config = read_metrics(tmp_path / "run"), yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["trainer"]["metric"] == metrics["metric"] == "loss"
    assert not metrics["higher_is_better"]
    assert serialization.load(tmp_path / "run" / "model.safetensors")[1]["trainer"]["metric"] == "loss"
    small = "3 validation clips are few to select the best epoch by loss (less than 20); add clips, raise "
    assert metrics["warnings"][0] == f"{small}data.val_fraction"
    assert outcome.err.index(metrics["warnings"][0]) < outcome.err.index("epoch   1 ")
    end = outcome.err[outcome.err.index("the run is in") :].splitlines()[1:]
    assert end[0] == f"next: spectrnn predict RECORDINGS run={tmp_path / 'run'}"
    assert end[1].startswith(f"      spectrnn tune-thresholds negatives=[RECORDINGS] run={tmp_path / 'run'}")
    assert end[3:] == [f"warning: {warning}" for warning in metrics["warnings"]]

    assert spectrnn("train", f"resume={tmp_path / 'run'}", "trainer.epochs=2").code == 0
    assert read_metrics(tmp_path / "run")["metric"] == "loss"
    message = spectrnn("train", f"resume={tmp_path / 'run'}", "trainer.metric=accuracy").error()
    assert message.endswith("other settings: trainer.metric was 'loss' and is 'accuracy'")


def test_metric_that_a_run_was_started_with_replaces_auto(spectrnn, trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    assert spectrnn("train", f"resume={copy}", "trainer.metric=auto", "trainer.epochs=3").code == 0
    assert read_metrics(copy)["metric"] == "accuracy"


def test_final_training_accuracy_is_that_of_the_saved_model(trained_run):
    metrics, config = read_metrics(trained_run), yaml.safe_load((trained_run / "config.yaml").read_text())
    classifier, _ = serialization.load(trained_run / "model.safetensors")
    dataset = open_dataset(instantiate(config["data"], "data"), torch.device("cpu"))
    outcome = predict_batches(classifier, dataset.batches("train", 8, torch.device("cpu")))
    assert metrics["train"]["final_accuracy"] == outcome.correct.mean()


def test_metrics_equal_those_of_the_predictions(trained_run):
    metrics, table = read_metrics(trained_run), read_predictions(trained_run / "predictions.csv")
    for split in ("val", "test"):
        rows = table.of_split(split)
        assert len(rows.clips) == {"val": 3, "test": 6}[split]
        expected = classification_metrics(rows.outcome, METRICS)
        assert {name: expected[name] for name in metrics[split]} == metrics[split]
        low, high = metrics["intervals_95"][split]["loss"]
        assert low < metrics[split]["loss"] < high


def test_results_are_complete_before_anything_is_drawn(spectrnn, tones, tiny_logged, tmp_path, monkeypatch):
    found = []

    def fail(*_):
        found.append({path.name for path in (tmp_path / "run").iterdir()})
        raise MemoryError("cannot allocate")

    monkeypatch.setattr("spectrnn.training.logger.confusion_figure", fail)
    monkeypatch.setattr("spectrnn.training.run_folder.write_page", fail)
    arguments = ("trainer.epochs=1", "trainer.report=true", f"data.root={tones}", f"hydra.run.dir={tmp_path / 'run'}")
    outcome = spectrnn("train", *tiny_logged, *arguments)
    assert outcome.code == 0, outcome.err
    assert len(found) == 3
    assert all({"metrics.json", "predictions.csv", "model.safetensors"} <= names for names in found)
    for name in ("the confusion matrix of the val split", "the confusion matrix of the test split", "report.html"):
        assert f"warning: {name} cannot be drawn (MemoryError: cannot allocate)" in outcome.err
    assert "best_model/val_accuracy" in EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]


def test_tensorboard_has_curves_figures_audio_and_hyperparameters(trained_run):
    events = EventAccumulator(str(trained_run)).Reload()
    tags = events.Tags()
    curves = ("train/loss", "val/accuracy", "step/learning_rate", "step/gradient_norm", "train/clips_per_second")
    assert {*curves} <= {*tags["scalars"]}
    assert [event.step for event in events.Scalars("train/loss")] == [27, 54]  # clips seen
    figures = ("train_clips/features", "train_clips/features_augmented", "train_clips/attention", "test/confusion")
    assert {*figures} <= {*tags["images"]}
    assert len(tags["audio"]) == 8
    assert all(tag.endswith(("_low", "_middle", "_high")) for tag in tags["audio"])
    plugins = events.summary_metadata
    hyperparameters = plugins["_hparams_/session_start_info"].plugin_data.content
    for name in (b"model.hidden_size", b"pooling", b"seed"):
        assert name in hyperparameters
    best = read_metrics(trained_run)
    for split, tag in (("test", "test/accuracy"), ("val", "best_model/val_accuracy")):
        assert [event.value for event in events.Scalars(tag)] == [pytest.approx(best[split]["accuracy"])]


_PRINT_IMPORTS = """
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from spectrnn.cli.main import main
def print_imports(*_):
    print("step", *({"torch._dynamo", "tensorboard", "matplotlib", "PIL"} & set(sys.modules)), flush=True)
register_optimizer_step_post_hook(print_imports)
main()
print_imports()
"""


def test_packages_for_compiling_and_drawing_are_not_imported_before_they_are_needed(tones, tiny_logged, tmp_path):
    arguments = ["train", *tiny_logged, f"data.root={tones}", f"hydra.run.dir={tmp_path}/run"]
    command = [sys.executable, "-c", _PRINT_IMPORTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    first, *_, last, end = [{*line.split()} - {"step"} for line in done.stdout.splitlines() if line.startswith("step")]
    assert first == set()
    assert last == {"tensorboard"}
    assert end == {"tensorboard", "matplotlib", "PIL"}


def test_summary_lists_stages_and_parameters(train, tmp_path):
    text = train(tmp_path / "run", "trainer.epochs=1").err
    for stage in ("waveform", "features", "normalize", "model", "pooling", "head"):
        assert f"\n  {stage}" in text
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    total = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(("encoder", "pooling", "head")))
    assert f"\n{total:,} parameters; " in text
    assert read_metrics(tmp_path / "run")["parameters"] == total


@pytest.mark.slow
def test_seed_determines_the_run(train, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, f"seed={seed}")
    a, b, c = (read_metrics(tmp_path / name, with_speed=False) for name in "abc")
    assert a == b != c


def test_resumed_run_equals_an_uninterrupted_one(train, spectrnn, tmp_path, monkeypatch):
    settings = (
        "trainer.epochs=3",
        "trainer.ema_decay=0.9",
        "model=crnn",
        "model.channels=[4,4]",
        "model.time_strides=[1,2]",
        "model.frequency_strides=[2,2]",
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
    assert "resuming after epoch 2\n" in outcome.err

    stopped, whole = (read_metrics(tmp_path / name, with_speed=False) for name in ("stopped", "whole"))
    assert stopped == whole
    stopped, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole"))
    assert stopped.keys() == whole.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    curves = EventAccumulator(str(tmp_path / "stopped")).Reload().Scalars("val/loss")
    assert [event.step for event in curves] == [27, 54, 81]


def test_resume_with_other_settings_is_rejected_and_changes_nothing(spectrnn, trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    for key, before, now in (
        ("model.hidden_size", 12, 16),
        ("optimizer.lr", 0.02, 0.5),
        ("trainer.metric", "'accuracy'", "ece"),
    ):
        message = f"resume={copy}: the run was started with other settings: {key} was {before} and is {now!r}"
        assert spectrnn("train", f"resume={copy}", f"{key}={now}").error() == f"spectrnn: {message}"
    assert spectrnn("train", f"resume={copy}", "trainer.epochs=3").code == 0
    assert spectrnn("train", f"resume={copy}", "trainer.epochs=4").code == 0
    assert read_metrics(copy)["epochs"] == 4


def test_resume_with_another_dataset_is_rejected(spectrnn, trained_run, tones, tmp_path):
    copy, dataset = shutil.copytree(trained_run, tmp_path / "copy"), shutil.copytree(tones, tmp_path / "dataset")
    (dataset / "low").rename(dataset / "lower")
    message = spectrnn("train", f"resume={copy}", f"data.root={dataset}").error()
    assert message == "spectrnn: resume: the dataset has other labels or clips than when the run was started"


def test_folder_of_another_run_is_not_changed(spectrnn, tones, tiny, trained_run):
    before = {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}
    message = spectrnn("train", *tiny, f"data.root={tones}", f"hydra.run.dir={trained_run}").error()
    assert message == (
        f"spectrnn: hydra.run.dir={trained_run}: contains a run already; resume=RUN continues it, or choose another "
        "folder"
    )
    assert before == {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}


def test_error_in_one_run_of_a_sweep_does_not_stop_the_others(spectrnn, tones, tiny, tmp_path):
    outcome = spectrnn("train", "-m", *tiny, f"data.root={tones}", "optimizer.lr=1e30,0.02", "trainer.epochs=1")
    assert outcome.code == 1
    assert "non-finite loss or gradient" in outcome.err
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/*/model.safetensors"))) == 1


@pytest.mark.slow
def test_sweep_runs_every_combination(spectrnn, tones, tiny, tmp_path):
    sweep = ("pooling.hidden_size=4,8", "trainer.epochs=1", "seed=3,4", "-m")
    outcome = spectrnn("train", *tiny, f"data.root={tones}", *sweep)
    assert outcome.code == 0, outcome.err
    runs = sorted(tmp_path.glob("outputs/sweeps/*/*/*/config.yaml"))
    assert [path.parent.name for path in runs] == ["0", "1", "2", "3"]
    configs = [yaml.safe_load(path.read_text()) for path in runs]
    values = [(config["pooling"]["hidden_size"], config["seed"]) for config in configs]
    assert values == [(4, 3), (4, 4), (8, 3), (8, 4)]
    assert all((path.parent / "metrics.json").exists() for path in runs)


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=sgd", "scheduler=onecycle", "task.class_weights=balanced"),
        ("optimizer=adam", "scheduler=plateau", "data.max_seconds=0.25", "trainer.metric=loss"),
        ("scheduler=constant", "data.val_fraction=0", "trainer.grad_accum_steps=3", "trainer.max_grad_norm=null"),
        ("augment=[mixup,speed,shift,noise,gain,specaugment]", "data.storage=ram", "trainer.patience=1"),
        ("normalize=cmvn", "features=mfcc", "pooling=last"),
        ("trainer.grad_accum_steps=3", "trainer.log_every_n_steps=2", "trainer.epochs=1"),
    ],
    ids=lambda settings: settings[0],
)
def test_options_train(spectrnn, tones, tiny, tmp_path, settings):
    base = [setting for setting in tiny if not (setting.startswith("pooling") and "pooling=last" in settings)]
    outcome = spectrnn("train", *base, f"data.root={tones}", f"hydra.run.dir={tmp_path / 'run'}", *settings)
    assert outcome.code == 0, outcome.err
    assert read_metrics(tmp_path / "run")["test"]["loss"] > 0


def test_background_noise(train, tones, tmp_path):
    train(tmp_path / "run", "augment=[background_noise]", f"augment.background_noise.path={tones}", "trainer.epochs=1")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["augment"]["background_noise"]["path"] == str(tones)


def test_metric_of_the_user_selects_the_best_epoch(train, tmp_path):
    (tmp_path / "my_metrics.py").write_text(
        "from spectrnn.evaluation.metrics import Metric, confusion_matrix\n"
        "def worst_recall() -> Metric:\n"
        "    def value(*arguments):\n"
        "        confusion = confusion_matrix(*arguments)\n"
        "        return float((confusion.diagonal() / confusion.sum(1).clip(1)).min())\n"
        "    return Metric(value, 'worst recall')\n"
    )
    (tmp_path / "conf" / "metrics").mkdir(parents=True)
    (tmp_path / "conf" / "metrics" / "worst_recall.yaml").write_text(
        "worst_recall:\n  _target_: my_metrics.worst_recall\n"
    )
    arguments = (f"--config-dir={tmp_path / 'conf'}", "metrics=[worst_recall]", "trainer.metric=worst_recall")
    text = train(tmp_path / "run", *arguments).err
    assert "val loss" in text
    assert "worst_recall " in text
    metrics = read_metrics(tmp_path / "run")
    assert 0 <= metrics["test"]["worst_recall"] <= metrics["test"]["accuracy"]


def test_early_stopping(train, tmp_path):
    train(tmp_path / "run", "trainer.epochs=40", "trainer.patience=2", "optimizer.lr=1e-30")
    assert read_metrics(tmp_path / "run")["epochs"] == 3
