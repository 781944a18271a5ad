"""Pictures of summaries."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks._summary import Found, is_missed

# Okabe and Ito's colors, which remain distinct for color-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK = COLORS
MARKERS = "osD^vPX"
# The same thing has the same color in all pictures.
COLOR_OF = {
    "keras": BLUE,
    "torch": RED,
    "optax": ORANGE,
    "memory": GREEN,
    "float32": BLACK,
    "without": SKY,
}


def color_of(name: str, default: str) -> str:
    """The color of a contender, by a word of its name."""
    words = (color for word, color in COLOR_OF.items() if word in name.lower())
    return next(words, default)


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of a size in inches, which is saved at the end."""
    with mpl.rc_context({"font.size": 11}):
        drawn = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield drawn
        drawn.savefig(path, dpi=130)


def tidy(axes: Axes) -> None:
    """A light grid, and no frame above and on the right."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_ratios(found: Found, path: Path) -> None:
    """Our time over the peer's: medians, quartiles, goals; hollow: a goal is missed."""
    rows = found["rows"]
    lines = list(dict.fromkeys(row["what"] for row in rows))
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    with figure(path, 8, max(2.5, 1.6 + 0.3 * len(lines))) as drawn:
        axes = drawn.subplots()
        axes.set(xscale="log", xlabel="our time / time of the peer")
        axes.axvline(1, color="0.3", lw=1)
        for k, peer in enumerate(peers):
            color, marker = color_of(peer, PINK), MARKERS[k % 7]
            shift = 0.5 * ((k + 0.5) / len(peers) - 0.5)
            for row in (row for row in rows if row["peer"] == peer):
                at, (low, median, high) = lines.index(row["what"]) + shift, row["ratio"]
                axes.hlines(at, low, high, color=color, lw=1.5)
                face = "white" if is_missed(row) else color
                axes.plot(median, at, marker, ms=5, mec=color, mfc=face)
                if row["goal"] is not None:
                    axes.plot(row["goal"], at, "|", ms=9, color=color)
            axes.plot([], [], marker, ms=5, color=color, label=peer)
        axes.set_yticks(range(len(lines)), lines)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        tidy(axes)
        handles, labels = axes.get_legend_handles_labels()
        drawn.legend(handles, labels, ncols=3, loc="outside upper center", frameon=False)
        drawn.supxlabel("| goal    hollow: goal missed", fontsize=9)
