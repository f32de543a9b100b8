"""From a YAML node to an object: names, types, ranges and targets; errors name the full key."""

import math
import re
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from spectrnn.config.instantiate import format_value, instantiate, locate, to_container, unknown_name, validate_kwargs
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.config.types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from spectrnn.errors import ErrorCollector, SettingError, UserError


class Stage:
    """Constructor like that of a stage of the classifier."""

    def __init__(
        self,
        hidden_size: PositiveInt,
        dropout: Fraction,
        mode: Literal["a", "b"],
        span: tuple[int, int],
        width: PositiveFloat | None,
        flag: bool,
        names: list[str],
        input_size: PositiveInt,
    ) -> None:
        self.settings = {name: value for name, value in locals().items() if name != "self"}
        if hidden_size == 13:
            raise SettingError({"hidden_size": "is not allowed with mode=a; use 12"})


VALID = {"hidden_size": 3, "dropout": 0.1, "mode": "a", "span": [1, 2], "width": None, "flag": True, "names": ["x"]}


def build_stage(**changes: Any) -> dict[str, Any]:
    """Builds the stage with the key `model`, as the classifier does, and returns its arguments."""
    stage: Stage = instantiate(
        OmegaConf.create({"_target_": f"{__name__}.Stage", **VALID, **changes}), "model", input_size=64
    )
    return stage.settings


def error_of(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_stage(**changes)
    return str(caught.value)


def test_values_are_converted_to_the_annotated_types():
    assert build_stage() == {**VALID, "span": (1, 2), "input_size": 64}


def test_context_values_are_passed_if_the_constructor_names_them():
    stage = instantiate({"_target_": f"{__name__}.Stage", **VALID}, "model", input_size=5, num_classes=10)
    assert stage.settings["input_size"] == 5


def test_context_value_cannot_be_set():
    assert error_of(input_size=3).startswith("model.input_size: no such key; ")


def test_unknown_context_value_only_validates():
    node = {"_target_": f"{__name__}.Stage", **VALID}
    assert instantiate(node, "model", input_size=None) is None
    with pytest.raises(UserError, match=r"^model.dropout=2: should be less than 1$"):
        instantiate({**node, "dropout": 2}, "model", input_size=None)


@pytest.mark.parametrize(("kind", "kinds"), [(int, "builtins.int"), ((int, str), "builtins.int or builtins.str")])
def test_class_of_another_kind_is_rejected(kind: Any, kinds: str):
    target = f"{__name__}.Stage"
    with pytest.raises(UserError) as caught:
        instantiate({"_target_": target, **VALID}, "model", kind, input_size=1)
    assert str(caught.value) == f"model._target_={target}: is of another kind; a subclass of {kinds} is needed"
    assert isinstance(instantiate({"_target_": target, **VALID}, "model", (int, Stage), input_size=1), Stage)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("hidden_size", "abc", "model.hidden_size=abc: should be a valid integer"),
        ("hidden_size", 3.5, "model.hidden_size=3.5: should be a valid integer"),
        ("hidden_size", None, "model.hidden_size=null: should be a valid integer"),
        ("hidden_size", [3], r"model.hidden_size=\[3\]: should be a valid integer"),
        ("hidden_size", 0, "model.hidden_size=0: should be greater than 0"),
        ("hidden_size", True, "model.hidden_size=true: should be a valid integer"),
        ("dropout", 1, "model.dropout=1: should be less than 1"),
        ("dropout", -0.1, "model.dropout=-0.1: should be greater than or equal to 0"),
        ("dropout", math.nan, r"model.dropout=\.nan: should be a finite number"),
        ("width", "wide", "model.width=wide: should be a valid number, or null"),
        ("width", math.inf, r"model.width=\.inf: should be a finite number, or null"),
        ("mode", "c", "model.mode=c: should be 'a' or 'b'"),
        ("flag", "maybe", "model.flag=maybe: should be a valid boolean"),
        ("names", "abc", "model.names=abc: should be a valid list"),
        ("names", [1], r"model.names=\[1\]: should be a valid string"),
        ("span", [1, 2, 3], r"model.span=\[1, 2, 3\]: .*2 items"),
        ("span", [1, "x"], r"model.span=\[1, x\]: should be a valid integer"),
    ],
)
def test_invalid_value_is_reported_with_its_full_key_and_a_remedy(setting: str, value: Any, message: str):
    with pytest.raises(UserError, match=rf"^{message}") as caught:
        build_stage(**{setting: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value", "converted"),
    [("hidden_size", "64", 64), ("hidden_size", 64.0, 64), ("width", 2, 2.0), ("span", (3, 4), (3, 4))],
)
def test_unambiguous_values_are_converted(setting: str, value: Any, converted: Any):
    assert build_stage(**{setting: value})[setting] == converted


@pytest.mark.parametrize(
    ("kind", "valid", "invalid"),
    [
        (PositiveInt, [1, 7], [0, -1, 0.5]),
        (NonNegativeInt, [0, 7], [-1]),
        (PositiveFloat, [1e-9, 7], [0, -1.0]),
        (NonNegativeFloat, [0, 0.5], [-1e-9]),
        (Probability, [0, 0.5, 1], [-0.1, 1.1]),
        (Fraction, [0, 0.999], [1, -0.1]),
    ],
)
def test_ranges(kind: Any, valid: list[float], invalid: list[float]):
    def target(x: float) -> None:
        pass

    target.__annotations__["x"] = kind
    for value in valid:
        assert validate_kwargs({"x": value}, target, "k") == {"x": value}
    for value in [*invalid, math.nan]:
        with pytest.raises(UserError, match=rf"^k.x={re.escape(format_value(value))}: "):
            validate_kwargs({"x": value}, target, "k")


def test_unknown_key_is_reported_with_the_closest_one_or_all():
    assert error_of(hiden_size=3) == "model.hiden_size: no such key; did you mean model.hidden_size?"
    assert error_of(zzz=3) == (
        "model.zzz: no such key; known here: dropout, flag, hidden_size, mode, names, span, width"
    )
    assert unknown_name("pool", ["pooling", "model"]) == "did you mean pooling?"
    assert unknown_name("zzz", iter(["b", "a"])) == "known here: a, b"


def test_all_errors_of_a_node_are_reported_at_once():
    message = error_of(hiden_size=3, dropout=2, mode="z")
    assert sorted(line.split(":")[0] for line in message.splitlines()) == [
        "model.dropout=2",
        "model.hiden_size",
        "model.mode=z",
    ]


def test_missing_value_is_reported():
    assert error_of(span="???", dropout=2).splitlines() == [
        "model.dropout=2: should be less than 1",
        "model.span: missing; it has no default",
    ]


def test_settings_rejected_by_a_third_party_constructor_are_reported_one_by_one():
    import torch

    def errors_of(**settings: Any) -> list[str]:
        with pytest.raises(UserError) as caught:
            instantiate({"_target_": "torch.optim.SGD", **settings}, "optimizer", params=[torch.zeros(1)])
        return str(caught.value).splitlines()

    assert errors_of(lr=-1, weight_decay=-2, momentum=0.9) == [
        "optimizer.lr=-1.0: rejected by SGD (Invalid learning rate: -1.0)",
        "optimizer.weight_decay=-2.0: rejected by SGD (Invalid weight_decay value: -2.0)",
    ]
    assert errors_of(nesterov=True, lr=1, momentum=0) == [
        "optimizer.nesterov=true: rejected by SGD (Nesterov momentum requires a momentum and zero dampening)"
    ]
    assert instantiate(
        {"_target_": "torch.optim.SGD", "nesterov": True, "momentum": 0.9}, "optimizer", params=[torch.zeros(1)]
    ).defaults["nesterov"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (3, "3"), (0.5, "0.5"), ("no", "no"), ((1, 2), "[1, 2]"), (["a"], "[a]")],
)
def test_values_are_formatted_as_on_the_command_line(value: Any, text: str):
    assert format_value(value) == text


def test_first_error_of_each_key_is_kept():
    errors = ErrorCollector()
    for sentence in ("a.b=3: is odd", "c: missing", "a.b: no such key"):
        errors.add(sentence)
    assert errors.collect(lambda: 5) == 5
    with pytest.raises(UserError, match=r"^a.b=3: is odd\nc: missing$"):
        errors.raise_if_any()


def test_missing_key_is_reported():
    settings = {name: value for name, value in VALID.items() if name not in ("span", "flag")}
    with pytest.raises(UserError) as caught:
        instantiate({"_target_": f"{__name__}.Stage", **settings}, "model", input_size=1)
    assert str(caught.value).splitlines() == ["model.span: missing", "model.flag: missing"]


def test_keys_at_the_top_level_have_no_prefix():
    def command(run: str, top_k: PositiveInt) -> None:
        pass

    with pytest.raises(UserError) as caught:
        validate_kwargs({"topk": 3}, command, "")
    assert str(caught.value).splitlines() == [
        "topk: no such key; did you mean top_k?",
        "run: missing",
        "top_k: missing",
    ]


def test_setting_error_of_a_constructor_gets_full_keys():
    assert error_of(hidden_size=13) == "model.hidden_size=13: is not allowed with model.mode=a; use 12"


def test_other_errors_of_a_constructor_are_not_caught():
    with pytest.raises(ZeroDivisionError):
        instantiate({"_target_": f"{__name__}.broken"}, "model")


def broken() -> None:
    1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{__name__}.Stag", rf"model._target_={__name__}.Stag: no such class; did you mean {__name__}.Stage\?"),
        (f"{__name__}.VALID", r"model._target_=.*VALID: no such class"),
        ("spectrnn.data.source.Folder", r"model._target_=.*: No module named 'spectrnn.data.source'"),
        (
            "spectrnn.data.sources.local.Foldr",
            r"model._target_=.*; did you mean spectrnn.data.sources.local.FolderDataset\?",
        ),
        ("Stage", r"model._target_=Stage: "),
        ("", r"model._target_=: "),
        (".Stage", r"model._target_=.Stage: "),
        ("..", r"model._target_=..: "),
        (3, r"model: expected a mapping with a _target_, got "),
        (None, r"model: expected a mapping with a _target_, got "),
    ],
)
def test_invalid_target_is_reported(target: Any, message: str):
    with pytest.raises(UserError, match=rf"^{message}"):
        instantiate({"_target_": target, **VALID}, "model")


@pytest.mark.parametrize("node", [None, "bigru", [], {}, {"hidden_size": 3}, OmegaConf.create([1])])
def test_node_without_a_target_is_reported(node: Any):
    with pytest.raises(UserError, match=r"^pooling: expected a mapping with a _target_, got "):
        instantiate(node, "pooling")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${nowhere}", "^model.size: Interpolation key 'nowhere' not found$"),
        ("${oc.env:SPECTRNN_NOWHERE}", "^model.size: .*SPECTRNN_NOWHERE"),
        ("${oc.nothing:}", "^model.size: .*oc.nothing"),
    ],
)
def test_unresolvable_interpolation_is_reported(value: str, message: str):
    config = OmegaConf.create({"model": {"_target_": "spectrnn.Unused", "size": value}})
    with pytest.raises(UserError, match=message) as caught:
        to_container(config.model, "model")
    assert "\n" not in str(caught.value)


def test_to_container_resolves_nodes_and_keeps_plain_values():
    config = OmegaConf.create({"rate": 8000, "data": {"rates": ["${rate}", {"x": "${.y}", "y": 1}]}})
    assert to_container(config.data, "data") == {"rates": [8000, {"x": 1, "y": 1}]}
    assert type(to_container(config.data, "data")["rates"]) is list
    assert to_container(3, "x") == 3


def test_third_party_constructors_are_validated():
    import torch

    node = {"_target_": "torch.optim.AdamW", "lr": "fast", "bettas": [0.9, 0.99]}
    with pytest.raises(UserError) as caught:
        instantiate(node, "optimizer", params=[torch.zeros(1)])
    first, second = str(caught.value).splitlines()
    assert first.startswith("optimizer.lr=fast: should be a valid number")
    assert second == "optimizer.bettas: no such key; did you mean optimizer.betas?"
    good = {"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.99]}
    assert instantiate(good, "optimizer", params=[torch.zeros(1)]).defaults["betas"] == (0.9, 0.99)


def test_every_target_in_the_configs_exists():
    found = 0
    for path in CONFIG_DIR.rglob("*.yaml"):
        pending = [OmegaConf.to_container(OmegaConf.load(path))]
        while pending:
            node = pending.pop()
            pending += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
            target = node.get("_target_") if isinstance(node, dict) else None
            if isinstance(target, str) and target.startswith("spectrnn."):
                assert callable(locate(target, str(path)))
                found += 1
    assert found > 20
