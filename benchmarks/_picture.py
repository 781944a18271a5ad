"""What all pictures have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; shapes tell them too.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX"
MOST_TICKS = 9


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in inches, which is written when it is done."""
    with mpl.rc_context({"font.size": 11}):
        # White, not transparent: as readable on a dark page as on a light one.
        made = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield made
        made.savefig(path, dpi=150)


def tidy(axes: Axes) -> None:
    """A light grid, and no frame above and on the right."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis, as many as have room beside each other."""
    decades = [10.0**power for power in range(-3, 4)]
    finest_first = [
        [hundredths / 100 for hundredths in range(1, 1000)],
        [twentieths / 20 for twentieths in range(1, 200)],
        [tenths / 10 for tenths in range(1, 100)],
        [part * decade for decade in decades for part in (1, 1.5, 2, 3, 5, 7)],
        [part * decade for decade in decades for part in (1, 2, 5)],
        decades,
    ]
    inside = [[t for t in ticks if low <= t <= high] for ticks in finest_first]
    return next(ticks for ticks in inside if len(ticks) <= MOST_TICKS)


def plain(value: float, _: object) -> str:
    """Numbers on an axis as people write them."""
    return f"{value:g}"
