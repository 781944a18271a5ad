"""Ratios of times as points on lines: one line for each row of a table."""

from pathlib import Path

from matplotlib.ticker import NullLocator

from benchmarks import _picture
from benchmarks._report import against
from benchmarks._suite import Found


def draw(found: Found, path: Path) -> None:
    """Time here over time there, logarithmic: medians, quartiles, goals."""
    rows = found["rows"]
    peers = list(dict.fromkeys(against(row) for row in rows))
    whats = list(dict.fromkeys(row["what"] for row in rows))
    with _picture.figure(path, 8, 1.4 + 0.36 * len(whats)) as figure:
        axes = figure.subplots()
        axes.set(xscale="log", xlabel="time here / there")
        axes.axvline(1, color="0.3", lw=1)
        for k, peer in enumerate(peers):
            mine = [row for row in rows if against(row) == peer]
            at = [whats.index(row["what"]) for row in mine]
            colour, marker = _picture.COLOURS[k], _picture.MARKERS[k]
            low, high = zip(*(row["quartiles"] for row in mine), strict=True)
            axes.hlines(at, low, high, color=colour, lw=1.5)
            medians = [row["median"] for row in mine]
            axes.scatter(medians, at, s=34, color=colour, marker=marker, label=peer)
        _goals(axes, rows, whats)
        axes.set_yticks(range(len(whats)), whats)
        axes.invert_yaxis()
        ticks = _picture.ratio_ticks(*axes.get_xlim())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        _picture.tidy(axes)
        axes.tick_params(axis="y", length=0)
        figure.legend(
            *axes.get_legend_handles_labels(),
            ncols=4,
            loc="outside upper center",
            frameon=False,
        )


def _goals(axes: _picture.Axes, rows: list[Found], whats: list[str]) -> None:
    with_goal = [row for row in rows if row["goal"] is not None]
    axes.scatter(
        [row["goal"] for row in with_goal],
        [whats.index(row["what"]) for row in with_goal],
        s=160,
        color=_picture.BLACK,
        marker="|",
        label="goal",
    )
