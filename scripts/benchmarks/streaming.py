"""A live stream: what a packet costs of one core, the whole way from its samples to the answer."""

import time
from typing import Any

import numpy as np
import torch

from benchmarks.steps import composed
from spectrnn.config.instantiate import to_container
from spectrnn.model.classifier import Classifier
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import RollingClassifier

VARIANTS = {
    "GRU, mean pooling": ["model=gru", "pooling=mean"],
    "GRU, attention": ["model=gru", "pooling=attention"],
    "LSTM, attention": ["model=lstm", "pooling=attention"],
}
_RATE, _LISTENERS, _HOP = 16000, 4, 0.1  # Hz; as in stream.yaml; s


def streaming(block_ms: float, minutes: float) -> dict[str, dict[str, Any]]:
    """Time of the processor, ms a packet: other users of the machine count where they slow it down, not where it waits.

    Args:
        block_ms: of sound at 16 kHz.
        minutes: of noise to hear with each variant, after a tenth of that which warms up.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {name: _packets(overrides, block_ms, minutes) for name, overrides in VARIANTS.items()}
    torch.set_num_threads(threads)
    return {
        name: {
            "ms a packet": float(np.mean(times)),
            "median": float(np.median(times)),
            "99th percentile": float(np.quantile(times, 0.99)),
            "times real time": block_ms / float(np.mean(times)),
        }
        for name, times in found.items()
    }


def _packets(overrides: list[str], block_ms: float, minutes: float) -> np.ndarray:
    config = to_container(composed(["data=folder", "data.root=none", f"data.sample_rate={_RATE}", *overrides]), "")
    classifier = Classifier(config, [str(label) for label in range(10)]).eval()
    every = round(_HOP * _RATE / classifier.features.hop_size)
    rolling = RollingClassifier(StreamingClassifier(classifier, config), _RATE, _LISTENERS, every)
    count = round(minutes * 60_000 / block_ms)
    times = []
    for _ in range(count + count // 10):
        packet = 0.1 * torch.randn(round(block_ms * _RATE / 1000))
        start = time.thread_time()
        rolling.hear(packet)
        times.append(1000 * (time.thread_time() - start))
    return np.array(times[count // 10 :])
