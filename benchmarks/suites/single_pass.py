"""A dense step in one fused loop for each parameter, which XLA needs a flag for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import optax

from benchmarks import _limit, _same
from benchmarks._problem import CONFIGURATIONS, SMALL, Configuration, Problem, Shapes
from benchmarks._suite import Suite, say
from benchmarks._summary import OURS, Found, Row, compare
from benchmarks._timing import Contender
from benchmarks.peers import torch
from benchmarks.peers.jitted import ours
from benchmarks.peers.optax import NAME as OPTAX
from benchmarks.peers.optax import PARTS
from benchmarks.peers.optax import peer as optax_peer
from rmsprop_optax import rmsprop, single_pass

FLAG = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
WITHOUT = "without single_pass"
SHAPES: Shapes = ((8192, 4096),)
QUICK_SHAPES: Shapes = ((256, 128),)
GOALS = {
    OPTAX: 0.72,
    PARTS: 0.72,
    WITHOUT: 1.0,
    torch.COMPILED: 1.0,
    _limit.BOUND: 1.15,
}
TURNS = 15
NOTES = {
    "optax": f"All contenders run with XLA_FLAGS={FLAG}.",
    "torch": "PyTorch's optimizer has no decoupled weight decay and no average.",
}


def measure(peer: str, quick: bool) -> Found:
    """One large leaf, with the flag for all contenders."""
    shapes, rows = QUICK_SHAPES if quick else SHAPES, list[Row]()
    for c in CONFIGURATIONS[:1] if quick else CONFIGURATIONS:
        small = Problem.normal(SMALL)
        checked = _contenders(peer, c, small, partial(single_pass, min_size=0))
        if not checked:
            continue
        say(f"  {c.name}")
        _same.check(checked, small.params)
        problem = Problem.normal(shapes)
        bytes_ = _limit.bytes_a_parameter(single_pass(rmsprop(**c.arguments)))
        racing = _contenders(peer, c, problem, single_pass)
        times, limit = _limit.race(racing, problem, bytes_, 3 if quick else TURNS)
        others = [x.name for x in racing[1:]]
        if peer == "optax":
            others.append(_limit.BOUND)
        for name in others:
            rows.append(compare(c.name, times, OURS, name, GOALS[name], limit))
    return {"rows": rows, "notes": [NOTES[peer]]}


def _contenders(
    peer: str,
    c: Configuration,
    problem: Problem,
    wrap: Callable[[Any], optax.GradientTransformation],
) -> list[Contender]:
    if peer == "torch":
        found = torch.contenders(c, problem, wrap)
        return [x for x in found if x.name != torch.EAGER]
    others = [ours(c, problem, name=WITHOUT), optax_peer(c, problem)]
    return [ours(c, problem, wrap), *others]


SUITE = Suite(
    "a dense step in one fused loop a parameter, one leaf of 32 M",
    measure,
    peers=("optax", "torch"),
    environment={"XLA_FLAGS": FLAG},
)
