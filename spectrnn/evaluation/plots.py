"""Plots of confusion matrices, thresholds and spectrograms. Matplotlib is imported when the first one is drawn."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spectrnn.evaluation.confusion import Confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spectrnn.frontend.features import Features

log = logging.getLogger(__name__)

_OCTAVES = [125 * 2**octave for octave in range(10)]  # Hz
_ROTATE_FROM = 6  # number of classes from which labels are rotated
MAX_CLASSES = 40  # in a plot
_MAX_NAME = 30  # characters of a class name


@contextmanager
def optional_picture(name: str) -> Iterator[None]:
    """Logs an error of the block, which draws something, as a warning that names it: results do not depend on it."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        log.warning("warning: %s cannot be drawn (%s); all results are complete without it", name, reason)


def confusion_figure(confusion: Confusion) -> "Figure":
    """Plots a confusion matrix with counts; of many classes, those with the most errors, which the title says."""
    from matplotlib.figure import Figure

    total = len(confusion.labels)
    shown = confusion.largest_classes(MAX_CLASSES)
    matrix, names = confusion.part(shown), [_class_name(confusion.labels[index]) for index in shown]
    size = max(4.0, 1.5 + 0.42 * len(shown))
    figure = Figure(figsize=(size + 0.8, size), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    fraction = matrix / np.maximum(confusion.actual[shown, None], 1)
    image = axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(shown)), names, rotation=90 if len(shown) >= _ROTATE_FROM else 0)
    axes.set_yticks(range(len(shown)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(shown) < total:
        others = int(confusion.cells[:, 2].sum() - matrix.sum())
        axes.set_title(
            f"The {len(shown)} of {total:,} classes with the most errors; {others:,} clips are in other cells"
        )
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if fraction[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    return figure


def thresholds_figure(result: Mapping[str, Any]) -> "Figure":
    """Plots recall over false alarms per hour, as in a result of `ThresholdTuner.run`, with a dot at each threshold.

    Of many classes, those with the lowest recall.
    """
    from matplotlib.figure import Figure

    rows = {label: row for label, row in result["per_class"].items() if row["recall"] is not None}
    shown = rows
    if len(rows) > MAX_CLASSES:
        shown = dict(sorted(rows.items(), key=lambda item: item[1]["recall"])[:MAX_CLASSES])
    figure = Figure(figsize=(7.5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    floor = 0.5 / result["hours"]  # stands for 0, which a logarithmic axis cannot show
    for number, (label, row) in enumerate(shown.items()):
        color, line = f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]
        rates = np.maximum(row["curve"]["false_alarms_per_hour"], floor)
        name = _class_name(label)
        axes.plot(rates, row["curve"]["recall"], label=name, linewidth=1.3, color=color, linestyle=line)
        axes.plot(max(row["false_alarms_per_hour"], floor), row["recall"], "o", color=color, markersize=5)
    if len(shown) < len(rows):
        axes.set_title(f"The {len(shown)} of {len(rows):,} classes with the lowest recall")
    if result["max_false_alarms_per_hour"]:
        axes.axvline(result["max_false_alarms_per_hour"], color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        ylim=(-0.02, 1.02),
        ylabel="recall",
        xlabel=f"false alarms per hour, in {result['hours']:.2f} h ({floor:.2g}: none)",
    )
    axes.grid(alpha=0.3)
    if shown:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), ncols=-(-len(shown) // 20))
    return figure


def spectrogram_figure(
    features: Sequence[npt.NDArray[np.float32]],
    titles: Sequence[str],
    stage: "Features",
    attention: Sequence[npt.NDArray[np.float32]] | None = None,
) -> "Figure":
    """Plots the features of a few clips, two per row, with attention weights as lines.

    Args:
        features: Features per clip, (frames, bins), valid frames only.
        titles: Title per clip.
        stage: Stage that computed the features, for the axes.
        attention: Attention weights per clip, (heads, frames'); None for none.
    """
    from matplotlib.figure import Figure

    ticks, unit = _frequency_ticks(stage)
    rows = -(-len(features) // 2)
    figure = Figure(figsize=(6, 2.2 * rows), dpi=140, layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for index, axes in enumerate(grid[: len(features)]):
        frames, bins = features[index].shape
        seconds = frames * stage.hop_size / stage.sample_rate
        axes.imshow(features[index].T, origin="lower", aspect="auto", extent=(0, seconds, 0, bins), cmap="magma")
        axes.set(title=_class_name(titles[index]), xlabel="s", ylabel=unit)
        axes.set_yticks(list(ticks), list(ticks.values()))
        if attention is not None:
            heads = attention[index] / max(attention[index].max(), 1e-9)
            times = (np.arange(heads.shape[1]) + 0.5) * seconds / heads.shape[1]
            axes.plot(times, heads.T * bins * 0.95, linewidth=1.5)
    for axes in grid[len(features) :]:
        axes.set_axis_off()
    return figure


def _class_name(label: str) -> str:
    """A label as matplotlib draws it: shortened, and without a meaning of ``$``, which starts a formula."""
    short = label if len(label) <= _MAX_NAME else f"{label[: _MAX_NAME - 1]}\u2026"
    return short.replace("$", r"\$")


def _frequency_ticks(stage: "Features") -> tuple[dict[float, str], str]:
    """Tick labels by position on the frequency axis, and their unit; deltas are above the static features."""
    if stage.bin_frequencies is None:
        ticks, unit = (
            {position + 0.5: str(position) for position in range(0, stage.num_bins, max(6, stage.num_bins // 8))},
            "coefficient",
        )
    else:
        centers = stage.bin_frequencies.cpu().numpy()
        ticks, unit, lowest = {}, "Hz", math.inf
        for hertz in reversed(_OCTAVES):
            position = float(np.interp(hertz, centers, np.arange(len(centers)) + 0.5))
            labels_touch = lowest - position <= stage.num_bins / 10
            if centers[0] <= hertz <= centers[-1] and not labels_touch:
                ticks[position], lowest = str(hertz), position
    names = ("delta", "delta 2")[: stage.deltas]
    return ticks | {(order + 1.5) * stage.num_bins: name for order, name in enumerate(names)}, unit
