"""The model file: weights and normalization as safetensors, the config and the labels in its header. No pickle.

A file may come from a stranger. Nothing is imported or called that is no stage of ours, and nothing is allocated before
names, shapes and types of all tensors are those that the config asks for: a small file makes a small classifier.
"""

import errno
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spectrnn.config.types import MAX_CLIP_SECONDS
from spectrnn.errors import UserError
from spectrnn.files import atomic_write
from spectrnn.model.classifier import STAGES, Classifier, build_stages, validate_labels
from spectrnn.model.header import FORMAT, KEY, read_header

_BUILTIN = ("spectrnn.frontend.", "spectrnn.model.")  # packages of the stages that an untrusted file may use
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # as safetensors calls them


def save(
    classifier: Classifier,
    config: Mapping[str, Any],
    path: Path,
    splits: Mapping[str, str] | None = None,
    tuned_thresholds: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model file, atomically.

    Args:
        classifier: Classifier to save; augmentation is not saved.
        config: Resolved config of the run, plain containers.
        path: File to write.
        splits: Checksums of the splits that it was trained with, as `data.splits.split_checksums`; None if unknown.
        tuned_thresholds: Detection thresholds as `detection.thresholds.TunedThresholds`, plain; None if not tuned.
    """
    header = {"format": FORMAT, "labels": classifier.labels, "config": config, "splits": splits}
    header["tuned_thresholds"] = tuned_thresholds
    tensors = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(header)})


def save_thresholds(path: Path, tuned_thresholds: Mapping[str, Any]) -> None:
    """Stores detection thresholds in a model file, atomically, and leaves everything else in it unchanged.

    Args:
        path: Model file.
        tuned_thresholds: Thresholds as for `save`.

    Raises:
        UserError: Not a spectrnn model file, or a file that cannot be written.
    """
    header = {**read_header(path), "tuned_thresholds": tuned_thresholds}
    try:
        if not os.access(path, os.W_OK):  # replacing the file would succeed even if it is read-only
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with safe_open(path, "pt") as file, atomic_write(path) as temporary:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            save_file(tensors, temporary, metadata={**file.metadata(), KEY: json.dumps(header)})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: the thresholds cannot be written to it ({error})") from error


def load(
    path: Path, device: torch.device | str = "cpu", trust: Sequence[str] = ()
) -> tuple[Classifier, dict[str, Any]]:
    """Reads a model file, which alone determines how the classifier is built.

    Args:
        path: Model file.
        device: Device of the classifier.
        trust: Packages, besides spectrnn, whose classes the file may instantiate.

    Returns:
        The classifier, in evaluation mode, and the config of the run that trained it.

    Raises:
        UserError: No such file, not a spectrnn model file, damaged, or stages from packages that are not trusted.
    """
    header = read_header(path)
    try:
        require_trusted_stages(header["config"], trust)
        with torch.device("meta"):  # shapes only: nothing is allocated before the file's tensors are checked
            stages = build_stages(header["config"], len(validate_labels(header["labels"])))
            classifier = Classifier(stages, header["labels"])
        classifier.load_state_dict(_tensors(path, classifier.state_dict()), assign=True)
        _smoke_test(classifier.eval())
    except UserError as error:
        raise UserError(f"{path}: {' / '.join(str(error).splitlines())[:500]}") from error
    except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: cannot be built ({(str(error).splitlines() or [''])[0]})") from error
    return classifier.to(device), header["config"]


def require_trusted_stages(config: Mapping[str, Any], trust: Sequence[str] = ()) -> None:
    """Rejects a config whose stages are neither built in nor from a trusted package, before anything is imported.

    Args:
        config: Config of a model file, plain containers.
        trust: Trusted packages.

    Raises:
        UserError: A stage that is not trusted.
    """
    for name, kind in STAGES.items():
        node = config.get(name)
        target = node.get("_target_") if isinstance(node, Mapping) else None
        package = str(target).partition(".")[0]
        if package not in trust and not _is_builtin(target, kind):
            remedy = (
                f"; if you trust this file and that package, add trust=[{package}]" if package != "spectrnn" else ""
            )
            raise UserError(f"{name}._target_={target!r:.200} is not a built-in stage{remedy:.200}")


def stage_packages(config: Mapping[str, Any]) -> list[str]:
    """Returns the top-level packages of a config's stages, such as those to trust in a model file of one's own."""
    return sorted({config[name]["_target_"].partition(".")[0] for name in STAGES})


def _is_builtin(target: Any, base: type[nn.Module]) -> bool:
    """Whether it names a class of that kind in a built-in package, as opposed to a function or a class imported there."""
    module, _, name = str(target).rpartition(".")
    if not module.startswith(_BUILTIN):
        return False
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found)


def _tensors(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, read after their names, types and shapes were found to be those that are wanted."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        for name in sorted(found.keys() | wanted.keys()):
            asked = (_DTYPES[wanted[name].dtype], tuple(wanted[name].shape)) if name in wanted else None
            if found.get(name) != asked:
                raise UserError(f"its weights do not fit its config ({name} is {found.get(name)}, not {asked})")
        # Clones, because the others are windows on the file, which could change or shrink below them.
        tensors = {name: file.get_tensor(name).clone() for name in found}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"its weights are damaged ({name} holds values that are not finite)")
    return tensors


@torch.inference_mode()
def _smoke_test(classifier: Classifier) -> None:
    """Runs the classifier on silence and on a ramp of a few frames."""
    longest = int(classifier.max_train_samples)
    if not 1 <= longest <= MAX_CLIP_SECONDS * classifier.sample_rate:
        raise UserError(f"its longest clip has {longest} samples, not 1 to {MAX_CLIP_SECONDS} s of them")
    if not 0 < float(classifier.temperature) < float("inf"):
        raise UserError(f"its temperature is {float(classifier.temperature)}, not above 0")
    samples = classifier.features.window_size + 4 * classifier.features.hop_size
    waveform = torch.stack([torch.zeros(samples), torch.linspace(-1, 1, samples)])
    if not classifier(waveform, torch.tensor([samples, samples])).isfinite().all():
        raise UserError("its weights are damaged (what it says of silence or a ramp is not finite)")
