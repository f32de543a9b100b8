"""`spectrnn tune`, end to end on tones: results, interruption, several processes, pruning, failures and errors."""

import csv
import json
import shlex
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState
from safetensors.torch import load_file

from spectrnn.config.compose import compose
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.study.results import experiment_yaml

SPACE = {
    "optimizer.lr": {"type": "float", "low": 0.005, "high": 0.05, "log": True},
    "model.hidden_size": {"type": "int", "low": 4, "high": 16, "step": 4},
    "pooling": ["attention", "mean"],
    "pooling.num_heads": [1, 2],
    "augment": [[], ["noise", "gain"]],
    "augment.noise.p": {"type": "float", "low": 0, "high": 1, "step": 0.1},
}


@pytest.fixture(scope="session")
def tiny(tiny):
    """The overrides of a tiny classifier without choices of options, which would not be searched."""
    return tuple(override for override in tiny if override.partition("=")[0] not in ("augment", "model", "normalize"))


@pytest.fixture
def command(tones, tiny, tmp_path):
    """`command(space, *arguments)`: arguments of a search in the folder `search`, in a space of the test's own."""
    base = [o for o in tiny if not o.startswith(("optimizer.lr", "model.hidden_size", "pooling"))]

    def make(space, *arguments):
        file = tmp_path / "conf" / "space" / "mine.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(space, sort_keys=False))
        place = [f"--config-dir={tmp_path / 'conf'}", f"hydra.run.dir={tmp_path / 'search'}"]
        return ["tune", *base, f"data.root={tones}", "space=mine", *place, *arguments]

    return make


@pytest.fixture
def start(interruptible):
    """`start(arguments)`: starts a command in a process of its own, which ends with the test."""
    processes = []

    def run(arguments, **settings):
        command = [sys.executable, "-m", "spectrnn", *map(str, arguments)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **interruptible, **settings)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def trials_of(folder):
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}").trials


def values_of(folder):
    return {trial.number: (trial.params, trial.value) for trial in trials_of(folder)}


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def is_training(folder, epoch):
    """Whether the log of a run has an epoch."""
    file = folder / "train.log"
    return file.exists() and f"epoch {epoch:>3} " in file.read_text()


@pytest.mark.slow
def test_search(spectrnn, command, tmp_path):
    folder = tmp_path / "search"
    outcome = spectrnn(*command(SPACE, "trials=4", "pruner=none"))
    assert outcome.code == 0, outcome.err
    trials = trials_of(folder)
    assert [trial.state for trial in trials] == 4 * [TrialState.COMPLETE]
    for trial in trials:
        # Keys of options are drawn only if the option is chosen.
        assert ("pooling.num_heads" in trial.params) == (trial.params["pooling"] == "attention")
        assert ("augment.noise.p" in trial.params) == ("noise" in trial.params["augment"])
        run = folder / f"trial-{trial.number}"
        config, metrics = (
            yaml.safe_load((run / "config.yaml").read_text()),
            json.loads((run / "metrics.json").read_text()),
        )
        assert config["optimizer"]["lr"] == trial.params["optimizer.lr"] == float(f"{trial.params['optimizer.lr']:.3g}")
        assert config["model"]["hidden_size"] == trial.params["model.hidden_size"]
        assert metrics["val"]["accuracy"] == trial.value
        assert "test" not in metrics
        assert ",test," not in (run / "predictions.csv").read_text()

    metrics = json.loads((folder / "metrics.json").read_text())
    best = min(trials, key=lambda trial: (-trial.value, trial.user_attrs["result"]["loss"]))
    assert metrics["best"]["trial"] == best.number
    assert metrics["trials"] == {"complete": 4, "pruned": 0, "fail": 0}
    evaluated = spectrnn("eval", f"run={folder}", "report=false", f"out={tmp_path / 'eval'}")
    assert evaluated.code == 0, evaluated.err
    test = json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]
    assert metrics["test"] == {name: test[name] for name in metrics["test"]}
    for line in (
        f"validation (chosen on)           {best.value:.4f}  ",
        f"test (not seen by the search)    {metrics['test']['accuracy']:.4f}  ",
    ):
        assert line in outcome.err
    predictions = (folder / "predictions.csv").read_text()
    assert (predictions.count(",val,"), predictions.count(",test,")) == (3, 6)
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [float(row["accuracy"]) for row in rows] == [trial.value for trial in trials]
    assert [row["pooling"] for row in rows] == [trial.params["pooling"] for trial in trials]

    # The command that is printed trains the same model.
    train = shlex.split(outcome.err.rstrip().splitlines()[-1])
    assert train[:3] == ["spectrnn", "train", "experiment=best"]
    outcome = spectrnn(*train[1:], f"hydra.run.dir={tmp_path / 'again'}")
    assert outcome.code == 0, outcome.err
    ours, theirs = (load_file(place / "model.safetensors") for place in (tmp_path / "again", folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert (again["val"], again["test"]) == (metrics["val"], metrics["test"])

    # The same command has nothing left to do, and a larger number of trials continues.
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert spectrnn(*command(SPACE, "trials=4", "pruner=none")).code == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    assert spectrnn(*command(SPACE, "trials=5", "pruner=none")).code == 0
    assert [trial.params for trial in trials_of(folder)][:4] == [trial.params for trial in trials]
    assert json.loads((folder / "metrics.json").read_text())["trials"]["complete"] == 5

    message = spectrnn(*command(SPACE, "trials=5", "pruner=none", "seed=1")).error()
    assert f"hydra.run.dir={folder}: the search there has other settings (seed=1); " in message
    assert spectrnn("train", f"hydra.run.dir={folder}").error().endswith("or choose another folder")


@pytest.mark.study
@pytest.mark.slow
def test_killed_search_is_continued_by_two_processes_to_the_same_values(spectrnn, command, start, tmp_path):
    folder = tmp_path / "search"
    arguments = command(SPACE, "trials=5", "pruner=none", "trainer.epochs=12")
    assert spectrnn(*arguments, f"hydra.run.dir={tmp_path / 'whole'}").code == 0
    process = start(arguments)
    wait_for(lambda: is_training(folder / "trial-1", 3), process)
    process.kill()
    process.wait()
    assert [trial.state for trial in trials_of(folder)] == [TrialState.COMPLETE, TrialState.RUNNING]
    both = [start(arguments), start(arguments)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "5 completed, 0 pruned, 0 failed" in err
    assert "resuming after epoch" in (folder / "trial-1" / "train.log").read_text()
    assert not [path for path in folder.glob("trial-*") if path.name not in {f"trial-{n}" for n in range(5)}]
    # The first ten trials are drawn at random, and so do not depend on the order in which others finish.
    assert values_of(folder) == values_of(tmp_path / "whole")


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_signal_stops_a_search_that_can_be_continued(spectrnn, command, start, tmp_path, processes):
    number = [signal.SIGINT, signal.SIGTERM][processes - 1]
    folder = tmp_path / "search"
    arguments = command(SPACE, "trials=3", f"processes={processes}", "trainer.epochs=200", "pruner=none")
    process = start(arguments)
    last = folder / f"trial-{processes - 1}"
    wait_for(lambda: is_training(last, 2), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert err.endswith(f"spectrnn: stopped; the same command, with hydra.run.dir={folder}, continues the search\n"), (
        err
    )
    states = [trial.state for trial in trials_of(folder)]
    assert states == processes * [TrialState.RUNNING]
    checkpoint = torch.load(last / "last.ckpt", weights_only=True)["state"]["progress"]
    assert checkpoint["epoch"] >= 1
    # A trial is a run like others; the search takes its result.
    assert spectrnn("train", f"resume={last}").code == 0
    expected = json.loads((last / "metrics.json").read_text())["val"]["accuracy"]
    process = start([*arguments, "processes=1"])
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "3 completed" in err
    assert values_of(folder)[processes - 1][1] == expected


@pytest.mark.study
@pytest.mark.slow
def test_workers_end_with_their_parent(command, start, tmp_path):
    folder = tmp_path / "search"
    process = start(command(SPACE, "trials=2", "processes=2", "trainer.epochs=4000", "pruner=none"))
    wait_for(lambda: all(is_training(folder / f"trial-{number}", 1) for number in range(2)), process)
    process.kill()
    process.communicate(timeout=60)  # at the end of the workers, which have the pipe, too
    assert all((folder / f"trial-{number}" / "last.ckpt").exists() for number in range(2))


@pytest.mark.slow
def test_failed_trials_are_listed_and_replaced(spectrnn, command, tmp_path):
    space = {"optimizer.lr": [0.02, 1e30], "model.hidden_size": [4, 8, 12, 16]}
    outcome = spectrnn(*command(space, "trials=4", "trainer.epochs=1", "trainer.max_grad_norm=null", "optimizer=sgd"))
    assert outcome.code == 0, outcome.err
    states = [trial.state for trial in trials_of(tmp_path / "search")]
    assert states.count(TrialState.COMPLETE) == 4
    failed = [number for number, state in enumerate(states) if state == TrialState.FAIL]
    assert failed
    reason = "non-finite loss or gradient; last.ckpt predates it."
    for number in failed:
        assert f"\n  trial {number} failed: {reason}" in outcome.err
        assert reason in (tmp_path / "search" / f"trial-{number}" / "error.txt").read_text()


def test_search_in_which_all_trials_fail(spectrnn, command, tmp_path):
    space = {"optimizer.lr": [1e30, 2e30, 3e30]}
    outcome = spectrnn(*command(space, "trials=2", "trainer.epochs=1", "trainer.max_grad_norm=null", "optimizer=sgd"))
    assert outcome.code == 1
    assert f"{tmp_path / 'search'}: no trial was completed\n" in outcome.err
    assert len(trials_of(tmp_path / "search")) == 2


def test_hyperparameters_are_not_tried_twice(spectrnn, command, tmp_path):
    space = {"model.hidden_size": [4, 8], "pooling": ["mean", "max"]}
    outcome = spectrnn(*command(space, "trials=9", "trainer.epochs=1"))
    assert outcome.code == 0, outcome.err
    params = [trial.params for trial in trials_of(tmp_path / "search")]
    assert sorted((values["model.hidden_size"], values["pooling"]) for values in params) == [
        ("4", "max"),
        ("4", "mean"),
        ("8", "max"),
        ("8", "mean"),
    ]
    assert "fewer than trials=9: " in outcome.err


@pytest.mark.study
@pytest.mark.slow
def test_weak_trials_are_pruned(spectrnn, command, tmp_path):
    space = {"optimizer.lr": [0.01, 0.012, 0.014, 0.016, 0.018, 0.02, 1e-9, 2e-9, 3e-9, 4e-9]}
    outcome = spectrnn(
        *command(space, "trials=10", "trainer.epochs=4", "trainer.metric=auto")
    )  # loss, as there are few clips
    assert outcome.code == 0, outcome.err
    trials = trials_of(tmp_path / "search")
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        folder, last = tmp_path / "search" / f"trial-{trial.number}", max(trial.intermediate_values)
        assert 1 <= last < 4
        value = f"after epoch {last}, with loss {trial.intermediate_values[last]:.4f}"
        assert (folder / "pruned.txt").read_text().startswith(f"pruned {value}")
        assert f"trial {trial.number:>3}  pruned {value}\n" in outcome.err
        assert not (folder / "metrics.json").exists()
        # Of the trials that were completed before, at least half were better at this epoch.
        before = [t for t in trials[: trial.number] if t.state == TrialState.COMPLETE]
        best = min(value for step, value in trial.intermediate_values.items() if step <= last)
        assert sum(t.intermediate_values[last] < best for t in before) >= len(before) / 2
    metrics = json.loads((tmp_path / "search" / "metrics.json").read_text())
    assert metrics["trials"] == {"complete": 10 - len(pruned), "pruned": len(pruned), "fail": 0}
    assert not metrics["higher_is_better"]
    assert metrics["val"]["loss"] == min(trial.value for trial in trials if trial.state == TrialState.COMPLETE)


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (
            {"optimizer.weight_decy": [1, 2]},
            [],
            "space.optimizer.weight_decy: no such key; did you mean optimizer.weight_",
        ),
        (
            {"optimizer.lr": {"type": "float", "low": 0.1, "high": 0.01}},
            [],
            "space.optimizer.lr.low=0.1: above space.optimizer.lr.high=0.01; at most that",
        ),
        (
            {"optimizer.lr": {"type": "float", "low": 0, "high": 0.01, "log": True}},
            [],
            "space.optimizer.lr.low=0: must be above 0 with space.optimizer.lr.log=true",
        ),
        (
            {"optimizer.lr": {"type": "float", "low": 0, "high": 1, "steps": 0.1}},
            [],
            "space.optimizer.lr.steps: no such key; did you mean space.optimizer.lr.step?",
        ),
        (
            {"model.hidden_size": {"type": "int", "low": 4, "high": 8.5}},
            [],
            "space.model.hidden_size.type=int: needs integers low, high and step",
        ),
        ({"model.hidden_size": 4}, [], "space.model.hidden_size=4: should be a list of choices, or {type: float,"),
        ({"model.hidden_size": [4, 0]}, [], "space.model.hidden_size=0: should be greater than 0"),
        (
            {"model.dropout": {"type": "float", "low": 0, "high": 1}},
            [],
            "space.model.dropout=1.0: should be less than 1",
        ),
        ({"model": ["gru", "bigrru"]}, [], "space.model=bigrru: no such option; did you mean model=bigru?"),
        ({"augment": [["noise", "gian"]]}, [], "space.augment=gian: no such option; did you mean augment=gain?"),
        ({"model": {"type": "int", "low": 1, "high": 2}}, [], "space.model: is a config group; list the options"),
        (
            {"pooling": ["attention", "mean"]},
            ["pooling.num_heads=2"],
            "space.pooling=mean: does not fit the other settings (could not override 'pooling.num_heads')",
        ),
        (
            {"data.split_seed": [0, 1]},
            [],
            "space.data.split_seed: cannot be searched, as the values of trials could then not be compared",
        ),
        (
            {"seed": [0, 1]},
            ["seed=3"],
            "space: nothing to search; it is empty, or the command line sets all of its keys",
        ),
        (SPACE, ["trials=0"], "trials=0: should be greater than 0"),
        (SPACE, ["pruner=mean"], "pruner=mean: should be 'median', 'hyperband' or 'none'"),
        (SPACE, ["trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?"),
        (SPACE, ["optimizer.betas=[2,2]"], "optimizer.betas=[2.0, 2.0]: rejected by AdamW"),
        (SPACE, ["data.val_fraction=0"], "tune needs validation clips, by which trials are compared"),
        (SPACE, ["space=smal"], "space=smal: no such option; did you mean space=small?"),
        (SPACE, ["sweep=seeds"], "sweep=seeds: tune has no sweep; only train has"),
        (SPACE, ["folds=5"], "folds=5: tune has no folds; only train has"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_error_is_reported_before_the_first_trial(spectrnn, command, tmp_path, space, arguments, message):
    outcome = spectrnn(*command(space, *arguments))
    assert outcome.error().startswith(f"spectrnn: {message}"), outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"conf"}


def test_folder_with_a_run_is_rejected(spectrnn, command, trained_run):
    before = (trained_run / ".hydra" / "overrides.yaml").read_text()
    message = spectrnn(*command(SPACE), f"hydra.run.dir={trained_run}").error()
    assert message == f"spectrnn: hydra.run.dir={trained_run}: contains a run already; choose another folder"
    assert (trained_run / ".hydra" / "overrides.yaml").read_text() == before


def test_missing_optuna_is_reported(spectrnn, command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert spectrnn(*command(SPACE)).error() == "spectrnn: tune needs optuna; pip install 'spectrnn[tune]'"


@pytest.mark.parametrize("space", sorted(path.stem for path in (CONFIG_DIR / "space").glob("*.yaml")))
def test_spaces_are_valid(spectrnn, tones, tmp_path, space):
    # Without validation clips, the search ends after the space was validated.
    data = ("data=folder", f"data.root={tones}", "data.val_fraction=0", "data.sample_rate=22050")
    message = spectrnn("tune", *data, f"space={space}", f"hydra.run.dir={tmp_path / 'search'}").error()
    assert message.startswith("spectrnn: tune needs validation clips")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=gru", "optimizer.lr=1e-05", "augment=[noise,gain]", "augment.noise.color=white", "seed=3"],
        ["experiment=environment", "model=lstm", "augment=[]", "trainer.epochs=7"],
        ["data=folder", "data.root='/a b/it\\'s'", "data.group='(\\d+)_'", "trainer.patience=null"],
        ["model.dropout=0.3", "model.dropout=0.1", "features.fmax=${data.sample_rate}"],
        ["data.words=[a,b,'no']", "trainer.ema_decay=0.9", "optimizer.betas=[0.9,0.99]"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_experiment_composes_as_its_overrides(tmp_path, overrides):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(experiment_yaml(overrides, [CONFIG_DIR]))
    composed = compose("train", ["experiment=best"], [CONFIG_DIR, tmp_path])
    assert composed.config == compose("train", overrides, [CONFIG_DIR]).config
