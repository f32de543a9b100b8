"""Audio, spectrogram and attention weights of clips for the report."""

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from spectrnn.data.batches import Batch
from spectrnn.data.dataset import Dataset
from spectrnn.evaluation.rankings import Array
from spectrnn.model.classifier import Classifier

MAX_AUDIO_SECONDS = 60  # per clip
_MAX_COLUMNS, _MAX_BANDS = 400, 128  # of a spectrogram
_COLUMNS_PER_SECOND = 40  # of a longer clip
_CHUNK = 128  # clips in memory
# In Hz, of MPEG-1 and 2; not every browser plays the lower rates of MPEG-2.5.
_RATES = (16000, 22050, 24000, 32000, 44100, 48000)
_RANGE_DB = 70  # of a spectrogram, from its peak
_SHADES = 32  # more are larger, and look the same
_PALETTE = ((255, 255, 255), (214, 224, 236), (133, 158, 188), (58, 84, 120), (13, 22, 40))  # from quiet to loud
_MAX_POINTS = 200  # of a line of attention weights
_MAX_LEVEL = 99  # of attention weights, the largest of a clip


def render_clips(
    classifier_of: Callable[[int], Classifier], dataset: Dataset, rows: Array, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Renders clips; of one that is longer than the maximum of the dataset, the crop in the middle.

    Args:
        classifier_of: Function of a row that returns its classifier in evaluation mode, on the device of the dataset.
        dataset: Dataset of the clips.
        rows: Rows in the clip table, int64 (clips,).
        batch_size: Number of clips per batch.

    Yields:
        For each row, in order and ready for JSON: ``audio`` and ``spectrogram`` as data URLs and, for a pooling with
        attention, ``attention``, a list per head with values from 0 to 99, the clip's largest weight.
    """
    with ThreadPoolExecutor() as pool:  # most of the time is MP3 encoding, which releases the GIL
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            rendered: dict[int, dict[str, Any]] = {}
            classifiers = [classifier_of(row) for row in chunk.tolist()]
            for classifier in dict.fromkeys(classifiers):
                own = np.sort([row for row, its in zip(chunk, classifiers, strict=True) if its is classifier])
                for batch in dataset.batches(own, batch_size, classifier.temperature.device).epoch():
                    rendered |= zip(batch.rows.tolist(), _render_batch(classifier, batch, pool), strict=True)
            yield from (rendered[row] for row in chunk.tolist())


@torch.inference_mode()
def _render_batch(classifier: Classifier, batch: Batch, pool: Executor) -> list[dict[str, Any]]:
    x = classifier.trace(batch.waveform, batch.lengths)
    # Not MFCCs or normalized features, but the mel spectrogram that they are computed from.
    picture = classifier.features.picture
    mel, ends = picture.log_mel(batch.waveform), picture.num_frames(batch.lengths).tolist()
    waveforms = [w[:length].cpu().numpy() for w, length in zip(batch.waveform, batch.lengths.tolist(), strict=True)]
    audio = pool.map(audio_data_url, waveforms, repeat(classifier.sample_rate))
    clips = []
    for index, (frames, states) in enumerate(zip(ends, x.state_lengths.tolist(), strict=True)):
        seconds = len(waveforms[index]) / classifier.sample_rate
        clip: dict[str, Any] = {"spectrogram": spectrogram_png(mel[index, :frames].cpu().numpy(), seconds)}
        if x.attention is not None:
            clip["attention"] = quantize_attention(x.attention[index, :, :states].float().cpu().numpy())
        clips.append(clip)
    return [{"audio": url, **clip} for url, clip in zip(audio, clips, strict=True)]


@torch.inference_mode()
def render_waveform(classifier: Classifier, waveform: Array) -> dict[str, str]:
    """Renders a waveform in [-1, 1), float32 (samples,): ``audio`` and ``spectrogram`` as data URLs."""
    picture, rate = classifier.features.picture, classifier.sample_rate
    mel = picture.log_mel(torch.from_numpy(waveform)[None].to(classifier.temperature.device))[0]
    frames = int(picture.num_frames(torch.tensor(len(waveform))))
    spectrogram = spectrogram_png(mel[:frames].numpy(force=True), len(waveform) / rate)
    return {"audio": audio_data_url(waveform, rate), "spectrogram": spectrogram}


def audio_data_url(waveform: Array, sample_rate: int) -> str:
    """Encodes the start of a waveform (samples,) in [-1, 1), at a sample rate in Hz, as a data URL for browsers."""
    waveform = waveform[: MAX_AUDIO_SECONDS * sample_rate]
    rate = next((rate for rate in _RATES if rate >= sample_rate), _RATES[-1])
    if rate != sample_rate:
        waveform = np.clip(soxr.resample(waveform, sample_rate, rate), -1, 1)
    # The system's libsndfile may be too old for an MP3 encoder.
    kind, mime = ("MP3", "mpeg") if "MP3" in soundfile.available_formats() else ("WAV", "wav")
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=kind)
    return _data_url(f"audio/{mime}", file)


def spectrogram_png(mel: Array, seconds: float = 0.0) -> str:
    """Draws a log-mel spectrogram (frames, bands), the natural logarithm of the power, as a PNG data URL.

    That of a clip of more than 10 s, which pages enlarge, has a column per 25 ms in place of 400 columns.
    """
    from PIL import Image

    columns = max(_MAX_COLUMNS, round(min(seconds, MAX_AUDIO_SECONDS) * _COLUMNS_PER_SECOND))
    decibels = downsample(downsample(mel, columns).T, _MAX_BANDS)[::-1] * (10 / np.log(10))
    shades = np.clip(1 + (decibels - decibels.max()) / _RANGE_DB, 0, 1) * (_SHADES - 1)
    image = Image.fromarray(shades.round().astype(np.uint8), "P")
    steps = np.linspace(0, len(_PALETTE) - 1, _SHADES)
    channels = [np.interp(steps, range(len(_PALETTE)), channel) for channel in zip(*_PALETTE, strict=True)]
    image.putpalette(np.transpose(channels).round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _data_url("image/png", file)


def downsample(x: Array, size: int) -> Array:
    """(n, ...) -> (size, ...), means over runs of about the same length; unchanged if n is not larger."""
    if len(x) <= size:
        return x
    starts = np.arange(size) * len(x) // size
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts.reshape(-1, *[1] * (x.ndim - 1))


def quantize_attention(weights: Array) -> list[list[int]]:
    """Attention weights (heads, frames) -> a list per head with values from 0 to 99, the largest weight."""
    means = downsample(weights.T, _MAX_POINTS).T
    return (means / max(means.max(), 1e-9) * _MAX_LEVEL).round().astype(int).tolist()


def _data_url(mime: str, file: io.BytesIO) -> str:
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"
