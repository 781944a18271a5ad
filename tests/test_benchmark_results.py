"""What is committed of the benchmarks, and the README, which shows it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import rmsprop_optax
from benchmarks.peers.keras_tensorflow import MOST_LEAVES
from benchmarks.suites import NAMES, find

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def _found(name: str, folder: Path = RESULTS) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_tables_and_readme_show_the_results_as_they_came(name: str) -> None:
    suite, found = find(name), _found(name)
    assert (RESULTS / f"{name}.md").read_text() == suite.markdown(found)
    readme = (ROOT / "README.md").read_text()
    shown = readme.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
    assert shown.strip() == suite.shown(found).strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn_of_the_results(name: str, tmp_path: Path) -> None:
    find(name).draw(_found(name), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert (RESULTS / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("dense", "optax"),
        ("dense", "keras-jax"),
        ("dense", "keras-tensorflow"),
        ("combined", "optax"),
        ("single_pass", "optax"),
        ("single_pass", "keras-jax"),
    ],
)
def test_all_configurations_are_in_the_results(name: str, peer: str) -> None:
    module = importlib.import_module(f"benchmarks.suites.{name}")
    expected = {
        (case.configuration.name, case.name)
        for case in module.cases(False)
        if peer != "keras-tensorflow" or len(case.shapes) <= MOST_LEAVES
    }
    rows = [row for row in _found(name)["rows"] if row["peer"] == peer]
    assert {(row["configuration"], row["shapes"]) for row in rows} == expected
    assert all((row["met"] is None) == (row["goal"] is None) for row in rows)


def test_goals_are_those_of_the_issue() -> None:
    goals = {
        (row["what"].split(",")[0], row["goal"]) for row in _found("accumulation")["rows"]
    }
    assert ("a call that adds", 0.4) in goals
    dense = {row["peer"]: row["goal"] for row in _found("dense")["rows"] if row["goal"]}
    assert dense["optax"] == 1.02
    assert {dense["keras-jax"], dense["keras-tensorflow"], dense["torch"]} == {0.8}


def test_the_sparse_results_are_those_of_a_full_run() -> None:
    found = _found("sparse")
    assert found["settings"]["heights"] == [100_000, 1_000_000, 4_000_000]
    assert found["memory_bytes"]["share_of_table"] < 0.05
    assert len(found["rows"]) == 5
    assert sum(row["goal"] is not None for row in found["rows"]) == 3


def test_one_byte_weighs_what_was_asked_for() -> None:
    found = _found("storage")["memory_bytes"]
    assert found["plain"]["float32"] == pytest.approx(4, rel=1e-4)
    assert found["plain"]["int8"] <= 1.1
    assert found["momentum"]["int8"] <= 2.2


def test_the_first_picture_is_of_what_was_measured() -> None:
    found = _found("dialects")
    assert set(found["held_out_losses"]) == set(rmsprop_optax.dialects.__all__)
    assert {len(losses) for losses in found["held_out_losses"].values()} == {31}
    shares = found["nan_shares"]
    assert max(shares.pop("rmsprop_optax")) == 0
    assert {name: max(x) > 0.8 for name, x in shares.items()} == {
        "Keras": True,
        "PyTorch": True,
        "Optax": True,
    }


def test_the_quality_results_are_those_of_five_seeds() -> None:
    found = _found("quality")["held_out_losses"]
    assert len(found) == 2
    for losses in found.values():
        assert set(losses) == {"float32", "int8"}
        assert all(len(curves) == 5 for curves in losses.values())


def test_the_parallel_results_say_what_sharding_saves() -> None:
    found = json.loads((RESULTS / "parallel.json").read_text())
    assert {row["devices"] for row in found["counted"]} == {1, 2, 4, 8}
    assert {row["devices"] for row in found["modelled"]} == {8, 64, 512, 4096}
    state = {
        (row["kind"], row["devices"]): row["state_bytes"] for row in found["counted"]
    }
    whole = state["replicated", 8]
    assert abs(state["sharded (ZeRO-1)", 8] / (whole / 8) - 1) < 0.001
