"""`examples/several_processes.py` in 1, 2 and 4 processes, and where one dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="pip install 'rmsprop_optax[checkpoints]'")

ROOT = Path(__file__).parents[2]
TIMEOUT = 15

Process = subprocess.Popen[str]


def _start(folder: Path, count: int, steps: int = 20, every: int = 5) -> list[Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}

    def start(index: int) -> Process:
        flags = {
            "--processes": count,
            "--process": index,
            "--coordinator": address,
            "--folder": folder,
            "--steps": steps,
            "--save-every": every,
            "--timeout": TIMEOUT,
        }
        command = [sys.executable, str(ROOT / "examples" / "several_processes.py")]
        for flag, value in flags.items():
            command += [flag, str(value)]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return [start(index) for index in range(count)]


def _finish(processes: list[Process], timeout: float = 120) -> str:
    """Waits for all; returns what process 0 said."""
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said[0]


def _params(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "params.npz") as arrays:
        return dict(arrays)


def _assert_close(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(expected) == ["b", "out", "w"]
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_are_one(tmp_path: Path, count: int) -> None:
    _finish(_start(tmp_path / "one", 1))
    said = _finish(_start(tmp_path / "many", count))
    assert "step 20: loss" in said
    _assert_close(_params(tmp_path / "many"), _params(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_dies_and_the_others_end_with_an_error_and_can_go_on(
    tmp_path: Path, victim: int
) -> None:
    steps, folder = 100_000, tmp_path / "killed"
    processes = _start(folder, 2, steps)
    deadline = time.monotonic() + 120
    while not (folder / "10").is_dir():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    processes[victim].communicate(timeout=60)
    other = processes[1 - victim]
    begin = time.monotonic()
    said, _ = other.communicate(timeout=4 * TIMEOUT)
    assert time.monotonic() - begin < 2 * TIMEOUT
    # The connection was closed; or what tells that, the coordinator, was.
    if other.returncode == 1:
        assert f"error: process {1 - victim} of 2 stops" in said
        assert "start all of them again" in said
    else:
        assert other.returncode == -signal.SIGABRT
        assert "JAX distributed service detected fatal errors" in said

    reached = max(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
    said = _finish(_start(folder, 2, reached + 5))
    assert f"goes on from step {reached}" in said
    _finish(_start(tmp_path / "whole", 2, reached + 5))
    for name, value in _params(tmp_path / "whole").items():
        np.testing.assert_array_equal(_params(folder)[name], value)
