"""`spectrnn explain`: meaning, allowed values, default, and the files and lines that set a key."""

import functools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
import yaml
from annotated_types import Ge, Le
from omegaconf import OmegaConf

from spectrnn.cli import explain
from spectrnn.cli.main import COMMANDS
from spectrnn.config.compose import compose, config_sources
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.config.types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt


def parse(text):
    """Returns headline and rows, by title, of each section."""
    sections = []
    for section in re.split(r"\n\n(?! )", text):
        headline, _, *lines = section.splitlines()
        rows, title = {}, ""
        for line in lines:
            title = line[2:13].strip() or title
            rows.setdefault(title, []).append(line[13:])
        sections.append((headline, {title: row[0] if len(row) == 1 else row for title, row in rows.items()}))
    return sections


@pytest.fixture
def explained(spectrnn):
    """`explained("optimizer.lr")`: headline and rows of each section."""

    def run(*arguments):
        outcome = spectrnn("explain", *arguments)
        assert outcome.code == 0, outcome.err
        return parse(outcome.out)

    return run


def line_of(file, key):
    lines = (CONFIG_DIR / file).read_text().splitlines()
    return f"configs/{file}, line {next(n for n, line in enumerate(lines, 1) if line.strip().startswith(key + ':'))}"


def test_key(explained):
    assert explained("features.hop_ms") == [
        (
            "features.hop_ms=10",
            {
                "meaning": "hop between frames in ms, at most window_ms",
                "allowed": "a number above 0",
                "default": "10",
                "set in": line_of("features/_common.yaml", "hop_ms"),
                "elsewhere": "500 for features=birdnet, features=onnx_embedding; "
                "the same for features=mfcc, features=pcen; 80 for features=speech_embedding",
                "change": "spectrnn train features.hop_ms=...",
            },
        )
    ]


def test_all_places_that_set_a_key_are_stated_in_order(explained):
    [(headline, rows)] = explained("features.window_ms", "experiment=environment", "features.window_ms=30")
    assert headline == "features.window_ms=30"
    assert rows["default"] == "25"
    assert rows["set in"] == [
        f"{line_of('features/_common.yaml', 'window_ms')}: 25",
        f"{line_of('experiment/environment.yaml', 'window_ms')}: 40",
        "the command line: 30",
    ]
    [(headline, rows)] = explained("data.sample_rate")
    assert headline == "data.sample_rate=8000"
    assert rows["set in"] == [
        f"{line_of('data/_common.yaml', 'sample_rate')}: 16000",
        f"{line_of('data/synthetic_speech.yaml', 'sample_rate')}: 8000",
    ]


def test_interpolated_value(explained):
    [(headline, rows)] = explained("features.sample_rate", "data.sample_rate=11025")
    assert headline == "features.sample_rate=${data.sample_rate}, here 11025"
    assert rows["default"] == "${data.sample_rate}"


def test_key_of_a_third_party_class(explained):
    [(_, rows)] = explained("optimizer.lr")
    assert rows["allowed"] == "a number"
    assert rows["elsewhere"] == "the same for optimizer=adam; 0.1 for optimizer=sgd"
    [(_, rows)] = explained("optimizer.betas")
    assert rows["allowed"] == "a list of 2, each a number"


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("pooling.eps", "spectrnn train pooling=stats pooling.eps=..."),
        ("augment.shift.max_ms", "spectrnn train augment=[shift] augment.shift.max_ms=..."),
    ],
)
def test_key_of_an_option_that_is_not_chosen(explained, key, change):
    [(_, rows)] = explained(key)
    assert rows["change"] == change


def test_key_without_a_default(explained):
    [(headline, rows)] = explained("data.root", "data=folder")
    assert headline == "data.root=???"
    assert rows["default"] == "none; it must be set"


def test_key_of_several_commands(explained):
    sections = explained("split")
    headline, rows = sections.pop(1)  # of compare
    assert (headline, rows["set in"]) == ("split=null", line_of("compare.yaml", "split"))
    assert {headline for headline, _ in sections} == {"split=test"}
    for (_, rows), command in zip(sections, ("eval", "tune-thresholds", "export"), strict=True):
        assert rows["allowed"] == "train | val | test | all"
        assert rows["set in"] == line_of(f"{command}.yaml", "split")
        assert rows["change"] == f"spectrnn {command} split=..."
    (_, rows), (_, of_search) = explained("run")  # which has the same meaning for all of them but search
    commands = ("eval", "tune-thresholds", "eval-events", "predict", "embed", "review", "stream", "export", "demo")
    assert of_search["change"] == "spectrnn search run=..."
    assert rows["set in"] == [line_of(f"{command}.yaml", "run") for command in commands]
    assert rows["change"] == [f"spectrnn {command} run=..." for command in commands]


def test_override_of_a_command_without_config_groups(explained):
    [(headline, rows), *_] = explained("window", "window=2")
    assert headline == "window=2"
    assert rows["set in"] == [f"{line_of('tune-thresholds.yaml', 'window')}: null", "the command line: 2"]


def test_name_without_its_group(explained):
    [(headline, _)] = explained("max_grad_norm")
    assert headline == "trainer.max_grad_norm=1.0"
    assert [headline for headline, _ in explained("hidden_size")] == ["model.hidden_size=128", "pooling.hidden_size=64"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.lr"], "trainer.lr: no such key; did you mean optimizer.lr?"),
        (["features.hopms"], "features.hopms: no such key; did you mean features.hop_ms?"),
        (["limits.silence"], "limits.silence: no such key; did you mean limits.silence_dbfs?"),
        (["modle"], "modle: no such key; did you mean model?"),
        (["window", "threshhold=3"], "threshhold: no such key; did you mean threshold?"),
        (["window", "model.foo=3"], "model.foo: no such key; known here: "),
        (["window", "threshold"], "threshold: explain takes one KEY"),
        (["optimizer.lr", "model=lsmt"], "model=lsmt: no such option; did you mean model=lstm?"),
    ],
)
def test_unknown_name_is_reported(spectrnn, arguments, message):
    assert spectrnn("explain", *arguments).error().startswith(f"spectrnn: {message}")


def test_config_group_lists_its_options_and_keys(spectrnn):
    lines = spectrnn("explain", "pooling").out.splitlines()
    assert any(line.startswith("  * attention ") for line in lines)
    assert any(line.startswith("    stats ") for line in lines)
    assert any(line.split()[:2] == ["pooling.num_heads", "4"] for line in lines)
    lines = spectrnn("explain", "augment", "augment=[mixup]").out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  * ")] == ["mixup"]


def test_mapping_lists_its_keys(spectrnn):
    lines = spectrnn("explain", "limits").out.splitlines()
    keys = yaml.safe_load((CONFIG_DIR / "check.yaml").read_text())["limits"].keys() - {"_target_"}
    assert lines[0] == "limits.*, of spectrnn check"
    assert {line.split()[0].removeprefix("limits.") for line in lines[3:]} == keys


def test_option_in_a_folder_of_the_user(explained, tmp_path):
    file = tmp_path / "conf" / "pooling" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# Eight\ndefaults: [attention, _self_]\nnum_heads: 8\n")
    [(headline, rows)] = explained("pooling.num_heads", f"--config-dir={tmp_path / 'conf'}", "pooling=mine")
    assert headline == "pooling.num_heads=8"
    assert rows["set in"] == [f"{line_of('pooling/attention.yaml', 'num_heads')}: 4", f"{file}, line 3: 8"]
    assert rows["meaning"] == "number of heads, a divisor of the encoder's output size"


@pytest.mark.parametrize("arguments", [(), ("--help",)], ids=" ".join)
def test_usage(spectrnn, arguments):
    assert spectrnn("explain", *arguments).out.startswith("spectrnn explain KEY")


def keys_of_files():
    """Yields command and full key of each key of the commands' configs and of all options."""

    def leaves(node, prefix):
        for name, value in node.items():
            if name not in ("defaults", "hydra", "_target_"):
                yield from (
                    leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
                )

    for command in COMMANDS:
        for key in leaves(yaml.safe_load((CONFIG_DIR / f"{command}.yaml").read_text()), ""):
            yield command, key
    for file in sorted(CONFIG_DIR.glob("*/*.yaml")):
        if file.parent.name not in ("experiment", "sweep", "space"):
            for key in leaves(yaml.safe_load(file.read_text()), f"{file.parent.name}."):
                yield "train", key


def test_every_key_of_every_command_and_option_is_explained(monkeypatch):
    def cached(function):
        kept = functools.cache(function)
        return lambda *arguments: kept(arguments[0], *map(tuple, arguments[1:]))

    monkeypatch.setattr(explain, "compose", cached(compose))
    monkeypatch.setattr(explain, "config_sources", cached(config_sources))
    load, kept = OmegaConf.load, functools.cache(OmegaConf.load)  # by path; Hydra loads open files
    monkeypatch.setattr(OmegaConf, "load", lambda file: kept(file) if isinstance(file, Path) else load(file))
    monkeypatch.setattr(explain, "yaml_entries", functools.cache(explain.yaml_entries))
    monkeypatch.setattr(explain, "annotations", functools.cache(explain.annotations))
    schemas = {name: command.schema for name, command in COMMANDS.items()}
    keys = {*keys_of_files()}
    # With all augmentations chosen, one config has the keys of all of them.
    every = ",".join(sorted({key.split(".")[1] for _, key in keys if key.startswith("augment.")}))
    explainers = [explain.Explainer(own, [CONFIG_DIR], schemas) for own in ([], [f"augment=[{every}]"])]
    assert {(command, key) for key, commands in explainers[0].commands.items() for command in commands} == keys
    for command, key in sorted(keys):
        explainer = explainers[key.startswith("augment.")]
        sections = [rows for headline, rows in parse(explainer.explain(key)) if headline.startswith(f"{key}=")]
        for rows in sections:
            assert {"meaning", "allowed", "default", "set in", "change"} <= rows.keys(), key
        changes = " ".join(str(rows["change"]) for rows in sections)
        assert re.search(rf"spectrnn {command} (\S+ )?{re.escape(key)}=\.\.\.", changes), key
        for place in re.findall(r"configs/[^']*", " ".join(str([rows["set in"]]) for rows in sections)):
            file, number = re.fullmatch(r"configs/(\S+), line (\d+)(?:: .*)?", place).groups()
            line = (CONFIG_DIR / file).read_text().splitlines()[int(number) - 1]
            assert line.lstrip().startswith(f"{key.rpartition('.')[2]}:"), (key, place)


def test_only_small_packages_are_imported():
    code = "import sys; sys.argv = ['spectrnn', 'explain', 'batch_size']; from spectrnn.cli.main import main; main()"
    check = "; print({name.partition('.')[0] for name in sys.modules} - {*sys.stdlib_module_names}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True, text=True)
    assert "trainer.batch_size=auto" in done.stdout
    imported = {*re.findall(r"\w+", done.stderr)}
    assert "spectrnn" in imported
    assert not {"torch", "torchaudio", "numpy", "pydantic", "sklearn", "soundfile", "matplotlib"} & imported


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (PositiveInt, "an integer above 0"),
        (NonNegativeInt, "an integer from 0 up"),
        (Fraction, "a number from 0 to below 1"),
        (PositiveFloat | None, "a number above 0, or null"),
        (Literal["gru", "lstm"], "gru | lstm"),
        (int | str | None, "an integer or text, or null"),
        (list[str], "a list, each text"),
        (Sequence[PositiveInt], "a list, each an integer above 0"),
        (
            tuple[Annotated[int, Ge(0), Le(99)], Annotated[int, Ge(0), Le(99)]],
            "a list of 2, each an integer from 0 to 99",
        ),
        (float | torch.Tensor, "a number"),
        (bool, "true | false"),
        (Any, ""),
        (dict[Literal["a", "b"], int] | None, "a mapping from a | b to (an integer), or null"),
    ],
)
def test_types_are_described(annotation, text):
    assert explain.describe_type(annotation) == text
