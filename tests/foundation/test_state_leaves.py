"""The parameter that an array of a state belongs to, found by structure."""

import contextlib
import inspect
import keyword
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rmsprop_optax as ro
from rmsprop_optax import MomentStorage, sparse
from rmsprop_optax._foundation._state_leaves import owners_of
from rmsprop_optax._foundation._trees import path_of

SMALL = MomentStorage("int8", min_size=0)


def owners(tx: Any, params: Any) -> list[tuple[str, str]]:
    """Field and path for each array of a state that belongs to a parameter."""
    state = jax.eval_shape(tx.init, params)
    found = filter(None, owners_of(tx, params, state))
    return [(owner.part.field, path_of(owner.keys)) for owner in found]


PARAMS = {"a": {"w": jnp.ones((4, 3))}, "w": jnp.ones((2, 3))}
BOTH = ("a/w", "w")
LABELS = {"a": "x", "w": "y"}


@pytest.mark.parametrize(
    ("tx", "fields"),
    [
        (optax.adam(0.1), ["mu", "nu"]),
        (
            optax.chain(optax.trace(0.9), ro.rmsprop(momentum=0.9)),
            ["trace", "nu", "trace"],
        ),
        (optax.inject_hyperparams(ro.rmsprop)(0.1), ["nu"]),
        (optax.MultiSteps(optax.adam(0.1), 2), ["mu", "nu", "acc_grads"]),
        (ro.accumulate_gradients(optax.trace(0.9), 2), ["acc_grads", "trace"]),
        (ro.rmsprop(moment_storage=SMALL), ["nu", "scales"]),
        (optax.masked(optax.trace(0.9), {"a": {"w": True}, "w": True}), ["trace"]),
        # `init` needs real parameters, so that `optax.tree.map_params` can't tell.
        (optax.partition({"x": ro.rmsprop(), "y": ro.rmsprop()}, LABELS), ["nu", "nu"]),
        (optax.scale_by_lbfgs(2), ["params", "updates", *2 * ["diff_params_memory"]]),
    ],
)
def test_moments_belong_to_the_parameter_in_their_place(tx: Any, fields: Any) -> None:
    found = owners(tx, PARAMS)
    if len(fields) == 4:  # of L-BFGS
        assert {path for _, path in found} == {*BOTH}
        return
    if "y" in str(fields) or len(found) == len(fields):  # of a partition
        assert found == [("nu", "a/w"), ("nu", "w")]
        return
    assert found == [(field, path) for field in fields for path in BOTH]


def test_arrays_below_the_place_of_a_parameter() -> None:
    """`optax.sm3` keeps a list of arrays for each parameter."""
    found = owners(optax.scale_by_sm3(), PARAMS)
    assert found == [("mu", p) for p in BOTH for _ in range(2)] + [
        ("nu", p) for p in BOTH
    ]


def test_a_transformation_that_has_no_place_for_parameters() -> None:
    assert owners(optax.flatten(optax.adam(0.1)), PARAMS) == []


@pytest.mark.parametrize("tx", [optax.lbfgs(), optax.adam(0.1)])
def test_one_array_as_parameters(tx: Any) -> None:
    params = jnp.ones((4, 3))
    state = tx.init(params)
    for leaf, owner in zip(
        jax.tree.leaves(state), owners_of(tx, params, state), strict=True
    ):
        if owner is not None:
            assert owner.keys == ()
            assert leaf.shape[-2:] == (4, 3)
    assert any(owners_of(tx, params, state))


def _names() -> list[str]:
    """Every field of a state and every argument of Optax and of this library."""
    found = {"w", "rows", "indices", "seed", "params", "updates"}
    for module in (optax, optax.contrib, ro, ro.sparse, ro.dialects):
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value):
                continue
            found.update(getattr(value, "_fields", ()))
            with contextlib.suppress(ValueError, TypeError):
                found.update(inspect.signature(value).parameters)
    return sorted(name for name in found if name.islower() and name < "zzz")


NAMES = _names()
TRANSFORMATIONS = {
    "schedule": lambda: ro.rmsprop(optax.exponential_decay(0.1, 1, 0.5)),
    "bias correction": lambda: ro.rmsprop(bias_correction=True, centered=True),
    "average": lambda: ro.rmsprop(use_ema=True, ema_momentum=0.5),
    "bfloat16": lambda: ro.rmsprop(moment_storage="bfloat16"),
    "injected": lambda: sparse.lazy(optax.inject_hyperparams(optax.adam)(0.1, b1=0.9)),
    "int8": lambda: sparse.lazy(ro.low_precision(optax.adam(0.1), SMALL)),
}


def _run(tx: Any, tree: Any, frozen: bool) -> list[np.ndarray]:
    """Three steps of a tree of two leaves, the second of which may have no gradient.

    The program takes and returns lists, so that it is the same for all names.
    """
    leaves, structure = jax.tree.flatten(tree)

    @jax.jit
    def three_steps(leaves: list[jax.Array]) -> list[jax.Array]:
        def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
            leaves, state = carry
            gradients = [jnp.cos(p + number) for p in leaves]
            if frozen:
                gradients[1] = None
            params = structure.unflatten(leaves)
            updates, state = tx.update(structure.unflatten(gradients), state, params)
            leaves = [
                p if u is None else p + u
                for p, u in zip(leaves, structure.flatten_up_to(updates), strict=True)
            ]
            return (leaves, state), None

        carry = leaves, tx.init(structure.unflatten(leaves))
        return jax.tree.leaves(jax.lax.scan(step, carry, jnp.arange(3))[0])

    return [np.asarray(x) for x in three_steps(leaves)]


def _trees(first: str, second: str) -> dict[str, Any]:
    """Two leaves under these names, in the containers that have names."""
    x, y = jnp.linspace(0, 1, 64).reshape(4, 16), jnp.ones((2, 16))
    names = {first: x, second: y}
    kinds = {"dict": names}
    if first.isidentifier() and second.isidentifier():
        fields = [(name, jax.Array) for name in names]
        kinds["NamedTuple"] = NamedTuple("Params", fields)(x, y)
        module = type("Model", (eqx.Module,), {"__annotations__": dict(fields)})
        kinds["Equinox"] = module(x, y)
        data = dataclass(type("Data", (), {"__annotations__": dict(fields)}))
        kinds["dataclass"] = jax.tree_util.register_dataclass(data)(x, y)
    return kinds


# By default: each transformation in one container, and each container, with a parameter
# that has no gradient, for the transformation whose hyperparameters have names too.
NAMED = [
    pytest.param(
        name,
        kind,
        frozen,
        id=f"{name}-{kind}-{'frozen' if frozen else 'trained'}",
        marks=[]
        if (kind == "dict" and not frozen) or (name == "injected" and frozen)
        else [pytest.mark.slow],
    )
    for name in TRANSFORMATIONS
    for kind in ("dict", "NamedTuple", "Equinox", "dataclass")
    for frozen in (False, True)
]


@pytest.mark.parametrize(("name", "kind", "frozen"), NAMED)
def test_a_parameter_may_have_any_name(name: str, kind: str, frozen: bool) -> None:
    rng = np.random.default_rng([len(name), len(kind), frozen])
    tx = TRANSFORMATIONS[name]()
    expected = _run(tx, _trees("aaa", "zzz")[kind], frozen)
    allowed = [n for n in NAMES if not (n.startswith("_") or keyword.iskeyword(n))]
    often = ["count", "nu", "mu", "b1", "learning_rate", "scales", "hyperparams"]
    for taken in (rng.choice(often), *rng.choice(allowed, 2)):
        # A dictionary sorts its keys: the first is the first.
        tree = _trees("AAA", str(taken)).get(kind)
        for found, wanted in zip(_run(tx, tree, frozen), expected, strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=taken)


@pytest.mark.parametrize(
    "taken",
    [
        "count",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("learning_rate", "nu")),
    ],
)
def test_a_parameter_of_nnx_may_have_any_name(taken: str) -> None:
    def run(name: str) -> list[Any]:
        model = nnx.Module()
        model.AAA, frozen = nnx.Param(jnp.ones((4, 16))), nnx.Variable(jnp.ones(2))
        setattr(model, name, nnx.Param(jnp.ones((2, 16))))
        model.other = frozen
        tx = ro.rmsprop(optax.exponential_decay(0.1, 1, 0.5), moment_storage=SMALL)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for _ in range(3):
            grads = nnx.grad(
                lambda m: jnp.sum(m.AAA**2) + jnp.sum(jnp.sin(getattr(m, name)))
            )(model)
            optimizer.update(model, grads)
        return jax.tree.leaves((nnx.state(model, nnx.Param), nnx.state(optimizer)))

    for found, wanted in zip(run(taken), run("zzz"), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_untrained_counter_of_a_module_is_no_gradient() -> None:
    class Model(eqx.Module):
        w: jax.Array
        count: jax.Array

    model = Model(jnp.ones(2), jnp.zeros((), jnp.int32))
    tx = ro.rmsprop(0.1, bias_correction=True)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    grads = eqx.filter_grad(lambda m: jnp.sum(m.w**2))(model)
    updates, state = tx.update(grads, state, model)
    np.testing.assert_allclose(updates.w, -0.1, rtol=1e-5)


@pytest.mark.parametrize(
    "made",
    [
        ro.rmsprop(0.1, centered=True),
        ro.rmsprop(0.1, momentum=0.9),
        ro.rmsprop(0.1, moment_storage="bfloat16"),
        ro.rmsprop(optax.constant_schedule(0.1)),
        ro.dialects.torch(0.1, momentum=0.9),
        optax.adam(0.1),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_state_of_another_configuration_is_refused(made: Any, compiled: bool) -> None:
    params = {"w": jnp.ones((4, 3))}
    update = ro.rmsprop(0.1).update
    update = jax.jit(update) if compiled else update
    for arguments in ((params,), ()):
        with pytest.raises(ValueError, match=r"`opt_state` was made by another trans"):
            update(params, made.init(params), *arguments)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("float16", "has dtype float16, not bfloat16"),
        (MomentStorage("bfloat16", rounding="nearest"), "'seed' is None, not an array"),
        ("int8", "'inner_state/0/mu/w' has dtype int8, not bfloat16"),
    ],
)
def test_a_state_of_other_storage_is_refused(made: Any, words: str) -> None:
    params = {"w": jnp.ones((64, 128))}
    inner = optax.adam(0.1)
    state = ro.low_precision(inner, made).init(params)
    with pytest.raises(ValueError, match=words):
        ro.low_precision(inner, "bfloat16").update(params, state, params)


def test_a_state_of_other_parameters_is_refused() -> None:
    params, other = {"w": jnp.ones((4, 3))}, {"w": jnp.ones((1, 3))}
    tx = ro.skip_nonfinite(optax.adam(0.1))
    with pytest.raises(ValueError, match=r"'inner_state/0/mu/w' has shape \(1, 3\)"):
        tx.update(params, tx.init(other), params)


def test_a_state_of_its_own_is_taken() -> None:
    """Without parameters, with bfloat16 gradients, with None, and inside of wrappers."""
    params = {"w": jnp.ones((8, 64)), "b": jnp.ones(3)}
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    tx = ro.accumulate_gradients(sparse.lazy(ro.low_precision(optax.adam(0.1), SMALL)), 2)
    for grads in (params, half, params | {"b": None}, half | {"w": None}):
        jax.eval_shape(tx.update, grads, tx.init(params), params)
        jax.eval_shape(tx.update, grads, tx.init(params))
