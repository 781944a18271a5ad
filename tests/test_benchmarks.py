"""The benchmarks run, and the README shows what they wrote."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def test_the_readme_shows_the_sparse_results_as_they_came() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- sparse: begin -->")[1].split("<!-- sparse: end -->")[0]
    assert shown.strip() == (RESULTS / "sparse.md").read_text().strip()


def test_the_sparse_results_are_those_of_a_full_run() -> None:
    found = json.loads((RESULTS / "sparse.json").read_text())
    assert found["settings"]["heights"] == [100_000, 1_000_000, 4_000_000]
    assert found["memory_bytes"]["share_of_table"] < 0.05
    assert len(found["rows"]) == 5
    assert sum(row["goal"] is not None for row in found["rows"]) == 3


@pytest.mark.slow
def test_a_quick_run_of_the_sparse_benchmark(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.sparse", "--quick", "--out", tmp_path]
    # One device, as people have: conftest.py splits the CPU into eight.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "sparse.json").read_text())
    kernel = importlib.util.find_spec("tensorflow") is not None
    assert len(found["rows"]) == 3 + kernel
    assert all(row["median"] > 0 for row in found["rows"])
    assert (tmp_path / "sparse.md").read_text() == done.stdout
    assert (tmp_path / "sparse.png").stat().st_size > 10_000
