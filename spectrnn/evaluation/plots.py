"""Pictures of runs: confusion matrices and spectrograms. Matplotlib is imported when the first is drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spectrnn.frontend.features import LogMelSpectrogram

_OCTAVES = [125 * 2**octave for octave in range(10)]  # Hz
_ROTATED = 6  # classes from which their names stand upright
_NAMED = 40  # lines that a legend names, at most


def confusion_figure(matrix: npt.NDArray[np.int64], labels: list[str]) -> "Figure":
    """A confusion matrix with counts.

    Args:
        matrix: (classes, classes), rows are the true class.
        labels: the classes' names.
    """
    from matplotlib.figure import Figure

    size = max(4.0, 1.5 + 0.42 * len(labels))
    figure = Figure(figsize=(size + 0.8, size), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) >= _ROTATED else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def thresholds_figure(table: Mapping[str, Any]) -> "Figure":
    """Recall against false alarms an hour, a line a class, and a dot where its threshold was set.

    Args:
        table: as `thresholds.Search.run` gives it.
    """
    from matplotlib.figure import Figure

    rows = table["per_class"]
    figure = Figure(figsize=(7.5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    least = 0.5 / table["hours"]  # stands for none at all, which a logarithm does not know
    for number, (label, row) in enumerate(rows.items()):
        if row["recall"] is not None:
            color, line = f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]
            rates = np.maximum(row["curve"]["max_false_alarms_per_hour"], least)
            axes.plot(rates, row["curve"]["recall"], label=label, linewidth=1.3, color=color, linestyle=line)
            axes.plot(max(row["max_false_alarms_per_hour"], least), row["recall"], "o", color=color, markersize=5)
    if table["max_false_alarms_per_hour"]:
        axes.axvline(table["max_false_alarms_per_hour"], color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        ylim=(-0.02, 1.02),
        ylabel="recall",
        xlabel=f"false alarms an hour, in {table['hours']:.2f} h; none at {least:.2g}",
    )
    axes.grid(alpha=0.3)
    if len(rows) <= _NAMED:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), ncols=-(-len(rows) // 20))
    return figure


def spectrogram_figure(
    features: Sequence[npt.NDArray[np.float32]],
    titles: Sequence[str],
    stage: "LogMelSpectrogram",
    attention: Sequence[npt.NDArray[np.float32]] | None = None,
) -> "Figure":
    """Features of a few clips, two in a row, with what the pooling looks at laid over them.

    Args:
        features: an array (frames, bins) a clip, its valid frames only.
        titles: one a clip.
        stage: that computed the features; knows their hop and their bands.
        attention: an array (heads, frames') a clip, frames' of which may be fewer; each head is a line.
    """
    from matplotlib.figure import Figure

    ticks, unit = _bands(stage)
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


def _bands(stage: "LogMelSpectrogram") -> tuple[dict[float, str], str]:
    """Where the vertical axis of features has which label, and their unit; derivatives lie above what they are of."""
    if stage.axis is None:
        ticks, unit = {position + 0.5: str(position) for position in range(0, stage.bins, 6)}, "coefficient"
    else:
        centres = stage.axis.cpu().numpy()
        ticks, unit = {}, "Hz"
        lowest = math.inf
        for hertz in reversed(_OCTAVES):
            position = float(np.interp(hertz, centres, np.arange(len(centres)) + 0.5))
            if centres[0] <= hertz <= centres[-1] and lowest - position > stage.bins / 10:  # or labels would touch
                ticks[position], lowest = str(hertz), position
    names = ("delta", "delta 2")[: stage.deltas]
    return ticks | {(order + 1.5) * stage.bins: name for order, name in enumerate(names)}, unit
