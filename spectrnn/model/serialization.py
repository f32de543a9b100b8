"""The model file: weights and normalization as safetensors, the config and the labels in its header. No pickle.

A file may come from a stranger. Nothing is imported or called that is no stage of ours, and nothing is allocated before
names, shapes and types of all tensors are those that the config asks for: a small file makes a small classifier.
"""

import errno
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spectrnn.config.types import MAX_CLIP_SECONDS
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.errors import UserError
from spectrnn.files import atomic_write
from spectrnn.frontend.features import LogMelSpectrogram
from spectrnn.frontend.normalization import Normalization
from spectrnn.model.classifier import Classifier, Head
from spectrnn.model.header import FORMAT, KEY, read_header
from spectrnn.model.pooling import Pooling
from spectrnn.model.rnn import Encoder

_STAGES = {
    "features": LogMelSpectrogram,
    "normalize": Normalization,
    "model": Encoder,
    "pooling": Pooling,
    "head": Head,
}
_OURS = ("spectrnn.frontend.", "spectrnn.model.")  # a file from a stranger builds nothing else
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # as safetensors calls them


def save(
    classifier: Classifier,
    config: Mapping[str, Any],
    path: Path,
    splits: Mapping[str, str] | None = None,
    tuned_thresholds: TunedThresholds | None = None,
) -> None:
    """Writes the classifier, atomically.

    Args:
        classifier: what to save; augmentation is left out.
        config: the run's resolved config, plain containers only.
        path: the file.
        splits: what it was trained on, as `data.splits.fingerprints` gives it; None where that is not known.
        tuned_thresholds: from which probability on it hears a class; None where that was not chosen.
    """
    header = {"format": FORMAT, "labels": classifier.labels, "config": config, "splits": splits}
    header["tuned_thresholds"] = None if tuned_thresholds is None else asdict(tuned_thresholds)
    tensors = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(header)})


def save_thresholds(path: Path, tuned_thresholds: TunedThresholds) -> None:
    """Writes thresholds into a model file, atomically, and leaves all else in it as it is.

    Args:
        path: the file.
        tuned_thresholds: that are made with it from now on.

    Raises:
        UserError: it is no model file of ours, or cannot be written.
    """
    header = read_header(path)
    header["tuned_thresholds"] = asdict(tuned_thresholds)
    try:
        if not os.access(path, os.W_OK):  # a new file could take the name of one that is not to be written
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with safe_open(path, "pt") as file, atomic_write(path) as temporary:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            save_file(tensors, temporary, metadata={**file.metadata(), KEY: json.dumps(header)})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: the thresholds cannot be written into it ({error})") from error


def load(path: Path, device: torch.device | str = "cpu") -> tuple[Classifier, dict[str, Any]]:
    """Reads a classifier; the file alone says how it is built.

    Args:
        path: the file.
        device: where to put it.

    Returns:
        The classifier, in evaluation mode, and the config of the run that made it.

    Raises:
        UserError: no such file, not a model of ours, or damaged.
    """
    header = read_header(path)
    try:
        require_builtin_stages(header["config"])
        with torch.device("meta"):  # shapes alone
            classifier = Classifier({name: header["config"][name] for name in _STAGES}, header["labels"])
        classifier.load_state_dict(_tensors(path, classifier.state_dict()), assign=True)
        _smoke_test(classifier.eval())
    except UserError as error:
        raise UserError(f"{path}: {' / '.join(str(error).splitlines())[:500]}") from error
    except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: cannot be built ({(str(error).splitlines() or [''])[0]})") from error
    return classifier.to(device), header["config"]


def require_builtin_stages(config: Mapping[str, Any]) -> None:
    """Refuses a config whose classifier could be written to a model file, but not be read from it.

    Args:
        config: plain containers.

    Raises:
        UserError: a stage is no class of its kind in spectrnn/frontend or spectrnn/model.
    """
    for name, base in _STAGES.items():
        node = config.get(name)
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not _is_builtin(target, base):
            raise UserError(f"{name}._target_={target!r:.200} is no stage in spectrnn/frontend or spectrnn/model")


def _is_builtin(target: Any, base: type[nn.Module]) -> bool:
    """Whether it names a class of that kind in our rooms: not one of the functions that live there, or are imported."""
    module, _, name = str(target).rpartition(".")
    if not module.startswith(_OURS):
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
    longest = int(classifier.longest)
    if not 1 <= longest <= MAX_CLIP_SECONDS * classifier.sample_rate:
        raise UserError(f"its longest clip has {longest} samples, not 1 to {MAX_CLIP_SECONDS} s of them")
    if not 0 < float(classifier.temperature) < float("inf"):
        raise UserError(f"its temperature is {float(classifier.temperature)}, not above 0")
    samples = classifier.features.window_size + 4 * classifier.features.hop_size
    waveform = torch.stack([torch.zeros(samples), torch.linspace(-1, 1, samples)])
    if not classifier(waveform, torch.tensor([samples, samples])).isfinite().all():
        raise UserError("its weights are damaged (what it says of silence or a ramp is not finite)")
