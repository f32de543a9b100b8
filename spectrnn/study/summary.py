"""Tables of runs: overrides that differ, results and training time."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from spectrnn.files import atomic_write
from spectrnn.messages import format_seconds, format_table
from spectrnn.runs import ERROR, RunSummary


def differing_overrides(runs: Sequence[RunSummary]) -> list[str]:
    """Returns the keys whose values differ between runs, in the order in which they were given."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({_parse(run.overrides.get(key, "-")) for run in runs}) > 1]


def sort_runs(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Sorts runs, best first, those of another metric or split after the most frequent one, unfinished ones last."""
    counts = Counter((run.metric, run.split) for run in runs if run.value is not None)
    return sorted(runs, key=lambda run: (run.value is None, -counts[run.metric, run.split], run.metric, run.rank))


def relative_folders(folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """Returns the folder that contains all folders, and the path of each in it."""
    try:
        common = Path(os.path.commonpath([folder.parent for folder in folders]))
    except ValueError:  # absolute and relative paths
        return Path(), [str(folder) for folder in folders]
    names = [folder.relative_to(common).as_posix() for folder in folders]
    return Path.cwd() if common == Path() else common, names


def describe_folder(runs: int, folder: Path) -> str:
    """Describes where a number of runs is."""
    return f"{runs} {'run' if runs == 1 else 'runs'} in {folder}"


def runs_table(runs: Sequence[RunSummary]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table of runs, in their order.

    Columns are the overrides that differ, the metric with its 95 % interval, the training time, and the folder in that
    of all runs. An override that a run does not have is shown as ``-``: it has the default.
    """
    keys = differing_overrides(runs)
    last = Counter(key.rpartition(".")[2] for key in keys)
    titles = [name if last[name := key.rpartition(".")[2]] == 1 else key for key in keys]
    metrics = {f"{run.split} {run.metric}" for run in runs if run.value is not None}
    rows = []
    for run, name in zip(runs, relative_folders([run.folder for run in runs])[1], strict=True):
        result = [run.status, ""]
        if run.value is not None:
            metric = f"{run.split} {run.metric} " if len(metrics) > 1 else ""
            result = [f"{metric}{run.value:.4f}", "{:.4f} to {:.4f}".format(*run.interval) if run.interval else ""]
        elif run.is_finished:
            result = [f"no {run.metric}", ""]
        seconds = "" if run.seconds is None else format_seconds(run.seconds)
        rows.append([*(run.overrides.get(key, "-") for key in keys), *result, seconds, name])
    return [*titles, metrics.pop() if len(metrics) == 1 else "metric", "95 % CI", "time", "folder"], rows


def format_runs(runs: Sequence[RunSummary], width: int | None = None) -> str:
    """Formats a table of runs, best first, as `runs_table` describes it, and the errors of those that have failed.

    Args:
        runs: Runs, at least one.
        width: Number of columns; None for those of the terminal. If the table is wider, the overrides of each run are
            below its other values.
    """
    runs, width = sort_runs(runs), width or shutil.get_terminal_size().columns
    titles, rows = runs_table(runs)
    text = format_table(titles, rows)
    if max(map(len, text.splitlines())) > width:
        keys = differing_overrides(runs)
        narrow = [[row[-1], *row[len(keys) : -1]] for row in [titles, *rows]]
        head, *lines = format_table(narrow[0], narrow[1:]).splitlines()
        for number, run in enumerate(runs):
            given = " ".join(f"{key}={run.overrides[key]}" for key in keys if key in run.overrides)
            lines[number] += "".join(f"\n    {line}" for line in wrap(given, width - 4, break_long_words=False))
        text = "\n".join([head, *lines])
    folder, names = relative_folders([run.folder for run in runs])
    errors = [f"{name}: {run.error.splitlines()[0]}" for run, name in zip(runs, names, strict=True) if run.error]
    return "\n\n".join([describe_folder(len(runs), folder), text, *(["\n".join(errors)] if errors else [])])


def write_error(folder: Path, reason: str) -> None:
    """Records why a job failed."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / ERROR) as temporary:
        temporary.write_text(reason + "\n", encoding="utf-8", errors="replace")


def _parse(text: str) -> float | str:
    """The value of an override, so that 1e-3 equals 0.001, and False equals false."""
    try:
        return float(text)
    except ValueError:
        return text.lower() if text in ("True", "False") else text
