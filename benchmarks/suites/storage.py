"""What moments in fewer bytes weigh, and what they cost in time."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from benchmarks._report import Row, markdown
from benchmarks._shapes import RESNET_50, Shapes
from benchmarks._suite import Found, Order, Suite
from benchmarks._timing import Contender, Series, race
from benchmarks.peers import OURSELVES
from benchmarks.suites import _storage_picture
from rmsprop_optax import rmsprop, state_bytes

SHAPES: Mapping[str, Shapes] = {
    "one leaf of 16.8 M": ((4096, 4096),),
    "ResNet-50": RESNET_50,
}
QUICK_SHAPES: Mapping[str, Shapes] = {"one leaf of 0.3 M": ((512, 512),)}
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True},
}
STORAGES = {"one byte": "one_byte", "bfloat16": "bfloat16"}
GOAL = 2.0
REPETITIONS, QUICK_REPETITIONS, STEPS = 15, 3, 3


class Update:
    """Parameters and a state in memory of their own, and the step that moves them on."""

    def __init__(self, tx: optax.GradientTransformation, shapes: Shapes) -> None:
        self._params = [jnp.ones(shape) for shape in shapes]
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


def _settings(quick: bool) -> Found:
    repetitions = QUICK_REPETITIONS if quick else REPETITIONS
    shapes = QUICK_SHAPES if quick else SHAPES
    return {"repetitions": repetitions, "steps": STEPS, "shapes": dict(shapes)}


def _measure(order: Order) -> Found:
    settings = _settings(order.quick)
    shapes, repetitions = settings["shapes"], settings["repetitions"]
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
    return {
        "rows": [row.json(not order.quick) for row in rows],
        "memory_bytes": weights,
        "notes": [_weight_note(name, found) for name, found in weights.items()],
    }


def _check_the_same() -> None:
    """After ten steps with a signal, each storage is near to where float32 is."""
    rng, ends = np.random.default_rng(0), {}
    signal = rng.normal(size=(64, 256)).astype(np.float32)
    draws = [signal + rng.normal(size=(64, 256)).astype(np.float32) for _ in range(10)]
    for name, storage in {"float32": None, **STORAGES}.items():
        tx = rmsprop(momentum=0.9, moment_storage=storage)
        run = Update(tx, ((64, 256),))
        for g in draws:
            run([jnp.asarray(g)])
        ends[name] = run.moved()
    for name in STORAGES:
        off = np.linalg.norm(ends[name] - ends["float32"])
        if not 0 < off < 0.05 * np.linalg.norm(ends["float32"]):
            raise AssertionError(f"{name} is not near to float32: {off}.")


def _race(
    name: str,
    layers: Shapes,
    configuration: str,
    repetitions: int,
    tick: Callable[[], Any],
) -> list[Row]:
    given = CONFIGURATIONS[configuration]
    contenders = [
        Contender(kind, _ready, Update(rmsprop(**given, moment_storage=s), layers), STEPS)
        for kind, s in {"float32": None, **STORAGES}.items()
    ]
    normal = [np.random.default_rng(0).normal(size=shape) for shape in layers]
    grads = [jnp.asarray(g, jnp.float32) for g in normal]
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
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in RESNET_50]
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


SUITE = Suite(
    name="storage",
    peers=(OURSELVES,),
    settings=_settings,
    measure=_measure,
    markdown=markdown,
    draw=_storage_picture.draw,
)
