"""A live stream: the cost of a block on one core, from its samples to the prediction."""

import time
from typing import Any

import numpy as np
import torch

from benchmarks.steps import compose_train
from spectrnn.config.instantiate import to_container
from spectrnn.model.classifier import Classifier, build_stages
from spectrnn.streaming.classifier import StreamingClassifier
from spectrnn.streaming.rolling import RollingClassifier

VARIANTS = {
    "GRU, mean pooling": ["model=gru", "pooling=mean"],
    "GRU, attention": ["model=gru", "pooling=attention"],
    "LSTM, attention": ["model=lstm", "pooling=attention"],
}
_RATE, _REPLICAS, _HOP = 16000, 4, 0.1  # Hz; replicas and hop in seconds as in stream.yaml


def streaming(block_ms: float, minutes: float) -> dict[str, dict[str, Any]]:
    """Measures the processor time per block, which excludes the time that other processes use.

    Args:
        block_ms: Duration of a block in ms, at 16 kHz.
        minutes: Duration of the stream per variant in minutes, after a tenth of it for warm-up.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {name: _block_times(overrides, block_ms, minutes) for name, overrides in VARIANTS.items()}
    torch.set_num_threads(threads)
    return {
        name: {
            "ms per block": float(np.mean(times)),
            "median": float(np.median(times)),
            "99th percentile": float(np.quantile(times, 0.99)),
            "times real time": block_ms / float(np.mean(times)),
        }
        for name, times in found.items()
    }


def _block_times(overrides: list[str], block_ms: float, minutes: float) -> np.ndarray:
    overrides = ["data=folder", "data.root=none", f"data.sample_rate={_RATE}", *overrides]
    config = to_container(compose_train(overrides), "")
    labels = [str(label) for label in range(10)]
    classifier = Classifier(build_stages(config, len(labels)), labels).eval()
    output_stride = round(_HOP * _RATE / classifier.features.hop_size)
    rolling = RollingClassifier(StreamingClassifier(classifier, config), _RATE, _REPLICAS, output_stride)
    count = round(minutes * 60_000 / block_ms)
    times = []
    for _ in range(count + count // 10):
        block = 0.1 * torch.randn(round(block_ms * _RATE / 1000))
        start = time.thread_time()
        rolling.push(block)
        times.append(1000 * (time.thread_time() - start))
    return np.array(times[count // 10 :])
