"""Comparison of runs: their results, the differences of their configs, and paired tests on the same clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from spectrnn.config.instantiate import unknown_name
from spectrnn.errors import UserError
from spectrnn.evaluation.metrics import METRICS
from spectrnn.evaluation.predictions import PREDICTIONS, Predictions, read_predictions
from spectrnn.runs import RunSummary, read_config, read_run
from spectrnn.study.paired_test import PairedTest, common_clips, paired_test
from spectrnn.study.summary import relative_folders, sort_runs


class Pair(NamedTuple):
    """Two runs on their common clips.

    Attributes:
        a: Folder of run A.
        b: Folder of run B.
        totals: Number of clips of the split in A and in B.
        test: Result of the paired test.
    """

    a: Path
    b: Path
    totals: tuple[int, int]
    test: PairedTest


@dataclass
class Comparison:
    """Everything that the formats show.

    Args:
        runs: Runs, best first.
        folder: Folder that contains all of them.
        names: Name of each run's folder, see `short_names`.
        split: Split of the tests.
        two: Folders of the two finished runs in the order of the command; empty if there are more or fewer.
        differences: Keys whose values differ in their configs, with both values, None if absent.
        pairs: These two runs or, of more, each against the best.
        untested: Why other pairs have no test, a sentence each.
    """

    runs: list[RunSummary]
    folder: Path
    names: dict[Path, str]
    split: str
    two: list[Path]
    differences: dict[str, tuple[Any, Any]]
    pairs: list[Pair]
    untested: list[str]


def compare_runs(folders: Sequence[Path], metric: str | None = None, split: str | None = None) -> Comparison:
    """Compares runs and cross-validations.

    Args:
        folders: Their folders, at least one.
        metric: Metric to sort by; None for the one that selects each run's best epoch.
        split: Split of the metric and of the tests; None for each run's own, and ``test`` for the tests.

    Raises:
        UserError: A damaged file, or a metric that no run has.
    """
    runs = [read_run(folder, metric, split) for folder in folders]
    if metric in METRICS:
        runs = [run._replace(higher_is_better=METRICS[metric].higher_is_better) for run in runs]
    finished = [run.folder for run in runs if run.is_finished]
    if metric and finished and not any(run.split for run in runs):
        raise UserError(f"metric={metric}: not a metric of these runs; {unknown_name(metric, METRICS)}")
    runs = sort_runs(runs)
    folder, paths = relative_folders([run.folder for run in runs])
    names = dict(zip((run.folder for run in runs), short_names(paths), strict=True))
    comparison = Comparison(runs, folder, names, split or "test", [], {}, [], [])
    if len(finished) == 2:
        couples = [(finished[0], finished[1])]
        comparison.two = finished
        comparison.differences = config_differences(read_config(finished[0]), read_config(finished[1]))
    else:
        best, *others = [run.folder for run in runs if run.is_finished] or [folder]
        couples = [(other, best) for other in others]
    read = lru_cache(maxsize=2)(read_predictions)  # keeps the best run's
    for a, b in couples:
        try:
            predictions_a, predictions_b, totals = read_common_clips(a, b, comparison.split, read)
        except UserError as error:
            comparison.untested.append(f"{names[a]} and {names[b]} cannot be tested on the same clips: {error}")
        else:
            comparison.pairs.append(Pair(a, b, totals, paired_test(predictions_a, predictions_b)))
    return comparison


def short_names(paths: Sequence[str]) -> list[str]:
    """Returns the last parts of each path that no other path ends with; ``run 3`` for the job 3 of a sweep."""
    parts = [path.split("/") for path in paths]
    names = []
    for own in parts:
        lengths = range(1, len(own) + 1)
        size = next((n for n in lengths if sum(other[-n:] == own[-n:] for other in parts) == 1), len(own))
        name = "/".join(own[-size:])
        names.append(f"run {name}" if name.isdigit() else name)
    return names


def config_differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the full keys whose values differ between two resolved configs, with both values; None if absent."""
    differences: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*a, *b]):
        values = a.get(name), b.get(name)
        nodes = [{} if value is None else value for value in values]
        if all(isinstance(node, dict) for node in nodes) and any(nodes):
            differences |= config_differences(nodes[0], nodes[1], f"{prefix}{name}.")
        elif values[0] != values[1]:
            differences[f"{prefix}{name}"] = values
    return differences


def read_common_clips(
    a: Path, b: Path, split: str, read: Callable[[Path], Predictions] = read_predictions
) -> tuple[Predictions, Predictions, tuple[int, int]]:
    """Reads the predictions of two runs for their common clips of a split.

    Args:
        a: Folder of run A.
        b: Folder of run B.
        split: Name of the split.
        read: Function that reads a table of predictions.

    Returns:
        The predictions of A and of B, and the number of clips of the split in A and in B.

    Raises:
        UserError: Predictions that are missing or damaged, other labels, or no common clips.
    """
    tables = read(a / PREDICTIONS), read(b / PREDICTIONS)
    totals = [sum(clip.split == split for clip in table.clips) for table in tables]
    return *common_clips(*tables, split), (totals[0], totals[1])
