"""Features from a pretrained network: one vector per window of a clip."""

import zipfile
from collections.abc import Sequence
from hashlib import sha256 as hash_function
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from spectrnn.config.types import NonNegativeFloat, PositiveFloat, SampleRate
from spectrnn.errors import SettingError, UserError, reject_settings
from spectrnn.frontend.features import Features, LogMelSpectrogram
from spectrnn.frontend.onnx_network import MAX_BYTES, Link, load_network

WindowMilliseconds = Annotated[PositiveFloat, Le(60_000)]
HopMilliseconds = Annotated[float, Ge(1), Le(60_000)]
_MAX_NETWORKS = 8
_MAX_WINDOW = 1 << 21  # samples


class OnnxEmbedding(Features):
    """Vectors of a frozen ONNX network, or of several in a chain, for windows that lie within the clip and its padding.

    The networks are stored in the model file.

    Args:
        sample_rate: Sample rate in Hz.
        path: ONNX file, or ZIP archive (such as a wheel) of ONNX files.
        networks: Names in the archive, in the order in which the networks run; None for an ONNX file.
        sha256: SHA-256 of the networks, in hexadecimal digits; of several, that of their contents in this order.
        output: Name of the output of the last network; None for the only one.
        window_ms: Length of a window in ms.
        hop_ms: Hop between windows in ms, at most their length.
        padding_ms: Length of the zeros that are added before and after a clip in ms, less than a window.
        scales: Factor of the input of each network; that of the first one is in [-1, 1).
        offsets: Value added to the input of each network, after the factor.
        cache_gb: Memory for the vectors of clips that were computed last in GB, and maximum size of their file.
        contents: Contents of the networks, from a model file; False to read them from `path`.

    Raises:
        SettingError: A file that cannot be read, that is another than `sha256` states, or that is not accepted.
        UserError: onnx or onnxruntime are not installed.
    """

    is_cached = True

    def __init__(
        self,
        sample_rate: SampleRate,
        path: str,
        networks: list[str] | None,
        sha256: str | None,
        output: str | None,
        window_ms: WindowMilliseconds,
        hop_ms: HopMilliseconds,
        padding_ms: NonNegativeFloat,
        scales: list[float],
        offsets: list[float],
        cache_gb: NonNegativeFloat,
        contents: Sequence[bytes] | Literal[False],
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.window_size, self.hop_size = (max(1, round(ms * sample_rate / 1000)) for ms in (window_ms, hop_ms))
        self.padding = round(padding_ms * sample_rate / 1000)
        count = 1 if networks is None else len(networks)
        too_long = f"over {_MAX_WINDOW} samples at {sample_rate} Hz; shorter ones"
        reject_settings(
            ("window_ms", self.window_size > _MAX_WINDOW, too_long),
            ("hop_ms", hop_ms > window_ms, f"longer than window_ms={window_ms:g}; at most {window_ms:g} ms"),
            ("padding_ms", padding_ms >= window_ms, f"not below window_ms={window_ms:g}; less"),
            ("networks", not 1 <= count <= _MAX_NETWORKS, f"should be 1 to {_MAX_NETWORKS} names"),
            ("scales", len(scales) != count, f"should be one number per network, {count}"),
            ("offsets", len(offsets) != count, f"should be one number per network, {count}"),
        )
        contents = tuple(_read(path, networks) if contents is False else contents)
        digest = hash_function(b"".join(contents)).hexdigest()
        mismatch = f"the networks have the SHA-256 {digest}; set it if they are those that you expect"
        reject_settings(
            ("networks", len(contents) != count, f"it holds {len(contents)} networks instead of {count}"),
            ("sha256", len(contents) == count and (sha256 or "").lower() != digest, mismatch),
        )
        outputs = (*[None] * (count - 1), output)
        links = tuple(map(Link, contents, scales, offsets, outputs))
        try:
            self.network = load_network(links, self.window_size)
        except UserError as error:
            if "pip install" in str(error):
                raise
            raise SettingError({"path": str(error)}) from error
        self._cache_bytes = round(1e9 * cache_gb)
        self.num_bins = self.network.size
        for number, content in enumerate(contents):
            self.register_buffer(f"network_{number}", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._spectrogram = LogMelSpectrogram(
            sample_rate,
            window_ms=25,
            hop_ms=10,
            n_fft=max(1024, 1 << (sample_rate // 40).bit_length()),
            n_mels=40,
            fmin=20,
            fmax=None,
            mel_scale="htk",
            compression="log",
            log_floor=1e-6,
            pcen_alpha=0,
            pcen_delta=1,
            pcen_r=1,
            pcen_time_constant_ms=1,
            pcen_floor=1,
            deltas=0,
        )

    @property
    def picture(self) -> LogMelSpectrogram:
        """See `Features.picture`."""
        return self._spectrogram

    def use_cache(self, folder: Path) -> None:
        """See `Features.use_cache`."""
        self.network.cache.enable(folder / "vectors" / f"{self.network.version}.sqlite", self._cache_bytes)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the vectors, without gradients.

        Args:
            waveform: Waveforms, (batch, samples), zero after each clip's end.
            lengths: Number of samples per clip, (batch,).

        Returns:
            Vectors (batch, frames, size), and the number of valid frames (batch,). A clip that is shorter than a window
            with its padding is padded to one.
        """
        # As a clip ends in zeros, only its end has to move.
        ends = [max(self.window_size, length + 2 * self.padding) for length in lengths.tolist()]
        missing = max(0, max(ends) - self.padding - waveform.shape[1])
        samples = nn.functional.pad(waveform.detach(), (self.padding, missing)).float().cpu().numpy()
        clips = [np.ascontiguousarray(row[:end]) for row, end in zip(samples, ends, strict=True)]
        vectors = self.network(clips, self.window_size, self.hop_size, will_be_used_again=not self.training)
        x = nn.utils.rnn.pad_sequence([torch.from_numpy(vector) for vector in vectors], batch_first=True)
        return x.to(waveform.device), self.num_frames(lengths)


def _read(path: str, networks: Sequence[str] | None) -> list[bytes]:
    """Reads the networks of a file."""
    file = Path(path).expanduser()
    too_large = f"the networks are larger than {MAX_BYTES >> 20} MiB"
    try:
        if networks is None:
            reject_settings(
                ("path", zipfile.is_zipfile(file), "is an archive; features.networks names the networks in it")
            )
            with file.open("rb") as stream:
                contents = [stream.read(MAX_BYTES + 1)]
        else:
            with zipfile.ZipFile(file) as archive:
                missing = next((name for name in networks if name not in archive.namelist()), None)
                reject_settings(("networks", missing is not None, f"{path} contains no {missing}"))
                contents = []
                for name in networks:
                    with archive.open(name) as stream:
                        contents.append(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise SettingError({"path": f"cannot be read ({error.strerror or error})"}) from error
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise SettingError({"path": f"is not a ZIP archive ({error})"}) from error
    reject_settings(("path", sum(map(len, contents)) > MAX_BYTES, too_large))
    return contents
