"""How the benchmarks measure: the command line, the checks, the floor, the goals."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks import _floor, _picture, _problem, _readme, _runner, _same, _shapes
from benchmarks._report import Row, table
from benchmarks._suite import merge
from benchmarks._timing import Contender, Series, race
from benchmarks.peers import PEERS
from benchmarks.peers import optax as optax_peer
from benchmarks.peers.jitted import of_transformation, our_update, ours, to_device
from benchmarks.suites import NAMES, _dense_summary

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CONFIGURATIONS = {
    "plain": _problem.Configuration("plain"),
    "momentum": _problem.Configuration("momentum", momentum=0.9),
    "both": _problem.Configuration("both", momentum=0.9, centered=True),
    "all": _problem.Configuration("all", momentum=0.9, clip=1.0, ema=0.99, decay=0.1),
}


def _found(name: str, folder: Path = RESULTS) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_the_floor_counts_what_a_step_reads_and_writes() -> None:
    shapes = ((1000, 10), (24,))
    numbers = _shapes.size(shapes)
    assert numbers == 10_024
    counted = {
        name: _floor.step_bytes(ours(c), shapes) for name, c in CONFIGURATIONS.items()
    }
    # Beside the moments a state has counts, of a few bytes.
    assert counted["plain"] == pytest.approx(20 * numbers, abs=64)
    assert counted["momentum"] == pytest.approx(28 * numbers, abs=64)
    assert counted["both"] == pytest.approx(36 * numbers, abs=64)
    assert counted["all"] == pytest.approx(36 * numbers, abs=64)
    assert all(count >= 20 * numbers for count in counted.values())


def test_the_floor_adds_in_place() -> None:
    floor = _floor.contender(8000, steps=1)
    (series,) = race([floor], lambda rng: None, 2, lambda: None)
    assert series.name == "floor"
    assert len(series.milliseconds) == 2
    held = jnp.zeros(1000)
    added = jax.jit(lambda x: x + 1, donate_argnums=0).lower(held).compile()
    found = added.memory_analysis()
    assert found is not None
    assert found.alias_size_in_bytes == 4000


def test_shapes_are_those_of_the_networks() -> None:
    sizes = {name: _shapes.size(shapes) for name, shapes in _shapes.FULL.items()}
    assert sizes["one leaf of 32 M"] == sizes["32 x 1 M"] == 32 * 2**20
    assert sizes["ResNet-50"] == 25_557_032
    assert sizes["1,000 x 1,000"] == 1_000_000
    assert len(_shapes.FULL["transformer"]) == 2 + 6 * 12 + 2


def _row(here: list[float], there: list[float], as_fast: bool, goal: float | None) -> Row:
    return Row("x", Series("a", tuple(here)), Series("b", tuple(there)), as_fast, goal)


def test_a_ratio_is_that_of_pairs_and_a_goal_is_met_or_not() -> None:
    slow, fast = [4.0, 8.0, 40.0], [2.0, 8.0, 10.0]
    long = _row(slow, fast, as_fast=False, goal=2.0)
    assert long.ratio.pairs == (2.0, 1.0, 4.0)
    assert long.ratio.median == 2.0
    assert long.ratio.quartiles == (1.5, 3.0)
    assert long.is_met is True
    assert _row(slow, fast, as_fast=False, goal=1.99).is_met is False
    assert _row(slow, fast, as_fast=False, goal=None).is_met is None
    assert _row(fast, slow, as_fast=True, goal=2.0).is_met is True
    assert _row(fast, slow, as_fast=True, goal=2.1).is_met is False


def test_a_table_shows_goals_only_where_they_are_for_that_run() -> None:
    row = _row([3.0], [2.0], as_fast=False, goal=1.02)
    judged, not_judged = (
        table([row.json(flag)]).splitlines()[-1] for flag in (True, False)
    )
    assert judged == "| x | 3 | b | 2 | 1.5 x as long | 1.5 to 1.5 | ≤ 1.02 x | **no** |"
    assert not_judged == "| x | 3 | b | 2 | 1.5 x as long | 1.5 to 1.5 | ≤ 1.02 x |  |"


def test_the_summary_has_the_median_and_the_worst() -> None:
    rows = [
        _row([here], [1.0], as_fast=False, goal=1.02).json(
            True, configuration=name, shapes=f"{here}", peer="b"
        )
        for name, here in (("plain", 0.9), ("plain", 1.0), ("plain", 1.5), ("EMA", 0.5))
    ]
    found = {"rows": rows, "machine": {"cpus": 2, "cpu": "x", "system": "y"}}
    lines = _dense_summary.summary({**found, "versions": {}}).splitlines()
    assert lines[0] == "| against | plain | EMA | goal |"
    assert lines[2] == "| b | 1, **1.5** | 0.5 | ≤ 1.02 |"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_optax_computes_what_we_do(name: str) -> None:
    c = CONFIGURATIONS[name]
    _same.check(
        lambda p: {"ours": our_update(c, p, to_device(p)), **optax_peer.variants(c, p)},
        name,
    )


def test_a_contender_that_computes_something_else_is_found_out() -> None:
    c = CONFIGURATIONS["plain"]

    def make(p: Any) -> Any:
        grads = to_device(p)
        other = of_transformation(optax.rmsprop(0.011, eps=1e-7), p, grads)
        return {"ours": our_update(c, p, grads), "another": other}

    with pytest.raises(AssertionError, match="another is not the same as ours"):
        _same.check(make, "plain")


def test_a_contender_that_does_not_move_is_found_out() -> None:
    def make(p: Any) -> Any:
        return {"idle": of_transformation(optax.set_to_zero(), p, to_device(p))}

    with pytest.raises(AssertionError, match="has not moved"):
        _same.check(make, "plain")


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    contenders = [
        Contender(name, lambda drawn: drawn, lambda _, name=name: turns.append(name), 1)
        for name in "ab"
    ]
    race(contenders, lambda rng: None, 20, lambda: None)
    rounds = ["".join(turns[i : i + 2]) for i in range(6, len(turns), 2)]
    assert turns[:6] == list("aaabbb")
    assert len(rounds) == 20
    assert set(rounds) == {"ab", "ba"}


def test_findings_of_processes_are_joined() -> None:
    parts = [{"rows": [1], "bytes": {"a": 1}}, {"rows": [2], "notes": ["n"]}]
    assert merge(parts) == {"rows": [1, 2], "bytes": {"a": 1}, "notes": ["n"]}


@pytest.mark.parametrize("flag", ["--suite", "--peers", "--device"])
def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        _runner.main([flag, "dens"])
    assert stopped.value.code == 2
    expected = {"--suite": NAMES, "--peers": tuple(PEERS), "--device": ("cpu", "gpu")}
    error = capsys.readouterr().err
    assert flag in error
    assert "'dens'" in error
    assert all(name in error for name in expected[flag])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.985, 1.025, [0.99, 1.0, 1.01, 1.02]),
        (0.93, 1.12, [0.95, 1.0, 1.05, 1.1]),
        (0.92, 1.43, [1.0, 1.1, 1.2, 1.3, 1.4]),
        (0.07, 55, [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]),
        (0.8, 6, [1.0, 1.5, 2.0, 3.0, 5.0]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert _picture.ratio_ticks(low, high) == pytest.approx(ticks)


def _pretend(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: list[str]
) -> list[tuple[str, str]]:
    """That these modules are missing, and that processes find nothing."""
    started: list[tuple[str, str]] = []

    def run(suite: Any, peer: str, *others: Any) -> Any:
        del others
        started.append((suite.name, peer))
        found = _found(name)
        return {"rows": found["rows"], "notes": []}

    monkeypatch.setattr(_runner, "_run_part", run)
    stub = {
        n: SimpleNamespace(missing=lambda n=n: missing if n == "tensorflow" else [])
        for n in PEERS
    }
    monkeypatch.setattr(_runner, "PEERS", stub)
    return started


def test_a_peer_that_is_not_installed_is_named_and_skipped(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = _pretend(monkeypatch, "sparse", ["tensorflow"])
    assert _runner.main(["--suite", "sparse", "--out", str(tmp_path)]) == 0
    assert started == [("sparse", "optax")]
    note = (
        "Not measured against tensorflow: tensorflow not installed "
        "(pip install '.[benchmarks]')."
    )
    assert note in capsys.readouterr().err
    assert note in _found("sparse", tmp_path)["notes"]
    assert note in (tmp_path / "sparse.md").read_text()


def test_only_peers_that_are_asked_for_are_measured(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = _pretend(monkeypatch, "sparse", [])
    arguments = ["--peers", "tensorflow", "--out", str(tmp_path)]
    assert _runner.main(["--suite", "storage", *arguments]) == 0
    assert started == []
    assert "storage measures nothing against tensorflow." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_block_of_the_readme_is_replaced(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    _readme.put(readme, "x", "new\n")
    assert readme.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match="'<!-- y: begin -->' and '<!-- y: end -->'"):
        _readme.put(readme, "y", "new")
