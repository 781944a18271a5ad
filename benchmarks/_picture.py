"""The times over the height of the table, as a picture."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks._timing import Series

# Okabe and Ito's colours, which the colour-blind can tell apart; shapes tell them too.
STYLES = (("#0072B2", "o-"), ("#D55E00", "s--"))


def draw(
    curves: Mapping[str, Mapping[int, Series]], table_width: int, ids: int, path: Path
) -> None:
    """Milliseconds a step over rows of the table, both logarithmic, into a PNG."""
    with mpl.rc_context({"font.size": 11}):
        # White, not transparent: as readable on a dark page as on a light one.
        figure = Figure(figsize=(7.5, 4.5), layout="constrained", facecolor="white")
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log")
        for (name, series), style in zip(curves.items(), STYLES, strict=True):
            _curve(axes, name, series, *style)
        axes.set(xlabel="rows of the table", ylabel="time of a training step (ms)")
        axes.set_title(f"{ids:,} ids a step, rows of {table_width} float32", fontsize=11)
        _ticks(axes, sorted({height for series in curves.values() for height in series}))
        axes.margins(x=0.12, y=0.18)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
        figure.savefig(path, dpi=150)


def _curve(
    axes: Axes, name: str, series: Mapping[int, Series], colour: str, style: str
) -> None:
    heights = sorted(series)
    medians = [series[height].median for height in heights]
    axes.plot(heights, medians, style, color=colour, ms=5, label=name)
    for height, median in zip(heights, medians, strict=True):
        axes.annotate(
            f"{median:.0f}" if median >= 10 else f"{median:.2g}",
            (height, median),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=colour,
        )


def _ticks(axes: Axes, heights: list[int]) -> None:
    """Numbers as people write them: the heights measured, and 1, 2, 5, 10 ms."""
    axes.set_xticks(heights, [f"{height:,}" for height in heights])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
