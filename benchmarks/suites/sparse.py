"""A training step with an embedding table: gradients by rows against dense ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _limit, _same
from benchmarks._suite import Suite, say
from benchmarks._summary import Found, Row, compare, table
from benchmarks._timing import Contender, Times, race
from benchmarks.peers.jitted import Jitted
from rmsprop_optax import rmsprop, sparse

WIDTH, OUTPUTS, IDS = 64, 16, 4096
RATE, EPSILON = 1e-2, 1e-7
HEIGHTS, QUICK_HEIGHTS = (100_000, 1_000_000, 4_000_000), (1_000, 10_000, 40_000)
GOAL, HEIGHT_GOAL, TURNS = 0.02, 1.3, 15
CHECK_HEIGHT = 6_000  # 4,096 ids hit many of the rows twice
BOUND = "rows alone"


class Method(NamedTuple):
    """An optimizer, whether its gradients come by rows, and the dtype of the table."""

    name: str
    make: Callable[[], optax.GradientTransformation]
    by_rows: bool
    dtype: Any = jnp.float32

    def start(self, height: int) -> Any:
        """Parameters and state: a table and a small dense layer."""
        rows = jnp.sin(jnp.arange(height, dtype=jnp.float32) + 1)
        columns = jnp.cos(jnp.arange(WIDTH, dtype=jnp.float32))
        kernel = jnp.sin(jnp.arange(WIDTH * OUTPUTS, dtype=jnp.float32))
        params = {
            "table": (0.1 * rows[:, None] * columns).astype(self.dtype),
            "kernel": kernel.reshape(WIDTH, OUTPUTS).astype(self.dtype),
        }
        return params, self.make().init(params)

    def step(self, held: Any, ids: jax.Array) -> Any:
        """A whole training step."""

        def loss(params: Any, ids: jax.Array) -> jax.Array:
            found = params["table"]
            rows = sparse.lookup(found, ids) if self.by_rows else found[ids]
            # A sum over ids, so that epsilon is small against the gradients.
            outputs = jnp.tanh(rows @ params["kernel"]).astype(jnp.float32)
            return jnp.sum(jnp.mean(outputs**2, axis=-1))

        grad_fn = jax.value_and_grad(loss)
        if self.by_rows:
            grad_fn = sparse.value_and_grad(loss, lambda params, ids: {"table": ids})
        return _limit.step(self.make(), held, grad_fn(held[0], ids)[1])

    def contender(self, height: int, name: str = "") -> Contender:
        """On a table of that many rows, all of which are equally likely."""
        run = Jitted(jax.jit(self.start, static_argnums=0)(height), self.step)

        def prepare(seed: int) -> jax.Array:
            places = np.random.default_rng(seed).random(IDS)
            return jax.block_until_ready(jnp.asarray((places * height).astype(np.int32)))

        def values() -> list[np.ndarray]:
            return [np.asarray(run.held[0]["table"], np.float32)]

        return Contender(name or self.name, run, prepare, values)


ROWS = Method("rmsprop", lambda: rmsprop(RATE, epsilon=EPSILON), True)
DENSE = Method("dense, optax.rmsprop", lambda: optax.rmsprop(RATE, eps=EPSILON), False)
DENSE_ADAM = Method("dense, optax.adam", lambda: optax.adam(RATE, eps=EPSILON), False)
ADAM = Method("lazy(optax.adam)", lambda: sparse.lazy(DENSE_ADAM.make()), True)
HALF = Method("rmsprop, bfloat16", ROWS.make, True, jnp.bfloat16)
DENSE_HALF = Method(f"{DENSE.name}, bfloat16", DENSE.make, False, jnp.bfloat16)
# The methods of each race, the tolerance of the check, the goal against the second one.
RACES = (
    ((ROWS, DENSE), 1e-3, GOAL),
    ((ADAM, DENSE_ADAM), 1e-3, GOAL),
    ((HALF, DENSE_HALF, ROWS), 0.2, None),  # Optax keeps moments in bfloat16
)


def measure(peer: str, quick: bool) -> Found:
    """By rows against dense; a low table against a high one; a bfloat16 table."""
    del peer
    low, middle, high = QUICK_HEIGHTS if quick else HEIGHTS
    turns, rows = 3 if quick else TURNS, list[Row]()
    for methods, tolerance, goal in RACES:
        # The same ids at each step: the moments of other rows decay in dense steps.
        begin = np.asarray(methods[0].start(CHECK_HEIGHT)[0]["table"], np.float32)
        racing = [method.contender(CHECK_HEIGHT) for method in methods[:2]]
        _same.check(racing, [begin], [0, 0, 0], tolerance)
        say(f"  {methods[0].name}")
        ours, *others = (method.contender(middle) for method in methods)
        times = race([ours, *others, _bound(middle)], turns)
        what, limit = f"{ours.name}, {middle:,} rows", _text(times, ours.name)
        for x in others:
            x_goal = goal if x is others[0] else None
            rows.append(compare(what, times, ours.name, x.name, x_goal, limit))
    say("  heights")
    racing = [ROWS.contender(height, f"{height:,} rows") for height in (high, low)]
    times = race([*racing, _bound(high)], turns)
    tall, short = (x.name for x in racing)
    limit = _text(times, tall)
    rows.append(compare(f"rmsprop, {tall}", times, tall, short, HEIGHT_GOAL, limit))
    return {"rows": rows, "tables": [_memory(middle)]}


def _bound(height: int) -> Contender:
    """The random accesses of a step alone: rows of a table and of a moment, plus 1.

    It waits for memory, row after row, and not for its bandwidth.
    """
    start = ROWS.contender(height)

    def step(held: Any, ids: jax.Array) -> Any:
        return [x.at[ids].add(1.0, mode="promise_in_bounds") for x in held]

    held = [jnp.zeros((height, WIDTH), jnp.float32) for _ in range(2)]
    return Contender(BOUND, Jitted(held, step), start.prepare)


def _text(times: Times, ours: str) -> str:
    least = float(np.median(times[BOUND]))
    over = float(np.median(times[ours])) / least
    a_row = 1e6 * least / (2 * IDS)
    return f"latency of memory: {over:.2g} x the rows alone, at {a_row:.0f} ns a row"


def _memory(height: int) -> Found:
    """From shapes; nothing is allocated."""
    lines, ids = [], jax.ShapeDtypeStruct((IDS,), jnp.int32)
    for method in (ROWS, DENSE, ADAM, DENSE_ADAM, HALF, DENSE_HALF):
        held = jax.eval_shape(lambda method=method: method.start(height))
        beside = _limit.temporary_bytes(_limit.compile_step(method.step, held, ids))
        sizes = beside, _limit.tree_bytes(held[0]["table"])
        lines.append([method.name, *(f"{x / 1e6:.2f}" for x in sizes)])
    title = f"Temporary memory of the compiled step, {height:,} rows:"
    return table(title, ["step", "temporary, MB", "table, MB"], lines)


SUITE = Suite(f"a training step with {IDS:,} ids of a table of {WIDTH} columns", measure)
