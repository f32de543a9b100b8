"""Model files from strangers: absurd, contradictory and damaged ones end in one sentence, and take no memory first."""

import copy
import json
import random
import resource
import struct
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectrnn.errors import UserError
from spectrnn.model.classifier import Classifier
from spectrnn.model.header import MAX_HEADER_BYTES, read_header
from spectrnn.model.serialization import load, require_builtin_stages, save


@pytest.fixture
def model(classifier, stages, tmp_path):
    """A saved model."""
    save(classifier(), stages(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def spoiled(model):
    """`spoiled(change)`: the model with another header, which `change` alters in place; `tensors` maps its tensors."""

    def write(change=lambda header: None, tensors=lambda tensors: tensors, text=None):
        header = copy.deepcopy(read_header(model))
        change(header)
        save_file(tensors(load_file(model)), model, metadata={"spectrnn": text or json.dumps(header)})
        return model

    return write


def refused(path, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    assert len(told) < len(str(path)) + 600


@pytest.mark.parametrize("claimed", [MAX_HEADER_BYTES + 1, 2 << 30, 1 << 60, (1 << 64) - 1])
def test_the_length_of_a_header_is_believed_only_up_to_a_limit(model, claimed):
    model.write_bytes(struct.pack("<Q", claimed) + model.read_bytes()[8:])
    refused(model, f"is no model file .its header claims {claimed} bytes")


def test_a_header_that_is_as_large_as_it_claims(spoiled):
    refused(spoiled(lambda header: header.update(labels=["x" * 9] * 500_000)), "its header claims")


@pytest.mark.parametrize(
    "deep", ["[" * 100_000 + "]" * 100_000, '{"labels": ' + "[" * 100_000, '{"format": ' + "9" * 5000]
)
def test_a_header_nested_too_deep_or_with_endless_numbers(spoiled, deep):
    refused(spoiled(text=deep), "is no model file")


@pytest.mark.parametrize("written", [None, True, "2", [2], {}, 10**400])
def test_a_format_that_is_no_number_of_ours(spoiled, written):
    refused(spoiled(lambda header: header.update(format=written)), "is of format ")


def test_an_older_format(spoiled):
    refused(spoiled(lambda header: header.update(format=1)), "is of format 1, .* reads format 3: train it again$")


@pytest.mark.parametrize(
    "labels",
    [
        [],
        [1, 2, 3],
        [None, "a", "b"],
        [{}, {}, {}],
        ["a", "a", "b"],
        ["", "a", "b"],
        ["a\nb", "b", "c"],
        ["\x1b[2J", "b", "c"],
        ["\ud800", "b", "c"],
        ["x" * 256, "b", "c"],
        [str(n) for n in range(10_001)],
    ],
    ids=lambda labels: str(labels)[:20],
)
def test_labels_that_are_no_names(spoiled, labels):
    refused(spoiled(lambda header: header.update(labels=labels)), "label")


def test_training_refuses_such_labels_too(stages):
    with pytest.raises(UserError, match=r"^label 'a.nb'"):
        Classifier(stages(), ["a\nb", "c"])


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
def test_absurd_settings_are_refused_in_little_memory(spoiled, stage, setting, value):
    path = spoiled(lambda header: header["config"][stage].update({setting: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, None)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * (1 << 20 if sys.platform == "darwin" else 1 << 10)  # 200 MB


@pytest.mark.parametrize("count", [101, 3000])
def test_thousands_of_convolutions(spoiled, stages, count):
    crnn = {**stages(model="crnn")["model"], "channels": [1] * count}
    crnn |= {"time_strides": [1] * count, "frequency_strides": [1] * count}
    refused(spoiled(lambda header: header["config"].update(model=crnn)), f": {count} convolutions; at most 100")


def turned(name, function):
    return lambda tensors: {**tensors, name: function(tensors[name])}


WEIGHT = "head.1.weight"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        *(
            (turned(WEIGHT, lambda x, dtype=dtype: x.to(dtype)), rf"do not fit its config \({WEIGHT} is ")
            for dtype in (torch.float64, torch.bfloat16, torch.int32, torch.bool)
        ),
        (turned("longest", lambda x: x.float()), r"longest is \('F32', \(\)\), not \('I64', \(\)\)"),
        (turned(WEIGHT, lambda x: x[:, :-1].contiguous()), f"{WEIGHT} is "),
        (turned(WEIGHT, lambda x: x.index_fill(1, torch.tensor(3), float("nan"))), "not finite"),
        (turned(WEIGHT, lambda x: x.index_fill(1, torch.tensor(3), -float("inf"))), "not finite"),
        (turned("normalization.std", torch.zeros_like), "are damaged"),
        (turned(WEIGHT, lambda x: x * 0 + 3e38), "are damaged"),
        (lambda tensors: {name: x for name, x in tensors.items() if name != WEIGHT}, f"{WEIGHT} is None, not"),
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "more is .*, not None"),
        (lambda tensors: {**tensors, "features.window": torch.zeros(200)}, "features.window is .*, not None"),
        *(
            (turned("longest", lambda x, value=value: x * 0 + value), f"its longest clip has {value} samples")
            for value in (0, -1, -(2**63), 3600 * 8000 + 1, 10**15)
        ),
    ],
)
def test_tensors_that_are_not_what_the_config_asks_for(spoiled, tensors, sentence):
    refused(spoiled(tensors=tensors), sentence)


def lengths_of(content):
    header = 8 + struct.unpack("<Q", content[:8])[0]
    return [0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) - 1]


@pytest.mark.parametrize("number", range(10))
def test_a_file_cut_off_anywhere(model, number):
    content = model.read_bytes()
    model.write_bytes(content[: lengths_of(content)[number]])
    refused(model, "is no model file")


def test_bytes_behind_the_last_tensor(model):
    model.write_bytes(model.read_bytes() + b"more")
    refused(model, "is no model file")


def mutants(content, count):
    """Copies with flipped bits, overwritten, dropped, doubled or exchanged bytes; half of them in the header."""
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
        mutant[generator.choice(digits)] = ord(generator.choice("0123456789"))  # numbers that stay numbers
        yield bytes(mutant)


def test_a_damaged_file_is_refused_or_gives_finite_logits(model, clips):
    content, told, loaded = model.read_bytes(), [], 0
    for mutant in mutants(content, 150):
        model.write_bytes(mutant)
        try:
            found, _ = load(model)
        except UserError as error:
            told.append(str(error))
            continue
        loaded += 1
        assert len(found.labels) == 3
        assert found(*clips.alone(0)).isfinite().all()
    assert all(sentence.startswith(f"{model}: ") for sentence in told)
    assert 0 < loaded < 200


def test_a_file_that_shrinks_while_its_model_is_in_use(model, clips):
    found, _ = load(model)
    before = found(*clips)
    with model.open("r+b") as file:
        file.truncate(100)
    assert torch.equal(found(*clips), before)


def test_a_stage_of_ones_own_is_refused_before_training(stages):
    require_builtin_stages(stages())
    with pytest.raises(
        UserError, match=r"^pooling._target_='mine.Pooling' is no stage in spectrnn/frontend or spectrnn/model$"
    ):
        require_builtin_stages({**stages(), "pooling": {"_target_": "mine.Pooling"}})
