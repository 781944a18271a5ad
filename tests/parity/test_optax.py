"""`optax.rmsprop` beyond random draws: Optax's own tests, and where it loses digits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rmsprop_optax import dialects
from tests.parity import _peers
from tests.parity._problem import differences, draw_problem, ours

CORRECTED = dict(
    learning_rate=0.01,
    momentum=0.9,
    nesterov=True,
    centered=True,
    bias_correction=True,
    eps=1e-2,
)


def test_centered_with_bias_correction() -> None:
    """In float64, with an epsilon above the rounding of Optax's first variance."""
    problem = draw_problem(5, np.float64, decades=1)
    theirs = _peers.optax(problem, **CORRECTED)
    mine = ours(dialects.optax, problem, **CORRECTED)
    assert differences(mine, theirs).max() < 1e-8


def test_with_epsilon_outside_optax_is_nan_at_the_first_step() -> None:
    """In float64 too: its first variance is g² - g², which rounds below 0."""
    problem = draw_problem(5, np.float64, decades=1)
    theirs = _peers.optax(problem, eps_in_sqrt=False, **CORRECTED)
    assert np.isnan(theirs["dense/kernel"][0]).any()
    mine = ours(dialects.optax, problem, eps_in_sqrt=False, **CORRECTED)
    assert np.isfinite(mine["dense/kernel"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["_src/alias", "_src/float64", "contrib/_common"])
def test_optax_s_own_tests_pass_with_ours_in_its_place(file: str) -> None:
    script = Path(__file__).with_name("_optax_own.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-o", "addopts=", str(script)]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--import-mode=importlib"],
        env={**os.environ, "OPTAX_TEST": file},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-500:]
