"""The summary of a suite, which its JSON file keeps: medians and quartiles."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._timing import Times

OURS = "rmsprop_optax"
PACKAGES = (OURS, "jax", "jaxlib", "optax", "numpy", "keras", "torch")
PACKAGES += ("torchao", "bitsandbytes", "scikit-learn")

Row = dict[str, Any]
Found = dict[str, Any]  # "rows", "tables", "notes" and "curves" of one process


def compare(
    what: str,
    times: Times,
    ours: str,
    peer: str,
    goal: float | None = None,
    limit: str = "",
) -> Row:
    """The ratio of our times to the peer's of the same rounds; a goal is the largest."""
    return {
        "what": what,
        "ours": ours,
        "ours_ms": quartiles(times[ours]),
        "peer": peer,
        "peer_ms": quartiles(times[peer]),
        "ratio": quartiles(times[ours] / times[peer]),
        "goal": goal,
        "limit": limit,
    }


def quartiles(values: np.ndarray) -> list[float]:
    """First quartile, median and third quartile, in four digits."""
    return [float(f"{q:.4g}") for q in np.quantile(values, [0.25, 0.5, 0.75])]


def is_missed(row: Row) -> bool:
    """Whether the median is beyond the goal."""
    return row["goal"] is not None and row["ratio"][1] > row["goal"]


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Found:
    """Numbers that are no comparison of times."""
    return {"title": title, "header": [*header], "rows": [[*row] for row in rows]}


def merge(parts: Iterable[Found]) -> Found:
    """One summary from those of several processes; tables of one title are joined."""
    rows, notes, curves, tables = [], [], {}, {}
    for part in parts:
        rows += part.get("rows", [])
        notes += part.get("notes", [])
        curves |= part.get("curves", {})
        for new in part.get("tables", []):
            held = tables.setdefault(new["title"], {**new, "rows": []})
            held["rows"] += new["rows"]
    names = list(dict.fromkeys(row["what"] for row in rows))
    rows.sort(key=lambda row: names.index(row["what"]))
    return {"rows": rows, "tables": [*tables.values()], "notes": notes, "curves": curves}


def machine(device: str) -> dict[str, Any]:
    """The machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "device": device,
        "cpu": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of the packages that take part."""
    installed = {x.name.lower() for x in importlib.metadata.distributions()}
    found = [name for name in PACKAGES if name in installed]
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in found
    }
