"""Trajectories of each dialect beside the real framework's: random arguments."""

from typing import Any

import numpy as np
import pytest

from tests.parity._problem import differences, draw_problem, ours
from tests.parity._table import TABLE, Dialect, decades, draw_rates

# Of a float32's last place, per step: what the table of the guide says is measured.
ULPS_A_STEP = 2.0
FLOAT64 = 1e-12
ROWS = [
    pytest.param(row, peer, id=f"{name}-{peer}")
    for name, row in TABLE.items()
    for peer in row.peers
]


def compare(row: Dialect, peer: str, seed: int, dtype: Any, steps: int = 200) -> Any:
    """The differences after each step, and the arguments they belong to."""
    rng = np.random.default_rng(seed)
    arguments = row.draw(rng)
    rates = draw_rates(rng, arguments, steps)
    problem = draw_problem(seed, dtype, steps, decades(arguments))
    with np.errstate(all="ignore"):
        theirs = row.peers[peer](problem, rates, **arguments)
    if rates is not None:
        arguments.pop(row.rate_name)
    mine = ours(row.ours, problem, rates, row.rate_name, **arguments)
    return differences(mine, theirs), (arguments, rates)


def _draws() -> list[Any]:
    later = [pytest.param(draw, marks=pytest.mark.slow) for draw in range(3, 40)]
    return [*range(3), *later]


@pytest.mark.parametrize("draw", _draws())
@pytest.mark.parametrize(("row", "peer"), ROWS)
def test_random_arguments(row: Dialect, peer: str, draw: int) -> None:
    off, arguments = compare(row, peer, draw, np.float64)
    assert off.max() < FLOAT64, arguments
    off, arguments = compare(row, peer, draw, np.float32)
    per_step = off / np.finfo(np.float32).eps / np.arange(1, len(off) + 1)
    assert per_step.max() < ULPS_A_STEP, arguments
