"""`spectrnn tune`: searches hyperparameters with Optuna (Akiba et al., 2019)."""

import logging
import logging.config
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import joblib
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from spectrnn import distributed
from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.paths import CONFIG_DIR, module_path
from spectrnn.config.types import NonNegativeInt, PositiveInt
from spectrnn.data.dataset import open_dataset
from spectrnn.devices import log_device
from spectrnn.errors import TrainingInterrupted, UserError
from spectrnn.evaluation.metrics import metrics_of
from spectrnn.model.classifier import build_stages
from spectrnn.study.space import Space
from spectrnn.training.plan import plan_training
from spectrnn.training.preflight import preflight

if TYPE_CHECKING:
    from spectrnn.study.search import SearchSettings

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TuneConfig:
    """Keys of tune.yaml that train.yaml does not have."""

    space: dict[str, Any]
    trials: PositiveInt
    processes: PositiveInt
    pruner: Literal["median", "hyperband", "none"]
    sampler_seed: NonNegativeInt


def run_tune(folder: Path, config: DictConfig, choices: Mapping[str, str]) -> dict[str, Any]:
    """Runs a search, or continues that in the folder, and evaluates the best model on the test split.

    Args:
        folder: Folder of the search. Several processes may run the same search in it at once.
        config: Config as tune.yaml composes it.
        choices: Chosen option of each config group.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: An error in the config, the search space or the dataset, or no trial that was completed.
        TrainingInterrupted: A signal; the search can be continued.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("tune needs optuna; pip install 'spectrnn[tune]'") from error
    from spectrnn.study.results import report
    from spectrnn.study.search import Search

    try:
        with _sigterm_as_interrupt():
            settings, processes = _prepare(folder, config)
            search = Search(settings)
            if processes == 1:
                search.run_trials()
            else:
                _run_workers(settings, processes)
            return report(search)
    except KeyboardInterrupt as interrupt:
        message = f"stopped; the same command, with hydra.run.dir={folder}, continues the search"
        raise TrainingInterrupted(message, getattr(interrupt, "code", 130)) from None
    except UserError:
        if {path.name for path in folder.iterdir()} <= {".hydra", "tune.log"}:  # nothing has been tried
            logging.shutdown()
            shutil.rmtree(folder)
        raise


def _prepare(folder: Path, config: DictConfig) -> tuple["SearchSettings", int]:
    """Validates everything before the first trial, and decodes the dataset; returns settings and number of processes.

    Raises:
        UserError: Errors in the config, the search space or the dataset.
    """
    from spectrnn.study.search import TRIAL_DEFAULTS, SearchSettings, wrapped

    if distributed.world_size() > 1:
        raise UserError("tune cannot run under torchrun; processes=N runs N trials at once, on one device each")
    names = {field.name for field in fields(TuneConfig)}
    own = {name: to_container(config.get(name), name) for name in names}
    tune = TuneConfig(**validate_kwargs(own, TuneConfig, ""))
    hydra = HydraConfig.get()
    given = [o for o in hydra.overrides.task if o.lstrip("+~").partition("=")[0].partition(".")[0] not in names]
    sources = [source for source in hydra.runtime.config_sources if source.provider not in ("hydra", "main", "schema")]
    dirs = [CONFIG_DIR, *map(_config_dir, sources)]

    space = Space(tune.space, [*TRIAL_DEFAULTS, *given], dirs)
    base = preflight(space.compose().config)
    space.validate()
    metrics = metrics_of(build_stages(base.config, 2).task, base.metrics)
    log_device(base.device, base.precision)
    dataset = open_dataset(base.source, base.device, base.task.label_format)
    log.info("%s", dataset.describe())
    if not len(dataset.rows("val")):
        raise UserError("tune needs validation clips, by which trials are compared; set data.val_fraction")
    log.info("searching\n%s", wrapped(space.parameters))
    if space.fixed:
        log.info("not searching, as the command line sets them\n%s", wrapped(space.fixed))
    plan = plan_training(base, dataset)  # each trial has the same metric, as all have the same clips
    settings = SearchSettings(
        folder=folder,
        overrides=given,
        dirs=dirs,
        space=tune.space,
        trials=tune.trials,
        pruner=tune.pruner,
        seed=tune.sampler_seed,
        epochs=plan.epochs,
        metric=plan.metric,
        higher_is_better=metrics[plan.metric].higher_is_better,
    )
    return settings, tune.processes


def _config_dir(source: Any) -> Path:
    path = module_path(source.path.replace("/", ".")) if source.schema == "pkg" else Path(source.path)
    return (path or Path(source.path)).absolute()


def _run_workers(settings: "SearchSettings", processes: int) -> None:
    """Runs trials in several processes, which share the cores of this machine.

    A process that ends early, such as for lack of memory, does not stop the others, which resume its trial.

    Raises:
        UserError: All processes ended early.
    """
    logging_config = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
    context = multiprocessing.get_context("spawn")  # a fork would have none of PyTorch's threads
    workers = [context.Process(target=_work, args=(settings, logging_config)) for _ in range(processes)]
    threads = str(max(1, joblib.cpu_count() // processes))
    own = {"OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
    before = dict(os.environ)
    os.environ.update({name: value for name, value in own.items() if name not in before})  # inherited
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for name in own.keys() - before.keys():
            del os.environ[name]
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            worker.join()
    if all(worker.exitcode for worker in workers):
        raise UserError(f"all processes of the search failed, the first one with exit code {workers[0].exitcode}")


def _work(settings: "SearchSettings", logging_config: dict[str, Any]) -> None:
    """Runs trials in a process of its own, which stops after a signal, or if its parent ends."""
    from spectrnn.study.search import Search

    if hasattr(os, "setsid"):
        os.setsid()  # so that Ctrl-C stops the parent only, which then terminates this process
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    logging.config.dictConfig(logging_config)
    try:
        with _sigterm_as_interrupt():
            Search(settings).run_trials()
    except KeyboardInterrupt as interrupt:
        sys.exit(getattr(interrupt, "code", 130))
    except UserError as error:
        log.error("%s", error)
        sys.exit(1)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Makes SIGTERM raise an interruption like SIGINT; a training within the block handles both itself."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise TrainingInterrupted("", 128 + number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
