"""One suite against one peer, in a process of its own, which `__main__` starts.

Frameworks disturb each other in one process: their threads spin, and Keras has one
backend.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.suites import find


def main(arguments: Sequence[str]) -> None:
    """Measures, and writes what was found as JSON."""
    suite, peer, file, quick = arguments
    found = find(suite).measure(peer, quick == "quick")
    if quick == "quick":  # goals are for full sizes
        for row in found.get("rows", []):
            row["goal"] = None
    device = jax.devices()[0].device_kind
    Path(file).write_text(json.dumps({"found": found, "device": device}))


if __name__ == "__main__":
    main(sys.argv[1:])
