"""Plots of confusion matrices, thresholds and spectrograms. Matplotlib is imported when the first one is drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spectrnn.frontend.features import LogMelSpectrogram

_OCTAVES = [125 * 2**octave for octave in range(10)]  # Hz
_ROTATE_FROM = 6  # number of classes from which labels are rotated
_MAX_LEGEND = 40  # lines in a legend


def confusion_figure(matrix: npt.NDArray[np.int64], labels: list[str]) -> "Figure":
    """Plots a confusion matrix with counts.

    Args:
        matrix: Counts (classes, classes), rows are true classes.
        labels: Class names.
    """
    from matplotlib.figure import Figure

    size = max(4.0, 1.5 + 0.42 * len(labels))
    figure = Figure(figsize=(size + 0.8, size), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    fraction = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) >= _ROTATE_FROM else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if fraction[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    return figure


def thresholds_figure(result: Mapping[str, Any]) -> "Figure":
    """Plots recall over false alarms per hour, as in a result of `ThresholdTuner.run`, with a dot at each threshold."""
    from matplotlib.figure import Figure

    rows = result["per_class"]
    figure = Figure(figsize=(7.5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    floor = 0.5 / result["hours"]  # stands for 0, which a logarithmic axis cannot show
    for number, (label, row) in enumerate(rows.items()):
        if row["recall"] is not None:
            color, line = f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]
            rates = np.maximum(row["curve"]["false_alarms_per_hour"], floor)
            axes.plot(rates, row["curve"]["recall"], label=label, linewidth=1.3, color=color, linestyle=line)
            axes.plot(max(row["false_alarms_per_hour"], floor), row["recall"], "o", color=color, markersize=5)
    if result["max_false_alarms_per_hour"]:
        axes.axvline(result["max_false_alarms_per_hour"], color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        ylim=(-0.02, 1.02),
        ylabel="recall",
        xlabel=f"false alarms per hour, in {result['hours']:.2f} h ({floor:.2g}: none)",
    )
    axes.grid(alpha=0.3)
    if len(rows) <= _MAX_LEGEND:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), ncols=-(-len(rows) // 20))
    return figure


def spectrogram_figure(
    features: Sequence[npt.NDArray[np.float32]],
    titles: Sequence[str],
    stage: "LogMelSpectrogram",
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
        axes.set(title=titles[index], xlabel="s", ylabel=unit)
        axes.set_yticks(list(ticks), list(ticks.values()))
        if attention is not None:
            heads = attention[index] / max(attention[index].max(), 1e-9)
            times = (np.arange(heads.shape[1]) + 0.5) * seconds / heads.shape[1]
            axes.plot(times, heads.T * bins * 0.95, linewidth=1.5)
    for axes in grid[len(features) :]:
        axes.set_axis_off()
    return figure


def _frequency_ticks(stage: "LogMelSpectrogram") -> tuple[dict[float, str], str]:
    """Tick labels by position on the frequency axis, and their unit; deltas are above the static features."""
    if stage.bin_frequencies is None:
        ticks, unit = {position + 0.5: str(position) for position in range(0, stage.num_bins, 6)}, "coefficient"
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
