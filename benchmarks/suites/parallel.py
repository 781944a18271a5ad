"""What training on many devices communicates and keeps: counted, not timed.

The steps of `rmsprop_optax.parallel` are compiled for 1 to 8 CPU devices, and the
collectives read off the programs. CPU devices share one memory, so that times here would
say nothing of a cluster; counts and bytes do not depend on the machine, and what they
come to on 8 to 4,096 devices is arithmetic.
"""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._suite import Found, Order, Suite
from benchmarks.peers import OURSELVES
from benchmarks.suites import _collectives, _parallel_picture
from rmsprop_optax import parallel, rmsprop

WIDTH, LAYERS, MICRO_STEPS = 512, 4, 4
COUNTED, MODELLED = (1, 2, 4, 8), (8, 64, 512, 4096)
# A model that is worth a cluster: the table scales with it, line by line.
BILLION = 1_000_000_000

KINDS = {
    "replicated": (parallel.data_parallel, 1),
    f"replicated, {MICRO_STEPS} micro-steps": (parallel.data_parallel, MICRO_STEPS),
    "sharded (ZeRO-1)": (parallel.sharded_data_parallel, 1),
    f"sharded (ZeRO-1), {MICRO_STEPS} micro-steps": (
        parallel.sharded_data_parallel,
        MICRO_STEPS,
    ),
}


def _settings(quick: bool) -> Found:
    del quick  # there is nothing that would take less time
    return {"width": WIDTH, "layers": LAYERS, "micro_steps": MICRO_STEPS}


def _measure(order: Order) -> Found:
    del order
    counted = [_count(kind, n) for kind in KINDS for n in COUNTED]
    _check(counted)
    return {
        "parameter_bytes": _parameter_bytes(),
        "counted": counted,
        "modelled": [_model(kind, n, counted) for kind in KINDS for n in MODELLED],
    }


def _params() -> dict[str, jax.Array]:
    return {f"w{i}": jnp.eye(WIDTH) for i in range(LAYERS)} | {"b": jnp.zeros(WIDTH)}


def _parameter_bytes() -> int:
    return parallel.bytes_per_device(jax.eval_shape(_params))


def _loss_fn(params: Any, batch: jax.Array) -> jax.Array:
    for i in range(LAYERS):
        batch = jnp.tanh(batch @ params[f"w{i}"] + params["b"])
    return jnp.mean(batch**2)


def _count(kind: str, devices: int) -> dict[str, Any]:
    """One step, compiled: its collectives, and the state that a device holds."""
    make, micro_steps = KINDS[kind]
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    tx = rmsprop(1e-3, momentum=0.9)
    step = make(_loss_fn, tx, mesh, micro_steps=micro_steps)
    params, batch = _params(), jnp.ones((8 * micro_steps, WIDTH))
    args = step.arrange(params, tx.init(params), batch, None)
    program = step.compiled.lower(*args).compile()
    found = _collectives.read(program.as_text(), devices)
    return {
        "kind": kind,
        "devices": devices,
        "counts": found.counts,
        "bytes": found.size,
        "sent": _collectives.sent(found.size, devices),
        "state_bytes": parallel.bytes_per_device(args[1]),
    }


def _check(counted: list[dict[str, Any]]) -> None:
    """That the counts are what the model below is about.

    Raises:
      AssertionError: Where a step moves something else than gradients (or parameters)
        once, or something that grows with the number of devices.
    """
    whole = _parameter_bytes()
    for row in counted:
        if row["devices"] == 1:
            continue
        moved = row["bytes"]
        large = {kind: size for kind, size in moved.items() if size >= whole}
        sharded = "sharded" in row["kind"]
        expected = {"reduce-scatter", "all-gather"} if sharded else {"all-reduce"}
        if set(large) != expected or any(s > 1.001 * whole for s in large.values()):
            raise AssertionError(f"Not what was expected of {row['kind']}: {row}")


def _model(kind: str, devices: int, counted: list[dict[str, Any]]) -> dict[str, Any]:
    """The same step of a model of a billion parameters on more devices."""
    (measured,) = [r for r in counted if r["kind"] == kind and r["devices"] == 8]
    scale = 4 * BILLION / _parameter_bytes()
    size = {name: scale * held for name, held in measured["bytes"].items()}
    (whole,) = [r for r in counted if r["kind"] == kind and r["devices"] == 1]
    state = scale * whole["state_bytes"]
    sharded, micro_steps = "sharded" in kind, KINDS[kind][1]
    return {
        "kind": kind,
        "devices": devices,
        "sent_a_step": _collectives.sent(size, devices),
        "sent_a_batch_part": _collectives.sent(size, devices) / micro_steps,
        "state_bytes": state / devices if sharded else state,
        "update_share": 1 / devices if sharded else 1.0,
    }


def _markdown(found: Found) -> str:
    lines = [
        "| step | devices | collectives | their bytes | sent by a device "
        "| state on a device |",
        "|---|---|---|---|---|---|",
        *map(_counted_line, found["counted"]),
        "",
        "| step, 10⁹ parameters | devices | sent by a device, a step "
        "| for each part of the batch | state on a device |",
        "|---|---|---|---|---|",
        *map(_modelled_line, found["modelled"]),
        "",
        f"* Counted: {LAYERS} layers of {WIDTH}, {_mega(found['parameter_bytes'])} "
        "of parameters in float32, momentum 0.9; read off the program that XLA compiled. "
        "No collective is inside of a loop.",
        "* Modelled: these counts, with ring algorithms: of n devices each sends "
        "2 (n - 1)/n of what is all-reduced, (n - 1)/n of what is reduce-scattered or "
        "gathered.",
        f"* {_versions(found)}",
    ]
    return "\n".join(lines) + "\n"


def _counted_line(row: dict[str, Any]) -> str:
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(row["counts"].items()))
    total = sum(row["bytes"].values())
    return (
        f"| {row['kind']} | {row['devices']} | {counts or 'none'} | {_mega(total)} "
        f"| {_mega(row['sent'])} | {_mega(row['state_bytes'])} |"
    )


def _modelled_line(row: dict[str, Any]) -> str:
    sent, part = row["sent_a_step"], row["sent_a_batch_part"]
    return (
        f"| {row['kind']} | {row['devices']:,} | {_giga(sent)} | {_giga(part)} "
        f"| {_giga(row['state_bytes'])} |"
    )


def _mega(size: float) -> str:
    return f"{size / 1e6:.2f} MB"


def _giga(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _versions(found: Found) -> str:
    names = ("rmsprop_optax", "jax", "jaxlib", "optax")
    return ", ".join(f"{name} {found['versions'][name]}" for name in names) + "."


SUITE = Suite(
    name="parallel",
    peers=(OURSELVES,),
    settings=_settings,
    measure=_measure,
    markdown=_markdown,
    draw=_parallel_picture.draw,
    environment={"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
)
