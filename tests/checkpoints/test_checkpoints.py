"""Saved and restored: sharded or not, onto other devices, and refused where it must."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("orbax.checkpoint", reason="pip install 'rmsprop_optax[checkpoints]'")

import rmsprop_optax as ro
from rmsprop_optax import describe, parallel, sparse
from rmsprop_optax.checkpoints import CheckpointError, Checkpoints
from rmsprop_optax.checkpoints import _bit_sum as bit_sum
from rmsprop_optax.checkpoints import _digest as digest
from tests.parallel import _problem
from tests.parallel._problem import mesh

EVERYTHING = {
    "momentum": 0.9,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
    "accumulate_rows": {"table": 8},
    "loss_scale_factor": 8.0,
    "skip_nonfinite": True,
}


def _state(tx: Any, params: Any) -> Any:
    return {"params": params, "opt_state": tx.init(params)}


def _noisy(tree: Any) -> Any:
    """Values that nothing would make by itself."""
    rng = np.random.default_rng(0)

    def draw(x: Any) -> Any:
        values = 100 * rng.uniform(size=x.shape)
        return jax.device_put(values.astype(x.dtype), x.sharding)

    return jax.tree.map(draw, tree)


def _assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_state_comes_back_to_the_bit(tmp_path: Path, dtype: str) -> None:
    tx = ro.dynamic_loss_scale(ro.rmsprop(**{**EVERYTHING, "loss_scale_factor": None}))
    state = _noisy(_state(tx, _problem.params(dtype)))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {"losses": [1.0, 0.5]})
        restored, notes = checkpoints.restore(jax.eval_shape(lambda: state))
    _assert_equal(restored, state)
    assert notes == {"losses": [1.0, 0.5]}
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize(
    ("before", "after"),
    [(8, 2), *(pytest.param(*n, marks=pytest.mark.slow) for n in [(1, 4), (4, 8)])],
)
def test_onto_another_number_of_devices(tmp_path: Path, before: int, after: int) -> None:
    tx = ro.rmsprop(momentum=0.9, use_ema=True)

    def lay_out(count: int) -> Any:
        params = _problem.params("float32")
        whole = jax.NamedSharding(mesh(count), jax.P())
        shardings = parallel.state_sharding(tx, params, mesh(count))
        opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
        return {"params": jax.device_put(params, whole), "opt_state": opt_state}

    saved = _noisy(lay_out(before))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, saved)
    like = lay_out(after)
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(like)
    _assert_equal(restored, saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        assert a.sharding == b.sharding


@pytest.mark.slow
def test_a_run_goes_on_with_more_devices_as_if_nothing_had_been(tmp_path: Path) -> None:
    tx = ro.rmsprop(0.05, momentum=0.9, use_ema=True)
    batches = _problem.batches("float64")
    with jax.enable_x64(True):
        params = _problem.params("float64")
        expected = _problem.one_device(tx, params, batches)[0]

        def run(count: int, state: Any, batches: Any) -> Any:
            make = parallel.sharded_data_parallel
            step = make(_problem.loss_fn, tx, mesh(count))
            params, opt_state = state["params"], state["opt_state"]
            for batch in batches:
                params, opt_state, _ = step(params, opt_state, batch)
            return {"params": params, "opt_state": opt_state}

        like = jax.eval_shape(lambda: _state(tx, _problem.params("float64")))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(3, run(2, _state(tx, params), batches[:3]))
            state, _ = checkpoints.restore(like)
        found = run(8, state, batches[3:])["params"]
        _problem.assert_same(found, expected, "float64")


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({}, {"momentum": 0.9}, ["it has no", "trace/w", "b = 0.9 b + 0.001 g / s"]),
        ({"momentum": 0.9}, {}, ["only it has", "trace/w"]),
        ({"centered": True}, {}, ["only it has", "mu/w"]),
        (
            {"gradient_accumulation_steps": 2},
            {"gradient_accumulation_steps": 4},
            ["it says", "mean of 2 gradients", "not", "mean of 4 gradients"],
        ),
        ({"rho": 0.9}, {"rho": 0.8}, ["ν = 0.9 ν + 0.1", "ν = 0.8 ν + 0.2"]),
        (
            {"learning_rate": optax.constant_schedule(0.1)},
            {"learning_rate": lambda count: 0.1 / (1 + count)},
            ["0.1, 0.1, 0.1,", "not", "0.1, 0.05, 0.009091,"],
        ),
    ],
)
def test_another_configuration_is_refused_by_name(
    tmp_path: Path, before: Any, now: Any, words: list[str]
) -> None:
    params = {"w": jnp.ones(3)}
    tx = ro.rmsprop(**before)
    with Checkpoints(tmp_path, describe(tx)) as checkpoints:
        checkpoints.save(1, _state(tx, params))
    tx = ro.rmsprop(**now)
    with (
        Checkpoints(tmp_path, describe(tx)) as checkpoints,
        pytest.raises(CheckpointError, match="another configuration") as raised,
    ):
        checkpoints.restore(_state(tx, params))
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"w": jnp.ones(4)}, r"params/w \(float32\[3\], not float32\[4\]\)"),
        ({"w": jnp.ones(3, jnp.bfloat16)}, r"params/w \(float32\[3\], not bfloat16"),
        ({"v": jnp.ones(3)}, r"it has no params/v; only it has params/w"),
    ],
)
def test_other_parameters_are_refused_by_name(
    tmp_path: Path, params: Any, word: str
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"w": jnp.ones(3)}})
        with pytest.raises(CheckpointError, match=word):
            checkpoints.restore({"params": params})


def test_an_empty_folder_and_the_newest_of_several(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(CheckpointError, match="There is no checkpoint in"):
            checkpoints.restore(jnp.ones(1))
        for step in (1, 2, 3):
            checkpoints.save(step, jnp.full(1, float(step)))
        restored, _ = checkpoints.restore(jax.ShapeDtypeStruct((1,), jnp.float32))
    assert restored == 3.0
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["2", "3"]


def test_a_step_that_is_not_newer_is_an_error(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, jnp.zeros(2))
        for step in (5, 10):
            with pytest.raises(
                ValueError, match=f"newest checkpoint in .*, 10, got {step}"
            ):
                checkpoints.save(step, jnp.ones(2))
        checkpoints.save(np.int64(12), jnp.ones(2))
        assert checkpoints.latest_step() == 12


@pytest.mark.parametrize("step", [True, 11.5, -1, "1", None])
def test_what_is_not_a_step(tmp_path: Path, step: Any) -> None:
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises((TypeError, ValueError), match="`step` must be an integer"),
    ):
        checkpoints.save(step, jnp.ones(2))


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_how_many_are_kept_is_checked(tmp_path: Path, count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="`max_to_keep` must be an integer"):
        Checkpoints(tmp_path, max_to_keep=count)


@pytest.mark.parametrize("name", ["run[lr=0.1]", "a**b", "what?"])
def test_a_folder_that_is_a_pattern_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="Orbax takes them for a pattern"):
        Checkpoints(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can't be"):
        Checkpoints(tmp_path / "file").save(1, jnp.ones(2))


def test_empty_leaves_numbers_and_one_array(tmp_path: Path) -> None:
    tree = {"empty": jnp.zeros((0, 3)), "number": 2.5, "count": 3, "none": None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        restored, _ = checkpoints.restore(tree)
    assert restored["empty"].shape == (0, 3)
    assert (restored["number"], restored["count"]) == (2.5, 3)
    assert restored["none"] is None


def test_paths_that_look_alike(tmp_path: Path) -> None:
    tree = {"a/b": jnp.zeros(2), "a": {"b": jnp.ones(2)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        _assert_equal(checkpoints.restore(tree)[0], tree)


def test_a_changed_file_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.checkpoints._damage", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


_FULL = """
import resource, sys
import jax.numpy as jnp
from rmsprop_optax.checkpoints import CheckpointError, Checkpoints
with Checkpoints(sys.argv[1]) as saved:
    saved.save(1, jnp.ones(4))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
    try:
        saved.save(2, jnp.sin(jnp.arange(1e6)))
    except CheckpointError as error:
        print(error)
    assert saved.latest_step() == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    saved.save(3, jnp.ones(4))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 2 can't be written" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_the_sum_is_that_of_any_sharding_and_sees_each_bit() -> None:
    rows = jax.NamedSharding(mesh(8), jax.P("data"))
    for dtype in ("float32", "bfloat16", "int8", "bool", "complex64", "float8_e5m2"):
        x = np.arange(64).astype(dtype)
        total = int(bit_sum(jnp.asarray(x)))
        assert int(bit_sum(jax.device_put(x, rows))) == total
        assert int(bit_sum(jnp.asarray(x[::-1].copy()))) != total
        changed = x.copy()
        changed.view(np.uint8)[5] ^= 1
        assert int(bit_sum(jnp.asarray(changed))) != total, dtype


@pytest.mark.parametrize(
    "leaf",
    [
        np.int64(2**32 + 3),
        np.array([1e300]),
        np.array([0.1]),
        *(1e300, -1e300, 1e-50, 1e-43, 0.1 + 1e39j, 1 + 1e-50j),
    ],
)
def test_what_jax_would_keep_as_another_number_is_refused(
    tmp_path: Path, leaf: Any
) -> None:
    with Checkpoints(tmp_path) as saved, pytest.raises(ValueError, match="'x' would be"):
        saved.save(1, {"x": leaf})


def test_python_numbers_at_the_edges_of_float32(tmp_path: Path) -> None:
    tree = [1.2e-38, 3.4e38, -0.0, float("inf"), float("nan"), 2**31 - 1, True, 2 - 1e-9j]
    with Checkpoints(tmp_path) as saved:
        saved.save(1, tree)
        found, _ = saved.restore(tree)
    _assert_equal(found, jax.tree.map(jnp.asarray, tree))
    assert np.signbit(found[2])


def test_a_donated_array_is_named(tmp_path: Path) -> None:
    gone = jnp.ones(2)
    gone.delete()
    with Checkpoints(tmp_path) as saved:
        with pytest.raises(ValueError, match="'p/w' was deleted: a jitted function got"):
            saved.save(1, {"p": {"w": gone}})
        saved.save(1, {"p": {"w": jnp.ones(2)}})
        found, _ = saved.restore({"p": {"w": gone}})  # its shape and sharding are known
    np.testing.assert_array_equal(found["p"]["w"], [1.0, 1.0])


def test_what_can_not_be_restored_is_not_saved(tmp_path: Path) -> None:
    rows = sparse.RowSlices(jnp.array([1]), jnp.ones((1, 2)), (3, 2))
    keys = {"k": jax.random.key(0), "n": jax.random.split(jax.random.key(1, impl="rbg"))}
    with Checkpoints(tmp_path, max_to_keep=1) as saved:
        saved.save(1, keys)
        saved.restore(jax.eval_shape(lambda: keys))
        with pytest.raises(TypeError, match=r"'g/indices' can't be restored .*to_dense"):
            saved.save(2, {"g": rows})
        found, _ = saved.restore(keys)
    _assert_equal(
        jax.tree.map(jax.random.key_data, found), jax.tree.map(jax.random.key_data, keys)
    )


def _whole(value: float) -> dict[str, Any]:
    count = jnp.asarray(value, jnp.int32)
    params = {"w": jnp.full((8, 2), value), "empty": jnp.zeros((0, 3))}
    return {"params": params, "opt_state": {"nu": params, "count": count}}


def test_the_parameters_alone_on_another_mesh(tmp_path: Path) -> None:
    rows = jax.NamedSharding(mesh(8), jax.P("data"))
    saved = jax.tree.map(lambda x: jax.device_put(x, rows) if x.ndim else x, _whole(2.0))
    with Checkpoints(tmp_path, "lr 0.1") as checkpoints:
        checkpoints.save(1, saved, {"loss": 0.5})
    like = jax.tree.map(
        lambda x: jax.device_put(x, jax.NamedSharding(mesh(2), jax.P())),
        {"params": _whole(0.0)["params"]},
    )
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"only it has opt.*`partial=True`"):
            checkpoints.restore(like)
        found, notes = checkpoints.restore(like, partial=True)
        empty, _ = checkpoints.restore(
            {"opt_state": {"nu": {"empty": jnp.zeros((0, 3))}}}, partial=True
        )
    _assert_equal(found, {"params": saved["params"]})
    assert found["params"]["w"].sharding == like["params"]["w"].sharding
    assert notes == {"loss": 0.5}
    assert empty["opt_state"]["nu"]["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({"w": jnp.ones((8, 2))}, "it has no w"),
        ({"params": {"w": jnp.ones((8, 2)), "b": jnp.ones(2)}}, "it has no params/b"),
        ({"params": {"w": jnp.ones(3)}}, r"params/w \(float32\[8, 2\], not float32\[3\]"),
    ],
)
def test_what_is_no_part_is_refused_by_name(
    tmp_path: Path, like: Any, words: str
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _whole(1.0))
        with pytest.raises(CheckpointError, match=words):
            checkpoints.restore(like, partial=True)


def test_one_of_two_leaves_of_one_path_is_no_part(tmp_path: Path) -> None:
    tree = {"a/b": jnp.zeros(2), "a": {"b": jnp.ones(2)}, "c": jnp.ones(1)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        both = {name: tree[name] for name in ("a/b", "a")}
        _assert_equal(checkpoints.restore(both, partial=True)[0], both)
        with pytest.raises(CheckpointError, match="another order a/b"):
            checkpoints.restore({"a": tree["a"]}, partial=True)


def test_a_damaged_part_is_refused_alone(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.ones(3), "b": jnp.ones(3)})
        file = tmp_path / "1" / "about" / "metadata"
        about = json.loads(file.read_text())
        about["sums"][1] ^= 1
        file.write_text(json.dumps(about | {"digest": digest(about)}))
        found, _ = checkpoints.restore({"a": jnp.ones(3)}, partial=True)
        np.testing.assert_array_equal(found["a"], np.ones(3))
        for names, partial in (("b", True), ("ab", False)):
            with pytest.raises(CheckpointError, match=r"'b' were changed.* by `step`"):
                checkpoints.restore(dict.fromkeys(names, jnp.ones(3)), partial=partial)


def test_a_step_of_choice(tmp_path: Path) -> None:
    like = jax.ShapeDtypeStruct((1,), jnp.float32)
    with Checkpoints(tmp_path, max_to_keep=3) as checkpoints:
        for step in (1, 2, 5, 7):
            checkpoints.save(step, jnp.full(1, float(step)))
        assert checkpoints.all_steps() == [2, 5, 7]
        assert checkpoints.restore(like, 5)[0] == 5.0
        assert checkpoints.restore(like, np.int32(2))[0] == 2.0
        with pytest.raises(CheckpointError, match=r"of step 1: it has .* \[2, 5, 7\]"):
            checkpoints.restore(like, 1)
        with pytest.raises(ValueError, match=r'"latest" or "best", got .newest'):
            checkpoints.restore(like, "newest")
        with pytest.raises(TypeError, match="`step` must be an integer"):
            checkpoints.restore(like, 2.0)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="give `best_fn` to `Checkpoints`"):
            checkpoints.restore(like, "best")


def test_the_best_stays_and_the_newest_too(tmp_path: Path) -> None:
    like = jax.ShapeDtypeStruct((1,), jnp.float32)
    make = {"max_to_keep": 2, "best_fn": lambda notes: -notes["loss"]}
    losses = [None, 3.0, 0.5, math.nan, 2.0, 1.0]
    with Checkpoints(tmp_path, **make) as checkpoints:
        for step, loss in enumerate(losses):
            if step == 1:
                with pytest.raises(CheckpointError, match=r"There is no .* with notes"):
                    checkpoints.restore(like, "best")
            notes = None if loss is None else {"loss": loss}
            checkpoints.save(step, jnp.full(1, float(step)), notes)
        with pytest.raises(KeyError, match="loss"):
            checkpoints.save(9, jnp.ones(1), {"accuracy": 1.0})
        assert checkpoints.all_steps() == [2, 4, 5]
    with Checkpoints(tmp_path, **make) as checkpoints:
        found, notes = checkpoints.restore(like, "best")
        assert (found, notes) == (2.0, {"loss": 0.5})
        assert checkpoints.restore(like)[0] == 5.0


def test_another_learning_rate_where_that_is_said(tmp_path: Path) -> None:
    state = {"nu": jnp.ones(2)}
    with Checkpoints(tmp_path, "rate 0.1") as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path, "rate 0.2") as checkpoints:
        with pytest.raises(CheckpointError, match=r"rate 0.2.*check_description=False"):
            checkpoints.restore(state)
        _assert_equal(checkpoints.restore(state, check_description=False)[0], state)
        with pytest.raises(CheckpointError, match="it has no trace"):
            checkpoints.restore({**state, "trace": state}, check_description=False)


@pytest.mark.parametrize("leaf", ["text", 2**40])
def test_what_is_no_array_is_named(tmp_path: Path, leaf: Any) -> None:
    with Checkpoints(tmp_path) as saved, pytest.raises(TypeError, match="'x' can't be"):
        saved.save(1, {"x": leaf})


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"z": jnp.zeros((0, 3))},
        {"x": jnp.array([1, -2, 3], jnp.int4)},
        {"x": jnp.array([0.5, 6.0], jnp.float4_e2m1fn)},
        {"x": 0.1, "n": np.float64(0.5)},
    ],
)
def test_nothing_and_narrow_numbers(tmp_path: Path, tree: Any) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, tree)
        found, _ = saved.restore(tree)
    _assert_equal(found, jax.tree.map(jnp.asarray, tree))


def test_the_order_of_a_description_is_compared(tmp_path: Path) -> None:
    """Two groups with exchanged rates have the same lines."""
    with Checkpoints(tmp_path, "a\nb\nb") as saved:
        saved.save(1, {})
    for other in ("b\nb\na", "a\nb"):
        with Checkpoints(tmp_path, other) as saved, pytest.raises(CheckpointError):
            saved.restore({})


def test_two_that_write_into_one_folder(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as a, Checkpoints(tmp_path) as b:
        a.save(5, {"x": jnp.ones(2)})
        with pytest.raises(ValueError, match="greater than that of the newest"):
            b.save(5, {"x": jnp.zeros(2)})
        b.save(6, {"x": jnp.full(2, 6.0)})
        assert a.latest_step() == 6
        found, _ = a.restore({"x": jnp.ones(2)})
    np.testing.assert_array_equal(found["x"], [6.0, 6.0])
