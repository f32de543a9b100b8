"""The page of a threshold tuning: recall over false alarms per hour, and false alarms and misses to listen to."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from spectrnn.data.audio import load_audio, to_float
from spectrnn.data.clips import Clip
from spectrnn.detection.events import Event
from spectrnn.errors import UserError
from spectrnn.evaluation.report.html import media_blocks, render_page
from spectrnn.evaluation.report.media import render_waveform
from spectrnn.files import atomic_write, reporting_write_errors
from spectrnn.model.classifier import Classifier
from spectrnn.version import __version__

PAGE = "thresholds.html"
_SCRIPTS = ("page.js", "tables.js", "figures.js", "players.js", "list.js", "detection.js")
_NOTES_BYTES = 2000  # reserved for the notes on omissions
_MAX_CLASSES = 200  # with a curve
_MAX_LISTED = 100  # false alarms, and misses
_CONTEXT = 1.0  # s of sound before and after a false alarm
_MAX_SECONDS = 6.0  # of sound
_COLUMNS = ("threshold", "recall", "confusion_rate", "false_alarms_per_hour")
_T = TypeVar("_T")


class Miss(NamedTuple):
    """A clip in which its class is not detected at the chosen threshold.

    Attributes:
        row: Row in the clip table.
        label: Class of the clip.
        detected_at: Highest threshold at which the class is detected; None if there is none.
    """

    row: int
    label: str
    detected_at: float | None


class FalseAlarm(NamedTuple):
    """An event that is detected in a recording without events, at the chosen threshold."""

    path: str
    event: Event


class TunedDetection(NamedTuple):
    """What the page shows.

    Attributes:
        classifier: Classifier in evaluation mode.
        model: Model file.
        split: Split whose clips the recall is of.
        result: Result of `ThresholdTuner.run`.
        notes: Sentences that a reader must know.
        false_alarms: False alarms at the chosen thresholds.
        misses: Clips that are not detected.
        clips: Clip table that the misses are rows of.
    """

    classifier: Classifier
    model: Path
    split: str
    result: Mapping[str, Any]
    notes: Sequence[str]
    false_alarms: Sequence[FalseAlarm]
    misses: Sequence[Miss]
    clips: Sequence[Clip]


def write_page(tuned: TunedDetection, path: Path, max_mb: float) -> None:
    """Writes the page, atomically.

    Args:
        tuned: Result of a threshold tuning.
        path: File to write.
        max_mb: Maximum size in 10^6 bytes; the page states for how many sounds there was no room.

    Raises:
        UserError: A file that cannot be written.
    """
    page = build_page(tuned, round(max_mb * 1e6))
    with reporting_write_errors(str(path)), atomic_write(path) as temporary:
        temporary.write_bytes(page)


def build_page(tuned: TunedDetection, max_bytes: int) -> bytes:
    """Builds the page as `write_page` writes it, with at most `max_bytes` bytes."""
    result, per_class = tuned.result, tuned.result["per_class"]
    alarms = _first_of_each_class(
        sorted(tuned.false_alarms, key=lambda alarm: -alarm.event.probability), lambda alarm: alarm.event.label
    )
    misses = _first_of_each_class(
        sorted(tuned.misses, key=lambda miss: miss.detected_at or 0.0), lambda miss: miss.label
    )
    shown = sorted(per_class, key=lambda label: _known(per_class[label]["recall"]))[:_MAX_CLASSES]
    recalls = [row["recall"] for row in per_class.values() if row["recall"] is not None]
    data: dict[str, Any] = {
        "model": str(tuned.model),
        "split": tuned.split,
        "notes": [*tuned.notes],
        "hours": result["hours"],
        "target": result["max_false_alarms_per_hour"],
        "window": result["window"],
        "recall": sum(recalls) / len(recalls) if recalls else None,
        "class_count": len(per_class),
        "reached": sum(row["reached"] for row in per_class.values()),
        "false_alarm_count": len(tuned.false_alarms),
        "miss_count": len(tuned.misses),
        "classes": [
            [label, *map(per_class[label].get, _COLUMNS), [*zip(*per_class[label]["curve"].values(), strict=True)]]
            for label in shown
        ],
        "frequencies": [round(hertz, 1) for hertz in tuned.classifier.features.picture.center_frequencies.tolist()],
        "version": __version__,
        "clips": [
            *(
                ["alarm", e.label, path, round(e.start, 2), round(e.end, 2), round(e.probability, 6)]
                for path, e in alarms
            ),
            *(["miss", m.label, *_source(tuned.clips[m.row]), m.detected_at] for m in misses),
        ],
    }
    parts = chain(
        ((path, max(0.0, event.start - _CONTEXT), event.end + _CONTEXT) for path, event in alarms),
        (_source(tuned.clips[miss.row]) for miss in misses),
    )
    budget = max_bytes - len(_render(data, [])) - _NOTES_BYTES
    blocks = media_blocks(_excerpts(tuned.classifier, parts), budget)
    listed = len(data["clips"])
    for kind, count, total in (
        ("false alarms", len(alarms), len(tuned.false_alarms)),
        ("misses", len(misses), len(tuned.misses)),
    ):
        if count < total:
            data["notes"].append(
                f"{total - count:,} of {total:,} {kind} are not listed, as a page lists at most {_MAX_LISTED}."
            )
    if len(blocks) < listed:
        data["notes"].append(
            f"Audio of {listed - len(blocks):,} of {listed:,} sounds is omitted, as files cannot be read, or to stay "
            f"under {max_bytes / 1e6:g} MB (report_max_mb)."
        )
    return _render(data, blocks)


def _first_of_each_class(items: Iterable[_T], label_of: Callable[[_T], str]) -> list[_T]:
    """The first items in order, as many of each class as possible within the limit of the page."""
    seen: Counter[str] = Counter()
    ranked = []
    for position, item in enumerate(items):
        ranked.append((seen[label_of(item)], position, item))
        seen[label_of(item)] += 1
    kept = sorted(ranked, key=lambda entry: entry[:2])[:_MAX_LISTED]
    return [item for _, _, item in sorted(kept, key=lambda entry: entry[1])]


def _excerpts(
    classifier: Classifier, parts: Iterable[tuple[str, float, float | None]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of each part of a file that can be read, and its audio, spectrogram and start in s."""
    rate = classifier.sample_rate
    for number, (path, start, end) in enumerate(parts):
        last = start + _MAX_SECONDS
        try:
            samples = to_float(load_audio(path, rate, start, last if end is None else min(end, last)))
        except UserError:
            continue
        yield number, {**render_waveform(classifier, samples), "start": round(start, 2), "seconds": len(samples) / rate}


def _source(clip: Clip) -> tuple[str, float, float | None]:
    return clip.path, clip.start, clip.end


def _known(recall: float | None) -> float:
    return 2.0 if recall is None else recall


def _render(data: dict[str, Any], blocks: Sequence[str]) -> bytes:
    return render_page("detection.html", _SCRIPTS, f"{data['model']}: thresholds", data, blocks)
