"""Waveform to features: log-mel and MFCC, with deltas. No frame reads past the end of its clip."""

import warnings
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from spectrnn.config.types import LayerSize, NonNegativeFloat, PositiveFloat, SampleRate
from spectrnn.errors import UserError, reject_settings
from spectrnn.frontend.masking import StreamState

try:
    from torchaudio.functional import create_dct, melscale_fbanks
except (ImportError, OSError, RuntimeError) as error:
    raise UserError(
        f"torchaudio does not load beside torch {torch.__version__} ({str(error).splitlines()[0]}): "
        "install the pair that fits, pip install 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'"
    ) from error

Power = Annotated[float, Gt(0), Le(1)]  # of a sample; full scale is 1

_LARGEST_FFT = 1 << 16  # points
_LARGEST_TABLE = 1 << 25  # numbers in the mel filters
_MOST_OVERLAP = 64  # FFT points a hop: bounds what a second of sound takes in memory
_DELTA_WIDTH = 2  # frames on either side in the regression


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
        self.hop_size, self.n_fft = hop_size, n_fft
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples), at least one window -> interleaved real and imaginary parts (batch, frames, 2 * bins)."""
        windowed = waveform.unfold(1, len(self.window), self.hop_size) * self.window
        return torch.view_as_real(torch.fft.rfft(windowed, n=self.n_fft)).flatten(-2)


class LogMelSpectrogram(nn.Module):
    """Log-mel spectrogram: Hann window, power spectrum, triangular mel filters, logarithm with a floor.

    Args:
        sample_rate: of the waveform, Hz.
        window_ms: length of a frame, ms.
        hop_ms: from frame to frame, ms; at most the window.
        n_fft: points of the FFT; None: the next power of two from the window's samples on.
        n_mels: mel bands.
        fmin, fmax: lowest and highest frequency of the bands, Hz; ``fmax=None`` is half the sample rate.
        mel_scale: ``htk`` or ``slaney``.
        log_floor: smallest power that the logarithm sees (full scale is 1).
        deltas: orders of time derivatives to append: 0, 1 or 2.

    Raises:
        SettingError: settings that contradict each other, or mel bands without a single FFT bin.
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
        log_floor: Power,
        deltas: Literal[0, 1, 2],
    ) -> None:
        super().__init__()
        self.sample_rate, self.log_floor, self.deltas = sample_rate, log_floor, deltas
        self.window_size = max(1, round(window_ms * sample_rate / 1000))
        self.hop_size = max(1, round(hop_ms * sample_rate / 1000))
        reject_settings(
            window_ms=self.window_size > _LARGEST_FFT
            and f"more than {_LARGEST_FFT} samples; at most {1000 * _LARGEST_FFT // sample_rate} ms"
        )
        self.n_fft = n_fft or 1 << (self.window_size - 1).bit_length()
        half = sample_rate / 2
        least_hop = self.n_fft / _MOST_OVERLAP / sample_rate * 1000
        reject_settings(
            hop_ms=(
                hop_ms > window_ms
                and f"longer than window_ms={window_ms:g}, so samples would be lost; at most {window_ms:g} ms"
            )
            or (
                hop_ms < least_hop
                and f"so short that frames are all alike; at least {least_hop:.3g} ms with {self.n_fft} points"
            ),
            n_fft=self.n_fft < self.window_size
            and f"does not hold the {self.window_size} samples of window_ms={window_ms:g}; at least that, or null",
            fmin=fmin >= half and f"not below half of sample_rate={sample_rate}; below {half:g} Hz",
            fmax=fmax is not None
            and fmax > half
            and f"above half of sample_rate={sample_rate}; at most {half:g} Hz, or null",
        )
        fmax = half if fmax is None else fmax
        reject_settings(
            n_mels=self.n_fft * n_mels > _LARGEST_TABLE and f"too large a table with {self.n_fft} points; fewer bands"
        )
        reject_settings(fmax=fmax <= fmin and f"not above fmin={fmin:g}; from there up to {half:g} Hz, or null")
        self.stft: nn.Module = STFT(self.window_size, self.hop_size, self.n_fft)
        filters = _mel_filters(self.n_fft, fmin, fmax, n_mels, sample_rate, mel_scale)
        self.register_buffer("filters", filters.repeat_interleave(2, dim=0), persistent=False)
        self.bins = n_mels

    @property
    def output_size(self) -> int:
        """Bins a frame, deltas included."""
        return self.bins * (1 + self.deltas)

    @property
    def frequencies(self) -> Tensor:
        """Where each mel band lies, the centre of gravity of its filter, Hz: (n_mels,)."""
        points = torch.linspace(0, self.sample_rate / 2, len(self.filters) // 2, device=self.filters.device)
        filters = self.filters[::2]
        return points @ filters / filters.sum(0)

    @property
    def axis(self) -> Tensor | None:
        """What the bins stand for, without deltas: Hz, (bins,); None where they are no bands."""
        return self.frequencies

    def num_frames(self, lengths: Tensor) -> Tensor:
        """The number of frames of clips: (batch,) samples -> (batch,) frames, at least one each."""
        return 1 + (lengths - self.window_size).clamp(min=0) // self.hop_size

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the features.

        Args:
            waveform: (batch, samples), zero beyond each clip's length.
            lengths: (batch,), in samples.

        Returns:
            Features (batch, frames, bins), and the number of valid frames (batch,).
        """
        frames = self.num_frames(lengths)
        x = self.static(waveform)
        return append_deltas(x, frames, self.deltas), frames

    @property
    def streaming_issues(self) -> dict[str, str]:
        """Why it cannot go on from packet to packet, by setting."""
        ahead = self.deltas * _DELTA_WIDTH
        return {"deltas": f"look {ahead} frames ahead; 0 looks at none"} if self.deltas else {}

    def initial_state(self, batch_size: int) -> StreamState:
        """The state before a stream: the samples (batch, unread) that the next frames begin with, none."""
        return (self.filters.new_zeros(batch_size, 0),)

    def step(self, waveform: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Goes on with a packet of any size, from none.

        Args:
            waveform: (batch, samples).
            state: as `initial_state` or the last step gave it. From ``window_size - hop_size`` samples on, packets of whole
                hops leave it as long as it was.

        Returns:
            The frames that are whole by now, (batch, frames, bins), which may be none, and the state.
        """
        heard = torch.cat([*state, waveform], dim=1)
        frames = max(0, 1 + (heard.shape[1] - self.window_size) // self.hop_size)
        x = self.static(heard) if frames else heard.new_zeros(len(heard), 0, self.bins)
        return x, (heard[:, frames * self.hop_size :],)

    def static(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> log-mel (batch, frames, bins)."""
        missing = self.window_size - waveform.shape[1]
        if missing > 0:
            waveform = nn.functional.pad(waveform, (0, missing))
        # The power is the sum of the squares of both parts: the filters, each row twice, add them up on the way.
        return (self.stft(waveform).square() @ self.filters).clamp_(min=self.log_floor).log_()


class MFCC(LogMelSpectrogram):
    """Mel-frequency cepstral coefficients: an orthonormal DCT-II of the log-mel spectrogram.

    Source: Davis & Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", 1980.

    Args:
        n_mfcc: coefficients to keep, at most `n_mels`; the others as in `LogMelSpectrogram`.
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
        log_floor: Power,
        deltas: Literal[0, 1, 2],
        n_mfcc: LayerSize,
    ) -> None:
        super().__init__(sample_rate, window_ms, hop_ms, n_fft, n_mels, fmin, fmax, mel_scale, log_floor, deltas)
        reject_settings(n_mfcc=n_mfcc > n_mels and f"more coefficients than n_mels={n_mels} mel bands; at most that")
        self.register_buffer("dct", create_dct(n_mfcc, n_mels, "ortho"), persistent=False)
        self.bins = n_mfcc

    @property
    def axis(self) -> Tensor | None:
        """Coefficients are no bands: None."""
        return None

    def static(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> MFCC (batch, frames, coefficients)."""
        return super().static(waveform) @ self.dct


def append_deltas(x: Tensor, frames: Tensor, orders: int) -> Tensor:
    """Appends time derivatives, by linear regression over five frames; the edge frames of each clip are repeated.

    Args:
        x: (batch, frames, bins).
        frames: valid frames, (batch,).
        orders: 0, 1 or 2.

    Returns:
        (batch, frames, bins * (1 + orders)); only valid frames are meaningful.
    """
    parts = [x]
    for _ in range(orders):
        parts.append(_delta(parts[-1], frames))
    return torch.cat(parts, dim=-1) if orders else x


def _delta(x: Tensor, frames: Tensor) -> Tensor:
    time = torch.arange(x.shape[1], device=x.device)
    last = (frames - 1)[:, None]
    total = torch.zeros_like(x)
    for step in range(1, _DELTA_WIDTH + 1):
        after = (time + step).minimum(last)
        before = (time - step).clamp(min=0).minimum(last)
        total += step * (_take(x, after) - _take(x, before))
    return total / (2 * sum(step * step for step in range(1, _DELTA_WIDTH + 1)))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Frames by index: (batch, frames, bins), (batch, n) -> (batch, n, bins)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))


def _mel_filters(n_fft: int, fmin: float, fmax: float, n_mels: int, sample_rate: int, scale: str) -> Tensor:
    """(n_fft // 2 + 1, n_mels); refuses bands that no FFT bin falls into."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio warns of what is refused below
        filters = melscale_fbanks(n_fft // 2 + 1, fmin, fmax, n_mels, sample_rate, None, scale)
    empty = int((filters.amax(0) == 0).sum())
    reject_settings(
        n_mels=empty > 0
        and f"{empty} of the mel bands hold no bin of the {n_fft}-point FFT at {sample_rate} Hz; "
        f"fewer bands, or a larger n_fft={2 * n_fft}"
    )
    return filters
