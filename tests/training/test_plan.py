"""The plan of a training: what auto is, and early stopping, at once or after a decay of the learning rate."""

import copy
import itertools

import pytest
import torch

from spectrnn.model.task import MultiLabel
from spectrnn.training import plan as plan_module
from spectrnn.training.logger import NullLogger
from spectrnn.training.plan import (
    automatic_batch_size,
    automatic_epochs,
    automatic_patience,
    choose_epoch,
    choose_metric,
    continued,
)
from spectrnn.training.trainer import TrainingPlan

# For 27 training clips, in 4 batches of at most 8, and 3 validation clips.
TINY = (
    "features.n_mels=20",
    "model=bigru",
    "model.hidden_size=4",
    "model.num_layers=1",
    "pooling.num_heads=2",
    "optimizer.lr=0.02",
    "trainer.device=cpu",
)


@pytest.mark.parametrize(
    ("clips", "on_gpu", "batch_size", "epochs"),
    [
        (10, False, 16, 150),
        (369, False, 16, 95),  # 25 * (2500 / 369) ** 0.7 = 95.4
        (999, False, 16, 48),
        (1_000, False, 32, 47),
        (2_000, True, 64, 29),
        (2_500, False, 64, 25),
        (10_000, False, 64, 15),  # 25 * (2500 / 10000) ** 0.35 = 15.4
        (19_999, True, 64, 12),
        (20_000, True, 256, 12),
        (200_000, False, 64, 10),
    ],
)
def test_length_by_the_number_of_training_clips(clips, on_gpu, batch_size, epochs):
    assert automatic_batch_size(clips, on_gpu) == batch_size
    assert automatic_epochs(clips) == epochs


def test_label_sets_and_cold_starts_take_more_epochs():
    assert automatic_epochs(1_400, MultiLabel.relative_epochs) == 75  # 2 * 25 * (2500 / 1400) ** 0.7 = 75.03
    assert automatic_epochs(1_400, MultiLabel.relative_epochs, is_warm=True) == 19
    assert automatic_epochs(100, MultiLabel.relative_epochs) == 150


def test_patience_by_the_number_of_epochs_and_validation_clips():
    assert [automatic_patience(epochs, 1_000) for epochs in (3, 25, 66)] == [5, 5, 13]
    assert automatic_patience(66, 999) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), TrainingPlan(150, 16, None, "loss", "best")),
        (("trainer.epochs=7", "trainer.patience=3"), TrainingPlan(7, 16, 3, "loss", "best")),
        (("trainer.batch_size=8",), TrainingPlan(150, 8, None, "loss", "best")),
        # 4 batches of at most 8 clips are 2 updates: 15 updates take 8 epochs.
        (
            ("trainer.batch_size=8", "trainer.steps=15", "trainer.grad_accum_steps=2"),
            TrainingPlan(8, 8, None, "loss", "best"),
        ),
        (
            ("trainer.batch_size=8", "trainer.steps=16", "trainer.grad_accum_steps=2"),
            TrainingPlan(8, 8, None, "loss", "best"),
        ),
    ],
)
def test_given_values_are_kept_and_the_others_chosen(make_trainer, settings, expected):
    assert make_trainer(*TINY, *settings).plan == expected


def test_automatic_patience_follows_given_epochs(make_trainer, monkeypatch):
    monkeypatch.setattr(plan_module, "_MIN_VAL_CLIPS", 3)
    assert make_trainer(*TINY, "trainer.epochs=60").plan.patience == 12


def test_schedule_spans_all_optimizer_steps(make_trainer):
    trainer = make_trainer(*TINY, "trainer.batch_size=8", "trainer.steps=13", "trainer.grad_accum_steps=3")
    assert trainer.epoch_steps == 2
    assert trainer.schedule.steps == 14


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [
        ({"epochs": 66, "batch_size": 16, "patience": 13}, (), (66, 16, 13, "auto", "auto")),
        ({"epochs": 66, "batch_size": 16, "patience": None}, ("trainer.epochs=80",), (80, 16, None, "auto", "auto")),
        (
            {"epochs": 20, "steps": 99, "batch_size": 16, "patience": None},
            ("trainer.steps=99",),
            (20, 16, None, "auto", "auto"),
        ),
        # More steps, which take more epochs.
        (
            {"epochs": 20, "steps": 99, "batch_size": 16, "patience": None},
            ("trainer.steps=999",),
            ("auto", 16, None, "auto", "auto"),
        ),
        ({"metric": "loss"}, (), ("auto", "auto", "auto", "loss", "auto")),
        ({"metric": "loss"}, ("trainer.metric=macro_f1",), ("auto", "auto", "auto", "macro_f1", "auto")),
        (None, (), ("auto", "auto", "auto", "auto", "auto")),
    ],
)
def test_run_continues_with_the_length_that_it_was_started_with(components, tmp_path, before, given, expected):
    if before:
        (tmp_path / "config.yaml").write_text(f"trainer: {before}".replace("None", "null"))
    run = continued(components(*given), tmp_path)
    values = [run.config["trainer"][name] for name in TrainingPlan._fields]
    assert tuple(getattr(run.trainer, name) for name in TrainingPlan._fields) == (*values,) == expected


def fit(trainer, scores, monkeypatch, saved=None, losses=()):
    """Trains with these results of the validation split; returns learning rate and `is_last` at each epoch's end."""
    rates, results = [], zip(scores, losses or itertools.repeat(1.0), strict=False)

    def validate():
        return dict(zip(("accuracy", "loss"), next(results), strict=True))

    def on_epoch(epoch, is_last):
        rates.append((trainer.optimizer.param_groups[0]["lr"], is_last))

    def save(is_best):
        if saved is not None:
            saved.append(copy.deepcopy(trainer.state_dict()))

    monkeypatch.setattr(trainer, "_validate", validate)
    trainer.fit(NullLogger(), save, on_epoch)
    return rates


PATIENT = (*TINY, "trainer.metric=accuracy", "trainer.batch_size=8", "trainer.epochs=40", "trainer.patience=2")
TRAPEZOIDAL = ("scheduler=trapezoidal", "scheduler.warmup_fraction=0", "scheduler.decay_fraction=0.25")


def test_training_stops_at_once_without_improvement(make_trainer, monkeypatch, caplog):
    caplog.set_level("INFO")
    trainer = make_trainer(*PATIENT)
    rates = fit(trainer, [0.5, 0.6, 0.6, 0.4], monkeypatch)
    assert [is_last for _, is_last in rates] == [False, False, False, True]
    assert "no improvement for 2 epochs: training ends with epoch 4" in caplog.text


def test_lower_validation_loss_is_an_improvement(make_trainer, monkeypatch):
    trainer = make_trainer(*PATIENT)
    fit(trainer, itertools.repeat(0.5), monkeypatch, losses=[1.0, 0.9, 1.1, 0.8, 0.85, 0.8])
    assert trainer.epoch == 6
    # The loss of epoch 3 is the lowest, although a more accurate epoch is the best one.
    trainer = make_trainer(*PATIENT)
    fit(trainer, [0.5, 0.9, 0.6, 0.6, 0.6], monkeypatch, losses=[1.0, 1.2, 0.9, 0.95, 1.0])
    assert (trainer.epoch, trainer.best_epoch) == (5, 2)


def test_rate_decays_before_training_stops(make_trainer, monkeypatch, caplog):
    caplog.set_level("INFO")
    trainer = make_trainer(*PATIENT, *TRAPEZOIDAL)
    # The metric has not improved from epoch 5 on: a decay of a third of 7 epochs, rounded up, follows epoch 7.
    rates = fit(trainer, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.6, 0.5, 0.5], monkeypatch)
    assert [rate for rate, _ in rates] == pytest.approx([0.02] * 7 + [0.04 / 3, 0.02 / 3, 0])
    assert [is_last for _, is_last in rates] == [False] * 9 + [True]
    assert caplog.text.count("no improvement") == 1
    line = "no improvement for 2 epochs: the learning rate decays from now on, and training ends with epoch 10"
    assert line in caplog.text


def test_planned_decay_is_trained_to_its_end(make_trainer, monkeypatch, caplog):
    caplog.set_level("INFO")
    trainer = make_trainer(*PATIENT, *TRAPEZOIDAL, "trainer.epochs=8")  # the decay starts after epoch 6
    rates = fit(trainer, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5], monkeypatch)
    assert [rate for rate, _ in rates] == pytest.approx([0.02] * 6 + [0.01, 0])
    assert "no improvement" not in caplog.text
    assert trainer.stop_epoch is None  # so that more epochs can follow


@pytest.mark.parametrize("epoch", [6, 7, 8])  # before the decay, at its start, and within it
def test_training_resumed_around_an_early_decay_equals_an_uninterrupted_one(make_trainer, monkeypatch, epoch):
    scores, saved = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], []
    whole, resumed = (make_trainer(*PATIENT, *TRAPEZOIDAL) for _ in range(2))
    fit(whole, scores, monkeypatch, saved)
    resumed.load_state_dict(saved[epoch - 1])
    fit(resumed, scores[epoch:], monkeypatch)
    assert resumed.epoch == whole.epoch == 10
    ours, theirs = resumed.classifier.state_dict(), whole.classifier.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weight_decay_is_that_of_matrices_only(make_trainer):
    trainer = make_trainer(*TINY, "optimizer.weight_decay=0.3")
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    named = dict(trainer.classifier.named_parameters())
    assert len(decays) == len(named)
    assert {name: decays[id(p)] for name, p in named.items()} == {
        name: 0.3 if p.ndim > 1 else 0.0 for name, p in named.items()
    }
    assert {*decays.values()} == {0.0, 0.3}


@pytest.mark.parametrize(
    ("val", "metric", "reason"),
    [
        ({"cat": 60, "dog": 40}, "accuracy", "there are 100 validation clips of all classes"),
        ({"cat": 60, "dog": 39}, "loss", "accuracy needs 100 validation clips, and there are 99"),
        ({"cat": 200, "dog": 0}, "loss", "1 of 2 classes have no validation clips"),
    ],
)
def test_automatic_metric_depends_on_the_validation_split(dataset_of, caplog, val, metric, reason):
    caplog.set_level("INFO")
    dataset = dataset_of({label: (9, count, 9) for label, count in val.items()})
    assert choose_metric("auto", "accuracy", dataset, "best") == metric
    assert caplog.messages == [f"trainer.metric=auto: the best epoch is that of the best {metric}, as {reason}"]
    assert choose_metric("macro_f1", "accuracy", dataset, "best") == "macro_f1"
    assert choose_metric("auto", "accuracy", dataset, "last") == metric
    assert len(caplog.messages) == 1


def test_last_epoch_is_kept_if_validation_shares_groups(dataset_of, caplog):
    caplog.set_level("INFO")
    shared = dataset_of({"cat": (9, 60, 9), "dog": (9, 60, 9)}, group="ann")
    assert choose_epoch("auto", shared, False, None) == "last"
    assert caplog.messages == [
        "trainer.select=auto: the last epoch is kept, as validation shares its groups with training"
    ]
    assert choose_epoch("best", shared, False, None) == "best"
    assert choose_epoch("auto", dataset_of({"cat": (9, 60, 9), "dog": (9, 60, 9)}), False, None) == "best"


def test_last_epoch_is_kept_if_classes_are_rehearsed(dataset_of):
    dataset = dataset_of({"cat": (9, 60, 9), "dog": (9, 60, 9)})
    assert choose_epoch("auto", dataset, True, None) == "last"
    assert choose_epoch("best", dataset, True, None) == "best"


def test_last_epoch_is_kept_although_an_earlier_one_was_better(make_trainer, monkeypatch):
    trainer, saved = make_trainer(*PATIENT, "trainer.select=last"), []
    fit(trainer, [0.5, 0.9, 0.6, 0.6], monkeypatch, saved)
    assert (trainer.epoch, trainer.best_epoch) == (4, 4)
    assert [state["progress"]["best"][0] for state in saved] == [0.5, 0.9, 0.9, 0.9]


def test_automatic_metric_without_validation_is_accuracy(dataset_of, caplog):
    caplog.set_level("INFO")
    assert choose_metric("auto", "accuracy", dataset_of({"cat": (9, 0, 9), "dog": (9, 0, 9)}), "best") == "accuracy"
    assert caplog.messages == []
