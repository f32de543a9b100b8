"""From a config node to an object: names, types and ranges are validated against the constructor's signature.

`_target_` is the only registry. YAML holds every default, constructors hold types and ranges. A misspelled key, a value
out of range or a missing setting ends in a sentence that names the full key.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spectrnn.errors import SettingError, UserError
from spectrnn.messages import preview

MISSING = "???"

_MAX_NAMES = 20  # in a message
_MAX_VALUE_LENGTH = 200  # characters of a value in a message


def instantiate(node: Any, key: str, kind: type | tuple[type, ...] | None = None, **context: Any) -> Any:
    """Builds the object that a config node describes.

    Args:
        node: Mapping with ``_target_`` and the arguments of its constructor.
        key: Full key of the node, such as ``model``, for messages.
        kind: Class or classes that the target must be derived from; a function is accepted.
        context: Values known only at run time (``input_size=64``); each is passed if the constructor names it.

    Returns:
        The object; None, after validation, if a context value that the constructor names is None (unknown).

    Raises:
        UserError: All unknown, missing and invalid settings of the node, one per line, each with its full key.
    """
    target, settings, offered = validate_node(node, key, kind, **context)
    if None in offered.values():
        return None
    try:
        return target(**settings, **offered)
    except SettingError as error:
        raise with_full_keys(error, to_container(node, key), key) from error
    except (ValueError, RuntimeError) as error:
        if "allocate memory" in str(error):
            raise UserError(f"{key}: takes more memory than this machine has; use smaller sizes") from error
        if target.__module__.startswith("spectrnn."):
            raise
        rejected = _find_rejected_kwargs(target, settings, offered)
        reasons = [f"{key}.{name}={format_value(settings[name])}: {reason}" for name, reason in rejected.items()]
        raise UserError("\n".join(reasons) or f"{key}: {str(error).splitlines()[0]}") from error


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
    """Adds full keys and values to a constructor's error.

    Args:
        error: Error with the names of arguments, such as ``hop_ms``.
        settings: Settings of the node.
        key: Full key of the node.

    Returns:
        An error such as ``features.hop_ms=30: longer than features.window_ms=25 ...``.
    """
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
    """Finds the settings that a third party's constructor, which names no key, rejects in addition to the others."""
    accepted: dict[str, Any] = {}
    rejected: dict[str, str] = {}
    for name in [*settings, *settings]:  # twice, as one may depend on another that comes later
        try:
            target(**{**accepted, name: settings[name]}, **offered)
        except (ValueError, RuntimeError, TypeError) as error:
            rejected[name] = f"rejected by {target.__name__} ({str(error).splitlines()[0]})"
        else:
            accepted[name] = settings[name]
            rejected.pop(name, None)
    return rejected if accepted else {}


def validate_kwargs(
    settings: Mapping[str, Any], target: Callable[..., Any], key: str, given: Collection[str] = ()
) -> dict[str, Any]:
    """Validates settings against a callable's signature.

    Args:
        settings: Plain values by name.
        target: Class or function whose annotations give types and ranges.
        key: Full key of the settings; "" at the top level.
        given: Names of arguments that have a value already, and cannot be set.

    Returns:
        The settings, converted to the annotated types.

    Raises:
        UserError: All problems, one per line.
    """
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(target).parameters.items()
    parameters = {name: p for name, p in signature if name not in given and p.kind not in variadic}
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    prefix = f"{key}." if key else ""
    problems, converted = [], {}
    for name, value in settings.items():
        if name not in parameters:
            problems.append(f"{prefix}{name}: no such key; {unknown_name(str(name), parameters, prefix)}")
        elif value == MISSING:
            problems.append(f"{prefix}{name}: missing; it has no default")
        else:
            try:
                converted[name] = _convert(value, hints.get(name, Any))
            except ValueError as error:
                problems.append(f"{prefix}{name}={format_value(value)}: {error}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in settings:
            problems.append(f"{prefix}{name}: missing")
    if problems:
        raise UserError("\n".join(problems))
    return converted


def unknown_name(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns a remedy for an unknown name: the closest known one, or all of them, as far as they are few."""
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"known here: {preview(sorted(known), _MAX_NAMES)}"


def unknown_key(key: str, known: Collection[str], groups: Collection[str]) -> str:
    """Returns the sentence about a full key that does not exist, with the closest one that does.

    Args:
        key: Key as given.
        known: Full keys of the config.
        groups: Config groups.
    """
    parent, _, name = key.rpartition(".")
    siblings = {k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent} | {*(() if parent else groups)}
    if near := get_close_matches(name, siblings, n=1, cutoff=0.6):
        return f"{key}: no such key; did you mean {f'{parent}.' if parent else ''}{near[0]}?"
    elsewhere = [k for k in sorted(known) if k.rpartition(".")[2] == name]
    others = {k for k in known if not parent or parent not in (k, k.rpartition(".")[0])}
    near = get_close_matches(key, others | {*(() if siblings and parent else groups)}, n=1, cutoff=0.6)
    if elsewhere or near:
        return f"{key}: no such key; did you mean {(elsewhere or near)[0]}?"
    listed = ", ".join(sorted(siblings - {"_target_"})) or ", ".join(sorted(k for k in known if "." not in k))
    return f"{key}: no such key; known here: {listed}"


def to_container(node: Any, key: str) -> Any:
    """Converts a node to dicts, lists and scalars with interpolations resolved; missing values remain ``???``."""
    if not isinstance(node, Container):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or key}: {str(error).splitlines()[0]}") from error


def format_value(value: Any) -> str:
    """Formats a value as in YAML and on the command line: ``null``, ``true``, ``[1, 2]``; long ones are truncated."""
    import yaml

    text = value
    if not isinstance(value, str):
        plain = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**6)
        text = text.removesuffix("...\n").strip()
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def locate(path: str, key: str) -> Callable[..., Any]:
    """Imports the class or function that a ``_target_`` names.

    Raises:
        UserError: No such class or function.
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


def as_mapping(value: Any) -> Any:
    """Returns a mapping, or text that is one in YAML, with text as keys; any other value as it is.

    On the command line only quoted text may contain any key: Hydra's own mappings have ASCII letters and numbers.
    """
    import yaml

    node = value
    if isinstance(value, str) and value.startswith("{"):
        try:
            node = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
    return {format_value(key): item for key, item in node.items()} if isinstance(node, Mapping) else value


def _convert(value: Any, annotation: Any) -> Any:
    """Converts a value to the annotated type; raises a ValueError that states what it should be."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    is_mapping = dict in [get_origin(kind) for kind in (annotation, *get_args(annotation))]
    if is_mapping:
        value = as_mapping(value)
    try:
        # Third-party constructors annotate with classes that pydantic does not know, such as torch.Tensor.
        config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False, coerce_numbers_to_str=is_mapping)
        # Strict for booleans only, as Python would accept true for 1.
        return TypeAdapter(annotation, config=config).validate_python(value, strict=isinstance(value, bool) or None)
    except ValidationError as error:
        messages = []
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
            if problem["type"] != "is_instance_of":
                messages.append(message[0].lower() + message[1:].split(", unable to")[0])
            elif problem["ctx"]["class"] == "Sequence":  # not a third party's class, which no config value can be
                messages.append("should be a list")
        nullable = ", or null" if type(None) in get_args(annotation) else ""
        raise ValueError(" or ".join(dict.fromkeys(messages)).replace(" or should be", " or") + nullable) from error
