"""The benchmarks run, and the README shows what they wrote."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import rmsprop_optax
from benchmarks import _collectives

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["sparse", "parallel", "storage", "quality"])
def test_the_readme_shows_the_results_as_they_came(name: str) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
    assert shown.strip() == (RESULTS / f"{name}.md").read_text().strip()


def test_the_sparse_results_are_those_of_a_full_run() -> None:
    found = json.loads((RESULTS / "sparse.json").read_text())
    assert found["settings"]["heights"] == [100_000, 1_000_000, 4_000_000]
    assert found["memory_bytes"]["share_of_table"] < 0.05
    assert len(found["rows"]) == 5
    assert sum(row["goal"] is not None for row in found["rows"]) == 3


def test_the_first_picture_is_of_what_was_measured() -> None:
    found = json.loads((RESULTS / "first_picture.json").read_text())
    assert set(found["held_out_losses"]) == set(rmsprop_optax.dialects.__all__)
    assert {len(losses) for losses in found["held_out_losses"].values()} == {31}
    shares = found["nan_shares"]
    assert max(shares.pop("rmsprop_optax")) == 0
    assert {name: max(x) > 0.8 for name, x in shares.items()} == {
        "Keras": True,
        "PyTorch": True,
        "Optax": True,
    }


@pytest.mark.slow
def test_a_quick_run_of_the_first_picture(tmp_path: Path) -> None:
    for module in ("sklearn", "keras", "torch"):
        if importlib.util.find_spec(module) is None and not os.environ.get("CI"):
            pytest.skip(f"needs {module}: pip install '.[benchmarks,parity]'")
    _run_quickly("first_picture", tmp_path)
    found = json.loads((tmp_path / "first_picture.json").read_text())
    assert {len(losses) for losses in found["held_out_losses"].values()} == {3}
    assert max(found["nan_shares"]["rmsprop_optax"]) == 0
    assert (tmp_path / "first_picture.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_quick_run_of_the_sparse_benchmark(tmp_path: Path) -> None:
    printed = _run_quickly("sparse", tmp_path)
    found = json.loads((tmp_path / "sparse.json").read_text())
    kernel = importlib.util.find_spec("tensorflow") is not None
    assert len(found["rows"]) == 3 + kernel
    assert all(row["median"] > 0 for row in found["rows"])
    assert (tmp_path / "sparse.md").read_text() == printed
    assert (tmp_path / "sparse.png").stat().st_size > 10_000


def _run_quickly(name: str, folder: Path) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", folder]
    # One device, as people have: conftest.py splits the CPU into eight.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_byte_weighs_what_was_asked_for() -> None:
    found = json.loads((RESULTS / "storage.json").read_text())["memory_bytes"]
    assert found["plain"]["float32"] == pytest.approx(4, rel=1e-4)
    assert found["plain"]["one byte"] <= 1.1
    assert found["momentum"]["one byte"] <= 2.2


@pytest.mark.slow
def test_a_quick_run_of_the_storage_benchmark(tmp_path: Path) -> None:
    printed = _run_quickly("storage", tmp_path)
    found = json.loads((tmp_path / "storage.json").read_text())
    assert len(found["rows"]) == 6
    assert all(row["median"] > 0 for row in found["rows"])
    assert (tmp_path / "storage.md").read_text() == printed


def test_the_quality_results_are_those_of_five_seeds() -> None:
    found = json.loads((RESULTS / "quality.json").read_text())["held_out_losses"]
    assert len(found) == 2
    for losses in found.values():
        assert set(losses) == {"float32", "one byte"}
        assert all(len(curves) == 5 for curves in losses.values())


@pytest.mark.slow
def test_a_quick_run_of_the_quality_benchmark(tmp_path: Path) -> None:
    if importlib.util.find_spec("sklearn") is None:
        reason = "needs scikit-learn: pip install '.[benchmarks]'"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    printed = _run_quickly("quality", tmp_path)
    found = json.loads((tmp_path / "quality.json").read_text())["held_out_losses"]
    assert [len(losses["one byte"]) for losses in found.values()] == [2, 2]
    assert (tmp_path / "quality.md").read_text() == printed
    assert (tmp_path / "quality.png").stat().st_size > 10_000


def _program(function: Any, devices: int = 4) -> str:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    spec = jax.P("data")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
    return jax.jit(mapped).lower(jnp.ones((16, 8))).compile().as_text() or ""


def test_collectives_are_counted_with_their_bytes() -> None:
    def function(x: Any) -> Any:
        scattered = jax.lax.psum_scatter(x, "data", tiled=True)
        gathered = jax.lax.all_gather(scattered, "data", tiled=True)
        return gathered + jax.lax.psum(x, "data")

    found = _collectives.read(_program(function), 4)
    assert found.counts == {"all-reduce": 1, "reduce-scatter": 1, "all-gather": 1}
    part = 4 * 8 * 4  # what a device has of the argument
    assert found.size == dict.fromkeys(found.counts, part)
    assert _collectives.sent(found.size, 4) == (2 + 1 + 1) * 3 / 4 * part
    assert _collectives.read(_program(lambda x: 2 * x), 4).counts == {}


def test_a_collective_in_a_loop_can_not_be_counted() -> None:
    def function(x: Any) -> Any:
        def body(x: Any, _: None) -> Any:
            return jnp.sin(x + jax.lax.psum(x, "data")), None

        return jax.lax.scan(body, x, None, length=5)[0]

    with pytest.raises(AssertionError, match="A collective in a loop"):
        _collectives.read(_program(function), 4)


def test_the_parallel_results_say_what_sharding_saves() -> None:
    found = json.loads((RESULTS / "parallel.json").read_text())
    assert {row["devices"] for row in found["counted"]} == {1, 2, 4, 8}
    assert {row["devices"] for row in found["modelled"]} == {8, 64, 512, 4096}
    state = {
        (row["kind"], row["devices"]): row["state_bytes"] for row in found["counted"]
    }
    whole = state["replicated", 8]
    assert abs(state["sharded (ZeRO-1)", 8] / (whole / 8) - 1) < 0.001


@pytest.mark.slow
def test_the_parallel_benchmark_counts_what_is_committed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.parallel", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "parallel.md").read_text() == done.stdout
    fresh, kept = (
        json.loads((folder / "parallel.json").read_text())
        for folder in (tmp_path, RESULTS)
    )
    assert fresh["counted"] == kept["counted"]
    assert fresh["modelled"] == kept["modelled"]
