"""The command line: commands over Hydra. Nothing heavy is imported before a command needs it."""

import contextlib
import gc
import logging
import os
import re
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from spectrnn.config.paths import CONFIG_DIR, config_dirs
from spectrnn.errors import UserError
from spectrnn.messages import ConsoleFormatter, printable, wrapped

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Command(NamedTuple):
    """A command, whose config is configs/<name>.yaml.

    Attributes:
        help: Description.
        task: Function of the config, as ``module:function``.
        schema: Dataclass of the top level of the config, as a dotted path.
        uses_run_data: Whether the dataset defaults to that of the model's run.
        positional: Key that plain arguments set; "" if there are none.
        usage: Plain arguments in the help; with ``...`` the key is a list.
        has_run_dir: Whether Hydra runs it, in a run folder. The task is then a function of the run folder, the config
            and the chosen options, and returns the metrics by split.
        is_multirun: Whether Hydra can also sweep it. The task then has as further arguments the folder of the sweep, or
            None, and the number of the job in it.
        preflight: Function that validates the whole config, as ``module:function``; "" if the task does.
    """

    help: str
    task: str
    schema: str
    uses_run_data: bool = False
    positional: str = ""
    usage: str = ""
    has_run_dir: bool = False
    is_multirun: bool = False
    preflight: str = ""


COMMANDS = {
    "check": Command(
        "audit a dataset before training: broken files, duplicates, leakage; exit code 1 if there are errors",
        "spectrnn.check.check:run_check",
        "spectrnn.check.check.CheckConfig",
    ),
    "train": Command(
        "train a classifier",
        "spectrnn.study.job:run_job",
        "spectrnn.training.preflight.TrainConfig",
        has_run_dir=True,
        is_multirun=True,
        preflight="spectrnn.study.job:preflight_job",
    ),
    "tune": Command(
        "search hyperparameters, and evaluate the best model on the test split",
        "spectrnn.study.tune:run_tune",
        "spectrnn.study.tune.TuneConfig",
        has_run_dir=True,
    ),
    "eval": Command(
        "evaluate a model on a split of a dataset",
        "spectrnn.evaluation.evaluate:evaluate",
        "spectrnn.evaluation.evaluate.EvalConfig",
        uses_run_data=True,
    ),
    "compare": Command(
        "compare runs: a table of results, tests on the same clips, a page",
        "spectrnn.study.compare:compare",
        "spectrnn.study.compare.CompareConfig",
        positional="paths",
        usage="RUN...",
    ),
    "tune-thresholds": Command(
        "tune detection thresholds for a false-alarm rate, and store them in the model file",
        "spectrnn.evaluation.tune_thresholds:tune_thresholds",
        "spectrnn.evaluation.tune_thresholds.TuneThresholdsConfig",
        uses_run_data=True,
    ),
    "eval-events": Command(
        "evaluate event detection in annotated recordings",
        "spectrnn.evaluation.eval_events:evaluate_events",
        "spectrnn.evaluation.eval_events.EvalEventsConfig",
        positional="events",
        usage="TABLE...",
    ),
    "predict": Command(
        "classify recordings, or detect events in long ones",
        "spectrnn.inference.predict:predict",
        "spectrnn.inference.predict.PredictConfig",
        positional="paths",
        usage="PATH...",
    ),
    "embed": Command(
        "write the pooled vectors of recordings or windows, for search and labelling",
        "spectrnn.embeddings.embed:embed",
        "spectrnn.embeddings.embed.EmbedConfig",
        positional="paths",
        usage="PATH...",
    ),
    "search": Command(
        "find the recordings or windows that are most similar to a clip, in a file of embeddings",
        "spectrnn.embeddings.search:search",
        "spectrnn.embeddings.search.SearchConfig",
        positional="embeddings",
        usage="FILE",
    ),
    "review": Command(
        "choose the recordings or windows that are most worth labelling, and write clips, a table and a page",
        "spectrnn.embeddings.review:review",
        "spectrnn.embeddings.review.ReviewConfig",
        positional="paths",
        usage="PATH...",
    ),
    "stream": Command(
        "detect events in live audio, from the microphone or standard input",
        "spectrnn.streaming.stream:stream",
        "spectrnn.streaming.stream.StreamConfig",
    ),
    "export": Command(
        "export a model to ONNX, verified against PyTorch",
        "spectrnn.export.export:export",
        "spectrnn.export.export.ExportConfig",
        uses_run_data=True,
    ),
    "verify": Command(
        "verify an exported model on this machine",
        "spectrnn.export.golden:verify",
        "spectrnn.export.golden.VerifyConfig",
        positional="file",
        usage="FILE",
    ),
    "cache": Command(
        "list the cache of decoded recordings and downloads, and remove the least recently used",
        "spectrnn.data.cache_command:run_cache",
        "spectrnn.data.cache_command.CacheConfig",
    ),
    "demo": Command(
        "serve a page that classifies audio in the browser",
        "spectrnn.demo.demo:demo",
        "spectrnn.demo.demo.DemoConfig",
        uses_run_data=True,
    ),
}
_DESCRIPTIONS = {name: command.help for name, command in COMMANDS.items()} | {
    "explain": "describe a config key: meaning, allowed values, default, and where its value is set"
}
# Flags, which are Hydra's, by short name, and what those with a value expect.
_SHORT = {"-m": "--multirun", "-c": "--cfg", "-i": "--info", "-p": "--package", "-cd": "--config-dir"}
_VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("defaults", "defaults-tree", "config", "searchpath", "plugins", "all"),
    "--config-dir": ("DIR",),
    "--package": ("KEY",),
}
_PRINTS = {"--cfg", "--info", "--hydra-help"}  # Hydra prints something instead of running the task
_FLAGS = {*_VALUES, *_PRINTS, "--resolve", "--multirun"}
_PATH_KEYS = {"run", "init", "resume", "out", "like", "embeddings", "report", "data.root", "data.path"}
_PATH_KEYS |= {"hydra.run.dir", "hydra.sweep.dir"}
_COMPLETIONS = re.compile(r"(query|install|uninstall)=(bash|zsh|fish)")


def main() -> None:
    """Entry point of the console script. Exits with 0, 1 after a user's error, or 130 or 143 after a signal."""
    _prepare_output()
    with contextlib.suppress(FileNotFoundError):
        if os.getcwd() not in sys.path:  # so that a _target_ may be in a module in the current folder
            sys.path.append(os.getcwd())
    arguments = sys.argv[1:]
    gc.disable()  # until the command runs: imports and configs create many objects, and no garbage
    try:
        try:
            _dispatch(arguments)
        finally:
            sys.stdout.flush()  # at the end of the process, an error would be a traceback
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted", getattr(error, "code", 130))
    except BrokenPipeError:  # the reader, such as head, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _prepare_output() -> None:
    """Lets any text be printed, whatever the encoding of the terminal, and silences what libraries note."""
    if sys.stdout is None:  # closed, as by >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        # File names that are not Unicode are printed as the bytes that they are.
        is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf8")
        reconfigure(errors="surrogateescape" if is_unicode else "backslashreplace")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # about its folders and fonts


def _dispatch(arguments: list[str]) -> None:
    if _is_completion(arguments):
        arguments = _completion_arguments(arguments)
    elif not arguments or arguments[0] in ("-h", "--help", "help"):
        from spectrnn.cli.help import overview

        _print_help(overview(_DESCRIPTIONS))
        return
    elif "--version" in arguments:
        from spectrnn.version import __version__

        print(f"spectrnn {__version__}")
        return
    _run(arguments[0], arguments[1:])


def _run(name: str, arguments: list[str]) -> None:
    if name not in _DESCRIPTIONS:
        from spectrnn.config.instantiate import unknown_name

        _fail(f"{name}: no such command; {unknown_name(name, _DESCRIPTIONS)}")
    command, given = COMMANDS.get(name), arguments
    if command and {"-h", "--help"} & {*arguments}:
        from spectrnn.cli.help import command_help

        _print_help(command_help(name, command.help, command.usage, command.is_multirun, config_dirs(arguments)))
        return
    # Hydra then raises errors instead of printing a traceback.
    show_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if command is None:
            from spectrnn.cli.explain import explain

            if not {"-h", "--help"} & {*arguments}:
                _parse_flags(name, arguments)
            _print_help(explain(arguments, {name: command.schema for name, command in COMMANDS.items()}))
            return
        flags = arguments
        overrides: list[str] = []
        if not _is_completion(arguments):
            flags, overrides = _expand_arguments(name, command, arguments)
            arguments = [*flags, *overrides]
        is_printed = _is_completion(arguments) or bool(_PRINTS & {flag.partition("=")[0] for flag in flags})
        if "--multirun" in flags:
            _check_jobs(name, command, overrides, config_dirs(arguments))
        if command.has_run_dir or is_printed:
            _run_hydra(name, command, arguments)
        else:
            _run_task(name, command, overrides, config_dirs(arguments))
    except Exception as error:
        from spectrnn.cli.config_errors import format_error

        preflight = partial(_call, command.preflight) if command and command.preflight else None
        known = name if command else "train"
        if _is_completion(arguments):
            sys.exit(0)  # the line is incomplete
        text = None if show_traceback else format_error(error, known, arguments, preflight, given)
        if text is None:
            raise
        _fail(text)


def _run_task(name: str, command: Command, overrides: list[str], dirs: list[Path]) -> None:
    """Runs a command, with its messages on standard error."""
    from spectrnn.config.compose import compose

    config = compose(name, overrides, dirs).config
    handler = logging.StreamHandler()
    handler.setFormatter(ConsoleFormatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    _call(command.task, config)


def _check_jobs(name: str, command: Command, overrides: list[str], dirs: list[Path]) -> None:
    """Validates the configs of all jobs of a sweep before the first one starts.

    Raises:
        UserError: The errors of all jobs.
    """
    from omegaconf import DictConfig

    from spectrnn.cli.config_errors import format_error
    from spectrnn.config.compose import compose_jobs

    preflight = partial(_call, command.preflight)
    sentences: dict[str, None] = {}
    for job, config in compose_jobs(name, overrides, dirs):
        try:
            if not isinstance(config, DictConfig):
                raise config
            preflight(config)
        except Exception as error:
            text = format_error(error, name, [*(f"--config-dir={folder}" for folder in dirs), *job], preflight)
            if text is None:
                raise
            sentences |= dict.fromkeys(text.splitlines())
    if sentences:
        raise UserError("\n".join(sentences))


def _run_hydra(name: str, command: Command, arguments: list[str]) -> None:
    """Runs a command, or a sweep of it, through Hydra, which also prints configs and completions."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from spectrnn.config.compose import composed_once
    from spectrnn.files import make_unique_directory

    # Cached like Hydra's `now`, so that a run, and all runs of a sweep, get the same folder.
    OmegaConf.register_new_resolver("new_folder", make_unique_directory, use_cache=True, replace=True)
    failures: list[UserError | BrokenPipeError] = []

    def job(config: "DictConfig") -> float | None:
        """Returns the chosen metric of the validation split or of all folds, for sweepers that optimize it."""
        hydra_config = HydraConfig.get()
        folder, choices = Path(hydra_config.runtime.output_dir), dict(hydra_config.runtime.choices)
        sweep = Path(hydra_config.sweep.dir) if hydra_config.mode == RunMode.MULTIRUN else None
        try:
            place = (sweep, hydra_config.job.num if sweep else 0) if command.is_multirun else ()
            metrics = _call(command.task, folder, config, choices, *place)
        except (UserError, BrokenPipeError) as error:
            failures.append(error)
            if isinstance(error, UserError):
                _print_error(str(error))
            return None
        scores = metrics.get("pooled") or metrics.get("val") or {}
        return scores.get(metrics["metric"]) if metrics else None

    sys.argv = ["spectrnn", *arguments]
    ending: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if "--multirun" in arguments:
        from spectrnn.study.sweep import reported_sweep

        ending = reported_sweep()
    with ending, composed_once(arguments):
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=name)(job)()
    for error in failures:
        if isinstance(error, BrokenPipeError):
            raise error
    if failures:
        sys.exit(1)


def _call(path: str, *arguments: Any) -> Any:
    name, _, function = path.partition(":")
    module = import_module(name)
    if not gc.isenabled():
        gc.freeze()  # modules live until the process ends, and then it need not search them
        gc.enable()
    return getattr(module, function)(*arguments)


def _expand_arguments(name: str, command: Command, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns flags, and overrides that include plain arguments and what a named run implies."""
    flags, overrides, plain = _parse_arguments(name, command, arguments)
    from spectrnn.cli.initial_model import with_initial_model
    from spectrnn.cli.overrides import evaluation_overrides, train_arguments, tune_overrides, value_of
    from spectrnn.config.compose import config_file, quote_override

    dirs = config_dirs(arguments)
    for folder in dirs:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder, named by --config-dir or hydra.searchpath")
    names = {flag.partition("=")[0] for flag in flags}
    if "--multirun" in names and not command.is_multirun:
        raise UserError(f"-m: {name} cannot sweep; only train can")
    if command.has_run_dir:
        overrides = with_initial_model(overrides, dirs)
    if command.has_run_dir and not command.is_multirun:
        return flags, tune_overrides(overrides)
    if command.is_multirun:
        sweep = value_of("sweep", overrides, None)
        if config_file(f"sweep/{sweep}", dirs) and "--multirun" not in names:
            raise UserError(f"sweep={sweep}: needs -m, without which a single run would be trained")
        return train_arguments(flags, overrides, runs=not names & _PRINTS)
    for override in overrides:
        if override.lstrip("+~").startswith("hydra") and not override.startswith("hydra.searchpath="):
            raise UserError(f"{override}: {name} has no settings of Hydra; only train has")
    if len(plain) > 1 and not command.usage.endswith("..."):
        raise UserError(f"{plain[1]}: {name} takes one {command.usage}")
    if plain:
        overrides.append(f"{command.positional}={quote_override(plain if command.usage.endswith('...') else plain[0])}")
    return flags, evaluation_overrides(overrides) if command.uses_run_data else overrides


def _parse_arguments(name: str, command: Command, arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Returns flags, as ``--name`` or ``--name=value``, overrides, and plain arguments."""
    flags, others = _parse_flags(name, arguments)
    overrides: list[str] = []
    plain: list[str] = []
    for argument in others:
        if command.positional and ("=" not in argument or Path(argument).exists()):
            plain.append(argument)
        elif "=" not in argument and not argument.startswith("~"):
            raise UserError(f"{argument}: expected key=value; spectrnn {name} --help lists the keys")
        else:
            overrides.append(argument)
    return flags, overrides, plain


def _parse_flags(name: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns flags, as ``--name`` or ``--name=value``, and all other arguments.

    Raises:
        UserError: An unknown flag, a missing or invalid value, or flags that contradict each other.
    """
    flags: dict[str, str] = {}
    others = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            others.append(argument)
            continue
        given, _, value = argument.partition("=")
        flag = _SHORT.get(given, given)
        if flag not in _FLAGS:
            raise UserError(f"{given}: not an option of spectrnn {name}; --help lists them")
        if value and flag not in _VALUES:
            raise UserError(f"{argument}: {given} takes no value")
        if expected := _VALUES.get(flag, ()):
            value = value or next(rest, "")
            is_free = expected[0].isupper()
            if not value or not (is_free or value in expected):
                what = expected[0] if is_free else f"{', '.join(expected[:-1])} or {expected[-1]}"
                raise UserError(f"{' '.join(filter(None, [given, value]))}: expects {what}")
        flags[flag] = f"{flag}={value}" if value else flag
    if "--multirun" in flags and (shown := _PRINTS & {*flags}):
        raise UserError(f"{min(shown)}: a sweep has many configs; leave out -m, and name one value per key")
    if len(_PRINTS & {*flags}) > 1:
        raise UserError(f"{' and '.join(sorted(_PRINTS & {*flags}))}: one at a time")
    for flag in ("--resolve", "--package"):
        if flag in flags and "--cfg" not in flags:
            raise UserError(f"{flag}: belongs to --cfg job")
    return list(flags.values()), others


def _is_completion(arguments: list[str]) -> bool:
    return any(argument in ("-sc", "--shell-completion") for argument in arguments)


def _completion_arguments(arguments: list[str]) -> list[str]:
    """Removes the command from the line that the shell completes; completes the command itself if it is incomplete."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    requests = [argument for argument in arguments if _COMPLETIONS.fullmatch(argument)]
    if len(requests) != 1:
        _fail("-sc: expects install=bash, install=zsh or install=fish, or uninstall= in place of install=")
    if not requests[0].startswith("query="):
        return ["train", *arguments]  # install and uninstall, which are the same for all commands
    if len(words) <= 2:
        start = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in _DESCRIPTIONS if name.startswith(start)))
        sys.exit(0)
    if words[1] not in _DESCRIPTIONS:
        sys.exit(0)
    key, _, start = words[-1].partition("=")
    if key in _PATH_KEYS:
        print(" ".join(f"{key}={path}" for path in _paths(start)))
        sys.exit(0)
    # Hydra parses all words before the last one as overrides.
    is_override = re.compile(r"[+~]*[\w./@]+=")
    shorter = " ".join([words[0], *(word for word in words[2:-1] if is_override.match(word)), words[-1]])
    os.environ["COMP_LINE"] = shorter
    os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - (len(line) - len(shorter))))
    return [words[1] if words[1] in COMMANDS else "train", *arguments]


def _paths(start: str) -> list[str]:
    """Returns the files and folders whose paths, absolute or relative, start with a text, folders with a slash."""
    folder, name = os.path.split(start)
    with contextlib.suppress(OSError):
        with os.scandir(os.path.expanduser(folder) or os.curdir) as entries:
            found = [entry for entry in entries if entry.name.startswith(name) and (name or entry.name[0] != ".")]
        return sorted(os.path.join(folder, entry.name) + "/" * entry.is_dir() for entry in found)
    return []


def _fail(text: str, code: int = 1) -> NoReturn:
    _print_error(text)
    sys.exit(code)


def _print_help(text: str) -> None:
    print(wrapped(text, sys.stdout, keeps_commands=False))


def _print_error(text: str) -> None:
    text = printable(text)
    is_several = sum(not line.startswith(" ") for line in text.splitlines()) > 1
    text = "several errors\n" + indent(text, "  ") if is_several else text
    print(wrapped(f"spectrnn: {text}", sys.stderr), file=sys.stderr)
