"""The many rows of the dense suite, in one line for each peer."""

import statistics
from collections.abc import Sequence

from benchmarks._report import against, notes, number
from benchmarks._suite import Found


def summary(found: Found) -> str:
    """For each peer and configuration: the median over the sets of shapes, the worst."""
    rows = found["rows"]
    names = list(dict.fromkeys(row["configuration"] for row in rows))
    peers = list(dict.fromkeys(against(row) for row in rows))
    lines = [
        f"| against | {' | '.join(names)} | goal |",
        f"|{'---|' * (len(names) + 2)}",
        *(_line(peer, names, rows) for peer in peers),
    ]
    table = "\n".join(lines)
    return f"{table}\n\n{notes(found)}"


def _line(peer: str, names: Sequence[str], rows: Sequence[Found]) -> str:
    mine = [row for row in rows if against(row) == peer]
    cells = [_cell([r for r in mine if r["configuration"] == name]) for name in names]
    goals = {row["goal"] for row in mine} - {None}
    goal = ", ".join(f"≤ {goal:g}" for goal in goals)
    return f"| {peer} | {' | '.join(cells)} | {goal} |"


def _cell(rows: Sequence[Found]) -> str:
    if not rows:
        return ""
    ratios = [row["median"] for row in rows]
    middle, worst = number(statistics.median(ratios)), number(max(ratios))
    if any(row["met"] is False for row in rows):
        worst = f"**{worst}**"
    return middle if len(rows) == 1 else f"{middle}, {worst}"
