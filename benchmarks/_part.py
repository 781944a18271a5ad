"""One suite against one peer, in a process of its own: what the runner starts.

Frameworks disturb each other in one process: their pools of threads spin, Keras has one
backend. What is compared, this library and one peer, takes turns within one process.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks._suite import Order
from benchmarks.suites import find


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and writes what it found as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suite")
    parser.add_argument("peer")
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    options = parser.parse_args(arguments)
    order = Order(
        options.peer, options.quick, options.device, options.part, options.parts
    )
    found = find(options.suite).measure(order)
    found["machine"] = {"device": jax.devices()[0].device_kind}
    options.file.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
