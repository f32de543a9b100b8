"""Help texts, read from the YAML files: the first comment of a file describes it, the comment of a key that key."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spectrnn.config.paths import CONFIG_DIR

_SYNTAX = """
key=value sets a key, and group=option chooses an option; spectrnn explain KEY describes a key and its allowed values.
  --config-dir DIR   options of your own, in DIR/<group>/<option>.yaml
  --cfg job          print the config, and exit
  --info defaults    print the files that it is composed from, and exit"""
_MULTIRUN = """
  -m                 multirun: all combinations of comma-separated values (model=gru,lstm seed=0,1,2)
  hydra/launcher=joblib, submitit_local or submitit_slurm
                     with -m: runs jobs in parallel (hydra.launcher.n_jobs=2, hydra.launcher.cpus_per_task=4)
  hydra.run.dir=DIR  run folder"""
_COMPLETION = """
Shell completion: eval "$(spectrnn -sc install=bash)" (zsh, fish: -sc install=zsh)"""


def overview(commands: Mapping[str, str]) -> str:
    """Returns the help of ``spectrnn``.

    Args:
        commands: Description by command.
    """
    lines = ["spectrnn: train, evaluate and use recurrent audio classifiers on spectrograms", ""]
    lines += [f"  spectrnn {name:<17}{text}" for name, text in commands.items()]
    return "\n".join([*lines, "", "spectrnn COMMAND --help lists the config groups, options and keys of a command."])


def command_help(command: str, description: str, usage: str, is_multirun: bool, dirs: Sequence[Path]) -> str:
    """Returns the help of a command: its config groups and their options, and its keys.

    Args:
        command: Name of the command.
        description: Sentence.
        usage: Positional arguments, such as ``PATH...``.
        is_multirun: Whether it can sweep.
        dirs: Folders of config files, as `config.paths.config_dirs`.
    """
    text = (CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")
    lines = [" ".join(filter(None, [f"spectrnn {command}", usage, f"[key=value ...]: {description}"]))]
    groups = group_defaults(text)
    for group, default in groups.items():
        chosen = re.findall(r"\w+", default)
        lines += ["", f"{group}={default}"]
        lines += [
            f"  {option:<18}{'*' if option in chosen else ' '} {sentence}"
            for option, sentence in option_descriptions(group, dirs).items()
        ]
    lines += ["", "keys"]
    keys = text.split("\nhydra:")[0].split("_self_")[-1]
    lines += [f"  {line}" for line in keys.splitlines() if re.match(r" *[a-z]\w*:", line)]
    if any(default.strip("[]") for default in groups.values()):
        lines += [f"  and those of the chosen options: spectrnn {command} --cfg job"]
    return "\n".join([*lines, _SYNTAX + (_MULTIRUN if is_multirun else "") + _COMPLETION])


def group_defaults(text: str) -> dict[str, str]:
    """Returns the default of each config group of a primary config, such as ``gru``, ``[noise,gain]`` or ""."""
    included = re.findall(r"^  - (?!_self_)(\w+)$", text, re.MULTILINE)  # tune.yaml includes train.yaml
    found = re.findall(r"^  - (\w+): ([^#\n]*)", text, re.MULTILINE)
    defaults = {group: "" if option.strip() == "null" else option.strip().replace(" ", "") for group, option in found}
    for name in included:
        defaults = {**group_defaults((CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8")), **defaults}
        defaults.pop("sweep")  # which needs -m
    return defaults


def option_descriptions(group: str, dirs: Sequence[Path]) -> dict[str, str]:
    """Returns the description of each option of a config group."""
    files = {file.stem: file for folder in reversed(dirs) for file in (folder / group).glob("[!_]*.yaml")}
    return {option: first_comment(files[option]) for option in sorted(files)}


def first_comment(file: Path) -> str:
    """Returns the first comment of a YAML file; "" if it has none."""
    comments = (
        line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")
    )
    return next((comment for comment in comments if not comment.startswith("@package")), "")
