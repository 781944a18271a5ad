"""What a compiled step on many devices communicates: counted on CPU devices, no time."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import _collectives
from benchmarks._limit import tree_bytes
from benchmarks._picture import BLACK, PINK, figure, tidy
from benchmarks._suite import Suite
from benchmarks._summary import Found, table
from rmsprop_optax import cautious, parallel, rmsprop

WIDTH, LAYERS, DEVICES = 512, 4, (2, 4, 8)
SHARDED = "sharded_data_parallel"
KINDS = {
    "data_parallel": parallel.data_parallel,
    SHARDED: parallel.sharded_data_parallel,
}
# What a step of eight devices sends for each of these, beside the two pictures.
TRANSFORMATIONS = {
    "plain": rmsprop(1e-3),
    "momentum": rmsprop(1e-3, momentum=0.9),
    "centered, momentum": rmsprop(1e-3, centered=True, momentum=0.9),
    "clipped global norm": rmsprop(1e-3, global_clipnorm=1.0),
    "weight decay, EMA": rmsprop(1e-3, weight_decay=1e-2, use_ema=True),
    "skipped if not finite": rmsprop(1e-3, skip_nonfinite=True),
    "cautious, 8 bits": cautious(rmsprop(1e-3, momentum=0.9, moment_storage="int8")),
}
LABELS = {"sent": "sent by a device (MB)", "state": "state on a device (MB)"}


def measure(peer: str, quick: bool) -> Found:
    """Collectives of each kind of step, and the state on each device."""
    del peer, quick
    lines, curves = [], {f"{kind}, {what}": [] for kind in KINDS for what in LABELS}
    for kind in KINDS:
        for devices in DEVICES:
            words, *sizes = _count(kind, devices, TRANSFORMATIONS["momentum"])
            lines.append([kind, str(devices), words, *(f"{x:.3g}" for x in sizes)])
            for what, x in zip(LABELS, sizes, strict=True):
                curves[f"{kind}, {what}"].append(x)
    whole = tree_bytes(_params()) / 1e6
    title = f"A step on {whole:.3g} MB of parameters in float32, with momentum:"
    header = ["step", "devices", "collectives", *LABELS.values()]
    ring = 2 * (DEVICES[-1] - 1) / DEVICES[-1] * whole
    several = [
        [name, *_cells(*_count(SHARDED, DEVICES[-1], tx), ring)]
        for name, tx in TRANSFORMATIONS.items()
    ]
    eight = f"`{SHARDED}` on {DEVICES[-1]} devices, and its share of the {ring:.3g} MB "
    eight += "that ZeRO-1 sends, 2 (n - 1)/n of the parameters:"
    tables = [
        table(title, header, lines),
        table(eight, ["rmsprop", "collectives", "sent (MB)", "share"], several),
    ]
    return {"tables": tables, "notes": [_collectives.NOTE], "curves": curves}


def _cells(words: str, sent: float, state: float, ring: float) -> list[str]:
    del state
    return [words, f"{sent:.3g}", f"{sent / ring:.3f}"]


def _params() -> dict[str, jax.Array]:
    return {f"w{i}": jnp.eye(WIDTH) for i in range(LAYERS)} | {"b": jnp.zeros(WIDTH)}


def _loss_fn(params: Any, batch: jax.Array) -> jax.Array:
    for i in range(LAYERS):
        batch = jnp.tanh(batch @ params[f"w{i}"] + params["b"])
    return jnp.mean(batch**2)


def _count(
    kind: str, devices: int, tx: optax.GradientTransformation
) -> tuple[str, float, float]:
    """The collectives in words; megabytes that a device sends, and of state on it."""
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    params, batch = _params(), jnp.ones((8, WIDTH))
    step = KINDS[kind](_loss_fn, tx, mesh, axis_name="data")
    text = step.lower(params, tx.init(params), batch).compile().as_text()
    _, state, _ = step(params, tx.init(params), batch)
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(state)]
    sent = _collectives.sent(text, devices)
    return str(sent), sent.bytes / 1e6, tree_bytes(shards) / 1e6


def draw(found: Found, path: Path) -> None:
    """Bytes sent and bytes of state, over the number of devices."""
    with figure(path, 9, 3.6) as drawn:
        for axes, (what, label) in zip(drawn.subplots(1, 2), LABELS.items(), strict=True):
            for k, kind in enumerate(KINDS):
                values, style = found["curves"][f"{kind}, {what}"], ("o-", "s--")[k]
                axes.plot(DEVICES, values, style, color=(BLACK, PINK)[k], label=kind)
            axes.set(xlabel="devices", ylabel=label, ylim=(0, None), xticks=DEVICES)
            axes.legend(frameon=False)
            tidy(axes)


SUITE = Suite(
    "bytes that a training step on many devices communicates",
    measure,
    environment={"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
    draw=draw,
)
