"""What moments in fewer bytes weigh, and what they cost in time.

`python -m benchmarks.storage [--quick] [--out DIR]` writes ``storage.json`` and
``storage.md``. Needs `pip install '.[benchmarks]'`.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from benchmarks._report import Report, Row
from benchmarks._timing import Contender, Series, race
from rmsprop_optax import rmsprop, state_bytes

Layers = Mapping[str, tuple[int, ...]]

RESULTS = Path(__file__).parent / "results"
# The layers of ResNet-50: 25.6 M parameters. Height, width, channels in, channels out.
RESNET_50 = {
    "stem": (7, 7, 3, 64),
    **{f"a{i}": (1, 1, 64 if i == 0 else 256, 64) for i in range(3)},
    **{f"b{i}": (3, 3, 64, 64) for i in range(3)},
    **{f"c{i}": (1, 1, 64, 256) for i in range(4)},
    **{f"d{i}": (1, 1, 256 if i == 0 else 512, 128) for i in range(4)},
    **{f"e{i}": (3, 3, 128, 128) for i in range(4)},
    **{f"f{i}": (1, 1, 128, 512) for i in range(4)},
    "g": (1, 1, 256, 512),
    **{f"h{i}": (1, 1, 512 if i == 0 else 1024, 256) for i in range(6)},
    **{f"i{i}": (3, 3, 256, 256) for i in range(6)},
    **{f"j{i}": (1, 1, 256, 1024) for i in range(6)},
    "k": (1, 1, 512, 1024),
    **{f"l{i}": (1, 1, 1024 if i == 0 else 2048, 512) for i in range(3)},
    **{f"m{i}": (3, 3, 512, 512) for i in range(3)},
    **{f"n{i}": (1, 1, 512, 2048) for i in range(3)},
    "o": (1, 1, 1024, 2048),
    "norms": (26_560, 2),
    "head": (2048, 1000),
    "bias": (1000,),
}
SHAPES: Mapping[str, Layers] = {
    "one leaf of 16.8 M": {"w": (4096, 4096)},
    "ResNet-50": RESNET_50,
}
QUICK_SHAPES = {"one leaf of 0.3 M": {"w": (512, 512)}}
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True},
}
STORAGES = {"one byte": "one_byte", "bfloat16": "bfloat16"}
GOAL = 2.0
REPETITIONS, STEPS = 15, 3


class Update:
    """Parameters and a state in memory of their own, and the step that moves them on."""

    def __init__(
        self, tx: optax.GradientTransformation, shapes: Mapping[str, Any]
    ) -> None:
        self._params = {name: jnp.ones(shape) for name, shape in shapes.items()}
        self._state = tx.init(self._params)

        def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self._step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self, grads: Any) -> None:
        """One step, to its end."""
        made = self._step(self._params, self._state, grads)
        self._params, self._state = jax.block_until_ready(made)

    def moved(self) -> np.ndarray:
        """How far each parameter has come."""
        leaves = jax.tree.leaves(self._params)
        return np.concatenate([np.asarray(leaf).ravel() - 1 for leaf in leaves])


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks, measures, writes; the exit code is 0 also where a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small leaf, few turns")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    shapes = QUICK_SHAPES if options.quick else SHAPES
    repetitions = 3 if options.quick else REPETITIONS
    _check_the_same()
    weights = _weights()
    turns = len(shapes) * len(CONFIGURATIONS) * (len(STORAGES) + 1) * repetitions
    with tqdm(total=turns, unit="turn", file=sys.stderr) as bar:
        rows = [
            row
            for name, layers in shapes.items()
            for configuration in CONFIGURATIONS
            for row in _race(name, layers, configuration, repetitions, bar.update)
        ]
    settings = {"repetitions": repetitions, "steps": STEPS, "shapes": dict(shapes)}
    notes = [_weight_note(name, found) for name, found in weights.items()]
    report = Report(rows, notes, settings, weights, judged=not options.quick)
    report.write(options.out, "storage")
    sys.stdout.write(report.markdown())
    return 0


def _check_the_same() -> None:
    """After ten steps with a signal, each storage is near to where float32 is."""
    rng, ends = np.random.default_rng(0), {}
    signal = rng.normal(size=(64, 256)).astype(np.float32)
    draws = [signal + rng.normal(size=(64, 256)).astype(np.float32) for _ in range(10)]
    for name, storage in {"float32": None, **STORAGES}.items():
        tx = rmsprop(momentum=0.9, moment_storage=storage)
        run = Update(tx, {"w": (64, 256)})
        for g in draws:
            run({"w": jnp.asarray(g)})
        ends[name] = run.moved()
    for name in STORAGES:
        off = np.linalg.norm(ends[name] - ends["float32"])
        if not 0 < off < 0.05 * np.linalg.norm(ends["float32"]):
            raise AssertionError(f"{name} is not near to float32: {off}.")


def _race(
    name: str,
    layers: Layers,
    configuration: str,
    repetitions: int,
    tick: Callable[[], Any],
) -> list[Row]:
    given = CONFIGURATIONS[configuration]
    contenders = [
        Contender(kind, _ready, Update(rmsprop(**given, moment_storage=s), layers), STEPS)
        for kind, s in {"float32": None, **STORAGES}.items()
    ]
    grads = {n: np.random.default_rng(0).normal(size=s) for n, s in layers.items()}
    grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads)
    wide, *narrow = race(contenders, lambda rng: grads, repetitions, tick)
    return [
        _row(f"{configuration}, {name}, {times.name}", times, wide) for times in narrow
    ]


def _row(what: str, here: Series, wide: Series) -> Row:
    goal = GOAL if "one byte" in what and "plain" in what else None
    return Row(what, here, wide, as_fast=False, goal=goal)


def _ready(grads: Any) -> Any:
    return jax.block_until_ready(grads)


def _weights() -> dict[str, dict[str, float]]:
    """Bytes of state for each parameter of ResNet-50, by storage and configuration."""
    params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in RESNET_50.items()}
    return {
        configuration: {
            name: state_bytes(
                rmsprop(**arguments, moment_storage=storage), params
            ).per_parameter
            for name, storage in {"float32": None, **STORAGES}.items()
        }
        for configuration, arguments in CONFIGURATIONS.items()
    }


def _weight_note(configuration: str, found: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name} {share:.3f}" for name, share in found.items())
    return f"Bytes of state for each parameter of ResNet-50, {configuration}: {listed}."


if __name__ == "__main__":
    raise SystemExit(main())
