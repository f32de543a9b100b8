"""Structure and language of the project: one-way imports, documented packages and config keys, standard English."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml

from spectrnn.config.compose import yaml_entries
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.frontend import augmentation, compression, effects, features, normalization
from spectrnn.model import classifier, crnn, pooling, rnn, task

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spectrnn"
SOURCES = sorted(PACKAGE.rglob("*.py"))
YAMLS = sorted(CONFIG_DIR.rglob("*.yaml"))
STAGES = [
    stage
    for module in (augmentation, effects, compression, features, normalization, classifier, rnn, crnn, pooling, task)
    for name, stage in vars(module).items()
    if inspect.isclass(stage) and stage.__module__ == module.__name__ and not name.startswith("_")
]
# From the bottom up: a module imports from the entries before its own, and from its own.
LAYERS = [
    "version",
    "errors",
    "messages",
    "files",
    "progress",
    "native",
    "threads",
    "devices",
    "distributed",
    "config",
    "data",
    "frontend",
    "model",
    "runs",
    "detection",
    "inference",
    "evaluation",
    "embeddings",
    "training",
    "study",
    "streaming",
    "check",
    "export",
    "demo",
    "cli",
    "api",
    "__init__",
    "__main__",
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module):
    """Position in LAYERS of a module's dotted name."""
    parts = module.split(".")
    return LAYERS.index(parts[1] if len(parts) > 1 else "__init__")


def imported_modules(path):
    """The modules of the package that a file imports anywhere, also within functions."""
    modules = {module_name(source) for source in SOURCES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "spectrnn")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "spectrnn":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path):
    own = module_name(path)
    for module in imported_modules(path):
        assert layer(module) <= layer(own), f"{own} imports {module}, which is above it"


def test_imports_have_no_circles():
    graph = {module_name(path): {*imported_modules(path)} - {module_name(path)} for path in SOURCES}
    while leaves := [module for module, imports in graph.items() if not imports & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph


def test_nothing_imports_the_public_api():
    for path in SOURCES:
        if path.name != "__main__.py" and path.parent != PACKAGE:
            assert "spectrnn" not in imported_modules(path), path


def test_every_package_is_documented_and_typed():
    folders = {path.parent for path in SOURCES}
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
    assert (PACKAGE / "py.typed").exists()


def test_the_formatter_has_no_exceptions():
    for folder in (PACKAGE, ROOT / "scripts", ROOT / "tests"):
        for path in folder.rglob("*.py"):
            assert "fmt: " + "skip" not in path.read_text(), path


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_stage_documents_its_shapes(stage):
    assert inspect.getdoc(stage)
    if forward := vars(stage).get("forward"):
        assert "(batch" in inspect.getdoc(forward) or "directions" in inspect.getdoc(forward), stage.__name__


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_every_yaml_file_and_key_is_documented(path):
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
    assert yaml.safe_load(text) is not None
    # A key is documented where its default is, or where another file of its group sets it.
    group = path.parent.name if path.parent != CONFIG_DIR else ""
    prefix = "" if group in ("", "experiment", "sweep") else f"{group}."
    documented = {
        f"{'' if file.parent == CONFIG_DIR else file.parent.name + '.'}{key}"
        for file in YAMLS
        for key, entry in yaml_entries(file).items()
        if entry.comment
    }
    if group not in ("job_logging", "sweep", "space"):
        for key, entry in yaml_entries(path).items():
            assert entry.comment or f"{prefix}{key}" in documented, key


def test_the_readme_names_every_option():
    text = (ROOT / "README.md").read_text()
    for group in (
        "data",
        "augment",
        "features",
        "normalize",
        "model",
        "pooling",
        "task",
        "optimizer",
        "scheduler",
        "logger",
        "space",
    ):
        for option in (CONFIG_DIR / group).glob("[!_]*.yaml"):
            assert f"`{option.stem}`" in text, f"{group}={option.stem}"


# Words and phrases of the project's former dialect. Standard English of the field is used instead.
DIALECT = re.compile(
    r"\b(?:hears?|heard|hearing|told|tells|mistakes?|anew|listeners?|begun|ears"
    r"|(?:clips?|frames?|lines?|samples?|times?|words?|bins?|files?|folders?|numbers?|steps?|hours?) an? "
    r"(?:batch|second|clip|frame|file|epoch|step|hour|class|run|line|split|row|name|label|minute|day)"
    r"|(?<!there )is no (?!longer\b|\w+ than\b)\w+|goes on|going on|where there (?:is|are)|behind (?:it|them))\b",
    re.IGNORECASE,
)
LANGUAGE_FILES = [
    path
    for pattern in (
        "spectrnn/**/*",
        "configs/**/*",
        "scripts/**/*",
        "tests/**/*",
        "*.md",
        "pyproject.toml",
        ".github/**/*",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".py", ".c", ".js", ".html", ".css", ".md", ".yaml", ".yml", ".toml") and path != Path(__file__)
]
# Legitimate uses: (file, text of the line).
ALLOWED: set[tuple[str, str]] = set()


@pytest.mark.parametrize("path", LANGUAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_language_is_standard_english(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = DIALECT.search(line)
        if match and (str(path.relative_to(ROOT)), line.strip()) not in ALLOWED:
            raise AssertionError(f"{path.relative_to(ROOT)}, line {number}: {match[0]!r} in {line.strip()!r}")
