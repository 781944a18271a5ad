"""Changes each file of a checkpoint: `python -m tests.checkpoints._damage FOLDER`.

A process of its own: Orbax leaves coroutines and threads behind when it reads a damaged
file, and they would warn in whichever test runs by then.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rmsprop_optax.checkpoints import CheckpointError, Checkpoints


def _is_refused(folder: Path, state: dict[str, Any], notes: dict[str, Any]) -> bool:
    """Whether the newest checkpoint is an error; otherwise it must be the one saved."""
    try:
        with Checkpoints(folder) as checkpoints:
            restored, read = checkpoints.restore(state)
    except CheckpointError:
        return True
    assert read == notes
    assert restored.keys() == state.keys()
    for name, leaf in state.items():
        np.testing.assert_array_equal(restored[name], leaf)
    return False


def _flip_and_cut(folder: Path) -> None:
    """One bit of each file, or one byte less."""
    rng = np.random.default_rng(0)
    state = {"w": jnp.asarray(rng.normal(size=500), jnp.float32), "n": jnp.ones(3)}
    notes = {"loss": 0.5}
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, notes)
    refused = 0
    for file in sorted(p for p in (folder / "1").rglob("*") if p.is_file()):
        before = file.read_bytes()
        at = int(rng.integers(len(before))) if before else 0
        flipped = bytes(b ^ (1 << 3) if i == at else b for i, b in enumerate(before))
        for damaged in (flipped, before[:-1]):
            file.write_bytes(damaged)
            refused += _is_refused(folder, state, notes)
        file.write_bytes(before)
    assert refused >= 4, refused
    for file in (p for p in (folder / "1" / "arrays").rglob("*") if p.is_file()):
        content = file.read_bytes()
        if len(content) > 1000:  # the values
            file.write_bytes(content[:500] + bytes(40) + content[540:])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, state)  # does not bless the older one
    shutil.rmtree(folder / "2")
    assert _is_refused(folder, state, notes)


if __name__ == "__main__":
    _flip_and_cut(Path(sys.argv[1]))
