"""`spectrnn explain`: meaning, unit, default, allowed values, and the file and line that set a key."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Ge, Le

from spectrnn.cli.explain import describe_type
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.config.types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt


@pytest.fixture
def explained(spectrnn):
    """`explained("optimizer.lr")` -> the headline, and the rows by their titles."""

    def run(*arguments):
        outcome = spectrnn("explain", *arguments)
        assert outcome.code == 0, outcome.err
        headline, _, *rows = outcome.out.splitlines()
        return headline, {row[2:13].strip(): row[13:] for row in rows}

    return run


def line_of(file, key):
    lines = (CONFIG_DIR / file).read_text().splitlines()
    return f"configs/{file}, line {next(n for n, line in enumerate(lines, 1) if line.strip().startswith(key + ':'))}"


def test_a_key(explained):
    headline, rows = explained("features.hop_ms")
    place = line_of("features/_common.yaml", "hop_ms")
    assert headline == "features.hop_ms=10"
    assert rows == {
        "meaning": "ms, from frame to frame; at most the window",
        "unit": "ms",
        "allowed": "a number above 0",
        "default": f"10, in {place}",
        "value": f"10, set in {place}",
        "elsewhere": "10 for features=mfcc",
        "change": "spectrnn train features.hop_ms=...",
    }


def test_a_value_of_the_command_line(explained):
    headline, rows = explained("features.hop_ms", "features.hop_ms=20")
    assert headline == "features.hop_ms=20"
    assert rows["value"] == "20, set on the command line"
    assert rows["default"].startswith("10, in configs/features/_common.yaml")


def test_a_value_of_an_experiment(explained):
    _, rows = explained("features.n_mels", "experiment=esc50")
    assert rows["value"] == f"128, set in {line_of('experiment/esc50.yaml', 'n_mels')}"
    assert rows["default"] == f"64, in {line_of('features/_common.yaml', 'n_mels')}"


def test_a_value_that_is_taken_over(explained):
    headline, _ = explained("features.sample_rate", "data.sample_rate=11025")
    assert headline == "features.sample_rate=${data.sample_rate}, here 11025"


def test_a_third_party_s_key_with_the_defaults_of_other_options(explained):
    _, rows = explained("optimizer.lr")
    assert rows["allowed"] == "a number"
    assert rows["elsewhere"] == "0.002 for optimizer=adam; 0.1 for optimizer=sgd"


def test_a_key_of_an_option_that_is_not_chosen(explained):
    _, rows = explained("model.frequency_strides")
    assert rows["change"] == "spectrnn train model=crnn model.frequency_strides=..."
    _, rows = explained("augment.mixup.alpha")
    assert rows["change"] == "spectrnn train augment=[mixup] augment.mixup.alpha=..."


def test_a_key_without_a_default(explained):
    headline, rows = explained("data.root", "data=folder")
    assert headline == "data.root=???"
    assert rows["default"].startswith("none: it must be set")


def test_a_key_of_another_command(explained):
    _, rows = explained("split")
    assert rows["allowed"] == "train | val | test | all"
    assert rows["change"] == "spectrnn eval split=..."


def test_a_name_without_its_group(explained, spectrnn):
    assert explained("max_grad_norm")[0] == "trainer.max_grad_norm=1.0"
    told = spectrnn("explain", "hidden_size").mistake()
    assert told == "spectrnn: hidden_size: several keys end so: model.hidden_size, pooling.hidden_size"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trainer.lr"], "trainer.lr: no such key; did you mean optimizer.lr?"),
        (["features.hopms"], "features.hopms: no such key; did you mean features.hop_ms?"),
        (["modle"], "modle: no such key; did you mean model?"),
        (["optimizer.lr", "model=lsmt"], "model=lsmt: no such option; did you mean model=lstm?"),
    ],
)
def test_a_name_that_does_not_exist(spectrnn, arguments, told):
    assert spectrnn("explain", *arguments).mistake() == f"spectrnn: {told}"


def test_a_group_lists_its_options_and_keys(spectrnn):
    lines = spectrnn("explain", "pooling").out.splitlines()
    assert any(line.startswith("  * attention ") for line in lines)
    assert any(line.startswith("    stats ") for line in lines)
    assert any(line.split()[:2] == ["pooling.num_heads", "4"] for line in lines)
    assert [
        line.split()[1]
        for line in spectrnn("explain", "augment", "augment=[mixup]").out.splitlines()
        if line.startswith("  * ")
    ] == ["mixup"]


def test_a_folder_of_one_s_own(explained, tmp_path):
    file = tmp_path / "conf" / "pooling" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# Eight\ndefaults: [attention, _self_]\nheads: 8\n")
    _, rows = explained("pooling.num_heads", f"--config-dir={tmp_path / 'conf'}", "pooling=mine")
    assert rows["value"] == f"8, set in {file}, line 3"
    assert rows["meaning"] == "must divide the encoder's outputs"


def test_help(spectrnn):
    for arguments in ((), ("--help",)):
        assert spectrnn("explain", *arguments).out.startswith("spectrnn explain KEY")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (PositiveInt, "a whole number above 0"),
        (NonNegativeInt, "a whole number from 0 up"),
        (Fraction, "a number from 0 to below 1"),
        (PositiveFloat | None, "a number above 0, or null"),
        (Literal["gru", "lstm"], "gru | lstm"),
        (int | str | None, "a whole number or text, or null"),
        (list[str], "a list, each text"),
        (Sequence[PositiveInt], "a list, each a whole number above 0"),
        (
            tuple[Annotated[int, Ge(0), Le(99)], Annotated[int, Ge(0), Le(99)]],
            "a list of 2, each a whole number from 0 to 99",
        ),
        (float | torch.Tensor, "a number"),
        (bool, "true | false"),
        (Any, ""),
    ],
)
def test_types_in_words(annotation, words):
    assert describe_type(annotation) == words
