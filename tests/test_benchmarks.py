"""The measurements of scripts/benchmark.py, on commands whose results are known."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import Evaluated, shortest, times_to_accuracy, train_completely, train_until
from benchmarks.commands import SPECTRNN, CommandError, Outcome, run
from benchmarks.contention import Contention
from benchmarks.steps import Stages, compose_train, train_epoch
from benchmarks.tables import NOTE, OTHERS, show
from benchmarks.training import Job, parallel, recipe_job, trainings
from spectrnn.data.dataset import open_dataset
from spectrnn.progress import Stopwatch
from spectrnn.training.preflight import preflight
from spectrnn.training.train import build_trainer
from spectrnn.training.trainer import Trainer

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def recipe(path: Path, code: str) -> Path:
    path.write_text(code)
    return path


def training_job(*speeds: float, others: float = 0.0) -> Job:
    """A training of two epochs, whose second one has the next of the speeds in clips/s."""
    outcomes = (Outcome(1.0, 50.0, others, f"epoch 1 7 clips/s\nepoch 2 {speed} clips/s\n") for speed in speeds)
    return lambda: next(outcomes)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processor times are read on Linux only")
def test_contention_excludes_own_processes_and_cores_of_others(tmp_path: Path):
    core, own, child, grandchild, foreign = min(os.sched_getaffinity(0)), os.getpid(), 10**7, 10**7 + 1, 10**7 + 2
    # Per process: its parent; its own user and system time, and those of its ended children.
    before = {own: (1, [10, 1, 0, 0]), foreign: (1, [500, 0, 0, 0])}
    after = {
        own: (1, [20, 2, 8, 1]),  # 20 ticks, of which 9 are of ended children
        child: (own, [30, 0, 0, 0]),
        grandchild: (child, [3, 2, 0, 0]),
        foreign: (1, [900, 0, 0, 0]),
    }

    def write(core_ticks: list[int], processes: dict[int, tuple[int, list[int]]]) -> None:
        lines = [f"cpu{core} {' '.join(map(str, core_ticks))} 9 9", "cpu999999 0 0 0 0 0 0 0 0 0 0", "intr 5"]
        lines[1:1] = [f"cpu{other} 0 0 0 0 0 0 0 0 0 0" for other in os.sched_getaffinity(0) - {core}]
        (tmp_path / "stat").write_text("\n".join(lines))
        for pid, (parent, ticks) in processes.items():
            (tmp_path / str(pid)).mkdir(exist_ok=True)
            fields = ["S", parent, *repeat(0, 9), *ticks, 20]
            (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (b) c) {' '.join(map(str, fields))}")

    write([100, 0, 0, 800, 50, 0, 0, 0], before)
    with Contention(tmp_path) as contention:
        # 40 idle and 160 busy ticks, of which 20 are of other machines, and 55 of this process and its descendants.
        write([200, 10, 20, 830, 60, 5, 5, 20], after)
    assert contention.fraction == pytest.approx((160 - 55) / 200)


def test_contention_is_unknown_without_processor_times(tmp_path: Path):
    with Contention(tmp_path) as contention:
        pass
    assert contention.fraction is None


def test_ratios_are_paired_by_round():
    jobs = {"recipe": training_job(100, 200, 400), "spectrnn": training_job(150, 200, 800, others=0.2)}
    table = trainings(jobs, {"spectrnn": {"recipe": "recipe"}}, 3, [0])
    assert table["recipe"] == {"clips/s": 200, "peak MB": 50, OTHERS: 0}
    assert table["spectrnn"] == {"clips/s": 200, "ratio to recipe": (1.5, 1, 2), "peak MB": 50, OTHERS: 20}


def test_busy_processes_take_turns_with_an_idle_machine():
    jobs = {"recipe": training_job(100, 10, 100, 20), "spectrnn": training_job(200, 100, 400, 100)}
    row = trainings(jobs, {"spectrnn": {"recipe": "recipe"}}, 2, [0, 1])["spectrnn"]
    assert row["clips/s"] == 300
    assert row["clips/s, 1 busy"] == 100
    assert row["fraction of the idle speed, 1 busy"] == (0.375, 0.25, 0.5)
    assert row["ratio to recipe, 1 busy"] == (7.5, 5, 10)


def test_parallel_trainings_are_added():
    row = parallel({"spectrnn": training_job(100, 60, 90, 200, 100, 100)}, 2)["spectrnn"]
    assert row["clips/s, one alone"] == 150
    assert row["clips/s, sum of two"] == 175
    assert row["sum of two / one alone"] == (1.25, 1, 1.5)


def test_recipes_without_their_packages_are_skipped(tmp_path: Path):
    missing = recipe(tmp_path / "missing.py", "import a_missing_package")
    jobs = {"missing": recipe_job(missing, "digits", 2), "spectrnn": training_job(100, 100, 100)}
    note = {NOTE: "skipped: No module named 'a_missing_package'"}
    table = trainings(jobs, {"spectrnn": {"missing": "missing"}}, 1, [0])
    assert table["missing"] == note
    assert "ratio to missing" not in table["spectrnn"]
    assert parallel({"missing": jobs["missing"]}, 1) == {"missing": note}


def test_other_errors_of_recipes_end_the_benchmark(tmp_path: Path):
    broken = recipe(tmp_path / "broken.py", "raise ValueError('no digits')")
    with pytest.raises(CommandError, match=r"broken\.py digits 2\n(.|\n)*no digits"):
        trainings({"broken": recipe_job(broken, "digits", 2)}, {}, 1, [0])


def test_tables_mark_contended_rows_and_order_columns_by_the_longest_row(capsys: pytest.CaptureFixture[str]):
    show("training", {"a": {"clips/s": 1234.5, OTHERS: 6.0}, "b": {"clips/s": 2.0, "ratio": 0.5, OTHERS: 4.0}})
    header, _, first, second = capsys.readouterr().out.split("\n")[:4]
    assert header == f"| training | clips/s | ratio | {OTHERS} |"
    assert (first, second) == ("| a * | 1,234 |  | 6 |", "| b | 2 | 0.5 | 4 |")


def test_commands_run_without_settings_of_spectrnn():
    code = "import os, benchmarks; print(os.environ['GOMP_SPINCOUNT'], 'GOMP_SPINCOUNT' in benchmarks.ENVIRONMENT)"
    removed = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [SCRIPTS, SCRIPTS.parent]))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1000 False\n"


def test_another_version_is_not_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("here", "checkout"):
        (tmp_path / name / "spectrnn").mkdir(parents=True)
        (tmp_path / name / "spectrnn" / "__init__.py").touch()
        (tmp_path / name / "spectrnn" / "__main__.py").write_text(f"print('{name}')")
    monkeypatch.chdir(tmp_path / "here")
    assert run(SPECTRNN, PYTHONPATH=str(tmp_path / "checkout")).text == "checkout\n"


def evaluated_job(*seconds: float, accuracies: Sequence[float] = (0.99,)) -> Callable[[int], Evaluated]:
    """A training that takes so many seconds with each seed."""
    return lambda seed: Evaluated(seconds[seed], [*accuracies], 0.0)


def test_a_recipe_ends_when_it_reaches_the_accuracy(tmp_path: Path):
    lines = [f"epoch {epoch} 1.0s 9 clips/s test {value} (300)" for epoch, value in enumerate((0.5, 0.99, 0.2))]
    found = train_until([sys.executable, str(recipe(tmp_path / "ended.py", f"for x in {lines}: print(x)"))], 0.98)
    assert found.accuracies == [0.5, 0.99]
    assert found.seconds > 0
    waiting = recipe(tmp_path / "waiting.py", f"print({lines[1]!r})\nwhile True: pass")
    assert train_until([sys.executable, str(waiting)], 0.98).accuracies == [0.99]


def test_recipes_that_do_not_reach_the_accuracy_are_reported(tmp_path: Path):
    codes = {
        "silent": "print('epoch 0 1.0s 9 clips/s')",
        "missing": "import a_missing_package",
        "slow": "for epoch in range(2): print(f'epoch {epoch} 1.0s 9 clips/s test 0.{epoch + 5}')",
    }
    commands = {name: [sys.executable, str(recipe(tmp_path / f"{name}.py", code))] for name, code in codes.items()}
    jobs = {name: partial(lambda command, _: train_until(command, 0.98), command) for name, command in commands.items()}
    table = times_to_accuracy({"spectrnn": evaluated_job(2, 2)}, jobs, 0.98, 2)
    assert {name: row.get(NOTE) for name, row in table.items()} == {
        "spectrnn": None,
        "silent": "does not evaluate",
        "missing": "skipped: No module named 'a_missing_package'",
        "slow": "reached in 0 of 2 trainings",
    }
    assert table["slow"]["accuracy"] == (0.6, 0.6, 0.6)
    assert table["spectrnn"] == {"accuracy": (0.99, 0.99, 0.99), "s to 98 %": (2, 2, 2), OTHERS: 0}


def test_times_to_an_accuracy_are_paired_with_the_fastest_recipe():
    own = {"short": evaluated_job(10, 20, 30), "wrong": evaluated_job(1, 1, 1, accuracies=[0.9])}
    recipes = {"slow": evaluated_job(90, 90, 90), "fast": evaluated_job(20, 20, 40, accuracies=[0.5, 0.98])}
    table = times_to_accuracy(own, recipes, 0.98, 3)
    assert table["short"]["s to 98 %"] == (20, 10, 30)
    assert table["short"]["time / time of fast"] == (0.75, 0.5, 1)
    assert (table["fast"]["epochs"], table["slow"]["epochs"]) == (2, 1)
    assert [*table["wrong"]] == ["accuracy", NOTE, OTHERS]


def test_the_shortest_training_reaches_the_accuracy_with_all_seeds():
    def of_accuracies(*values: float) -> Callable[[int], Evaluated]:
        return lambda seed: Evaluated(1.0, [values[seed]], None)

    lengths = {"3": of_accuracies(0.9, 0.99), "5": of_accuracies(0.98, 0.97), "8": of_accuracies(0.98, 0.99)}
    assert [*shortest(lengths, 0.98, 2)] == ["8"]
    assert [*shortest(lengths, 0.98, 1)] == ["5"]
    assert shortest(lengths, 0.995, 2) == {}


@pytest.mark.slow
def test_a_complete_training_is_evaluated_on_the_test_split(tones: Path):
    small = ["data=folder", f"data.root={tones}", "data.sample_rate=8000", "features.n_mels=8", "model.hidden_size=4"]
    found = train_completely([*small, "trainer.epochs=1", "trainer.report=false"], 0)
    assert len(found.accuracies) == 1
    assert found.accuracies[0] in [number / 6 for number in range(7)]  # two test clips per class


@pytest.fixture
def build(tones: Path) -> Callable[..., Trainer]:
    def build_tiny(*overrides: str) -> Trainer:
        dataset = ["data=folder", f"data.root={tones}", "data.sample_rate=8000", "features.n_mels=8", "model=bigru"]
        small = ["model.hidden_size=4", "trainer.batch_size=8", "trainer.device=cpu"]
        components = preflight(compose_train([*dataset, *small, *overrides]))
        return build_trainer(components, open_dataset(components.source, components.device), Stopwatch(), is_new=True)

    return build_tiny


def test_stages_measure_the_step_of_the_trainer(build: Callable[..., Trainer]):
    measured, plain = build(), build()
    stages = Stages(measured)
    stages.train_epoch(0)
    train_epoch(plain, 0)
    for ours, theirs in zip(measured.classifier.parameters(), plain.classifier.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert min(stages.seconds.values()) > 0
    assert [*stages.seconds] == [
        "gather",
        "augmentation",
        "features",
        "encoder forward",
        "pooling, head and loss",
        "encoder backward",
        "optimizer",
    ]


def test_operations_are_those_of_the_matrix_products(build: Callable[..., Trainer]):
    stages = Stages(build("augment=[]"))
    stages.train_epoch(0)
    # Three gates of 4 units in two directions, for 8 bins and then for the 8 values of both directions. Each product
    # occurs in the forward pass, for the gradient of the weights, and for that of the inputs but not of the features.
    first, second = 3 * 4 * (3 * 4 + 2 * 8), 3 * 4 * (3 * 4 + 3 * 8)
    assert stages.operations == 2 * 2 * (first + second) * stages.num_frames


def test_operations_of_convolutions(build: Callable[..., Trainer]):
    strides = ("model.time_strides=[1,1]", "model.frequency_strides=[2,2]")
    with_one, with_two = (
        Stages(build("augment=[]", "model=crnn", f"model.channels={channels}", *strides))
        for channels in ("[1,1]", "[2,1]")
    )
    with_one.train_epoch(0)
    with_two.train_epoch(0)
    # The second channel of the first layer has 3 x 3 weights for 4 of the 8 bins, in two passes; the second layer has
    # 9 weights more for 2 bins, in three passes.
    assert with_two.operations - with_one.operations == 2 * 9 * (2 * 4 + 3 * 2) * with_one.num_padded
