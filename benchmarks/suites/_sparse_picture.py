"""The times over the height of the table, as a picture."""

import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks import _picture
from benchmarks._report import AS_LONG
from benchmarks._suite import Found

DENSE = "dense, optax.rmsprop"
STYLES = ((_picture.BLUE, "o-"), (_picture.VERMILION, "s--"))


def draw(found: Found, path: Path) -> None:
    """Milliseconds a step over rows of the table, both logarithmic."""
    settings = found["settings"]
    curves = {
        "dense gradients, optax.rmsprop": _dense(found),
        "gradients by rows, rmsprop_optax": _by_rows(found),
    }
    with _picture.figure(path, 7.5, 4.5) as figure:
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log")
        for (name, medians), style in zip(curves.items(), STYLES, strict=True):
            _curve(axes, name, medians, *style)
        axes.set(xlabel="rows of the table", ylabel="time of a training step (ms)")
        title = f"{settings['ids']:,} ids a step, rows of {settings['width']} float32"
        axes.set_title(title, fontsize=11)
        _ticks(axes, settings["heights"])
        axes.margins(x=0.12, y=0.18)
        _picture.tidy(axes)
        axes.legend(frameon=False, loc="upper left")


def _dense(found: Found) -> dict[int, float]:
    """The median by height, of the races with dense gradients."""
    rows = [row["milliseconds"] for row in found["rows"] if DENSE in row["milliseconds"]]
    heights = found["settings"]["dense_heights"]
    return {
        height: statistics.median(row[DENSE])
        for height, row in zip(heights, rows, strict=True)
    }


def _by_rows(found: Found) -> dict[int, float]:
    """The median by height, of the race of heights with one another."""
    times = {}
    for row in found["rows"]:
        if row["ratio"] == AS_LONG:
            times |= row["milliseconds"]
    heights = found["settings"]["heights"]
    return {height: statistics.median(times[f"{height:,} rows"]) for height in heights}


def _curve(
    axes: Axes, name: str, medians: dict[int, float], colour: str, style: str
) -> None:
    axes.plot(*zip(*medians.items(), strict=True), style, color=colour, ms=5, label=name)
    for height, median in medians.items():
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
    axes.yaxis.set_major_formatter(FuncFormatter(_picture.plain))
    axes.yaxis.set_minor_formatter(NullFormatter())
