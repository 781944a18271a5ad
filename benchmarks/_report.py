"""What was measured, as JSON, and as a table made of that JSON."""

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._suite import Found
from benchmarks._timing import Ratio, Series

PACKAGES = (
    "rmsprop_optax",
    "jax",
    "jaxlib",
    "optax",
    "numpy",
    "scikit-learn",
    "keras",
    "tensorflow",
    "torch",
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

    def json(self, judged: bool, **labels: str) -> Found:
        """For the results.

        Args:
          judged: Whether the goal is for a run of this size.
          **labels: What `what` says, each by itself.
        """
        return {
            "what": self.what,
            **labels,
            "milliseconds": {
                self.here.name: self.here.milliseconds,
                self.against.name: self.against.milliseconds,
            },
            "ratio": AS_FAST if self.as_fast else AS_LONG,
            "ratios": self.ratio.pairs,
            "median": self.ratio.median,
            "quartiles": self.ratio.quartiles,
            "goal": self.goal,
            "met": self.is_met if judged else None,
        }


AS_FAST, AS_LONG = "against / here", "here / against"


def markdown(found: Found) -> str:
    """A table, and the notes."""
    return f"{table(found['rows'])}\n\n{notes(found)}"


def table(rows: Sequence[Found]) -> str:
    """A line for each row."""
    return "\n".join([HEADER, *map(_line, rows)])


def notes(found: Found) -> str:
    """A list: what a suite says of itself, then the machine."""
    lines = [*found.get("notes", []), machine_note(found)]
    return "".join(f"* {line}\n" for line in lines)


def machine_note(found: Found) -> str:
    """What it ran on, and with what."""
    about, packages = found["machine"], found["versions"]
    listed = ", ".join(
        f"{name} {version}" for name, version in packages.items() if version
    )
    device = about.get("device", "cpu")
    on = "" if device == "cpu" else f"{device}, "
    return f"{on}{about['cpus']} CPUs ({about['cpu']}), {about['system']}; {listed}."


def machine() -> dict[str, Any]:
    """What it runs on."""
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


def number(value: float) -> str:
    """Three digits, which is more than a timing has."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def against(row: Found) -> str:
    """The name of what is compared with."""
    return list(row["milliseconds"])[-1]


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _line(row: Found) -> str:
    (_, ours), (name, theirs) = row["milliseconds"].items()
    low, high = map(number, row["quartiles"])
    fast = row["ratio"] == AS_FAST
    sign, kind = ("≥", "as fast") if fast else ("≤", "as long")
    goal = "" if row["goal"] is None else f"{sign} {row['goal']:g} x"
    met = {None: "", True: "yes", False: "**no**"}[row["met"]]
    cells = (
        row["what"],
        number(statistics.median(ours)),
        name,
        number(statistics.median(theirs)),
        f"{number(row['median'])} x {kind}",
        f"{low} to {high}",
        goal,
        met,
    )
    return f"| {' | '.join(cells)} |"
