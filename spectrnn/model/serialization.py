"""The model file: weights and normalization as safetensors, config and labels in its header. No pickle.

Files are not trusted. Only built-in stages and those of trusted packages are imported and instantiated, and nothing is
allocated before names, shapes and types of all tensors match the config: a small file makes a small classifier.
"""

import errno
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
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
from spectrnn.model.ensemble import Ensemble
from spectrnn.model.header import ENSEMBLE_FORMAT, FORMAT, KEY, read_header

_BUILTIN = ("spectrnn.frontend.", "spectrnn.model.")  # packages of the stages that an untrusted file may use
# Keys of features that earlier files of these formats lack, with values that compute what those were trained with.
_ADDED_KEYS = {
    "compression": "log",
    "pcen_alpha": 0.98,
    "pcen_delta": 2.0,
    "pcen_r": 0.5,
    "pcen_time_constant_ms": 400.0,
    "pcen_floor": 1e-6,
}
_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}  # names in safetensors


def save(
    classifier: Classifier,
    config: Mapping[str, Any],
    path: Path,
    splits: Mapping[str, str] | None = None,
    tuned_thresholds: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model file, atomically.

    Args:
        classifier: Classifier or `Ensemble` to save; augmentation is not saved.
        config: Resolved config of the run, plain containers.
        path: File to write.
        splits: Checksums of the splits that it was trained with, as `data.splits.split_checksums`; None if unknown.
        tuned_thresholds: Detection thresholds as `detection.thresholds.TunedThresholds`, plain; None if not tuned.
    """
    header = {"format": FORMAT, "labels": classifier.labels, "config": config, "splits": splits}
    header["tuned_thresholds"] = tuned_thresholds
    if isinstance(classifier, Ensemble):
        header |= {"format": ENSEMBLE_FORMAT, "members": classifier.num_members}
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
        trust: Packages or modules, besides spectrnn, whose stages the file may instantiate.

    Returns:
        The classifier, which may be an `Ensemble`, in evaluation mode, and the config of the run that trained it.

    Raises:
        UserError: No such file, not a spectrnn model file, damaged, or stages from packages that are not trusted.
    """
    header = read_header(path)
    try:
        require_trusted_stages(header["config"], trust)
        features = header["config"]["features"]
        if features["_target_"].startswith("spectrnn.frontend.features."):
            header["config"]["features"] = _ADDED_KEYS | features
        with torch.device("meta"):  # shapes only: nothing is allocated before the file's tensors are checked
            stages = build_stages(header["config"], len(validate_labels(header["labels"])), contents=_contents(path))
            classifier = Classifier(stages, header["labels"])
            if header["format"] == ENSEMBLE_FORMAT:
                classifier = _ensemble(path, classifier, header["members"])
        classifier.load_state_dict(_tensors(path, classifier.state_dict()), assign=True)
        _smoke_test(classifier.eval())
    except UserError as error:
        raise UserError(f"{path}: {' / '.join(str(error).splitlines())[:500]}") from error
    except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: cannot be built ({(str(error).splitlines() or [''])[0]})") from error
    return classifier.to(device), header["config"]


def _contents(path: Path) -> list[bytes]:
    """Reads the files that the features need: the bytes that a model file contains, in the order of their names."""
    with safe_open(path, "pt") as file:
        names = sorted(name for name in file.keys() if file.get_slice(name).get_dtype() == "U8")  # noqa: SIM118
        return [file.get_tensor(name).numpy().tobytes() for name in names]


def _ensemble(path: Path, classifier: Classifier, count: int) -> Ensemble:
    """Copies a classifier without weights, after it is known that the file has about as many tensors as needed."""
    members = (classifier.normalization, classifier.encoder, classifier.pooling, classifier.head)
    needed = count * sum(len(stage.state_dict()) for stage in members)
    with safe_open(path, "pt") as file:
        found = len(file.keys())
    if found < needed:
        raise UserError(f"its weights do not fit its config ({found} tensors, and {count} members need {needed})")
    features = classifier.features  # shared, as its tables are allocated
    return Ensemble([deepcopy(classifier, {id(features): features}) for _ in range(count)])


def require_trusted_stages(config: Mapping[str, Any], trust: Sequence[str] = ()) -> None:
    """Rejects a config whose stages are neither built in nor from a trusted package, before anything is imported.

    Raises:
        UserError: A stage that is not trusted.
    """
    for key, kind in STAGES.items():
        node = config.get(key)
        value = node.get("_target_") if isinstance(node, Mapping) else None
        target = str(value)
        if not _is_builtin(target, kind) and not any(target.startswith(f"{module}.") for module in trust):
            package, _, name = target.partition(".")
            remedy = f"; if you trust this file and that package, add trust=[{package}]"
            is_foreign = name and package != "spectrnn" and package.isidentifier() and len(package) <= 100
            # As repr: a terminal would interpret control characters of an untrusted file.
            raise UserError(f"{key}._target_={value!r:.200} is not a built-in stage{remedy if is_foreign else ''}")


def stage_packages(config: Mapping[str, Any]) -> list[str]:
    """Returns the top-level packages of a config's stages, such as those to trust in a model file of one's own."""
    return sorted({config[name]["_target_"].partition(".")[0] for name in STAGES})


def _is_builtin(target: str, kind: type[nn.Module]) -> bool:
    """Whether a target is a concrete class of a kind in a built-in package."""
    module, _, name = target.rpartition(".")
    if not module.startswith(_BUILTIN) or name.startswith("_"):
        return False
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, kind) and not inspect.isabstract(found)


def _tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reads the file's tensors, after their names, types and shapes have been compared with the expected ones."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        for name in sorted(found.keys() | expected.keys()):
            needed = (_DTYPES[expected[name].dtype], tuple(expected[name].shape)) if name in expected else None
            if found.get(name) != needed:
                raise UserError(f"its weights do not fit its config ({name} is {found.get(name)}, not {needed})")
        # Cloned, as the tensors are views of the file, which could change or shrink.
        tensors = {name: file.get_tensor(name).clone() for name in found}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"its weights are damaged ({name} contains non-finite values)")
    return tensors


@torch.inference_mode()
def _smoke_test(classifier: Classifier) -> None:
    """Checks the buffers, and runs the classifier on silence and on a ramp of a few frames."""
    max_samples = int(classifier.max_train_samples)
    if not 1 <= max_samples <= MAX_CLIP_SECONDS * classifier.sample_rate:
        raise UserError(f"its longest clip has {max_samples} samples, not 1 sample to {MAX_CLIP_SECONDS} s")
    for temperature in classifier.temperatures.flatten().tolist():
        if temperature <= 0:
            raise UserError(f"its temperature is {temperature}, not above 0")
    samples = classifier.features.window_size + 4 * classifier.features.hop_size
    waveform = torch.stack([torch.zeros(samples), torch.linspace(-1, 1, samples)])
    if not classifier(waveform, torch.tensor([samples, samples])).isfinite().all():
        raise UserError("its weights are damaged (its output for silence or a ramp is not finite)")
