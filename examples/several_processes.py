"""Training in several processes, each with its own part of the data. No launcher.

In this folder, on each machine (or here several times, in as many terminals):

    python several_processes.py --processes 2 --process 0 --coordinator 10.0.0.1:12345
    python several_processes.py --processes 2 --process 1 --coordinator 10.0.0.1:12345

The coordinator is process 0, under an address that the others can reach. Each process
reads its own lines of the data, the optimizer's state is split over all devices of all
processes, and the checkpoints go to a folder that all of them see. If one process dies,
the others end with an error, after about ``--timeout`` seconds at the latest; started
again, all of them go on from the newest checkpoint, also with more or fewer processes.

Needs `pip install 'rmsprop_optax[checkpoints]'`.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax import describe, parallel, rmsprop
from rmsprop_optax.checkpoints import Checkpoints

BATCH, WIDTH = 32, 64


def batch_of(step: int) -> dict[str, np.ndarray]:
    """The whole batch of a step. A function of the step, so a run can be gone on with."""
    rng = np.random.default_rng([7, step])
    x = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(axis=1, keepdims=True))}


def own_part(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What this process would read from its own files."""
    size = BATCH // jax.process_count()
    begin = jax.process_index() * size
    return {name: values[begin : begin + size] for name, values in batch.items()}


def loss_fn(params: Any, batch: Any) -> jax.Array:
    """The mean squared error of a small network."""
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"])
    return jnp.mean((hidden @ params["out"] - batch["y"]) ** 2)


def init_params() -> Any:
    """The same in every process."""
    rng = np.random.default_rng(0)
    return {
        "w": (rng.normal(size=(WIDTH, 128)) / 8).astype(np.float32),
        "b": np.zeros(128, np.float32),
        "out": (rng.normal(size=(128, 1)) / 8).astype(np.float32),
    }


def train(folder: Path, steps: int, save_every: int) -> Any:
    """Trains on all devices of all processes; returns the parameters."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    by_device = jax.NamedSharding(mesh, jax.P("data"))
    tx = rmsprop(1e-2, momentum=0.9, global_clipnorm=1.0)
    step = parallel.sharded_data_parallel(loss_fn, tx, mesh)
    params = jax.device_put(init_params(), jax.NamedSharding(mesh, jax.P()))
    shardings = parallel.state_sharding(tx, params, mesh)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    with Checkpoints(folder, describe(tx)) as checkpoints:
        first = checkpoints.latest_step() or 0
        if first:
            (params, opt_state), _ = checkpoints.restore((params, opt_state))
            say(f"goes on from step {first}")
        for i in range(first, steps):
            batch = jax.tree.map(
                lambda part: jax.make_array_from_process_local_data(by_device, part),
                own_part(batch_of(i)),
            )
            params, opt_state, loss = step(params, opt_state, batch)
            if (i + 1) % save_every == 0 or i + 1 == steps:
                checkpoints.save(i + 1, (params, opt_state))
                say(f"step {i + 1}: loss {float(loss):.4f}")
    return params


def say(line: str) -> None:
    """One line, from one process."""
    if jax.process_index() == 0:
        print(line, flush=True)  # noqa: T201


def leave(error: Exception) -> NoReturn:
    """Ends this process now: an orderly exit would wait for those that are gone."""
    traceback.print_exception(error)
    reason = " ".join(str(error).split())[:200]
    print(  # noqa: T201
        f"error: process {jax.process_index()} of {jax.process_count()} stops "
        f"({reason}). If another one died, start all of them again: they go on from the "
        "newest checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def main() -> None:
    """Joins the other processes, trains, and writes the parameters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--coordinator", default="127.0.0.1:12345")
    parser.add_argument("--folder", type=Path, default=Path("processes_run"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--timeout", type=int, default=30)
    flags = parser.parse_args()
    if flags.processes > 1:
        jax.distributed.initialize(
            flags.coordinator,
            flags.processes,
            flags.process,
            initialization_timeout=flags.timeout,
            heartbeat_timeout_seconds=flags.timeout,
        )
    try:
        params = train(flags.folder, flags.steps, flags.save_every)
    except Exception as error:
        leave(error)
    if jax.process_index() == 0:
        np.savez(flags.folder / "params.npz", **jax.tree.map(np.asarray, params))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
