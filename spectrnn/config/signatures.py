"""Annotations of constructors, read from their source: importing it would import torch, which takes seconds."""

import ast
import typing
from collections import abc
from functools import cache
from typing import Any

import annotated_types

from spectrnn.config import types
from spectrnn.config.paths import module_path

_BUILTINS = {kind.__name__: kind for kind in (bool, dict, float, int, list, object, str, tuple, type)}
_KNOWN = vars(annotated_types) | vars(abc) | vars(typing) | vars(types) | _BUILTINS


class _NotConfigurable:
    """Stands for all types that no config value has, such as torch.Tensor."""

    def __class_getitem__(cls, item: Any) -> type:
        return cls


class _Namespace(dict[str, Any]):
    """Names in the annotations of a module: types of config values, and aliases that the module defines or imports."""

    def __init__(self, module: str) -> None:
        super().__init__(_KNOWN)
        self.module = module

    def __missing__(self, name: str) -> Any:
        module, definition = _find(f"{self.module}.{name}")
        return _evaluate(definition, module) if isinstance(definition, ast.expr) else _NotConfigurable


class _LastNames(ast.NodeTransformer):
    """Replaces attributes by their last name, such as typing.Literal by Literal."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.Name:
        return ast.Name(node.attr, ast.Load())


def annotations(target: str) -> dict[str, Any]:
    """Returns the annotations of a function's or constructor's arguments, without importing the module.

    Args:
        target: Dotted path of a function or class, such as a ``_target_``. Imports and base classes are followed.

    Returns:
        Annotation by argument; empty if the source cannot be found.
    """
    module, definition = _find(target)
    if isinstance(definition, ast.FunctionDef):
        arguments = definition.args
        fields = [x for x in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if x.annotation]
        return {field.arg: _evaluate(field.annotation, module) for field in fields}
    if not isinstance(definition, ast.ClassDef):
        return {}
    if any(isinstance(statement, ast.FunctionDef) and statement.name == "__init__" for statement in definition.body):
        return annotations(f"{target}.__init__")
    found: dict[str, Any] = {}
    for base in reversed(definition.bases):
        found |= annotations(f"{module}.{ast.unparse(base)}")
    for statement in definition.body:  # of a dataclass
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = _evaluate(statement.annotation, module)
    return found


def _evaluate(node: ast.expr | None, module: str) -> Any:
    if node is None:
        return Any
    expression = ast.fix_missing_locations(ast.Expression(_LastNames().visit(node)))
    try:
        return eval(compile(expression, module, "eval"), {"__builtins__": {}}, _Namespace(module))
    except Exception:  # whatever a third party writes
        return Any


def _find(target: str) -> tuple[str, ast.AST | None]:
    """Finds the definition of a dotted path, and the module that contains it."""
    parts = target.split(".")
    for size in range(len(parts), 0, -1):
        module, names = ".".join(parts[:size]), parts[size:]
        found = _definitions(module)
        if found is None:
            continue
        definition = found.get(".".join(names)) or found.get(names[0]) if names else None
        if isinstance(definition, str):  # imported
            return _find(".".join([definition, *names[1:]]))
        return module, definition
    return "", None


@cache
def _definitions(module: str) -> dict[str, ast.AST | str] | None:
    """Returns the top-level names of a module, and constructors as ``Class.__init__``; None if it has no source.

    Values are definitions, expressions that were assigned, or the dotted path of an imported name.
    """
    path = module_path(module)
    sources = [] if path is None else [path / "__init__.py", path.with_name(f"{path.name}.py")]
    source = next((file for file in sources if file.is_file()), None)
    if source is None:
        return None
    package = module.split(".") if source.name == "__init__.py" else module.split(".")[:-1]
    found: dict[str, ast.AST | str] = {}
    pending = list(ast.parse(source.read_text(encoding="utf-8")).body)
    while pending:
        match node := pending.pop(0):
            case ast.ClassDef(name=name):
                found[name] = node
                found |= {f"{name}.{x.name}": x for x in node.body if isinstance(x, ast.FunctionDef)}
            case ast.FunctionDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                found[name] = value
            case ast.ImportFrom(module=origin, names=names, level=level):
                prefix = package[: len(package) - level + 1] if level else []
                for alias in names:
                    found[alias.asname or alias.name] = ".".join([*prefix, *filter(None, [origin]), alias.name])
            case ast.Import(names=names):
                for alias in names:
                    name = alias.asname or alias.name.split(".")[0]
                    found[name] = alias.name if alias.asname else name
            case ast.If() | ast.Try():
                pending = [*node.body, *node.orelse, *pending]
    return found
