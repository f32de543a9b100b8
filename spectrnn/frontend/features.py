"""Features: log-mel spectrogram and MFCC, each with deltas. Frames never extend beyond a clip and its padding."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from spectrnn.config.types import LayerSize, NonNegativeFloat, PositiveFloat, PositiveFraction, Probability, SampleRate
from spectrnn.errors import UserError, reject_settings
from spectrnn.frontend.compression import PCEN, Compression, Log
from spectrnn.frontend.streaming import StreamingModule, StreamState
from spectrnn.threads import divide, run_parallel

try:
    from torchaudio.functional import create_dct, melscale_fbanks
except (ImportError, OSError, RuntimeError) as error:
    raise UserError(
        f"torchaudio does not load with torch {torch.__version__} ({str(error).splitlines()[0]}): "
        "install a matching pair, pip install 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'"
    ) from error

Power = Annotated[float, Gt(0), Le(1)]  # full scale is 1
PCENFloor = Annotated[float, Ge(1e-12), Le(1)]

_MAX_FFT = 1 << 16  # points
_MAX_TABLE = 1 << 25  # values in the mel filters
_MAX_OVERLAP = 64  # FFT points per hop: limits the memory per second of audio
_BLOCK_SIZE = 1 << 18  # values in the spectra that are computed at once on the CPU
_DELTA_WIDTH = 2  # frames on each side in the regression


class STFT(nn.Module):
    """Short-time Fourier transform with a Hann window; an exporter replaces it by an equivalent convolution.

    Args:
        window_size: Frame length in samples.
        hop_size: Hop between frames in samples.
        n_fft: FFT size, at least `window_size`.
    """

    window: Tensor

    def __init__(self, window_size: int, hop_size: int, n_fft: int) -> None:
        super().__init__()
        self.hop_size, self.padding = hop_size, n_fft - window_size
        window = nn.functional.pad(torch.hann_window(window_size), (0, self.padding))
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples), at least one window -> interleaved real and imaginary parts (batch, frames, 2 * bins)."""
        # Frames of n_fft samples, of which the window sets the last ones to zero: to pad frames would copy them all.
        frames = nn.functional.pad(waveform, (0, self.padding)).unfold(1, len(self.window), self.hop_size)
        return torch.view_as_real(torch.fft.rfft(frames * self.window)).flatten(-2)


class Features(StreamingModule, ABC):
    """Interface of all features: from waveforms to frames that never extend beyond a clip and its padding.

    Attributes:
        sample_rate: Sample rate in Hz.
        window_size: Frame length in samples.
        hop_size: Hop between frames in samples.
        padding: Number of zeros that are added before and after a clip.
        num_bins: Number of bins per frame, without deltas.
        deltas: Number of orders of time derivatives.
        is_cached: Whether they are slow to compute, and kept for each clip as long as it does not change.
    """

    sample_rate: int
    window_size: int
    hop_size: int
    padding: int = 0
    num_bins: int
    deltas: int = 0
    is_cached = False

    @property
    def output_size(self) -> int:
        """Number of bins per frame, with deltas."""
        return self.num_bins * (1 + self.deltas)

    @property
    def bin_frequencies(self) -> Tensor | None:
        """Frequency of each bin in Hz without deltas, (bins,); None if bins are not frequency bands."""
        return None

    @property
    @abstractmethod
    def picture(self) -> "LogMelSpectrogram":
        """The spectrogram for pictures of a clip."""

    def use_cache(self, folder: Path) -> None:
        """Keeps features that are slow to compute, in memory and in a cache folder; else they are computed again."""

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Number of samples (batch,) -> number of frames (batch,), at least one."""
        return 1 + (lengths + 2 * self.padding - self.window_size).clamp(min=0) // self.hop_size

    @abstractmethod
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the features.

        Args:
            waveform: Waveforms, (batch, samples), zero after each clip's end.
            lengths: Number of samples per clip, (batch,).

        Returns:
            Features (batch, frames, bins), and the number of valid frames (batch,).
        """

    def mel_step(self, waveform: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
        """Processes a block of a stream up to the compression; see `LogMelSpectrogram.mel_step`."""
        raise NotImplementedError

    def compress(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Processes frames of `mel_step`; see `LogMelSpectrogram.compress`."""
        raise NotImplementedError


class LogMelSpectrogram(Features):
    """Log-mel spectrogram: Hann window, power spectrum, triangular mel filters, logarithm with a floor.

    With another `compression`, the mel spectrogram with that in place of the logarithm.

    Args:
        sample_rate: Sample rate in Hz.
        window_ms: Frame length in ms.
        hop_ms: Hop between frames in ms, at most the frame length.
        n_fft: FFT size; None for the next power of two of the frame length.
        n_mels: Number of mel bands.
        fmin: Lower limit of the lowest band in Hz.
        fmax: Upper limit of the highest band in Hz; None for half of the sample rate.
        mel_scale: ``htk`` or ``slaney``.
        compression: Compression of the power: ``log``, or ``pcen`` for `spectrnn.frontend.compression.PCEN`.
        log_floor: Minimum power before the logarithm, where full scale is 1.
        pcen_alpha, pcen_delta, pcen_r: Parameters of PCEN.
        pcen_time_constant_ms: Time constant of the mean that PCEN divides by in ms.
        pcen_floor: Power that PCEN adds to that mean, where full scale is 1.
        deltas: Number of orders of time derivatives: 0, 1 or 2.

    Raises:
        SettingError: Settings that contradict each other, or mel bands without any FFT bin.
    """

    filters: Tensor

    def __init__(
        self,
        sample_rate: SampleRate,
        window_ms: PositiveFloat,
        hop_ms: PositiveFloat,
        n_fft: LayerSize | None,
        n_mels: LayerSize,
        fmin: NonNegativeFloat,
        fmax: PositiveFloat | None,
        mel_scale: Literal["htk", "slaney"],
        compression: Literal["log", "pcen"],
        log_floor: Power,
        pcen_alpha: Probability,
        pcen_delta: PositiveFloat,
        pcen_r: PositiveFraction,
        pcen_time_constant_ms: PositiveFloat,
        pcen_floor: PCENFloor,
        deltas: Literal[0, 1, 2],
    ) -> None:
        super().__init__()
        self.sample_rate, self.deltas = sample_rate, deltas
        size, window = max(1, round(window_ms * sample_rate / 1000)), f"window_ms={window_ms:g}"
        self.window_size, self.hop_size = size, max(1, round(hop_ms * sample_rate / 1000))
        too_long = f"over {_MAX_FFT} samples; at most {1000 * _MAX_FFT // sample_rate} ms"
        reject_settings(("window_ms", size > _MAX_FFT, too_long))
        self.n_fft = n_fft or 1 << (size - 1).bit_length()
        min_hop_ms = self.n_fft / _MAX_OVERLAP / sample_rate * 1000
        nyquist = sample_rate / 2
        top = nyquist if fmax is None else fmax
        reject_settings(
            ("hop_ms", hop_ms > window_ms, f"longer than {window}, which skips samples; at most {window_ms:g} ms"),
            ("hop_ms", hop_ms < min_hop_ms, f"too short for {self.n_fft} FFT points; at least {min_hop_ms:.3g} ms"),
            ("n_fft", self.n_fft < size, f"below the {size} samples of {window}; at least that, or null"),
            ("n_mels", self.n_fft * n_mels > _MAX_TABLE, f"too many for {self.n_fft} FFT points; fewer bands"),
            ("fmin", fmin >= nyquist, f"not below half of sample_rate={sample_rate}; below {nyquist:g} Hz"),
            ("fmax", top > nyquist, f"above half of sample_rate={sample_rate}; at most {nyquist:g} Hz, or null"),
            ("fmax", top <= fmin < nyquist, f"not above fmin={fmin:g}; above it, up to {nyquist:g} Hz, or null"),
        )
        self.stft: nn.Module = STFT(self.window_size, self.hop_size, self.n_fft)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchaudio warns about what is rejected below
            filters = melscale_fbanks(self.n_fft // 2 + 1, fmin, top, n_mels, sample_rate, None, mel_scale)
        empty = int((filters.amax(0) == 0).sum())
        message = f"{empty} of the mel bands contain no bin of the {self.n_fft}-point FFT at {sample_rate} Hz"
        reject_settings(("n_mels", empty, f"{message}; use fewer bands, or n_fft={2 * self.n_fft}"))
        self.register_buffer("filters", filters.repeat_interleave(2, dim=0), persistent=False)
        self.num_bins = n_mels  # without deltas
        self.log = Log(log_floor)
        self.compression: Compression = self.log
        if compression == "pcen":
            time_constant = pcen_time_constant_ms / hop_ms
            self.compression = PCEN(n_mels, pcen_alpha, pcen_delta, pcen_r, time_constant, pcen_floor)
        lookahead = deltas * _DELTA_WIDTH
        self.streaming_issues = {"deltas": f"needs a lookahead of {lookahead} frames; 0 needs none"} if deltas else {}

    @property
    def picture(self) -> "LogMelSpectrogram":
        """The features themselves."""
        return self

    @property
    def center_frequencies(self) -> Tensor:
        """Center of gravity of each mel filter in Hz, (n_mels,)."""
        frequencies = torch.linspace(0, self.sample_rate / 2, len(self.filters) // 2, device=self.filters.device)
        filters = self.filters[::2]
        return frequencies @ filters / filters.sum(0)

    @property
    def bin_frequencies(self) -> Tensor | None:
        """Frequency of each bin in Hz without deltas, (bins,); None if bins are not frequency bands."""
        return self.center_frequencies

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples), lengths (batch,) -> (batch, frames, bins), valid frames (batch,); see `Features`."""
        feature_lengths = self.num_frames(lengths)
        x = self.static_features(waveform)
        return append_deltas(x, feature_lengths, self.deltas), feature_lengths

    def initial_state(self, batch_size: int) -> StreamState:
        """Returns the state at the start of a stream: that of `mel_step`, (batch, 0), and those of `compress`."""
        return self.filters.new_zeros(batch_size, 0), *self.compression.initial_state(batch_size)

    def mel_step(self, waveform: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
        """Processes a block up to the compression, which streams with the same samples, but other starts, share.

        Args:
            waveform: Block, (batch, samples).
            pending: Samples that follow the start of the next frame, (batch, samples). From ``window_size - hop_size``
                of them on, blocks of whole hops keep their number.

        Returns:
            The complete frames as `compress` takes them, (batch, frames, n_mels), possibly none, and pending samples.
        """
        waveform = torch.cat([pending, waveform], dim=1)
        frames = max(0, 1 + (waveform.shape[1] - self.window_size) // self.hop_size)
        x = (
            self._mel(waveform, self.compression.per_value)
            if frames
            else waveform.new_zeros(len(waveform), 0, self.filters.shape[1])
        )
        return x, waveform[:, frames * self.hop_size :]

    def static_features(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> compressed mel spectrogram (batch, frames, bins), without deltas."""
        x = self._mel(waveform, self.compression.per_value)
        return self.compress(x, self.compression.initial_state(x.shape[0]))[0]

    def compress(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Frames of `mel_step` (batch, frames, n_mels), at least one, and state -> (batch, frames, bins), state."""
        compressed: tuple[Tensor, StreamState] = self.compression(x, state)
        return compressed

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> log-mel spectrogram (batch, frames, n_mels), for pictures, whatever the features are."""
        return self._mel(waveform, self.log.per_value)

    def _mel(self, waveform: Tensor, per_value: Callable[[Tensor], Tensor]) -> Tensor:
        """(batch, samples) -> function of the mel spectrogram (batch, frames, n_mels)."""
        missing = self.window_size - waveform.shape[1]
        if missing > 0:
            waveform = nn.functional.pad(waveform, (0, missing))
        # The filters, with each row twice, add the squares of real and imaginary part on the way.
        if waveform.device.type != "cpu" or waveform.requires_grad or not isinstance(self.stft, STFT):
            return per_value(self.stft(waveform).square() @ self.filters)
        frames = 1 + (waveform.shape[1] - self.window_size) // self.hop_size
        x = waveform.new_empty(len(waveform), frames, self.filters.shape[1])
        tasks = [partial(self._write_mel, waveform[clips], x[clips], per_value) for clips in divide(len(x))]
        run_parallel(tasks)
        return x

    def _write_mel(self, waveform: Tensor, output: Tensor, per_value: Callable[[Tensor], Tensor]) -> None:
        """Computes blocks of frames whose spectra stay in the processor's cache."""
        size = max(1, _BLOCK_SIZE // (len(waveform) * self.n_fft))
        for start in range(0, output.shape[1], size):
            block = output[:, start : start + size]
            first, last = start * self.hop_size, (start + block.shape[1] - 1) * self.hop_size
            spectrum = self.stft(waveform[:, first : last + self.window_size])
            block.copy_(per_value(spectrum.square() @ self.filters))


class MFCC(LogMelSpectrogram):
    """Mel-frequency cepstral coefficients: an orthonormal DCT-II of the log-mel (or PCEN) spectrogram.

    Source: Davis & Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", 1980.

    Args:
        n_mfcc: Number of coefficients, at most `n_mels`; the others as for `LogMelSpectrogram`.
    """

    dct: Tensor

    def __init__(
        self,
        sample_rate: SampleRate,
        window_ms: PositiveFloat,
        hop_ms: PositiveFloat,
        n_fft: LayerSize | None,
        n_mels: LayerSize,
        fmin: NonNegativeFloat,
        fmax: PositiveFloat | None,
        mel_scale: Literal["htk", "slaney"],
        compression: Literal["log", "pcen"],
        log_floor: Power,
        pcen_alpha: Probability,
        pcen_delta: PositiveFloat,
        pcen_r: PositiveFraction,
        pcen_time_constant_ms: PositiveFloat,
        pcen_floor: PCENFloor,
        deltas: Literal[0, 1, 2],
        n_mfcc: LayerSize,
    ) -> None:
        settings = (sample_rate, window_ms, hop_ms, n_fft, n_mels, fmin, fmax, mel_scale, compression, log_floor)
        pcen = (pcen_alpha, pcen_delta, pcen_r, pcen_time_constant_ms, pcen_floor)
        super().__init__(*settings, *pcen, deltas)
        reject_settings(("n_mfcc", n_mfcc > n_mels, f"more than n_mels={n_mels} mel bands; at most that"))
        self.register_buffer("dct", create_dct(n_mfcc, n_mels, "ortho"), persistent=False)
        self.num_bins = n_mfcc

    @property
    def bin_frequencies(self) -> Tensor | None:
        """None: coefficients are not frequency bands."""
        return None

    def compress(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Frames of `mel_step` (batch, frames, n_mels), at least one, and state -> (batch, frames, n_mfcc), state."""
        x, state = super().compress(x, state)
        return x @ self.dct, state


def append_deltas(x: Tensor, lengths: Tensor, orders: int) -> Tensor:
    """Appends time derivatives by linear regression over five frames; edge frames of each clip are repeated.

    Args:
        x: Features, (batch, frames, bins).
        lengths: Number of valid frames, (batch,).
        orders: Number of orders: 0, 1 or 2.

    Returns:
        Features (batch, frames, bins * (1 + orders)), meaningful in valid frames only.
    """
    time, last = torch.arange(x.shape[1], device=x.device), (lengths - 1)[:, None]
    parts = [x]
    for _ in range(orders):
        delta = torch.zeros_like(x)
        for step in range(1, _DELTA_WIDTH + 1):
            after, before = (time + step).minimum(last), (time - step).clamp(min=0).minimum(last)
            delta += step * (_frames_at(parts[-1], after) - _frames_at(parts[-1], before))
        parts.append(delta / (2 * sum(step * step for step in range(1, _DELTA_WIDTH + 1))))
    return torch.cat(parts, dim=-1) if orders else x


def _frames_at(x: Tensor, index: Tensor) -> Tensor:
    """Selects frames: x (batch, frames, bins), index (batch, n) -> (batch, n, bins)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
