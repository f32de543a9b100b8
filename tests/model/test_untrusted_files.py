"""Untrusted model files: extreme, inconsistent and damaged ones are rejected with one sentence, in little memory."""

import copy
import json
import random
import re
import resource
import struct
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectrnn.errors import UserError
from spectrnn.model.classifier import STAGES, validate_labels
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.header import ENSEMBLE_FORMAT, FORMAT, MAX_HEADER_BYTES, read_header
from spectrnn.model.pooling import Pooling
from spectrnn.model.serialization import load, require_trusted_stages, save, stage_packages


@pytest.fixture
def model(classifier, stages, tmp_path):
    """Path of a model file."""
    save(classifier(), stages(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def modify(model):
    """`modify(change)` rewrites the file; `change` modifies the header in place, `tensors` maps the tensors."""

    def write(change=lambda header: None, tensors=lambda tensors: tensors, text=None):
        header = copy.deepcopy(read_header(model))
        change(header)
        save_file(tensors(load_file(model)), model, metadata={"spectrnn": text or json.dumps(header)})
        return model

    return write


def assert_rejected(path, message=""):
    """Checks that the file is rejected with one sentence of limited length: its path and the message."""
    with pytest.raises(UserError, match=f"^{path}: {message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 600


@pytest.mark.parametrize("announced", [MAX_HEADER_BYTES + 1, 2 << 30, 1 << 60, (1 << 64) - 1])
def test_announced_header_size_is_limited(model, announced):
    model.write_bytes(struct.pack("<Q", announced) + model.read_bytes()[8:])
    reason = f"its header announces {announced} bytes, but at most {MAX_HEADER_BYTES} are read"
    assert_rejected(model, rf"is not a model file \({reason}\)$")


def test_header_size_is_limited(modify):
    path = modify(lambda header: header.update(labels=["x" * 9] * 500_000))
    assert_rejected(path, r"is not a model file \(its header announces")


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, '{"labels": ' + "[" * 100_000, '{"format": ' + "9" * 5000]
)
def test_header_with_deep_nesting_or_long_numbers_is_rejected(modify, text):
    assert_rejected(modify(text=text), r"is not a model file \(")


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        *((version, "update spectrnn") for version in (None, "2", [2], {}, ENSEMBLE_FORMAT + 1, 10**400, 4.0)),
        *((version, "train it again") for version in (True, -1, 1, FORMAT - 1)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_format_is_rejected(modify, version, remedy):
    path = modify(lambda header: header.update(format=version))
    written = re.escape(f"{version!r:.40}")
    formats = f"formats {FORMAT} and {ENSEMBLE_FORMAT}"
    assert_rejected(path, f"has format {written}, but this version reads {formats}; {remedy}$")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        *((labels, "labels: should be a list of strings") for labels in ([1, 2, 3], [None, "a", "b"], [{}, {}, {}])),
        *(
            (labels, "labels: should be 1 to 10,000 distinct names")
            for labels in ([], ["a", "a", "b"], [str(n) for n in range(10_001)])
        ),
        *(
            ([label, "b", "c"], r"label '.*': should be 1 to 255 characters, no control characters")
            for label in ("", "a\nb", "\x1b[2J", "\ud800", "x" * 256)
        ),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_invalid_labels_are_rejected(modify, labels, message):
    assert_rejected(modify(lambda header: header.update(labels=labels)), f"{message}$")
    with pytest.raises(UserError, match=f"^{message}$"):  # before training, too
        validate_labels(labels)


@pytest.mark.parametrize(
    ("stage", "setting", "value"),
    [
        *(("model", "hidden_size", value) for value in (10**5, 10**9, 10**400, 65536, 1.5, None, "${oc.env:HOME}")),
        *(("model", "num_layers", value) for value in (100, 101, 10**9)),
        *(("features", "n_fft", value) for value in (10, 1 << 17, 1 << 40, 10**400)),
        *(("features", "n_mels", value) for value in (500, 65536, 10**9)),
        *(("features", "sample_rate", value) for value in (0, 1, 10**6 + 1, 10**9, 10**12)),
        *(("features", "window_ms", value) for value in (1e5, 1e12, 1e300)),
        *(("features", "hop_ms", value) for value in (1e-300, 1e-3, 26)),
        *(("features", "log_floor", value) for value in (1e-320, 1e300)),
        *(("pooling", "hidden_size", value) for value in (65536, 10**9)),
        ("pooling", "num_heads", 10**9),
        ("pooling", "_target_", "spectrnn.model.pooling.Pooling"),
        ("model", "_target_", "spectrnn.model.rnn.Encoder"),
        ("model", "surprise", 1),
    ],
)
def test_extreme_settings_are_rejected_in_little_memory(modify, stage, setting, value):
    path = modify(lambda header: header["config"][stage].update({setting: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_rejected(path)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < 200 * (1 << 20 if sys.platform == "darwin" else 1 << 10)  # 200 MB


@pytest.mark.parametrize("count", [101, 3000])
def test_number_of_convolutions_is_limited(modify, stages, count):
    crnn = {**stages(model="crnn")["model"], "channels": [1] * count}
    crnn |= {"time_strides": [1] * count, "frequency_strides": [1] * count}
    path = modify(lambda header: header["config"].update(model=crnn))
    assert_rejected(path, rf"model.channels=\[1, .*: {count} convolutions; at most 100$")


def replaced(name, function):
    return lambda tensors: {**tensors, name: function(tensors[name])}


WEIGHT = "head.1.weight"
MISFIT = "its weights do not fit its config"
DAMAGED = "its weights are damaged"
OUTPUT = r" \(its output for silence or a ramp is not finite\)$"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        *(
            (replaced(WEIGHT, lambda x, dtype=dtype: x.to(dtype)), rf"{MISFIT} \({WEIGHT} is \(.*, not \('F32', ")
            for dtype in (torch.float64, torch.bfloat16, torch.int32, torch.bool)
        ),
        (
            replaced("max_train_samples", lambda x: x.float()),
            rf"{MISFIT} \(max_train_samples is \('F32', \(\)\), not \('I64', \(\)\)",
        ),
        (replaced(WEIGHT, lambda x: x[:, :-1].contiguous()), rf"{MISFIT} \({WEIGHT} is "),
        (
            replaced(WEIGHT, lambda x: x.index_fill(1, torch.tensor(3), float("nan"))),
            rf"{DAMAGED} \({WEIGHT} contains non-finite values\)$",
        ),
        (
            replaced(WEIGHT, lambda x: x.index_fill(1, torch.tensor(3), -float("inf"))),
            rf"{DAMAGED} \({WEIGHT} contains non-finite values\)$",
        ),
        (replaced("normalization.std", torch.zeros_like), DAMAGED + OUTPUT),
        (replaced(WEIGHT, lambda x: x * 0 + 3e38), DAMAGED + OUTPUT),
        (
            lambda tensors: {name: x for name, x in tensors.items() if name != WEIGHT},
            rf"{MISFIT} \({WEIGHT} is None, not ",
        ),
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, rf"{MISFIT} \(more is .*, not None\)$"),
        (
            lambda tensors: {**tensors, "features.window": torch.zeros(200)},
            rf"{MISFIT} \(features.window is .*, not None\)$",
        ),
        *(
            (replaced("temperature", lambda x, value=value: x * 0 + value), f"its temperature is {value}, not above 0$")
            for value in (0.0, -1.0)
        ),
        *(
            (
                replaced("max_train_samples", lambda x, value=value: x * 0 + value),
                f"its longest clip has {value} samples, not 1 ",
            )
            for value in (0, -1, -(2**63), 3600 * 8000 + 1, 10**15)
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_rejected(modify, tensors, message):
    assert_rejected(modify(tensors=tensors), message)


@pytest.mark.parametrize("position", range(10))
def test_file_truncated_anywhere_is_rejected(model, position):
    content = model.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    lengths = [0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) - 1]
    model.write_bytes(content[: lengths[position]])
    assert_rejected(model, r"is not a model file \(.+\)$")


def test_bytes_after_the_last_tensor_are_rejected(model):
    model.write_bytes(model.read_bytes() + b"more")
    assert_rejected(model, r"is not a model file \(.+\)$")


def mutants(content, count):
    """Yields copies with flipped bits or overwritten, removed or repeated bytes; half of them in the header."""
    generator = random.Random(0)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for number in range(count):
        mutant = bytearray(content)
        for _ in range(generator.choice([1, 1, 2, 8])):
            at = generator.randrange(header if number % 2 else len(mutant))
            length = generator.choice([1, 1, 4, 100])
            kind = generator.randrange(4)
            if kind == 0:
                mutant[at] ^= 1 << generator.randrange(8)
            elif kind == 1:
                mutant[at : at + length] = generator.randbytes(length)
            elif kind == 2:
                del mutant[at : at + length]
            else:
                mutant[at:at] = mutant[at : at + length]
        yield bytes(mutant)
        digits = [place for place in range(8, header) if content[place : place + 1].isdigit()]
        mutant = bytearray(content)
        mutant[generator.choice(digits)] = ord(generator.choice("0123456789"))  # still a number
        yield bytes(mutant)


@pytest.mark.parametrize("is_ensemble", [False, True], ids=["classifier", "ensemble"])
def test_damaged_file_is_rejected_or_gives_finite_logits(model, members, stages, clips, is_ensemble):
    if is_ensemble:
        save(Ensemble(members(2)), stages(), model)
    content, errors, loaded = model.read_bytes(), [], 0
    for mutant in mutants(content, 150):
        model.write_bytes(mutant)
        try:
            classifier, _ = load(model)
        except UserError as error:
            errors.append(str(error))
            continue
        loaded += 1
        assert len(classifier.labels) == 3
        assert classifier(*clips.alone(0)).isfinite().all()
    assert all(error.startswith(f"{model}: ") for error in errors)
    assert 0 < loaded < 200


def test_loaded_model_does_not_depend_on_its_file(model, clips):
    classifier, _ = load(model)
    before = classifier(*clips)
    with model.open("r+b") as file:
        file.truncate(100)
    assert torch.equal(classifier(*clips), before)


@pytest.fixture
def own_pooling(modify, tmp_path, monkeypatch):
    """Path of a model file with a pooling of the package `custom_pooling`, which is importable, but not imported."""
    package = tmp_path / "custom_pooling"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pooling.py").write_text(
        "from spectrnn.model.pooling import AttentivePooling\n\n\nclass Custom(AttentivePooling):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield modify(lambda header: header["config"]["pooling"].update(_target_="custom_pooling.pooling.Custom"))
    for name in ("custom_pooling.pooling", "custom_pooling"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("trust", [[], ["custom"], [""], ["custom_pooling.other"], ["pooling", "torch", "spectrnn"]])
def test_stage_of_an_untrusted_package_is_not_imported(own_pooling, trust):
    with pytest.raises(UserError) as caught:
        load(own_pooling, trust=trust)
    assert str(caught.value) == (
        f"{own_pooling}: pooling._target_='custom_pooling.pooling.Custom' is not a built-in stage; "
        "if you trust this file and that package, add trust=[custom_pooling]"
    )
    assert "custom_pooling" not in sys.modules


@pytest.mark.parametrize("trust", [["custom_pooling"], ["other", "custom_pooling.pooling"]])
def test_stage_of_a_trusted_package_is_built(own_pooling, clips, trust):
    classifier, config = load(own_pooling, trust=trust)
    assert isinstance(classifier.pooling, Pooling)
    assert type(classifier.pooling).__module__ == "custom_pooling.pooling"
    assert classifier(*clips).isfinite().all()
    assert stage_packages(config) == ["custom_pooling", "spectrnn"]


def test_trusted_stage_needs_the_interface_of_its_key(modify):
    path = modify(lambda header: header["config"]["pooling"].update(_target_="torch.nn.Linear"))
    with pytest.raises(UserError, match=r"pooling._target_=torch.nn.Linear: is of another kind; a subclass of"):
        load(path, trust=["torch"])


def test_builtin_stages_are_trusted(stages):
    assert stages().keys() == STAGES.keys()
    require_trusted_stages(stages())
