"""Parity of an exported model in onnxruntime with the classifier in PyTorch."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from spectrnn.errors import UserError
from spectrnn.export.onnx_model import Array, OnnxModel
from spectrnn.model.classifier import Classifier

TOLERANCE = 1e-4  # of probabilities
_BATCH_SIZE = 8
_TIMING_ROUNDS = 7


class ParityCase(NamedTuple):
    """Waveforms, float32 (samples,) each, that are classified in one batch."""

    name: str
    waveforms: Sequence[Array]


def parity_cases(classifier: Classifier, clips: Sequence[Array]) -> list[ParityCase]:
    """Returns inputs for comparing an exported model with its classifier.

    Args:
        classifier: Classifier, whose window, hop and training clips determine the lengths.
        clips: Waveforms of the dataset, float32 (samples,) each.

    Returns:
        Lengths from one sample to three times the longest training clip, batches of mixed lengths, silence, full scale,
        and the clips, one by one and in batches.
    """
    features, longest = classifier.features, int(classifier.max_train_samples)
    window, hop = features.window_size, features.hop_size
    generator = np.random.default_rng(0)

    def noise(samples: int) -> Array:
        return generator.normal(0, 0.1, max(1, samples)).clip(-1, 1).astype(np.float32)

    lengths = {
        "1 sample": 1,
        "half a window": window // 2,
        "a window": window,
        "a window and a hop": window + hop,
        "half the longest clip": longest // 2,
        "the longest clip": longest,
        "three times the longest clip": 3 * longest,
    }
    mixed = [noise(samples) for samples in (*lengths.values(), longest // 3)]
    square = np.where(np.arange(longest) // 20 % 2, 1, -1).astype(np.float32)
    batches = [clips[first : first + _BATCH_SIZE] for first in range(0, len(clips), _BATCH_SIZE)]
    return [
        *(ParityCase(f"noise, {name}", [noise(samples)]) for name, samples in lengths.items()),
        ParityCase("noise, a batch of 3 lengths", mixed[5:2:-1]),
        ParityCase(f"noise, a batch of {len(mixed)} lengths", mixed),
        ParityCase("silence", [np.zeros(longest, np.float32)]),
        ParityCase("square wave at full scale", [square]),
        ParityCase("noise at full scale", [np.sign(noise(longest))]),
        *(ParityCase("clips of the dataset, one by one", [clip]) for clip in clips),
        *(ParityCase(f"clips of the dataset, in batches of {_BATCH_SIZE}", batch) for batch in batches),
    ]


@torch.inference_mode()
def max_abs_differences(classifier: Classifier, exported: OnnxModel, cases: Sequence[ParityCase]) -> dict[str, float]:
    """Compares an exported model with its classifier, which classifies each clip by itself and without padding.

    Args:
        classifier: Classifier on the CPU, in evaluation mode.
        exported: Exported model.
        cases: Inputs.

    Returns:
        Largest difference of a probability by name of the case.
    """
    largest: dict[str, float] = {}
    for case in cases:
        clips = [(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])) for waveform in case.waveforms]
        expected = torch.cat([classifier.probabilities(*clip) for clip in clips]).numpy()
        difference = float(abs(exported(case.waveforms) - expected).max())
        largest[case.name] = float(np.maximum(largest.get(case.name, 0.0), difference))  # np.maximum keeps NaN
    return largest


def require_parity(differences: Mapping[str, float]) -> None:
    """Rejects an exported model that differs from its classifier, given the result of `max_abs_differences`.

    Raises:
        UserError: A difference above the tolerance.
    """
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise UserError(
                f"format=onnx: the exported model failed verification and was deleted: its probabilities differ from "
                f"those of PyTorch by {difference:.2g} ({name}); the tolerance is {TOLERANCE:g}"
            )


def interleaved_timings(models: Sequence[OnnxModel], waveforms: Sequence[Array]) -> Array:
    """Times models in alternation, clip by clip, so that other load of the machine affects all of them equally.

    Args:
        models: Exported models.
        waveforms: Waveforms, float32 (samples,) each.

    Returns:
        Time in s for all clips, (models,): for the first model the sum of the medians per clip, for the others that sum
        times the median of the paired ratios, which is robust on a busy machine.
    """
    times = np.zeros((_TIMING_ROUNDS, len(waveforms), len(models)))
    for turn, clip, model in np.ndindex(times.shape):
        start = time.perf_counter()
        models[model]([waveforms[clip]])
        times[turn, clip, model] = time.perf_counter() - start
    return np.median(times[:, :, 0], axis=0).sum() * np.median(times / times[:, :, :1], axis=(0, 1))
