"""From which probability on to hear each class: false alarms an hour in recordings without events, against recall."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectrnn.config.instantiate import format_value, unknown_name
from spectrnn.config.types import HopSeconds, NonNegativeFloat, NumWindows, PositiveFraction, WindowSeconds
from spectrnn.data.audio import FULL_SCALE, iter_blocks, open_audio
from spectrnn.data.batches import BucketedBatches
from spectrnn.detection.events import Array, MultiThresholdEventCounter
from spectrnn.detection.thresholds import TunedThresholds
from spectrnn.errors import ErrorCollector, UserError
from spectrnn.inference.pipeline import audio_paths
from spectrnn.inference.predictor import Chunk, Predictor
from spectrnn.inference.sliding_window import sliding_window_predict
from spectrnn.model import serialization as model_file
from spectrnn.progress import progress_bar

log = logging.getLogger(__name__)

# The thresholds that are tried, closer together the nearer they are to 1. None is below a half: there another class may
# be the likelier one, and recordings without events cannot show how often its sounds would be taken for this one's.
CANDIDATE_THRESHOLDS = np.unique(np.append(1 / (1 + np.exp(-np.arange(0, 14, 0.05))), 1).round(6))


@dataclass(kw_only=True)
class TuneThresholdsConfig:
    """The keys of eval.yaml that choose thresholds; there it is said what each means."""

    negatives: list[str]
    max_false_alarms_per_hour: NonNegativeFloat
    window: WindowSeconds | None
    hop: HopSeconds | None
    smoothing_windows: NumWindows
    offset_ratio: PositiveFraction
    min_event_seconds: NonNegativeFloat
    background: list[str | int]


class ThresholdTuner:
    """Chooses thresholds for a classifier.

    Args:
        config: what is wanted, and of which recordings.
        predictor: the classifier.
        batch_size: windows that are computed at once.

    Raises:
        UserError: all that is wrong with the config and the recordings, each in a sentence that names the key.
    """

    def __init__(self, config: TuneThresholdsConfig, predictor: Predictor, batch_size: int) -> None:
        self.config, self.predictor, self.batch_size = config, predictor, batch_size
        self.window = config.window or predictor.window / predictor.sample_rate
        self.hop = config.hop or self.window / 2
        self.background = [str(label) for label in config.background]
        self.events = [label for label in predictor.labels if label not in self.background]
        errors = ErrorCollector()
        if self.hop > self.window:
            errors.add(
                f"hop={format_value(config.hop)}: is longer than the window of {self.window:g} s; what lies "
                "between two windows would not be heard"
            )
        for label in self.background:
            if label not in predictor.labels:
                errors.add(
                    f"background={format_value(self.background)}: {label!r} is no label of the model; "
                    f"{unknown_name(label, predictor.labels)}"
                )
        if not self.events:
            errors.add(f"background={format_value(self.background)}: names all classes, and none is left to be heard")
        self.lengths = _lengths(config.negatives, errors)
        errors.raise_if_any()

    def run(self, batches: BucketedBatches) -> dict[str, Any]:
        """Listens to the recordings, and to each clip of a split in silence, and chooses.

        Args:
            batches: of the split.

        Returns:
            What metrics.json says of it: the tuned_thresholds' settings, and ``per_class`` for each label ``threshold``,
            whether it was ``reached``, the ``max_false_alarms_per_hour`` an hour and the ``recall`` there, the share of the
            ``others``' clips that are heard as this class (None where there are no such clips), and the ``curve``.

        Raises:
            UserError: a recording breaks off or is damaged.
        """
        alarms, hours = self._false_alarms()
        heard, others = self._hits(batches)
        allowed = self.config.max_false_alarms_per_hour * hours
        rows: dict[str, dict[str, Any]] = {}
        for label in self.events:
            index = self.predictor.labels.index(label)
            position, reached = _lowest(alarms[:, index] <= allowed + 1e-9)
            rate, recall = alarms[:, index] / hours, heard[:, index]
            rows[label] = {
                "threshold": float(CANDIDATE_THRESHOLDS[position]),
                "reached": reached,
                "max_false_alarms_per_hour": float(rate[position]),
                "recall": _number(recall[position]),
                "others": _number(others[position, index]),
                "curve": _curve(rate, recall),
            }
        self._warn(hours, [label for label, row in rows.items() if not row["reached"]])
        self.tuned_thresholds = TunedThresholds(
            thresholds={label: row["threshold"] for label, row in rows.items()},
            background=self.background,
            max_false_alarms_per_hour=self.config.max_false_alarms_per_hour,
            hours=hours,
            window=self.window,
            hop=self.hop,
            smoothing_windows=self.config.smoothing_windows,
            offset_ratio=self.config.offset_ratio,
            min_event_seconds=self.config.min_event_seconds,
        )
        settings = {name: value for name, value in vars(self.tuned_thresholds).items() if name != "thresholds"}
        return {**settings, "per_class": rows}

    def store(self, path: Path) -> None:
        """Writes what `run` has chosen into the model file.

        Raises:
            UserError: it cannot be written.
        """
        model_file.save_thresholds(path, asdict(self.tuned_thresholds))
        log.info(
            "thresholds where false alarms are at most %g an hour and class are in %s now, for predict and stream",
            self.config.max_false_alarms_per_hour,
            path,
        )

    def _false_alarms(self) -> tuple[Array, float]:
        """Events in all recordings, int64 (thresholds, classes), and their hours."""
        counts, seconds = np.zeros((len(CANDIDATE_THRESHOLDS), len(self.predictor.labels)), np.int64), 0.0
        with progress_bar(round(sum(self.lengths.values())), "listening", "s") as shown:
            for path in self.lengths:
                try:
                    tally = self._listen(iter_blocks(path, self.predictor.sample_rate))
                except UserError as error:
                    raise UserError(f"negatives: {error}") from error
                counts, seconds = counts + tally.counts, seconds + tally.seconds
                shown.update(round(seconds) - shown.n)
        return counts, seconds / 3600

    def _hits(self, batches: BucketedBatches) -> tuple[Array, Array]:
        """Shares of clips in which an event of each class is heard: of its own clips, and of all others'.

        The detector hears each clip between two windows of silence, so that a clip counts for as much as it does in a
        recording, where no window need fit it, and where its probability is smoothed with that of its surroundings.

        Returns:
            float64 (thresholds, classes) each, NaN where there is no such clip.
        """
        size = round(self.window * self.predictor.sample_rate)
        silence = np.zeros(size, np.int16)
        sums = np.zeros((2, len(CANDIDATE_THRESHOLDS), len(self.predictor.labels)))
        clips = np.zeros((2, len(self.predictor.labels)))
        with progress_bar(len(batches.rows), "listening", "clip") as shown:
            for batch in batches.epoch():
                waveforms, targets = batch.waveform.cpu().numpy(), batch.targets.bool().cpu().numpy()
                for waveform, length, own in zip(waveforms, batch.lengths.tolist(), targets, strict=True):
                    clip = np.rint(waveform[:length] * FULL_SCALE).astype(np.int16)
                    heard = self._listen([silence, clip, silence]).counts > 0
                    for part, mask in enumerate((own, ~own)):
                        sums[part] += heard & mask
                        clips[part] += mask
                shown.update(len(targets))
        with np.errstate(invalid="ignore"):
            own, others = sums / clips[:, None]
        return own, others

    def _listen(self, recording: Iterable[Chunk]) -> MultiThresholdEventCounter:
        config = self.config
        tally = MultiThresholdEventCounter(
            CANDIDATE_THRESHOLDS,
            len(self.predictor.labels),
            config.smoothing_windows,
            config.offset_ratio,
            config.min_event_seconds,
        )
        for spans, probabilities in sliding_window_predict(
            self.predictor, recording, self.window, self.hop, self.batch_size
        ):
            tally.push(spans, probabilities)
        tally.finish()
        return tally

    def _warn(self, hours: float, unreached: list[str]) -> None:
        rate = self.config.max_false_alarms_per_hour
        if hours * rate < 1:
            log.warning(
                "%.3g h of negatives cannot show a rate of %g an hour: where nothing was heard in them, up to "
                "%.2g an hour remain possible (95 %%)",
                hours,
                rate,
                3 / hours,
            )
        if unreached:
            log.warning("no threshold up to 1 keeps to %g false alarms an hour for %s", rate, ", ".join(unreached))


def _lengths(negatives: Iterable[str], errors: ErrorCollector) -> dict[str, float]:
    """The seconds of each recording, by what its header says; notes those that cannot be opened."""
    found = {}
    for path in audio_paths(negatives):
        try:
            with open_audio(path) as file:
                found[path] = file.frames / file.samplerate
        except UserError as error:
            errors.by_key[path] = f"negatives: {error}"
    return found


def _lowest(fine: Array) -> tuple[int, bool]:
    """The first of the thresholds from which on all are fine, and whether there is one; else the last of all.

    Events are not fewer at each higher threshold: what is one long event at a low one may be several at a higher one.
    """
    bad = np.flatnonzero(~fine)
    first = int(bad[-1]) + 1 if len(bad) else 0
    return min(first, len(fine) - 1), first < len(fine)


def _curve(rate: Array, recall: Array) -> dict[str, list[float | None]]:
    """The thresholds at which false alarms or recall change, and theirs."""
    points = np.stack([rate, np.nan_to_num(recall)])
    kept = np.flatnonzero(np.append(True, (points[:, 1:] != points[:, :-1]).any(0)))
    return {
        "threshold": CANDIDATE_THRESHOLDS[kept].tolist(),
        "max_false_alarms_per_hour": rate[kept].tolist(),
        "recall": [_number(value) for value in recall[kept]],
    }


def _number(value: float) -> float | None:
    """As JSON has it, which knows no NaN."""
    return None if np.isnan(value) else float(value)
