"""The house rules that a machine can hold: sizes, documented shapes, commented YAML, one-way imports."""

import ast
import inspect
from pathlib import Path

import pytest
import yaml

from spectrnn.config.compose import yaml_entries
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.frontend import augmentation, features, normalization
from spectrnn.model import classifier, crnn, pooling, rnn

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "spectrnn").rglob("*.py"))
STAGES = [
    stage
    for module in (augmentation, features, normalization, classifier, crnn, rnn, pooling)
    for name, stage in vars(module).items()
    if inspect.isclass(stage) and stage.__module__ == module.__name__ and not name.startswith("_")
]
YAMLS = sorted(CONFIG_DIR.rglob("*.yaml"))
# Rooms, from the ground up: each may import those below it, and itself.
ROOMS = [
    "errors",
    "files",
    "progress",
    "config",
    "data",
    "frontend",
    "model",
    "runs",
    "devices",
    "check",
    "inference",
    "training",
    "streaming",
    "export",
    "demo",
]


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit(path):
    assert len(path.read_text().splitlines()) <= 300
    for function in functions(path):
        documented = ast.get_docstring(function) is not None
        body = function.body[1:] if documented else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 40, function.name


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_stage_says_its_shapes(stage):
    forward = vars(stage).get("forward")
    text = inspect.getdoc(forward) if forward else inspect.getdoc(stage)
    if forward:
        assert "(batch" in text or "(directions" in text, f"{stage.__name__}.forward gives no shape"
    assert inspect.getdoc(stage)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_every_yaml_says_what_it_is(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
    assert comments
    assert yaml.safe_load(path.read_text()) is not None


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_every_setting_has_a_comment(path):
    """Beside it, or beside the same key in another file of its group."""
    group = path.parent.name if path.parent != CONFIG_DIR else ""
    below = "" if group in ("", "experiment", "sweep") else f"{group}."
    said = {f"{file.parent.name}.{key}" for file in YAMLS for key, entry in yaml_entries(file).items() if entry.comment}
    for key, entry in yaml_entries(path).items() if group not in ("job_logging", "sweep") else ():
        assert entry.comment or f"{below}{key}" in said, key


def test_the_rooms_import_one_way():
    height = {room: number for number, room in enumerate(ROOMS)}
    for path in SOURCES:
        room = path.relative_to(ROOT / "spectrnn").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("spectrnn.") and room in height:
                other = module.split(".")[1]
                assert height[other] <= height[room], f"{path} imports {module}"


def test_the_readme_names_every_option():
    text = (ROOT / "README.md").read_text()
    for group in ("data", "augment", "features", "normalize", "model", "pooling", "optimizer", "scheduler"):
        for option in (CONFIG_DIR / group).glob("[!_]*.yaml"):
            assert f"`{option.stem}`" in text, f"{group}={option.stem}"
