"""The command line: sub-commands over Hydra. Nothing heavy is imported before a command needs it."""

import os
import sys
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, NoReturn

from spectrnn.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = {
    "check": "examine a dataset before training: broken files, duplicates, leaks; exit code 1 where there are errors",
    "train": "train a classifier: from recordings and labels to a run below outputs/",
    "eval": "measure a trained classifier on a split of a dataset",
    "predict": "label recordings, or hear the events in long ones",
    "stream": "hear a live sound: the microphone, or standard input; events as they happen",
    "export": "write a trained classifier as one file for any device, which certifies itself; or verify such a file",
    "demo": "serve a page that hears with the model, in the browser alone; out=FOLDER writes it for any static host",
    "explain": "say what a key means, what it may be, and where its value is set",
}
_TASKS = {  # of commands that need nothing but their config
    "eval": "spectrnn.evaluation.evaluate:evaluate",
    "predict": "spectrnn.inference.predict:predict",
    "stream": "spectrnn.streaming.stream:stream",
    "export": "spectrnn.export.export:export",
    "demo": "spectrnn.demo.demo:demo",
}
_COMMANDS_WITH_RUN_DATA = {"eval", "export", "demo"}  # commands that take over the data of their model's run
_TAKES_VALUE = {
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--info",
    "-i",
    "--cfg",
    "-c",
}


def main() -> None:
    """Entry point of the console script. Exits with 0, 1 after a user's mistake, or 130 or 143 after a signal."""
    arguments = sys.argv[1:]
    try:
        if _is_completion(arguments):
            arguments = _completion_arguments(arguments)
        elif not arguments or arguments[0] in ("-h", "--help", "help"):
            from spectrnn.cli.help import overview

            print(overview(COMMANDS))
            return
        elif arguments[0] == "--version":
            from spectrnn.version import __version__

            print(f"spectrnn {__version__}")
            return
        _run(arguments[0], arguments[1:])
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted", getattr(error, "code", 130))
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(command: str, arguments: list[str]) -> None:
    if command not in COMMANDS:
        from spectrnn.config.instantiate import unknown_name

        _fail(f"{command}: no such command; " + unknown_name(command, COMMANDS))
    if command != "explain" and {"-h", "--help"} & set(arguments):
        from spectrnn.cli.help import of_command

        print(of_command(command, COMMANDS[command]))
        return
    # Hydra then passes errors on, instead of printing a traceback of its own.
    full_error = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if command == "explain":
            from spectrnn.cli.explain import explain

            print(explain(arguments))
            return
        if not _is_completion(arguments):
            arguments = _expand_arguments(command, arguments)
        _hydra(command, arguments)
    except Exception as error:
        from spectrnn.cli.config_errors import format_error

        text = None if full_error else format_error(error, "train" if command == "explain" else command, arguments)
        if text is None:
            raise
        _fail(text)


def _hydra(command: str, arguments: list[str]) -> None:
    import hydra
    from omegaconf import OmegaConf

    from spectrnn.config.paths import CONFIG_DIR
    from spectrnn.files import make_unique_directory

    # Cached as `now` is, so that a run, and all runs of a sweep, see the same folder.
    OmegaConf.register_new_resolver("new_folder", make_unique_directory, use_cache=True, replace=True)
    task = {"check": _check, "train": _train}.get(command) or _task(command)
    errors: list[str] = []
    closed: list[BrokenPipeError] = []

    def guarded(config: "DictConfig") -> Any:
        # Caught here, a mistake in one run of a sweep does not keep the others from running.
        try:
            return task(config)
        except UserError as error:
            errors.append(str(error))
            _print_error(errors[-1])
            return None
        except BrokenPipeError as error:  # of which Hydra would complain
            closed.append(error)
            return None

    sys.argv = ["spectrnn", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=command)(guarded)()
    if closed:
        raise closed[0]
    if errors:
        sys.exit(1)


def _check(config: "DictConfig") -> None:
    from spectrnn.check.check import check_dataset

    findings = check_dataset(config)
    if any(finding.level == "error" for finding in findings):
        offer = "" if config.out else "; out=clean.csv writes a table without what can be left out"
        raise UserError(f"the dataset has errors{offer}")


def _train(config: "DictConfig") -> float | None:
    """Returns the chosen metric of the validation split, for sweepers that optimize it."""
    from hydra.core.hydra_config import HydraConfig

    from spectrnn.training.train import run_training

    hydra_config = HydraConfig.get()
    metrics = run_training(Path(hydra_config.runtime.output_dir), config, dict(hydra_config.runtime.choices))
    return metrics.get("val", {}).get(config.trainer.metric)


def _task(command: str) -> Any:
    module, _, function = _TASKS[command].partition(":")
    return getattr(import_module(module), function)


def _expand_arguments(command: str, arguments: list[str]) -> list[str]:
    """The arguments as Hydra is to read them: plain paths as `paths=[...]`, and what a named run brings along."""
    flags, overrides, paths = _parse_arguments(command, arguments)
    from spectrnn import runs
    from spectrnn.config.paths import CONFIG_DIR

    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    multirun = bool({"-m", "--multirun"} & set(flags))
    if multirun and command == "predict":
        raise UserError("-m: predict takes no sweeps; name all paths in one command")
    if not multirun and "sweep" in given and (CONFIG_DIR / "sweep" / f"{given['sweep']}.yaml").is_file():
        raise UserError(f"sweep={given['sweep']}: needs -m, without which a single run would be trained")
    if command == "train" and given.get("resume", "null") not in ("null", ""):
        overrides = runs.resumed_overrides(given["resume"].strip("'\""), overrides)
    elif command == "train" and not {"--cfg", "-c"} & set(flags):
        runs.require_unused_run_dir(overrides)
    elif command in _COMMANDS_WITH_RUN_DATA and given.get("verify", "null") == "null":
        overrides = runs.evaluation_overrides(given.get("run", "latest").strip("'\""), overrides)
    elif paths:
        overrides.append(f"paths={runs.quote_override(paths)}")
    if command == "train":
        overrides += runs.rank_overrides()
    return [*flags, *overrides]


def _parse_arguments(command: str, arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Flags, overrides and plain paths."""
    flags: list[str] = []
    overrides: list[str] = []
    paths: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("-") and argument != "-":
            flags.append(argument)
            if argument in _TAKES_VALUE:
                flags += [value for value in [next(rest, None)] if value is not None]
        elif command == "predict" and ("=" not in argument or Path(argument).exists()):
            paths.append(argument)
        elif "=" not in argument and not argument.startswith("~"):
            raise UserError(f"{argument}: expected key=value; spectrnn {command} --help lists the keys")
        else:
            overrides.append(argument)
    return flags, overrides, paths


def _is_completion(arguments: list[str]) -> bool:
    return any(argument in ("-sc", "--shell-completion") for argument in arguments)


def _completion_arguments(arguments: list[str]) -> list[str]:
    """Takes the command off the line that the shell wants completed; completes the command itself where it is open."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if "query=bash" not in arguments and "query=zsh" not in arguments and "query=fish" not in arguments:
        return ["train", *arguments]  # install and uninstall, the same for all commands
    if len(words) <= 2:
        start = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in COMMANDS if name.startswith(start)))
        sys.exit(0)
    command = words[1] if words[1] in COMMANDS else sys.exit(0)
    command = "train" if command == "explain" else command  # whose keys it explains
    shorter = " ".join([words[0], *words[2:]])
    os.environ["COMP_LINE"] = shorter
    os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - (len(line) - len(shorter))))
    return [command, *arguments]


def _fail(text: str, code: int = 1) -> NoReturn:
    _print_error(text)
    sys.exit(code)


def _print_error(text: str) -> None:
    several = sum(not line.startswith(" ") for line in text.splitlines()) > 1
    print("spectrnn:", "several mistakes\n" + indent(text, "  ") if several else text, file=sys.stderr)
