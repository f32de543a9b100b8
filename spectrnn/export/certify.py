"""Whether an exported file says what the classifier says: onnxruntime against PyTorch."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from spectrnn.errors import UserError
from spectrnn.export.runtime import Array, Exported
from spectrnn.model.classifier import Classifier

TOLERANCE = 1e-4  # of a probability
_BATCH = 8  # clips
_ROUNDS = 7  # of timing


class Case(NamedTuple):
    """Float32 waveforms (samples,) that are classified together, and what they are."""

    name: str
    waveforms: Sequence[Array]


def cases(classifier: Classifier, clips: Sequence[Array]) -> list[Case]:
    """What a file is held against the classifier with.

    Args:
        classifier: says what a window, a hop and a long clip are.
        clips: of the corpus, float32 (samples,).

    Returns:
        Lengths from a sample to three times the longest clip of the training, batches of mixed lengths, silence, full
        scale, and the clips, one by one and in batches.
    """
    window, hop, longest = classifier.features.window_size, classifier.features.hop_size, int(classifier.longest)
    generator = np.random.default_rng(0)

    def noise(samples: int) -> Array:
        return generator.normal(0, 0.1, max(1, samples)).clip(-1, 1).astype(np.float32)

    lengths = {"1 sample": 1, "half a window": window // 2, "a window": window, "a window and a hop": window + hop,
               "half of the longest clip": longest // 2, "the longest clip": longest,
               "three times the longest clip": 3 * longest}  # fmt: skip
    mixed = [noise(samples) for samples in (*lengths.values(), longest // 3)]
    square = np.where(np.arange(longest) // 20 % 2, 1, -1).astype(np.float32)
    batches = [clips[first : first + _BATCH] for first in range(0, len(clips), _BATCH)]
    return [
        *(Case(f"noise, {name}", [noise(samples)]) for name, samples in lengths.items()),
        Case("noise, a batch of 3 lengths", mixed[5:2:-1]),
        Case(f"noise, a batch of {len(mixed)} lengths", mixed),
        Case("silence", [np.zeros(longest, np.float32)]),
        Case("square wave at full scale", [square]),
        Case("noise at full scale", [np.sign(noise(longest))]),
        *(Case("clips of the corpus, one by one", [clip]) for clip in clips),
        *(Case(f"clips of the corpus, in batches of {_BATCH}", batch) for batch in batches),
    ]


def differences(classifier: Classifier, exported: Exported, cases: Sequence[Case]) -> dict[str, float]:
    """How far the file is from the classifier, which hears each clip alone and without padding.

    Args:
        classifier: on the CPU, in evaluation mode.
        exported: the file.
        cases: that both are asked.

    Returns:
        The largest difference of a probability for each name of a case.
    """
    largest: dict[str, float] = {}
    for case in cases:
        expected = np.concatenate([_alone(classifier, waveform) for waveform in case.waveforms])
        found = float(abs(exported(case.waveforms) - expected).max())
        largest[case.name] = float(np.maximum(largest.get(case.name, 0.0), found))  # which keeps what is no number
    return largest


def certify(classifier: Classifier, exported: Exported, cases: Sequence[Case]) -> dict[str, float]:
    """`differences`, and a refusal of what is too far.

    Raises:
        UserError: a probability differs by more than the tolerance.
    """
    found = differences(classifier, exported, cases)
    for name, difference in found.items():
        if not difference <= TOLERANCE:
            raise UserError(f"format=onnx: the file is not certified, and was not kept: its probabilities differ from "
                            f"PyTorch's by {difference:.2g} ({name}), where {TOLERANCE:g} is allowed")  # fmt: skip
    return found


def race(runners: Sequence[Exported], waveforms: Sequence[Array]) -> Array:
    """Times files side by side: each clip by each file in turn, so that what else the machine does meets all alike.

    Args:
        runners: the files.
        waveforms: float32 (samples,).

    Returns:
        The median seconds of a clip, (clips, runners).
    """
    times = np.zeros((_ROUNDS, len(waveforms), len(runners)))
    for turn, clip, file in np.ndindex(times.shape):
        start = time.perf_counter()
        runners[file]([waveforms[clip]])
        times[turn, clip, file] = time.perf_counter() - start
    return np.median(times, axis=0)


@torch.inference_mode()
def _alone(classifier: Classifier, waveform: Array) -> Array:
    return classifier.probabilities(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).numpy()
