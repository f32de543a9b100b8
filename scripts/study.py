"""Trains variants of the default configuration over seeds, and compares each with the default.

    uv run scripts/study.py --digits FSDD --environment ESC10.csv
    uv run scripts/study.py --digits FSDD --protocol digits --variants normalization mixup --seeds 0 1
    uv run scripts/study.py --digits FSDD --protocol synthetic --jobs 2
    uv run scripts/study.py --digits FSDD --environment ESC10.csv --quick     # one epoch, two folds

FSDD is the folder of the Free Spoken Digit Dataset, and ESC10.csv a manifest of ESC-10 with folds. The protocols are:

- digits: the default on FSDD, with one speaker left out at a time;
- environment: the preset for environmental sounds on ESC-10, with one fold left out at a time;
- synthetic: the default on the embedded dataset of synthetic speech, evaluated on all clips of FSDD.

Every variant, seed and protocol is an ordinary run or cross-validation in OUT/PROTOCOL/VARIANT/SEED. The same command
continues a study that Ctrl-C has interrupted, and does not repeat what has finished. The comparison is written to
OUT/table.md.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import joblib
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from benchmarks.commands import SPECTRNN, CommandError, run
from spectrnn.config.compose import ComposedConfig, compose, has_key, quote_override
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.errors import UserError
from spectrnn.evaluation.predictions import PREDICTIONS, Predictions, concatenate, read_predictions
from spectrnn.messages import format_seconds
from spectrnn.runs import METRICS, original_overrides, read_run
from spectrnn.study.comparison_formats import markdown_table
from spectrnn.study.paired_test import common_clips, paired_test

DEFAULT = "default"


def values(key: str, *options: str | float) -> dict[str, list[str]]:
    """Returns a variant per value of a key."""
    return {f"{key.rpartition('.')[2]}-{option}": [f"{key}={option}"] for option in options}


def convolutions(*channels: int) -> list[str]:
    """Returns the overrides of a CNN + RNN with a number of channels per convolution."""
    strides = [1, *[2] * (len(channels) - 1)]
    return [
        "model=crnn",
        f"model.channels={quote_override(channels)}",
        f"model.time_strides={quote_override(strides)}",
        f"model.frequency_strides={quote_override([2] * len(channels))}",
    ]


# By what they vary: overrides of each variant. One that changes nothing in a protocol is its default, and not trained.
VARIANTS: dict[str, dict[str, list[str]]] = {
    "normalization": values("normalize", "global", "level", "relaxed", "cmn", "cmvn", "none"),
    "augmentation": {
        "no-augmentation": ["augment=[]"],
        **{
            f"no-{name}": [f"~augment.{name}"]
            for name in ("filter", "vtlp", "speed", "noise", "rir", "gain", "specaugment", "mixup")
        },
        **{name: [f"+augment={name}"] for name in ("trim", "rir", "shift", "mixup")},
    },
    "label smoothing": values("task.label_smoothing", 0, 0.05, 0.1, 0.2),
    "dropout": {f"dropout-{p}": [f"model.dropout={p}", f"head.dropout={p}"] for p in (0, 0.1, 0.2, 0.4)},
    "weight decay": values("optimizer.weight_decay", 0, 0.01, 0.05, 0.2),
    "weight averaging": values("trainer.ema_decay", 0.99, 0.999),
    "learning rate": values("optimizer.lr", 0.0005, 0.001, 0.002, 0.004),
    "schedule": values("scheduler", "constant", "cosine", "onecycle", "trapezoidal"),
    "batch size": values("trainer.batch_size", 16, 32, 64, 128),
    "encoder": values("model", "bigru", "conv1d_rnn"),
    "hidden size": values("model.hidden_size", 64, 128, 256),
    "convolutions": {
        "conv-2": convolutions(32, 64),
        "conv-3": convolutions(32, 64, 128),
        "conv-4": convolutions(32, 64, 128, 128),
    },
    "mel bands": values("features.n_mels", 40, 64, 80),
    "attention heads": {f"heads-{n}": ["pooling=attention", f"pooling.num_heads={n}"] for n in (1, 2, 4, 8)},
    "clip length": values("data.max_seconds", 0.5, 1, 3),
}
ENVIRONMENT = ["experiment=environment", "data=manifest"]


class Protocol(NamedTuple):
    """What a study measures.

    Attributes:
        title: Description.
        overrides: Overrides of train.yaml.
        test: Overrides of eval.yaml for the test clips; empty for a cross-validation, which tests every clip itself.
    """

    title: str
    overrides: list[str]
    test: list[str]


class Job(NamedTuple):
    """A run or cross-validation.

    Attributes:
        protocol: Protocol.
        variant: Name of the variant.
        seed: Random seed.
        folder: Folder of the run.
        overrides: All overrides of train.yaml.
    """

    protocol: Protocol
    variant: str
    seed: int
    folder: Path
    overrides: list[str]

    @property
    def results(self) -> Path:
        """Folder of the metrics and predictions of the test clips."""
        return self.folder / "eval" / "all" if self.protocol.test else self.folder

    def is_finished(self) -> bool:
        """Whether the run has been trained and tested."""
        return (self.folder / METRICS).exists() and (self.results / PREDICTIONS).exists() and self.is_same()

    def is_same(self) -> bool:
        """Whether the folder does not contain a run with other overrides."""
        before = original_overrides(self.folder)
        return before is None or [o for o in before if not o.startswith("resume=")] == self.overrides

    def execute(self, threads: int) -> None:
        """Trains or continues the run, and tests it, with a number of threads.

        Raises:
            CommandError: A command that fails.
            UserError: A folder that contains a run with other overrides.
        """
        if not self.is_same():
            raise UserError("contains a run with other overrides; remove it, or choose another --out")
        place = quote_override(str(self.folder))
        environment = {"OMP_NUM_THREADS": str(threads)}
        if not (self.folder / METRICS).exists():
            is_new = original_overrides(self.folder) is None
            settings = [*self.overrides, f"hydra.run.dir={place}"] if is_new else [f"resume={place}"]
            run([*SPECTRNN, "train", *settings], **environment)
        if self.protocol.test:
            run([*SPECTRNN, "eval", f"run={place}", *self.protocol.test], **environment)


class Result(NamedTuple):
    """Result of a finished job.

    Attributes:
        accuracy: Accuracy on the test clips, 0 to 1.
        seconds: Training time in s.
        predictions: Predictions for the test clips, each resampled with its fold and the seed, see `paired_test`.
    """

    accuracy: float
    seconds: float
    predictions: Predictions


class Row(NamedTuple):
    """A variant in comparison with the default of its protocol.

    Attributes:
        varied: What it varies; "" for the default.
        variant: Name of the variant.
        seeds: Number of finished seeds.
        mean: Mean of the accuracy over the seeds, 0 to 1.
        std: Sample standard deviation of the accuracy over the seeds; None for a single one.
        lowest: Lowest accuracy of a fold, which in FSDD is a speaker; that of a fold is averaged over the seeds.
        difference: Mean difference of the accuracy to that of the default with the same seed; None without the default.
        interval: 95 % confidence interval [low, high] of the difference; None without the default.
        seconds: Mean training time in s.
    """

    varied: str
    variant: str
    seeds: int
    mean: float
    std: float | None
    lowest: float
    difference: float | None
    interval: list[float] | None
    seconds: float


def main() -> None:
    """Runs the study, and exits with 1 if a job failed."""
    arguments = parse()
    studied = protocols(arguments.digits, arguments.environment, arguments.quick)
    jobs = {
        name: list_jobs(protocol, arguments.out / name, arguments.variants or [*VARIANTS], arguments.seeds)
        for name, protocol in studied.items()
        if name in (arguments.protocol or studied)
    }
    try:
        # The first seed of everything first, so that an interrupted study has results.
        failures = run_jobs(
            sorted((job for own in jobs.values() for job in own), key=lambda job: job.seed), arguments.jobs
        )
    finally:
        parts = [f"### {studied[name].title}\n\n{format_rows(compare(own))}\n" for name, own in jobs.items()]
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "table.md").write_text("\n".join(parts), encoding="utf-8")
        print("", *parts, sep="\n", flush=True)
    for folder, reason in failures.items():
        print(f"{folder}: {reason}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, needs = parser.add_argument, {"digits": "digits", "environment": "environment", "synthetic": "digits"}
    names = [*VARIANTS, *(name for group in VARIANTS.values() for name in group)]
    add("--digits", type=Path, metavar="FSDD", help="folder of the Free Spoken Digit Dataset")
    add("--environment", type=Path, metavar="CSV", help="manifest of ESC-10 with folds")
    add("--protocol", choices=needs, nargs="+", help="protocols; default: all whose data is given")
    add(
        "--variants",
        choices=names,
        nargs="+",
        metavar="VARIANT",
        help=f"variants or groups of them, besides the default; default: all; groups: {', '.join(map(repr, VARIANTS))}",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="random seeds; default: 0 1 2")
    add("--jobs", type=int, default=1, help="number of jobs at a time, which divide the cores; default: 1")
    add("--quick", action="store_true", help="one epoch and two folds, to try the script")
    add("--out", type=Path, help="folder of the study; default: outputs/study, with --quick outputs/study-quick")
    arguments = parser.parse_args()
    for protocol in arguments.protocol or ():
        if getattr(arguments, needs[protocol]) is None:
            parser.error(f"--protocol {protocol}: needs --{needs[protocol]}")
    if not arguments.digits and not arguments.environment:
        parser.error("--digits, --environment: at least one is needed")
    arguments.out = arguments.out or Path("outputs", "study-quick" if arguments.quick else "study")
    return arguments


def protocols(digits: Path | None, environment: Path | None, is_quick: bool = False) -> dict[str, Protocol]:
    """Returns the protocols whose data is given, by name.

    Args:
        digits: Folder of the Free Spoken Digit Dataset.
        environment: Manifest of ESC-10.
        is_quick: Whether to train for one epoch, in two folds.
    """
    common = ["logger=[]", "trainer.report=false", *(["trainer.epochs=1"] if is_quick else [])]
    folds, takes = ("folds=2", ["data.takes=1"]) if is_quick else ("folds=all", [])
    found = {}
    if digits:
        fsdd = ["data=fsdd", f"data.root={quote_override(str(digits.resolve()))}"]
        found["digits"] = Protocol("Spoken digits (FSDD), one speaker left out", [*fsdd, folds, *common], [])
        test = [*fsdd, "split=all", "report=false"]
        title = "Spoken digits (FSDD), after training on synthetic speech"
        found["synthetic"] = Protocol(title, ["data=synthetic_speech", *takes, *common], test)
    if environment:
        path = f"data.path={quote_override(str(environment.resolve()))}"
        title = "Environmental sounds (ESC-10), one fold left out"
        found["environment"] = Protocol(title, [*ENVIRONMENT, path, folds, *common], [])
    return found


def list_jobs(protocol: Protocol, folder: Path, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Returns the jobs of a protocol: the default, and all variants that differ from it.

    Args:
        protocol: Protocol.
        folder: Folder of the protocol.
        names: Names of variants, or of groups of them.
        seeds: Random seeds.
    """
    base = compose("train", protocol.overrides, [CONFIG_DIR])
    variants = {
        name: overrides
        for group, own in VARIANTS.items()
        for name, overrides in own.items()
        if {group, name} & {*names} and any(changes(base, override) for override in overrides)
    }
    return [
        Job(protocol, name, seed, folder / name / str(seed), [*protocol.overrides, *overrides, f"seed={seed}"])
        for name, overrides in {DEFAULT: [], **variants}.items()
        for seed in seeds
    ]


def changes(base: ComposedConfig, override: str) -> bool:
    """Whether an override changes a config."""
    parsed = OverridesParser.create().parse_override(override)
    key = parsed.key_or_group
    if parsed.is_delete():
        return has_key(base.config, key)
    if parsed.is_add():  # an option of a group of several
        return not has_key(base.config, f"{key}.{parsed.value()}")
    return bool(base.choices.get(key, OmegaConf.select(base.config, key)) != parsed.value())


def run_jobs(jobs: Sequence[Job], parallel: int) -> dict[Path, str]:
    """Executes the jobs that have not finished, and returns the errors of those that failed.

    Args:
        jobs: Jobs.
        parallel: Number of jobs at a time, which divide the cores.
    """
    pending, failures = [job for job in jobs if not job.is_finished()], dict[Path, str]()
    threads = max(1, joblib.cpu_count() // parallel)
    print(f"{len(pending)} of {len(jobs)} jobs to run", flush=True)
    pool = ThreadPoolExecutor(parallel)
    futures = {pool.submit(job.execute, threads): job for job in pending}
    try:
        for number, future in enumerate(as_completed(futures), 1):
            folder, outcome = futures[future].folder, "finished"
            try:
                future.result()
            except (CommandError, UserError) as error:
                outcome, failures[folder] = "failed", str(error)
            print(f"{number}/{len(pending)} {folder}: {outcome}", flush=True)
    finally:  # after an interruption those that run end by themselves, and can be continued
        pool.shutdown(cancel_futures=True)
    return failures


def read_result(job: Job) -> Result:
    """Reads the result of a finished job.

    Raises:
        UserError: A damaged file.
    """
    tested = read_run(job.results, "accuracy", "all" if job.protocol.test else "test")
    seconds = read_run(job.folder).seconds
    assert tested.value is not None
    assert seconds is not None
    predictions = read_predictions(job.results / PREDICTIONS)
    clips = [clip._replace(split="test", group=f"{clip.fold}, seed {job.seed}") for clip in predictions.clips]
    return Result(tested.value, seconds, replace(predictions, clips=clips))


def compare(jobs: Sequence[Job]) -> list[Row]:
    """Compares the variants of a protocol that have results with its default, by the seeds that both have.

    The interval of a difference is that of the paired bootstrap over the folds of all seeds, see `paired_test`.
    """
    groups = {name: group for group, own in VARIANTS.items() for name in own}
    finished: dict[str, dict[int, Job]] = {}
    for job in jobs:
        if job.is_finished():
            finished.setdefault(job.variant, {})[job.seed] = job
    default = {seed: read_result(job) for seed, job in finished.get(DEFAULT, {}).items()}
    rows = []
    for name, own in finished.items():
        results = default if name == DEFAULT else {seed: read_result(job) for seed, job in own.items()}
        accuracies = [result.accuracy for result in results.values()]
        pairs = [
            common_clips(default[seed].predictions, result.predictions, "test")
            for seed, result in results.items()
            if name != DEFAULT and seed in default
        ]
        tested = None
        if pairs:
            ours, theirs = map(concatenate, zip(*pairs, strict=True))
            tested = paired_test(ours, theirs).metrics["accuracy"]
        rows.append(
            Row(
                groups.get(name, ""),
                name,
                len(results),
                statistics.fmean(accuracies),
                statistics.stdev(accuracies) if len(accuracies) > 1 else None,
                lowest_accuracy([result.predictions for result in results.values()]),
                tested.difference if tested else None,
                tested.interval if tested else None,
                statistics.fmean(result.seconds for result in results.values()),
            )
        )
    return rows


def lowest_accuracy(seeds: Sequence[Predictions]) -> float:
    """Returns the lowest accuracy of a fold over all seeds."""
    correct: dict[str | None, list[bool]] = {}
    for predictions in seeds:
        is_correct = predictions.probabilities.argmax(1) == predictions.targets
        for clip, right in zip(predictions.clips, is_correct.tolist(), strict=True):
            correct.setdefault(clip.fold, []).append(right)
    return min(map(statistics.fmean, correct.values()))


def format_rows(rows: Sequence[Row]) -> str:
    """Formats a comparison as a table in Markdown, with accuracies in percent and differences in points."""
    head = [
        "varied",
        "variant",
        "accuracy, %",
        "std over seeds",
        "lowest fold, %",
        "difference (95 %)",
        "time",
        "seeds",
    ]
    cells = []
    for row in rows:
        difference = ""
        if row.difference is not None and row.interval is not None:
            difference = "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * x for x in (row.difference, *row.interval)))
        std = "" if row.std is None else f"{100 * row.std:.2f}"
        accuracies = [f"{100 * row.mean:.2f}", std, f"{100 * row.lowest:.2f}"]
        cells.append([row.varied, row.variant, *accuracies, difference, format_seconds(row.seconds), str(row.seeds)])
    return markdown_table(head, cells)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
