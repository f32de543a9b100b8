"""From a YAML node to an object: every name, type and range is checked against the constructor's signature.

`_target_` is the only registry. YAML holds every default; constructors hold the types and ranges, so that a typo in a
key, a value out of range or a missing setting ends in a sentence that names the full key.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectrnn.errors import SettingError, UserError

MISSING = "???"

_LONGEST = 200  # characters of a value in a message


def instantiate(node: Any, key: str, kind: type | tuple[type, ...] | None = None, **context: Any) -> Any:
    """Builds the object that a config node describes.

    Args:
        node: a mapping with ``_target_`` and the arguments of its constructor.
        key: the node's full key, such as ``model``, for messages.
        kind: Class or classes that the target must be derived from; a function is accepted.
        context: Values known only at run time (``input_size=64``); each is passed if the constructor names it.

    Returns:
        The object; None, after validation, if a context value that the constructor names is None (unknown).

    Raises:
        UserError: all unknown, missing and ill-typed settings of the node at once, each with its full key.
    """
    target, checked, offered = validate_node(node, key, kind, **context)
    if None in offered.values():
        return None
    try:
        return target(**checked, **offered)
    except SettingError as error:
        raise with_full_keys(error, to_container(node, key), key) from error
    except (ValueError, RuntimeError) as error:
        if "allocate memory" in str(error):
            raise UserError(f"{key}: takes more memory than this machine has; smaller sizes") from error
        if target.__module__.startswith("spectrnn."):
            raise
        refused = _find_rejected_kwargs(target, checked, offered) or {"": str(error).splitlines()[0]}
        raise UserError(
            "\n".join(
                f"{key}.{name}={format_value(checked[name])}: {reason}" if name else f"{key}: {reason}"
                for name, reason in refused.items()
            )
        ) from error


def validate_node(
    node: Any, key: str, kind: type | tuple[type, ...] | None = None, **context: Any
) -> tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]:
    """Validates a node without instantiating it; arguments as for `instantiate`.

    Returns:
        The constructor, the settings converted to its types, and the context values that it names.

    Raises:
        UserError: As `instantiate`.
    """
    settings = to_container(node, key)
    if not isinstance(settings, Mapping) or not isinstance(settings.get("_target_"), str):
        raise UserError(f"{key}: expected a mapping with a _target_, got {format_value(settings)}")
    target = locate(settings["_target_"], f"{key}._target_")
    if kind is not None and inspect.isclass(target) and not issubclass(target, kind):
        kinds = " or ".join(f"{k.__module__}.{k.__name__}" for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{key}._target_={settings['_target_']}: is of another kind; a subclass of {kinds} is needed")
    signature = inspect.signature(target)
    offered = {name: value for name, value in context.items() if name in signature.parameters}
    settings = {name: value for name, value in settings.items() if name != "_target_"}
    return target, validate_kwargs(settings, target, key, given=offered), offered


def with_full_keys(error: SettingError, settings: Mapping[str, Any], key: str) -> UserError:
    """A stage's refusal with full keys and values: ``features.hop_ms=30: longer than features.window_ms=25 ...``."""
    sibling = re.compile(rf"(?<![\w.])(?=(?:{'|'.join(map(re.escape, settings))})=)")
    return UserError(
        "\n".join(
            f"{key}.{name}={format_value(settings.get(name))}: {sibling.sub(f'{key}.', message)}"
            for name, message in error.problems.items()
        )
    )


def _find_rejected_kwargs(
    target: Callable[..., Any], settings: Mapping[str, Any], offered: Mapping[str, Any]
) -> dict[str, str]:
    """The settings that a third party's constructor, which names no key, does not take beside the others; and why."""
    taken: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name in [*settings, *settings]:  # twice, as one may need another that comes later
        try:
            target(**{**taken, name: settings[name]}, **offered)
        except (ValueError, RuntimeError, TypeError) as error:
            refused[name] = f"{target.__name__} refuses it ({str(error).splitlines()[0]})"
        else:
            taken[name] = settings[name]
            refused.pop(name, None)
    return refused if taken else {}


def validate_kwargs(
    settings: Mapping[str, Any], target: Callable[..., Any], key: str, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Holds settings against a callable's signature.

    Args:
        settings: names and plain values.
        target: a class or function whose annotations give types and ranges.
        key: the full key of the settings, "" at the top.
        given: arguments that come from elsewhere, and are not to be set.

    Returns:
        The settings, converted to the annotated types.

    Raises:
        UserError: every problem found, one a line.
    """
    given = given or {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(target).parameters.items()
    parameters = {name: p for name, p in signature if name not in given and p.kind not in variadic}
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    problems, checked = [], {}
    for name, value in settings.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in parameters:
            problems.append(f"{full}: no such key; " + unknown_name(str(name), parameters, f"{key}." if key else ""))
            continue
        try:
            if value == MISSING:
                problems.append(f"{full}: missing; it has no default")
            else:
                checked[name] = _convert(value, hints.get(name, Any))
        except ValueError as error:
            problems.append(f"{full}={format_value(value)}: {error}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in settings:
            problems.append(f"{key}.{name}: missing" if key else f"{name}: missing")
    if problems:
        raise UserError("\n".join(problems))
    return checked


def unknown_name(name: str, known: Iterable[str], prefix: str = "") -> str:
    """How to go on from a name that does not exist: the nearest that does, or all of them."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(known))}"


def to_container(node: Any, key: str) -> Any:
    """The node as dicts, lists and scalars with its interpolations resolved; what is missing stays ``???``."""
    if not isinstance(node, Container):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or key}: {str(error).splitlines()[0]}") from error


def format_value(value: Any) -> str:
    """A value as YAML and the command line have it: ``null``, ``true``, ``[1, 2]``, text as it is; long ones cut."""
    import yaml

    text = value
    if not isinstance(value, str):
        flat = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(flat, default_flow_style=True, allow_unicode=True, width=10**6)
        text = text.removesuffix("...\n").strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def locate(path: str, key: str) -> Callable[..., Any]:
    """The class or function that a ``_target_`` names.

    Raises:
        UserError: there is none.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"{key}={path}: {error}") from error
    target = getattr(module, name, None)
    if not callable(target):
        classes = [n for n, value in vars(module).items() if inspect.isclass(value)]
        near = get_close_matches(name, classes, n=1, cutoff=0.5)
        raise UserError(f"{key}={path}: no such class" + (f"; did you mean {module_name}.{near[0]}?" if near else ""))
    return target


def _convert(value: Any, annotation: Any) -> Any:
    """The value as the annotated type, or a ValueError that says what it should have been."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        # Third-party constructors annotate with classes that pydantic does not know, such as torch.Tensor.
        config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        # Strict only where Python would take true for 1.
        return TypeAdapter(annotation, config=config).validate_python(value, strict=isinstance(value, bool) or None)
    except ValidationError as error:
        messages = []
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
            if problem["type"] != "is_instance_of":
                messages.append(message[0].lower() + message[1:].split(", unable to")[0])
            elif problem["ctx"]["class"] == "Sequence":  # not a third party's class, which no YAML can hold
                messages.append("should be a list")
        nullable = ", or null" if type(None) in get_args(annotation) else ""
        raise ValueError(" or ".join(dict.fromkeys(messages)).replace(" or should be", " or") + nullable) from error
