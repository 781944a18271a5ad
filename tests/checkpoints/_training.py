"""`python -m tests.checkpoints._training FOLDER STEPS`: trains, and saves at every step.

Goes on from the newest checkpoint; what is in the last one comes into ``last.npz``.
Batches are functions of the step alone, so a run that was interrupted can be the same as
one that was not, to the bit.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax import describe, parallel, rmsprop
from rmsprop_optax.checkpoints import Checkpoints

WIDTH = 256


def _loss_fn(params: Any, batch: Any, key: Any) -> Any:
    noise = 0.1 * jax.random.normal(key, batch.shape)
    return jnp.mean((jnp.tanh((batch + noise) @ params["w"]) - params["b"]) ** 2)


def _batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(8, WIDTH)).astype(np.float32)


def main(folder: Path, steps: int) -> None:
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    tx = rmsprop(
        1e-2,
        momentum=0.9,
        centered=True,
        use_ema=True,
        skip_nonfinite=True,
        gradient_accumulation_steps=2,
    )
    step = parallel.sharded_data_parallel(_loss_fn, tx, mesh)
    params = {"w": jnp.eye(WIDTH), "b": jnp.zeros(WIDTH)}
    whole = jax.NamedSharding(mesh, jax.P())
    shardings = parallel.state_sharding(tx, params, mesh)
    state = {
        "params": jax.device_put(params, whole),
        "opt_state": jax.jit(tx.init, out_shardings=shardings)(params),
    }
    done = 0
    with Checkpoints(folder, describe(tx)) as checkpoints:
        if (latest := checkpoints.latest_step()) is not None:
            state, notes = checkpoints.restore(state)
            done = notes["done"]
            assert done == latest
        for i in range(done, steps):
            params, opt_state, _ = step(
                state["params"], state["opt_state"], _batch(i), jax.random.key(i)
            )
            state = {"params": params, "opt_state": opt_state}
            checkpoints.save(i + 1, state, {"done": i + 1})
        state, _ = checkpoints.restore(state)
    np.savez(folder / "last.npz", *map(np.asarray, jax.tree.leaves(state)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
