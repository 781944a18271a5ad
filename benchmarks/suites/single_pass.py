"""A dense step in one fused loop for each parameter, which XLA needs a flag for."""

from functools import partial

from benchmarks import _limit, _same
from benchmarks._problem import CONFIGURATIONS, SMALL, Problem, Shapes
from benchmarks._suite import Suite, say
from benchmarks._summary import OURS, Found, Row, compare
from benchmarks.peers.jitted import ours
from benchmarks.peers.optax import peer as optax_peer
from rmsprop_optax import rmsprop, single_pass

FLAG = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
WITHOUT = "without single_pass"
SHAPES: Shapes = ((8192, 4096),)
QUICK_SHAPES: Shapes = ((256, 128),)
GOAL, WITHOUT_GOAL, BOUND_GOAL, TURNS = 0.72, 1.0, 1.15, 15


def measure(peer: str, quick: bool) -> Found:
    """One large leaf, with the flag for all contenders."""
    del peer
    shapes, rows = QUICK_SHAPES if quick else SHAPES, list[Row]()
    for c in CONFIGURATIONS[:1] if quick else CONFIGURATIONS:
        say(f"  {c.name}")
        small = Problem.normal(SMALL)
        fused = ours(c, small, partial(single_pass, min_size=0))
        _same.check([fused, optax_peer(c, small)], small.params)
        problem = Problem.normal(shapes)
        bytes_ = _limit.bytes_a_parameter(single_pass(rmsprop(**c.arguments)))
        racing = [ours(c, problem, single_pass), ours(c, problem, name=WITHOUT)]
        racing.append(optax_peer(c, problem))
        times, limit = _limit.race(racing, problem, bytes_, 3 if quick else TURNS)
        goals = {racing[2].name: GOAL, WITHOUT: WITHOUT_GOAL, _limit.BOUND: BOUND_GOAL}
        for name, goal in goals.items():
            rows.append(compare(c.name, times, OURS, name, goal, limit))
    return {"rows": rows, "notes": [f"All contenders run with XLA_FLAGS={FLAG}."]}


SUITE = Suite(
    "a dense step in one fused loop a parameter, one leaf of 32 M",
    measure,
    environment={"XLA_FLAGS": FLAG},
)
