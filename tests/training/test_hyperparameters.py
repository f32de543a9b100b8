"""Hyperparameters of a run: options and overrides."""

from spectrnn.training.hyperparameters import hyperparameters

CONFIG = {
    "model": {"channels": [4, 8], "dropout": 0.1, "bidirectional": True},
    "augment": {"gain": {"p": 0.5}, "noise": {}},
    "trainer": {"patience": None, "epochs": 3},
    "logger": {"csv": {}},
    "seed": 7,
    "resume": None,
}
CHOICES = {"model": "crnn", "trainer": "default", "experiment": None, "sweep": "seeds", "hydra/launcher": "basic"}


def test_options_seed_and_overridden_keys():
    overrides = [
        "model=crnn",
        "+model.channels=[4,8]",
        "++model.bidirectional=true",
        "trainer.patience=null",
        "augment.gain.p=0.5",
        "logger=[csv]",
        "resume='outputs/run'",
        "~model.kernel",
    ]
    assert hyperparameters(CONFIG, CHOICES, overrides) == {
        "model": "crnn",
        "trainer": "default",
        "experiment": "none",
        "augment": "gain,noise",
        "seed": 7,
        "model.channels": "[4, 8]",
        "model.bidirectional": True,
        "trainer.patience": "null",
        "augment.gain.p": 0.5,
        "model.kernel": "null",
    }


def test_without_overrides_and_augmentation():
    assert hyperparameters({"augment": None, "seed": 0}, {"model": "gru"}, []) == {
        "model": "gru",
        "augment": "none",
        "seed": 0,
    }
