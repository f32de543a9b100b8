"""A search in a folder: its trials are in a database, and any number of processes claim one trial at a time.

The database is SQLite: a transaction is complete or did not happen, whatever kills a process, and the system releases
the locks of a process that ends; a killed process would leave the lock file of Optuna's journal, the alternative. A
trial is written with all of its hyperparameters at once. The process that works on it holds the lock of its run
folder: a trial that is marked as running, but whose lock is free, was left by a process that ended, and is resumed.
"""

import logging
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from spectrnn.errors import StorageError, UserError
from spectrnn.files import atomic_write, remove_stale_temporaries
from spectrnn.messages import counted, format_seconds
from spectrnn.runs import METRICS
from spectrnn.study.logs import logging_to, write_overrides
from spectrnn.study.space import Space
from spectrnn.study.summary import write_error
from spectrnn.training.train import train

log = logging.getLogger(__name__)

PRUNED = "pruned.txt"  # why a trial was not trained to its end
# A report of each trial would take more time and space than a short training; the command line can ask for it.
TRIAL_DEFAULTS = ["trainer.report=false"]
_FINISHED, _FAILED = (TrialState.COMPLETE, TrialState.PRUNED), (TrialState.FAIL,)
_MAX_DRAWS = 100  # of hyperparameters that were not tried before
_POLL_SECONDS = 0.5

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class SearchSettings(NamedTuple):
    """Settings of a search.

    Attributes:
        folder: Folder of the search.
        overrides: Overrides that all trials have, in addition to `TRIAL_DEFAULTS`.
        dirs: Folders of config files, as `config.paths.config_dirs`.
        space: Range or choices by key, plain containers.
        trials: Number of trials to finish.
        pruner: ``median``, ``hyperband`` or ``none``.
        seed: Random seed of the search.
        epochs: Maximum number of epochs of a trial, unless they are searched.
        metric: Metric of the validation split that is optimized.
        higher_is_better: Whether a higher value is better.
    """

    folder: Path
    overrides: list[str]
    dirs: list[Path]
    space: dict[str, Any]
    trials: int
    pruner: str
    seed: int
    epochs: int
    metric: str
    higher_is_better: bool


class Search:
    """A search.

    Args:
        settings: Settings; if the folder contains a search already, they must be its own, but for the number of trials.

    Attributes:
        lock: Lock of the folder's database and results.
        study: Optuna's study.

    Raises:
        UserError: A search with other settings in the folder.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self.settings, self.folder = settings, settings.folder
        self.space = Space(settings.space, [*TRIAL_DEFAULTS, *settings.overrides], settings.dirs)
        (self.folder / ".hydra").mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".hydra" / "lock")
        pruners = {
            # Until a quarter of the epochs, a high learning rate says little about the result.
            "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=settings.epochs // 4),
            "hyperband": optuna.pruners.HyperbandPruner(
                min_resource=max(1, settings.epochs // 9), max_resource=settings.epochs
            ),
            "none": optuna.pruners.NopPruner(),
        }
        with self.lock:
            self.study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{self.folder.absolute() / 'study.db'}",
                    engine_kwargs={"connect_args": {"timeout": 60}},  # s, in which others may write
                ),
                sampler=RandomSampler(),  # of nothing: `_draw` draws
                pruner=pruners[settings.pruner],
                study_name="search",
                direction="maximize" if settings.higher_is_better else "minimize",
                load_if_exists=True,
            )
            self._require_own_settings()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def ranked(self) -> list[FrozenTrial]:
        """Returns the completed trials, best first. Many tie on a small validation split; then the lower loss wins."""
        sign = -1 if self.settings.higher_is_better else 1
        completed = (trial for trial in self.trials if trial.state == TrialState.COMPLETE)
        return sorted(completed, key=lambda trial: (sign * trial.values[0], trial.user_attrs["result"]["loss"]))

    def trial_folder(self, number: int) -> Path:
        """Returns the run folder of a trial."""
        return self.folder / f"trial-{number}"

    def overrides(self, trial: FrozenTrial) -> list[str]:
        """Returns the overrides that a trial has in addition to those of all trials."""
        return self.space.overrides(trial.params)

    def run_trials(self) -> None:
        """Runs trials until the search is finished, and then waits for those of other processes.

        Raises:
            TrainingInterrupted: A signal; the trial has been saved.
            StorageError: A full disk.
        """
        is_waiting = False
        while True:
            number, lock = self._claim()
            if number is None:
                return
            if lock:
                try:
                    self._run(number)
                finally:
                    lock.release()
            else:
                if not is_waiting:
                    log.info("waiting for other processes, which run the last trials")
                is_waiting = True
                time.sleep(_POLL_SECONDS)

    def _claim(self) -> tuple[int | None, FileLock | None]:
        """Claims a trial that a process left, or else a new one.

        Returns:
            Number of the trial, and the lock of its folder. The lock is None if other processes run all that is left,
            such as this trial; both are None if the search is finished.
        """
        with self.lock:
            trials, wanted = self.trials, self.settings.trials
            running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
            for number in running:
                if lock := self._try_lock(number):
                    return number, lock
            finished, failed = (sum(trial.state in states for trial in trials) for states in (_FINISHED, _FAILED))
            is_enough = max(finished, failed) >= wanted
            if not is_enough and finished + len(running) < wanted and (drawn := self._draw(trials)):
                (self.folder / METRICS).unlink(missing_ok=True)  # a search that has it is finished
                self.study.add_trial(drawn)
                return len(trials), self._try_lock(len(trials))
            return (running[0] if running else None), None

    def _try_lock(self, number: int) -> FileLock | None:
        folder = self.trial_folder(number) / ".hydra"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", blocking=False)  # which a training of the run takes, too
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _draw(self, history: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Draws hyperparameters that no trial has had; None if there seem to be none.

        They depend on the trials so far and on the seed only: an interrupted search continues as if it had not been.
        """
        tried = [trial.params for trial in history]
        for attempt in range(_MAX_DRAWS):
            seed = int(np.random.SeedSequence((self.settings.seed, len(history), attempt)).generate_state(1)[0])
            # A copy, as the trial must not be in the database before its hyperparameters are.
            study = optuna.create_study(
                sampler=RandomSampler(seed) if attempt else TPESampler(seed=seed, constant_liar=True),
                pruner=self.study.pruner,
                study_name=self.study.study_name,
                direction=self.study.direction,
            )
            study.add_trials([] if attempt else history)
            trial = study.ask()
            params = self.space.suggest(trial)
            if params not in tried:
                return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=trial.distributions)
        return None

    def _run(self, number: int) -> None:
        """Runs a claimed trial, or resumes it, and records its result."""
        frozen, folder, metric = self.trials[number], self.trial_folder(number), self.settings.metric
        live, reported = optuna.trial.Trial(self.study, frozen._trial_id), {*frozen.intermediate_values}
        drawn = self.overrides(frozen)
        text = f"trial {number:>3}  "

        def prune(epoch: Mapping[str, Any], is_last: bool) -> None:
            step, value = epoch["epoch"], epoch["val"][metric]
            if step not in reported:  # a resumed trial may repeat its last epoch
                live.report(value, step)
            if not is_last and live.should_prune():
                raise optuna.TrialPruned(f"after epoch {step}, with {metric} {value:.4f}")

        composed = self.space.compose(drawn)
        write_overrides(folder, [*self.space.given, *drawn])
        remove_stale_temporaries(folder)
        try:
            with logging_to(folder / "train.log", logging.WARNING):
                metrics = train(composed.config, folder, composed.choices, prune, ("val",))
        except optuna.TrialPruned as pruned:
            with atomic_write(folder / PRUNED) as path:
                path.write_text(f"pruned {pruned}: other trials were better at this epoch\n")
            self.study.tell(number, state=TrialState.PRUNED)
            text += f"pruned {pruned}"
        except StorageError:  # not because of the hyperparameters; the trial can be resumed
            raise
        except UserError as error:
            write_error(folder, str(error))
            reason = str(error).splitlines()[0]
            live.set_user_attr("error", reason)
            self.study.tell(number, state=TrialState.FAIL)
            text += f"failed: {reason}"
        else:
            value, seconds = metrics["val"][metric], metrics["train"]["seconds"]
            result = {"loss": metrics["val"]["loss"], "epochs": metrics["epochs"], "seconds": seconds}
            result["threads"] = torch.get_num_threads()  # on which the last digits of the weights depend
            live.set_user_attr("result", result)
            self.study.tell(number, value)
            is_best = self.ranked()[0].number == number
            text += f"{metric} {value:.4f}  {counted(metrics['epochs'], 'epoch')} in {format_seconds(seconds)}"
            text += "  (best)" if is_best else ""
        log.info("%s\n%s", text, wrapped(drawn))

    def _require_own_settings(self) -> None:
        own: dict[str, Any] = {
            "overrides": sorted(self.settings.overrides),
            "space": self.settings.space,
            "pruner": self.settings.pruner,
            "sampler_seed": self.settings.seed,
        }
        before = self.study.user_attrs.get("settings")
        if before is None:
            self.study.set_user_attr("settings", own)
        elif changed := [name for name in own if own[name] != before.get(name)]:
            if changed == ["overrides"]:
                changed = sorted({*self.settings.overrides} ^ {*before["overrides"]})
            raise UserError(
                f"hydra.run.dir={self.folder}: the search there has other settings ({', '.join(changed)}); continue it "
                "with its own command, or choose another folder"
            )


def wrapped(names: Iterable[str]) -> str:
    """Formats keys or overrides in indented lines that fit on the screen."""
    width = shutil.get_terminal_size().columns
    return fill(
        " ".join(names),
        width,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
