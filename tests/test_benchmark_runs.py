"""Quick runs of the benchmarks."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks.peers import PEERS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
pytestmark = pytest.mark.slow


def _found(name: str, folder: Path = RESULTS) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def _run_quickly(folder: Path, *suites: str, **options: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(folder)]
    command += ["--suite", *suites]
    for name, value in options.items():
        command += [f"--{name}", value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _check_files(folder: Path, name: str, printed: str) -> Any:
    table = (folder / f"{name}.md").read_text()
    assert table in printed
    assert (folder / f"{name}.png").stat().st_size > 10_000
    found = _found(name, folder)
    assert found["machine"]["cpus"] == os.cpu_count()
    assert found["versions"]["jax"] == jax.__version__
    assert all(row["median"] > 0 for row in found.get("rows", []))
    assert all(row.get("met") is None for row in found.get("rows", []))
    return found


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_a_quick_run_of_the_dense_suite(tmp_path: Path) -> None:
    found = _check_files(tmp_path, "dense", _run_quickly(tmp_path, "dense"))
    ways = {"optax": 6, "keras-jax": 2, "keras-tensorflow": 4, "tensorflow": 2}
    ways["torch"] = 6
    counted = {peer: 0 for peer in ways if not PEERS[peer].missing()}
    for row in found["rows"]:
        counted[row["peer"]] += 1
    assert counted == {peer: ways[peer] for peer in counted}


@pytest.mark.parametrize(
    ("name", "rows"), [("combined", 2), ("accumulation", 6), ("leaves", 11)]
)
def test_a_quick_run_against_optax(name: str, rows: int, tmp_path: Path) -> None:
    found = _check_files(tmp_path, name, _run_quickly(tmp_path, name))
    assert len(found["rows"]) == rows


def test_a_quick_run_of_the_training_suite(tmp_path: Path) -> None:
    found = _check_files(tmp_path, "training", _run_quickly(tmp_path, "training"))
    assert [row["goal"] for row in found["rows"]] == [1.0]


def test_a_quick_run_of_the_sparse_benchmark(tmp_path: Path) -> None:
    found = _check_files(tmp_path, "sparse", _run_quickly(tmp_path, "sparse"))
    assert len(found["rows"]) == 3 + _is_there("tensorflow")


def test_a_quick_run_of_the_storage_benchmark(tmp_path: Path) -> None:
    found = _check_files(tmp_path, "storage", _run_quickly(tmp_path, "storage"))
    assert len(found["rows"]) == 6


def _check_has_digits() -> None:
    if not _is_there("sklearn"):
        reason = "needs scikit-learn: pip install '.[benchmarks]'"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def test_a_quick_run_of_the_dialects(tmp_path: Path) -> None:
    _check_has_digits()
    found = _check_files(tmp_path, "dialects", _run_quickly(tmp_path, "dialects"))
    assert {len(losses) for losses in found["held_out_losses"].values()} == {3}
    assert max(found["nan_shares"]["rmsprop_optax"]) == 0


def test_a_quick_run_of_the_quality_benchmark(tmp_path: Path) -> None:
    _check_has_digits()
    found = _check_files(tmp_path, "quality", _run_quickly(tmp_path, "quality"))
    losses = found["held_out_losses"].values()
    assert [len(task["int8"]) for task in losses] == [2, 2]


def test_the_parallel_benchmark_counts_what_is_committed(tmp_path: Path) -> None:
    fresh = _check_files(tmp_path, "parallel", _run_quickly(tmp_path, "parallel"))
    kept = _found("parallel")
    assert fresh["counted"] == kept["counted"]
    assert fresh["modelled"] == kept["modelled"]
