"""Gradient accumulation against `optax.MultiSteps`."""

from functools import partial
from typing import Any

import optax

from benchmarks import _limit, _same
from benchmarks._problem import MOMENTUM, PLAIN, SMALL, Problem, Shapes
from benchmarks._suite import Suite, say
from benchmarks._summary import OURS, Found, Row, compare
from benchmarks._timing import Contender
from benchmarks.peers.jitted import jitted, transformation
from benchmarks.peers.optax import make
from rmsprop_optax import accumulate_gradients

EVERY, ADD_BYTES = 4, 12.0  # adding reads the gradient and the sum, and writes the sum
ADD, UPDATE, PEER = "a call that adds", "an update", "optax.MultiSteps"
SHAPES: dict[str, Shapes] = {
    "1 leaf of 16.8 M": ((4096, 4096),),
    "1,000 x 1,000": ((1000,),) * 1000,
}
QUICK_SHAPES: dict[str, Shapes] = {"3 small leaves": SMALL}
GOALS, TURNS = {"1 leaf of 16.8 M": 0.4, "1,000 x 1,000": 0.5}, 15  # of a call that adds
ALONE = "one addition a leaf"


def measure(peer: str, quick: bool) -> Found:
    """Both wrappers around the same `optax.rmsprop`."""
    del peer
    rows = list[Row]()
    for c in (PLAIN, MOMENTUM):
        small = Problem.normal(SMALL)
        _same.check(_pair(c, small), small.params, range(3 * EVERY))
        for name, shapes in (QUICK_SHAPES if quick else SHAPES).items():
            say(f"  {c.name}, {name}")
            problem = Problem.normal(shapes)
            racing = [call for x in _pair(c, problem) for call in _calls(x)]
            racing.append(_alone(c, problem))
            bytes_ = (ADD_BYTES, ADD_BYTES)
            times, limit = _limit.race(racing, problem, bytes_, 3 if quick else TURNS)
            for call in (ADD, UPDATE):
                goal = GOALS.get(name) if call == ADD else None
                what = f"{call}, {c.name}, {name}"
                both = {who: times[f"{who}: {call}"] for who in (OURS, PEER)}
                note = limit if call == ADD else "as in a dense step"
                rows.append(compare(what, both, OURS, PEER, goal, note))
                if call == ADD:
                    both[ALONE] = times[ALONE]
                    rows.append(compare(what, both, OURS, ALONE, None, note))
    note = f"{ALONE.capitalize()}: parameters and state pass through a step that only "
    note += "adds the gradients. No call can take less."
    return {"rows": rows, "notes": [f"One update every {EVERY} calls.", note]}


def _pair(c: Any, problem: Problem) -> list[Contender]:
    theirs = optax.MultiSteps(make(c), EVERY).gradient_transformation()
    return [
        transformation(OURS, accumulate_gradients(make(c), EVERY), problem),
        transformation(PEER, theirs, problem),
    ]


def _alone(c: Any, problem: Problem) -> Contender:
    """What a call takes that has the same arrays and adds the gradients, no more."""
    params = problem.device_params()
    held = params, make(c).init(params), problem.device_params()

    def step(held: Any, grads: Any) -> Any:
        return *held[:2], [a + g for a, g in zip(held[2], grads, strict=True)]

    return jitted(ALONE, held, step, problem)


def _calls(x: Contender) -> list[Contender]:
    """The calls that add, and the one that updates, of one accumulating step."""
    done = 0

    def run(grads: Any) -> None:
        nonlocal done
        x.run(grads)
        done += 1

    def prepare(place: int, seed: int) -> Any:
        while done % EVERY != place:
            run(x.prepare(seed))
        return x.prepare(seed)

    last = EVERY - 1
    return [
        Contender(f"{x.name}: {ADD}", run, partial(prepare, 0), steps=last),
        Contender(f"{x.name}: {UPDATE}", run, partial(prepare, last), steps=1),
    ]


SUITE = Suite("calls that add gradients, and updates", measure)
