"""Ratios of times, a panel for each set of shapes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks import _picture
from benchmarks._report import against
from benchmarks._suite import Found


def draw(found: Found, path: Path) -> None:
    """Time here over time there, logarithmic, medians and quartiles."""
    rows = found["rows"]
    panels = list(dict.fromkeys(row["shapes"] for row in rows))
    peers = list(dict.fromkeys(against(row) for row in rows))
    names = list(dict.fromkeys(row["configuration"] for row in rows))
    height = 1.7 + 0.5 * len(peers)
    with _picture.figure(path, 2 + 2.6 * len(panels), height) as figure:
        for axes, panel in zip(
            figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0],
            panels,
            strict=True,
        ):
            mine = [row for row in rows if row["shapes"] == panel]
            _panel(axes, panel, mine, peers, names)
        figure.axes[0].set_yticks(range(len(peers)), peers)
        figure.axes[0].invert_yaxis()
        figure.supxlabel("time of a step here / there", fontsize=11)
        handles, labels = _legend(figure.axes)
        figure.legend(
            handles,
            labels,
            ncols=len(names),
            loc="outside upper center",
            frameon=False,
        )


def _panel(
    axes: Axes,
    title: str,
    rows: Sequence[Found],
    peers: Sequence[str],
    names: Sequence[str],
) -> None:
    axes.set(xscale="log")
    axes.axvline(1, color="0.3", lw=1)
    for k, name in enumerate(names):
        mine = [row for row in rows if row["configuration"] == name]
        if not mine:
            continue
        shift = 0.6 * (k / max(len(names) - 1, 1) - 0.5)
        at = [peers.index(against(row)) + shift for row in mine]
        medians = [row["median"] for row in mine]
        colour = _picture.COLOURS[k]
        axes.scatter(
            medians, at, s=22, color=colour, marker=_picture.MARKERS[k], label=name
        )
        low, high = zip(*(row["quartiles"] for row in mine), strict=True)
        axes.hlines(at, low, high, color=colour, lw=1.2)
    axes.set_title(title, fontsize=11)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(_picture.plain))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _picture.tidy(axes)
    axes.tick_params(axis="y", length=0)


def _legend(panels: Sequence[Axes]) -> tuple[list, list]:
    found = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
