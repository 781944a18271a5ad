"""What was measured, as JSON and as a table."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._timing import Ratio, Series

PACKAGES = (
    "rmsprop_optax",
    "jax",
    "jaxlib",
    "optax",
    "numpy",
    "scikit-learn",
    "tensorflow",
)
HEADER = """\
| what | here, ms | against | ms | ratio | quartiles | goal | met |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Row:
    """One comparison, and what it should come to.

    Attributes:
      what: What both have done.
      here: This library's times.
      against: The times beside them.
      as_fast: Whether the ratio says how many times as fast it is here, which should be
        at least the goal; else how many times as long it takes here, at most the goal.
      goal: None: for information only.
    """

    what: str
    here: Series
    against: Series
    as_fast: bool
    goal: float | None = None

    @property
    def ratio(self) -> Ratio:
        """Pair by pair."""
        if self.as_fast:
            return Ratio.of(self.against, self.here)
        return Ratio.of(self.here, self.against)

    @property
    def is_met(self) -> bool | None:
        """Whether the median is within the goal."""
        if self.goal is None:
            return None
        median = self.ratio.median
        return median >= self.goal if self.as_fast else median <= self.goal


@dataclass(frozen=True)
class Report:
    """All of a run.

    Attributes:
      rows: The comparisons.
      notes: Sentences below the table.
      settings: Sizes and counts.
      memory: Bytes, as the compiler counts them.
      judged: Whether the goals are for a run of this size.
    """

    rows: Sequence[Row]
    notes: Sequence[str]
    settings: Mapping[str, Any]
    memory: Mapping[str, Any]
    judged: bool

    def markdown(self) -> str:
        """A table, and the notes."""
        lines = [_markdown_row(row, self.judged) for row in self.rows]
        notes = [f"* {note}" for note in (*self.notes, _machine_note())]
        return "\n".join([HEADER, *lines, "", *notes]) + "\n"

    def write(self, folder: Path, name: str) -> None:
        """``name.json`` and ``name.md`` into the folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            "machine": machine(),
            "versions": versions(),
            "settings": dict(self.settings),
            "rows": [_json_row(row, self.judged) for row in self.rows],
            "memory_bytes": dict(self.memory),
            "notes": list(self.notes),
        }
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (folder / f"{name}.md").write_text(self.markdown())


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def versions() -> dict[str, str | None]:
    """Of whatever has a part in the times; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _machine_note() -> str:
    about = machine()
    with_versions = ", ".join(f"{n} {v}" for n, v in versions().items() if v)
    return f"{about['cpus']} CPUs ({about['cpu']}), {about['system']}; {with_versions}."


def _markdown_row(row: Row, judged: bool) -> str:
    low, high = row.ratio.quartiles
    sign, kind = ("≥", "as fast") if row.as_fast else ("≤", "as long")
    goal = "" if row.goal is None else f"{sign} {row.goal:g} x"
    met = {None: "", True: "yes", False: "**no**"}[row.is_met if judged else None]
    return (
        f"| {row.what} | {_number(row.here.median)} | {row.against.name} "
        f"| {_number(row.against.median)} | {_number(row.ratio.median)} x {kind} "
        f"| {_number(low)} to {_number(high)} | {goal} | {met} |"
    )


def _json_row(row: Row, judged: bool) -> dict[str, Any]:
    return {
        "what": row.what,
        "milliseconds": {
            row.here.name: row.here.milliseconds,
            row.against.name: row.against.milliseconds,
        },
        "ratio": "against / here" if row.as_fast else "here / against",
        "ratios": row.ratio.pairs,
        "median": row.ratio.median,
        "quartiles": row.ratio.quartiles,
        "goal": row.goal,
        "met": row.is_met if judged else None,
    }


def _number(value: float) -> str:
    """Three digits, which is more than a timing has."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
