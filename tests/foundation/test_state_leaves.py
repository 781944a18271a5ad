"""The parameter that a leaf of a state belongs to, by its path."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from rmsprop_optax import MomentStorage, rmsprop
from rmsprop_optax._foundation._state_leaves import owner_of
from rmsprop_optax._foundation._trees import leaves_with_keys


def owners(state: Any, params: Any) -> list[tuple[str, str] | None]:
    """Path and field, for each leaf of a state."""
    known, found = dict(leaves_with_keys(params)), []
    for keys, _ in jax.tree_util.tree_leaves_with_path(state):
        owner = owner_of(keys, known)
        name = None if owner is None else jax.tree_util.keystr(owner.keys)
        found.append(None if owner is None else (name, owner.field))
    return found


def test_a_moment_is_of_the_parameter_at_the_end_of_its_path() -> None:
    params = {"a": {"w": jnp.ones(3)}, "w": jnp.ones(2)}
    state = optax.scale_by_adam().init(params)
    mu = [("['a']['w']", "mu"), ("['w']", "mu")]
    nu = [("['a']['w']", "nu"), ("['w']", "nu")]
    assert owners(state, params) == [None, *mu, *nu]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"w": {"w": jnp.ones(1)}}, ("['w']", "")),
        ({"a": {"w": jnp.ones(1)}}, ("['a']['w']", "")),  # the longest
        ({"b": jnp.ones(1)}, None),
    ],
)
def test_the_longest_path(state: Any, found: tuple[str, str] | None) -> None:
    params = {"a": {"w": jnp.ones(3)}, "w": jnp.ones(2)}
    assert owners(state, params) == [found]


def test_a_field_of_the_state_is_not_a_key_of_the_parameters() -> None:
    params = {"nu": jnp.ones(3), "count": jnp.ones(3)}
    state = optax.scale_by_adam().init(params)
    assert owners(state, params)[0] is None  # its `count` is an attribute


@pytest.mark.parametrize("storage", [None, MomentStorage("int8", min_size=0)])
def test_the_number_of_a_transformation_is_not_that_of_a_parameter(storage: Any) -> None:
    """A list of parameters has the same numbers in its paths as a chain."""
    params = [jnp.ones((rows, 4)) for rows in (2, 3, 5)]
    state = rmsprop(momentum=0.9, moment_storage=storage).init(params)
    known = dict(leaves_with_keys(params))
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state):
        owner = owner_of(keys, known)
        if leaf.ndim:
            assert owner is not None
            assert known[owner.keys].shape[0] == leaf.shape[0]
        else:
            assert owner is None


def test_fields_of_parameters_that_are_named_like_those_of_states() -> None:
    """A NamedTuple of parameters with the fields nu and mu."""
    params = optax.ScaleByAdamState(count=jnp.ones(2), mu=jnp.ones(3), nu=jnp.ones(4))
    state = optax.trace(0.9).init(params)
    found = owners(state, params)
    assert found == [(".count", "trace"), (".mu", "trace"), (".nu", "trace")]
