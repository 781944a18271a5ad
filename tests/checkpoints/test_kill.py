"""A run that is killed again and again, in the middle of a save too, is the same run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="pip install 'rmsprop_optax[checkpoints]'")

ROOT = Path(__file__).parents[2]
STEPS, KILLS = 60, 8


def _start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.checkpoints._training", folder, str(STEPS)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def _is_saving(folder: Path) -> bool:
    return any("tmp" in path.name for path in folder.glob("*") if path.is_dir())


def _steps(folder: Path) -> int:
    return max((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), default=0)


def _wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.0005)


def _finish(folder: Path) -> dict[str, bytes]:
    """Runs to the end; returns every array as the checkpoint has it."""
    process = _start(folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    with np.load(folder / "last.npz") as arrays:
        assert len(arrays) > 10
        return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.slow
def test_killed_at_random_moments_and_in_the_middle_of_saves(tmp_path: Path) -> None:
    expected = _finish(tmp_path / "whole")
    folder, draw = tmp_path / "killed", random.Random(0)
    reached, in_mid_save = [0], 0
    for kill in range(KILLS):
        process = _start(folder)
        begin = reached[-1]
        some = draw.randint(1, 4)
        _wait_for(lambda b=begin, n=some: _steps(folder) >= b + n, process)
        if kill % 2:
            _wait_for(lambda: _is_saving(folder), process)
        else:
            time.sleep(draw.uniform(0, 0.1))
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        in_mid_save += _is_saving(folder)
        reached.append(_steps(folder))
    assert reached == sorted(reached)
    assert 0 < reached[-1] < STEPS
    assert in_mid_save >= 2
    assert _finish(folder) == expected
