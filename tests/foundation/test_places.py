"""A leaf of a state is found to belong to its parameter, by its path."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from rmsprop_optax import MomentStorage, rmsprop
from rmsprop_optax._foundation._places import parameters_by_keys, place_of


def places(state: Any, params: Any) -> list[tuple[str, int] | None]:
    """Path and beginning, for each leaf of a state."""
    known, found = parameters_by_keys(params), []
    for path, _ in jax.tree_util.tree_leaves_with_path(state):
        place = place_of(path, known)
        name = None if place is None else jax.tree_util.keystr(place.keys)
        found.append(None if place is None else (name, place.start))
    return found


def test_a_moment_is_of_the_parameter_at_the_end_of_its_path() -> None:
    params = {"a": {"w": jnp.ones(3)}, "w": jnp.ones(2)}
    state = optax.scale_by_adam().init(params)
    mine = [("['a']['w']", 1), ("['w']", 1)]
    assert places(state, params) == [None, *mine, *mine]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"w": {"w": jnp.ones(1)}}, ("['w']", 1)),  # the innermost
        ({"a": {"w": jnp.ones(1)}}, ("['a']['w']", 0)),  # the longest
        ({"w": (jnp.ones(1),)}, ("['w']", 0)),  # what is kept of it is inside of it
        ({"b": jnp.ones(1)}, None),
    ],
)
def test_the_longest_and_innermost(state: Any, found: tuple[str, int] | None) -> None:
    params = {"a": {"w": jnp.ones(3)}, "w": jnp.ones(2)}
    assert places(state, params) == [found]


def test_a_name_of_the_state_is_not_a_key_of_the_parameters() -> None:
    params = {"nu": jnp.ones(3), "count": jnp.ones(3)}
    state = optax.scale_by_adam().init(params)
    assert places(state, params)[0] is None  # its `count` is an attribute


@pytest.mark.parametrize("storage", [None, MomentStorage("one_byte", min_size=0)])
def test_the_place_of_a_transformation_is_no_parameter(storage: Any) -> None:
    """A list of parameters has the same numbers in its paths as a chain."""
    params = [jnp.ones((rows, 4)) for rows in (2, 3, 5)]
    state = rmsprop(momentum=0.9, moment_storage=storage).init(params)
    known, counters = parameters_by_keys(params), 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        place = place_of(path, known)
        if "count" in jax.tree_util.keystr(path):
            assert place is None
            counters += 1
        elif leaf.ndim:
            assert place is not None
            assert place.param.shape[0] == leaf.shape[0]
    assert counters == 2


def test_one_array_has_no_path() -> None:
    known = parameters_by_keys(jnp.ones(3))
    assert list(known) == [()]
    assert place_of((jax.tree_util.GetAttrKey("nu"),), known) is None
