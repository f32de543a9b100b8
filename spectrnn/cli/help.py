"""The help texts, read from the YAML files themselves: each file's first comment says what it is."""

import re
from collections.abc import Mapping
from pathlib import Path

from spectrnn.config.paths import CONFIG_DIR

_ENDING = """
key=value sets a key, group=option chooses an option, +key=value is for Hydra's own keys.
  -m                 multirun: every combination of comma-separated values (model=gru,lstm seed=0,1,2)
  --cfg job          print the config that would run, and stop
  --info defaults    print where it comes from
  hydra.run.dir=DIR  put the run anywhere
Shell completion: eval "$(spectrnn -sc install=bash)" (or zsh, fish: -sc install=zsh)"""


def overview(commands: Mapping[str, str]) -> str:
    """The help of ``spectrnn``: its commands, each with a sentence."""
    lines = ["spectrnn: train recurrent audio classifiers on spectrograms, evaluate them, predict with them", ""]
    lines += [f"  spectrnn {name:<9}{text}" for name, text in commands.items()]
    return "\n".join([*lines, "", "spectrnn COMMAND --help lists a command's groups, options and keys."])


def of_command(command: str, sentence: str) -> str:
    """The help of a command: its groups and their options, each with a sentence, and its own keys."""
    path = CONFIG_DIR / f"{command}.yaml"
    text = path.read_text()
    usage = "PATH... " if command == "predict" else ""
    lines = [f"spectrnn {command} {usage}[key=value ...]: {sentence}"]
    for group, default in defaults(text).items():
        chosen = set(re.findall(r"\w+", default))
        lines += ["", f"{group}={default}" if default else f"{group}="]
        lines += [
            f"  {option:<18}{'* ' if option in chosen else '  '}{sentence}"
            for option, sentence in options(CONFIG_DIR / group).items()
        ]
    lines += ["", "keys"]
    body = text.split("\nhydra:")[0].split("_self_")[-1]
    lines += [f"  {line}" for line in body.splitlines() if re.match(r" *[a-z]\w*:", line)]
    if command == "train":
        lines += ["  and those of the chosen options: spectrnn train --cfg job"]
    return "\n".join([*lines, _ENDING])


def defaults(text: str) -> dict[str, str]:
    """The groups of a primary config with their default options, in its order."""
    found = re.findall(r"^  - (?:optional )?(\w+): ([^#\n]*)", text, re.MULTILINE)
    return {group: "" if option.strip() == "null" else option.strip().replace(" ", "") for group, option in found}


def options(group: Path) -> dict[str, str]:
    """The options of a group, each with its file's first comment."""
    files = sorted(group.glob("[!_]*.yaml"))
    return {file.stem: first_comment(file) for file in files}


def first_comment(file: Path) -> str:
    """What a YAML file says that it is."""
    comments = (line.removeprefix("# ") for line in file.read_text().splitlines() if line.startswith("# "))
    return next(comment for comment in comments if not comment.startswith("@package"))
