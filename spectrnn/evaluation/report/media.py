"""What one hears and sees of a clip: its sound, its spectrogram, and what the pooling looks at."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from spectrnn.data.batches import Batch, BucketedBatches
from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.metrics import Array
from spectrnn.frontend.features import LogMelSpectrogram
from spectrnn.model.classifier import Classifier

MAX_AUDIO_SECONDS = 60  # of a clip, at most
_COLUMNS, _BANDS = 400, 128  # of a picture, at most
_CHUNK = 128  # clips that are held at once
_RATES = (16000, 22050, 24000, 32000, 44100, 48000)  # Hz, of MPEG-1 and 2; not every browser plays 2.5, which has less
_RANGE = 70  # dB from the darkest to the lightest
_SHADES = 32  # more weigh more, and look the same
_PALETTE = ((255, 255, 255), (214, 224, 236), (133, 158, 188), (58, 84, 120), (13, 22, 40))  # from silence to loud
_POINTS = 200  # of a line of attention, at most
_MAX_LEVEL = 99  # what the largest weight of a clip is written as


def media(classifier: Classifier, dataset: Dataset, rows: Array, batch_size: int) -> Iterator[dict[str, Any]]:
    """Renders clips, cropped as they are classified.

    Args:
        classifier: in evaluation mode, and on the device of the dataset.
        dataset: of its rate.
        rows: int64 (clips,), in the clip table.
        batch_size: clips that are computed at once.

    Yields:
        For each of the rows, in their order, what JSON can hold: ``sound`` and ``picture`` as data URLs, and, where the
        pooling has any, ``attention``, a list a head of 0 to 99, the clip's largest weight.
    """
    device, classes = classifier.max_train_samples.device, len(classifier.labels)
    with ThreadPoolExecutor() as pool:  # most of the time goes into MP3, whose encoder lets others run
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            found: dict[int, dict[str, Any]] = {}
            known = np.sort(chunk)
            batches = BucketedBatches(
                dataset.store,
                dataset.wave,
                known,
                dataset.targets(known),
                classes,
                batch_size,
                dataset.max_seconds,
                None,
                device,
            )
            for batch in batches.epoch():
                found |= zip(batch.rows.tolist(), _rendered(classifier, batch, pool), strict=True)
            yield from (found[row] for row in chunk.tolist())


@torch.inference_mode()
def _rendered(classifier: Classifier, batch: Batch, pool: Executor) -> list[dict[str, Any]]:
    x = classifier.trace(batch.waveform, batch.lengths)
    # MFCC and normalized bands are for machines: what is shown is the mel spectrogram that they are made of.
    mel = LogMelSpectrogram.static(classifier.features, batch.waveform)
    waves = [wave[:samples].cpu().numpy() for wave, samples in zip(batch.waveform, batch.lengths.tolist(), strict=True)]
    sounds = pool.map(audio_data_url, waves, repeat(classifier.sample_rate))
    clips = []
    for index, (count, short) in enumerate(zip(x.feature_lengths.tolist(), x.state_lengths.tolist(), strict=True)):
        clip: dict[str, Any] = {"picture": spectrogram_png(mel[index, :count].cpu().numpy())}
        if x.attention is not None:
            clip["attention"] = quantize_attention(x.attention[index, :, :short].float().cpu().numpy())
        clips.append(clip)
    return [{"sound": heard, **clip} for heard, clip in zip(sounds, clips, strict=True)]


def audio_data_url(waveform: Array, sample_rate: int) -> str:
    """A waveform (samples,) in [-1, 1) at a rate in Hz -> a data URL that browsers play; of long ones the beginning."""
    waveform = waveform[: MAX_AUDIO_SECONDS * sample_rate]
    rate = next((rate for rate in _RATES if rate >= sample_rate), _RATES[-1])
    if rate != sample_rate:
        waveform = np.clip(soxr.resample(waveform, sample_rate, rate), -1, 1)
    # A libsndfile that the system brings may be older than its MP3 encoder.
    kind, mime = ("MP3", "mpeg") if "MP3" in soundfile.available_formats() else ("WAV", "wav")
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=kind)
    return _data_url(f"audio/{mime}", file)


def spectrogram_png(mel: Array) -> str:
    """A log-mel spectrogram (frames, bands), natural logarithm of the power -> a PNG as a data URL, low bands below."""
    from PIL import Image

    decibels = downsample(downsample(mel, _COLUMNS).T, _BANDS)[::-1] * (10 / np.log(10))
    shades = np.clip(1 + (decibels - decibels.max()) / _RANGE, 0, 1) * (_SHADES - 1)
    image = Image.fromarray(shades.round().astype(np.uint8), "P")
    steps = np.linspace(0, len(_PALETTE) - 1, _SHADES)
    palette = np.stack(
        [np.interp(steps, range(len(_PALETTE)), channel) for channel in zip(*_PALETTE, strict=True)], axis=1
    )
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _data_url("image/png", file)


def downsample(x: Array, size: int) -> Array:
    """(n, ...) -> (size, ...), the means of runs of about equal length; as it is where n is not larger."""
    if len(x) <= size:
        return x
    starts = np.arange(size) * len(x) // size
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts.reshape(-1, *[1] * (x.ndim - 1))


def quantize_attention(weights: Array) -> list[list[int]]:
    """Attention (heads, frames) -> a list a head, of 0 to 99, the largest weight of all."""
    means = downsample(weights.T, _POINTS).T
    return (means / max(means.max(), 1e-9) * _MAX_LEVEL).round().astype(int).tolist()


def _data_url(mime: str, file: io.BytesIO) -> str:
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"
