"""The Markdown file of a summary."""

from collections.abc import Sequence
from typing import Any

from benchmarks._summary import Found, Row, is_missed

HEADER = "step", "ours, ms", "against", "ms", "ratio", "quartiles", "goal"
LEGEND = """\
Medians. The ratio is our time over the other one: the median over rounds, in which both
have a turn. A goal that is missed is **bold**."""
LIMITS = "What limits our step, in the processes of these peers:"


def markdown(about: str, summary: dict[str, Any], found: Found) -> str:
    """The comparisons, the other tables, the notes, the machine and the versions."""
    name, machine = summary["suite"], summary["machine"]
    parts = [f"# {about[0].upper()}{about[1:]}", f"![{about}]({name}.png)"]
    if found["rows"]:
        parts += [_lines(HEADER, [_cells(row) for row in found["rows"]]), LEGEND]
        parts += [LIMITS, _lines(("step", "against", "limit"), _limits(found["rows"]))]
    for table in found["tables"]:
        parts += [table["title"], _lines(table["header"], table["rows"])]
    notes = [
        *found["notes"],
        *["A quick run: a part of the full one."] * summary["quick"],
        f"{machine['device']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['system']}.",
        ", ".join(f"{k} {version}" for k, version in summary["versions"].items()) + ".",
    ]
    return "\n\n".join([*parts, "\n".join(f"* {note}" for note in notes)]) + "\n"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> list[str]:
    low, median, high = row["ratio"]
    goal = "" if row["goal"] is None else f"≤ {row['goal']:g}"
    missed = is_missed(row)
    return [
        row["what"],
        f"{row['ours_ms'][1]:.3g}",
        row["peer"],
        f"{row['peer_ms'][1]:.3g}",
        f"**{median:.3g}**" if missed else f"{median:.3g}",
        f"{low:.3g} to {high:.3g}",
        f"**{goal}, missed**" if missed else goal,
    ]


def _limits(rows: Sequence[Row]) -> list[list[str]]:
    """One line for each step and limit, with the peers of the rows that have it."""
    peers: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["limit"]:
            peers.setdefault((row["what"], row["limit"]), []).append(row["peer"])
    return [[what, "; ".join(x), limit] for (what, limit), x in peers.items()]
