"""The result of a search: the best model and config, the test split that the search did not see, and tables."""

import csv
import json
import logging
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from spectrnn.config.compose import group_options
from spectrnn.config.instantiate import format_value
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.dataset import open_dataset
from spectrnn.errors import UserError
from spectrnn.evaluation.evaluate import predict_batches
from spectrnn.evaluation.metrics import bootstrap_intervals, classification_metrics, metrics_of
from spectrnn.evaluation.predictions import PREDICTIONS, Predictions, concatenate, read_predictions, write_predictions
from spectrnn.files import atomic_write, write_json
from spectrnn.messages import format_seconds, format_table
from spectrnn.model import serialization
from spectrnn.runs import METRICS, MODEL, read_config
from spectrnn.study.search import Search, wrapped
from spectrnn.training.preflight import preflight

log = logging.getLogger(__name__)

_TABLE_TRIALS = 10
_MIN_TRIALS = 10  # for importances


def report(search: Search) -> dict[str, Any]:
    """Evaluates the best model on the test split, once, writes the results, and prints them.

    Writes model.safetensors, config.yaml, predictions.csv, experiment/best.yaml, trials.csv and, last, metrics.json.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: No trial was completed.
    """
    folder = search.folder
    with search.lock:
        ranked = search.ranked()
        failed = {str(t.number): t.user_attrs["error"] for t in search.trials if t.state == TrialState.FAIL}
        if not ranked:
            reasons = "".join(f"\n  trial {number}: {reason}" for number, reason in failed.items())
            raise UserError(f"{folder}: no trial was completed{reasons}")
        best = ranked[0]
        if (folder / METRICS).exists():  # written by another process of this search
            metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        else:
            states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
            metrics = {
                "trials": {state.name.lower(): sum(t.state == state for t in search.trials) for state in states},
                "best": {"trial": best.number, "overrides": search.overrides(best)},
                **_evaluate_best(search, best),
                "importance": _importances(search.study),
                "failed": failed,
            }
            for name in (MODEL, "config.yaml"):  # a run as `eval` and `compare` expect it
                with atomic_write(folder / name) as path:
                    shutil.copyfile(search.trial_folder(best.number) / name, path)
            (folder / "experiment").mkdir(exist_ok=True)
            text = experiment_yaml([*search.settings.overrides, *search.overrides(best)], search.settings.dirs)
            with atomic_write(folder / "experiment" / "best.yaml") as path:
                path.write_text(text, encoding="utf-8")
            _write_csv(search)
            write_json(metrics, folder / METRICS)
    log.info("\n%s\n", _format(search, ranked, metrics))
    return metrics


def _evaluate_best(search: Search, best: FrozenTrial) -> dict[str, Any]:
    """Returns the results by split, of val from the trial's run, of test computed now, and writes predictions.csv."""
    run = search.trial_folder(best.number)
    content = json.loads((run / METRICS).read_text(encoding="utf-8"))
    result = {name: content[name] for name in ("train", "metric", "higher_is_better", "epochs", "parameters", "val")}
    intervals, tables = {"val": content["intervals_95"]["val"]}, [read_predictions(run / PREDICTIONS)]
    components = preflight(search.space.compose(search.overrides(best)).config)
    dataset = open_dataset(components.source, components.device, components.task.label_format)
    if len(dataset.rows("test")):
        trust = serialization.stage_packages(components.config)
        classifier, _ = serialization.load(run / MODEL, components.device, trust)
        metrics = metrics_of(classifier.task, components.metrics)
        batch_size = read_config(run)["trainer"]["batch_size"]
        batches = dataset.batches("test", batch_size, components.device, cover=True)
        outcome = predict_batches(classifier, batches)
        result["test"] = classification_metrics(outcome, metrics)
        intervals["test"] = bootstrap_intervals(outcome, metrics)
        clips = [dataset.clips[row] for row in dataset.rows("test")]
        tables.append(Predictions.of(clips, outcome, classifier))
    write_predictions(concatenate(tables), search.folder / PREDICTIONS)
    return {**result, "intervals_95": intervals}


def _importances(study: optuna.Study) -> dict[str, float]:
    """Estimates how much each hyperparameter matters for the best results; nothing if few trials differ."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(completed) < _MIN_TRIALS or len({trial.value for trial in completed}) == 1:
        return {}
    # PED-ANOVA (Watanabe et al., 2023), which needs no scikit-learn; it is best with five or more good trials.
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, 5 / len(completed))))
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def experiment_yaml(overrides: Sequence[str], dirs: Sequence[Path]) -> str:
    """Formats overrides of train.yaml as a file of the config group ``experiment``.

    Args:
        overrides: Overrides; those that delete something cannot be in a file, and are left out.
        dirs: Folders of config files, as `config.paths.config_dirs`.
    """
    groups: dict[str, str] = {}
    values = OmegaConf.create()
    experiments: list[str] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if override.is_delete():
            continue
        if key == "experiment":
            experiments = [f"  - {value}"]
        elif "." not in key and group_options(key, dirs):
            groups[key] = f"  - override /{key}: {format_value(value)}"
        else:
            OmegaConf.update(values, key, value, force_add=True)
    lines = ["# @package _global_", "# The best trial of a search", "defaults:"]
    body = yaml.safe_dump(OmegaConf.to_container(values), sort_keys=False, allow_unicode=True) if values else ""
    return "\n".join([*lines, *experiments, *groups.values(), "  - _self_", body])


def train_command(search: Search) -> str:
    """Returns the command that trains the best configuration again, to the same weights."""
    settings, threads = search.settings, search.ranked()[0].user_attrs["result"]["threads"]
    prefix = "" if threads == torch.get_num_threads() else f"OMP_NUM_THREADS={threads} "
    deleted = [override for override in settings.overrides if override.startswith("~")]
    others = [str(place) for place in settings.dirs if place != CONFIG_DIR]
    path = [f"hydra.searchpath=[{','.join(others)}]"] if others else []
    return prefix + shlex.join(
        ["spectrnn", "train", "experiment=best", "--config-dir", shown(search.folder), *path, *deleted]
    )


def shown(path: Path) -> str:
    """Formats a path, relative to the current folder if it is below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _write_csv(search: Search) -> None:
    keys = list(search.space.parameters)
    with atomic_write(search.folder / "trials.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", search.settings.metric, "epochs", "seconds", *keys, "error"])
        for trial in search.trials:
            result = trial.user_attrs.get("result", {})
            epochs = result.get("epochs", max(trial.intermediate_values, default=""))
            state = {"fail": "failed"}.get(trial.state.name.lower(), trial.state.name.lower())
            row = [trial.number, state, trial.value, epochs, result.get("seconds")]
            writer.writerow([*row, *(trial.params.get(key) for key in keys), trial.user_attrs.get("error")])


def _format(search: Search, ranked: Sequence[FrozenTrial], metrics: dict[str, Any]) -> str:
    """Formats the best trials, importances, the result by split, and what to do with it."""
    counts, best, metric = metrics["trials"], metrics["best"], metrics["metric"]
    numbers = [f"{counts['complete']} completed", f"{counts['pruned']} pruned", f"{counts['fail']} failed"]
    parts = [f"trials: {', '.join(numbers)}"]
    parts += [f"  trial {number} failed: {reason}" for number, reason in metrics["failed"].items()]
    if len(ranked) < search.settings.trials - counts["pruned"]:
        parts.append(f"  fewer than trials={search.settings.trials}: too many failed, or the space has no more points")
    parts += ["", _trials_table(search, ranked[:_TABLE_TRIALS], list(metrics["importance"]))]
    if metrics["importance"]:
        rows = [[key, f"{value:.2f}"] for key, value in metrics["importance"].items()]
        parts += ["", format_table(["hyperparameter", "importance"], rows)]
    names = {"val": "validation (chosen on)", "test": "test (not seen by the search)"}
    rows = [
        [title, f"{metrics[split][metric]:.4f}", "{:.4f} to {:.4f}".format(*metrics["intervals_95"][split][metric])]
        for split, title in names.items()
        if split in metrics
    ]
    parts += ["", format_table([f"trial {best['trial']}", metric, "95 % CI"], rows), ""]
    place = shown(search.folder)
    parts += [wrapped(best["overrides"]), "", f"its model is {place}/{MODEL}; to train it again:"]
    parts += [train_command(search)]
    return "\n".join(parts)


def _trials_table(search: Search, trials: Sequence[FrozenTrial], important: Sequence[str]) -> str:
    """Formats trials, with the hyperparameters that fit on the screen, those first that matter most."""
    width = shutil.get_terminal_size().columns
    head = ["trial", search.settings.metric, "time"]
    rows = [
        [str(trial.number), f"{trial.value:.4f}", format_seconds(trial.user_attrs["result"]["seconds"])]
        for trial in trials
    ]
    table = format_table(head, rows)
    keys = [*important, *(key for key in search.space.parameters if key not in important)]
    last = Counter(key.rpartition(".")[2] for key in keys)
    for key in keys:
        name = key.rpartition(".")[2]
        wider = [*head, name if last[name] == 1 else key]
        cells = [[*row, _cell(trial.params.get(key, "-"))] for row, trial in zip(rows, trials, strict=True)]
        candidate = format_table(wider, cells)
        if len(candidate.partition("\n")[0]) <= width:
            head, rows, table = wider, cells, candidate
    return table


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
