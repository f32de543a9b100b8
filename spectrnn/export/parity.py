"""Whether an exported file says what the classifier says: onnxruntime against PyTorch."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from spectrnn.errors import UserError
from spectrnn.export.onnx_model import Array, OnnxModel
from spectrnn.model.classifier import Classifier

TOLERANCE = 1e-4  # of a probability
_BATCH = 8  # clips
_ROUNDS = 7  # of timing


class ParityCase(NamedTuple):
    """Float32 waveforms (samples,) that are classified together, and what they are."""

    name: str
    waveforms: Sequence[Array]


def parity_cases(classifier: Classifier, clips: Sequence[Array]) -> list[ParityCase]:
    """What a file is held against the classifier with.

    Args:
        classifier: says what a window, a hop and a long clip are.
        clips: of the dataset, float32 (samples,).

    Returns:
        Lengths from a sample to three times the longest clip of the training, batches of mixed lengths, silence, full
        scale, and the clips, one by one and in batches.
    """
    window, hop, longest = (
        classifier.features.window_size,
        classifier.features.hop_size,
        int(classifier.max_train_samples),
    )
    generator = np.random.default_rng(0)

    def noise(samples: int) -> Array:
        return generator.normal(0, 0.1, max(1, samples)).clip(-1, 1).astype(np.float32)

    lengths = {
        "1 sample": 1,
        "half a window": window // 2,
        "a window": window,
        "a window and a hop": window + hop,
        "half of the longest clip": longest // 2,
        "the longest clip": longest,
        "three times the longest clip": 3 * longest,
    }
    mixed = [noise(samples) for samples in (*lengths.values(), longest // 3)]
    square = np.where(np.arange(longest) // 20 % 2, 1, -1).astype(np.float32)
    batches = [clips[first : first + _BATCH] for first in range(0, len(clips), _BATCH)]
    return [
        *(ParityCase(f"noise, {name}", [noise(samples)]) for name, samples in lengths.items()),
        ParityCase("noise, a batch of 3 lengths", mixed[5:2:-1]),
        ParityCase(f"noise, a batch of {len(mixed)} lengths", mixed),
        ParityCase("silence", [np.zeros(longest, np.float32)]),
        ParityCase("square wave at full scale", [square]),
        ParityCase("noise at full scale", [np.sign(noise(longest))]),
        *(ParityCase("clips of the dataset, one by one", [clip]) for clip in clips),
        *(ParityCase(f"clips of the dataset, in batches of {_BATCH}", batch) for batch in batches),
    ]


def max_abs_differences(classifier: Classifier, exported: OnnxModel, cases: Sequence[ParityCase]) -> dict[str, float]:
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
        expected = np.concatenate([_reference(classifier, waveform) for waveform in case.waveforms])
        found = float(abs(exported(case.waveforms) - expected).max())
        largest[case.name] = float(np.maximum(largest.get(case.name, 0.0), found))  # which keeps what is no number
    return largest


def require_parity(found: Mapping[str, float]) -> None:
    """Refuses a file that says something else.

    Args:
        found: case -> largest difference of a probability, as `max_abs_differences` gives it.

    Raises:
        UserError: one is beyond the tolerance.
    """
    for name, difference in found.items():
        if not difference <= TOLERANCE:
            raise UserError(
                f"format=onnx: the file is not certified, and was not kept: its probabilities differ from "
                f"PyTorch's by {difference:.2g} ({name}), where {TOLERANCE:g} is allowed"
            )


def interleaved_timings(runners: Sequence[OnnxModel], waveforms: Sequence[Array]) -> Array:
    """Times files side by side: each clip by each file in turn, so that what else the machine does meets all alike.

    Args:
        runners: the files.
        waveforms: float32 (samples,).

    Returns:
        Seconds for all clips, (runners,): of the first by the median of each clip, of the others in proportion, by the
        median of the pairs' ratios, which holds on a busy machine.
    """
    times = np.zeros((_ROUNDS, len(waveforms), len(runners)))
    for turn, clip, file in np.ndindex(times.shape):
        start = time.perf_counter()
        runners[file]([waveforms[clip]])
        times[turn, clip, file] = time.perf_counter() - start
    return np.median(times[:, :, 0], axis=0).sum() * np.median(times / times[:, :, :1], axis=(0, 1))


@torch.inference_mode()
def _reference(classifier: Classifier, waveform: Array) -> Array:
    return classifier.probabilities(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).numpy()
