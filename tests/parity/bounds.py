"""Writes into a guide how close each dialect is: `python -m tests.parity.bounds`.

For every dialect and framework, 40 draws of arguments, gradients over twelve orders of
magnitude, 200 steps, in float64 and in float32.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import importlib.metadata
import re
import sys
from pathlib import Path

import numpy as np

from tests.parity._table import TABLE
from tests.parity.test_dialects import compare

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "which-rmsprop.md"
PACKAGES = {
    "keras": "keras",
    "tf_keras": "tf_keras",
    "tf.compat.v1": "tensorflow",
    "tf.raw_ops": "tensorflow",
    "torch": "torch",
    "timm": "timm",
    "optax": "optax",
}
HEADER = """\
| dialect | against | float64 | float32 | last places a step |
|---|---|---|---|---|"""


def _row(dialect: str, peer: str, draws: int) -> str:
    worst = {np.float64: 0.0, np.float32: 0.0}
    per_step = 0.0
    for seed in range(draws):
        for dtype in worst:
            off, _ = compare(TABLE[dialect], peer, seed, dtype)
            worst[dtype] = max(worst[dtype], off.max())
            if dtype is np.float32:
                ulps = off / np.finfo(dtype).eps / np.arange(1, len(off) + 1)
                per_step = max(per_step, ulps.max())
        sys.stderr.write(f"\r{dialect} against {peer}: {seed + 1} of {draws} ")
    sys.stderr.write("\n")
    version = importlib.metadata.version(PACKAGES[peer])
    name = f"{peer} {version.split('+')[0]}"
    return (
        f"| `{dialect}` | {name} | {worst[np.float64]:.1e} | {worst[np.float32]:.1e} "
        f"| {per_step:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=40)
    draws = parser.parse_args().draws
    rows = [
        _row(dialect, peer, draws)
        for dialect, row in TABLE.items()
        for peer in row.peers
        if peer in PACKAGES
    ]
    table = "\n".join([HEADER, *rows])
    begin, end = "<!-- bounds: begin -->", "<!-- bounds: end -->"
    text = PAGE.read_text()
    text = re.sub(
        f"{begin}.*{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL
    )
    PAGE.write_text(text)
    sys.stdout.write(table + "\n")


if __name__ == "__main__":
    main()
