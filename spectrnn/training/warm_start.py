"""Warm start: a new classifier begins with the weights of a trained one, of which some stages may be frozen."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from spectrnn.errors import UserError
from spectrnn.messages import counted, preview
from spectrnn.model.classifier import Classifier
from spectrnn.model.header import read_header

log = logging.getLogger(__name__)

FreezableStage = Literal["features", "normalize", "model", "pooling"]

# Attributes of a `Classifier` whose tensors are taken over. The others depend on the labels or the training clips.
_BACKBONE = ("features", "normalization", "encoder", "pooling")
_MAX_NAMES = 5  # in a message


class Freezing(NamedTuple):
    """Stages that are not trained, in the first epochs or at all: their weights and batch statistics are constant.

    Attributes:
        stages: Config keys of the stages.
        epochs: Number of epochs after which they are trained, too; None for never.
    """

    stages: Sequence[FreezableStage]
    epochs: int | None

    def applies(self, epoch: int) -> bool:
        """Whether any stage is frozen in an epoch, counted from 0."""
        return bool(self.stages) and (self.epochs is None or epoch < self.epochs)

    def set_mode(self, classifier: Classifier, epoch: int) -> None:
        """Sets a classifier to training mode, but for the stages that are frozen in an epoch, counted from 0."""
        classifier.train()
        for key in self.stages:
            classifier.stages[key].train(not self.applies(epoch))

    def start_epoch(self, classifier: Classifier, epoch: int) -> None:
        """As `set_mode`, and lets the other stages, and no frozen ones, receive gradients."""
        self.set_mode(classifier, epoch)
        for key in self.stages:
            classifier.stages[key].requires_grad_(not self.applies(epoch))


def load_initial_weights(classifier: Classifier, path: Path) -> bool:
    """Copies the weights of a trained model to a new classifier, as far as names and shapes are the same.

    These are features, normalization, encoder and pooling; and of the head, the rows of the labels that both know.

    Args:
        classifier: New classifier, which is changed in place.
        path: Model file.

    Returns:
        Whether the normalization was copied, and so has been fitted.

    Raises:
        UserError: Not a model file, a damaged one, or one of which nothing fits.
    """
    labels = read_header(path)["labels"]
    own, found = classifier.state_dict(), _read_tensors(path)
    backbone = {name for name in own if name.startswith(_BACKBONE)}
    copied = {name for name in backbone & found.keys() if own[name].shape == found[name].shape}
    for name in copied:
        own[name].copy_(found[name])
    if not copied & {name for name, _ in classifier.named_parameters()}:
        raise UserError(f"init={path}: none of its weights fits the stages of this run; leave out their settings")
    known = [label for label in classifier.labels if label in labels]
    head = [name for name, _ in classifier.head.named_parameters(prefix="head")]
    if any(name not in found or found[name].shape[1:] != own[name].shape[1:] for name in head):
        known = []
    for name in head if known else ():
        own[name][[classifier.labels.index(label) for label in known]] = found[name][list(map(labels.index, known))]
    new = [label for label in classifier.labels if label not in known]
    classes = [f"{counted(len(known), 'class', 'classes')} known to it"] if known else []
    classes += [f"{len(new)} new ({preview(new, _MAX_NAMES)})"] if new else []
    log.info("init=%s: started with its weights; %s", path, ", ".join(classes))
    if missing := sorted(backbone - copied):
        log.warning("init=%s: other shapes or names, so not taken over: %s", path, preview(missing, _MAX_NAMES))
    statistics = {f"normalization.{name}" for name in classifier.normalization.state_dict()}
    return bool(statistics) and statistics <= copied


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"init={path}: cannot be read as a model file ({error})") from error
    if damaged := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None):
        raise UserError(f"init={path}: its weights are damaged ({damaged} contains non-finite values)")
    return tensors


def parameter_groups(
    classifier: Classifier, factor: float, learning_rate: float | None, freezing: Freezing
) -> list[dict[str, Any]]:
    """Divides the parameters for an optimizer: those of all stages but the head have a learning rate of their own.

    Frozen ones are a group, too: PyTorch's fused optimizers expect that all parameters of a group were updated before,
    or none.

    Args:
        classifier: Classifier.
        factor: Learning rate of these stages relative to that of the head.
        learning_rate: Learning rate of the head; None if the optimizer has none that can be set.
        freezing: Stages that are frozen.

    Returns:
        Groups as PyTorch's optimizers expect them, that of the head first; a single one if all are trained alike.
    """
    frozen = {id(parameter) for key in freezing.stages for parameter in classifier.stages[key].parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in reversed(list(classifier.named_parameters())):  # of the head, which is the last stage, first
        is_slower = factor != 1 and name.startswith(_BACKBONE)
        groups.setdefault((is_slower, id(parameter) in frozen), []).insert(0, parameter)
    rates = {} if learning_rate is None else {"lr": factor * learning_rate}
    return [{"params": group, **(rates if is_slower else {})} for (is_slower, _), group in groups.items()]
