"""The weight of a state: the same as that of a state, without making one."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import rmsprop_optax as ro

# Convolutions, norms, a table and a head, 26.2 M parameters in all.
LAYERS = {
    "stem": (7, 7, 3, 64),
    "conv": (16, 3, 3, 256, 256),
    "wide": (6, 1, 1, 1024, 2048),
    "scale": (53, 512),
    "table": (4000, 512),
    "head": (2048, 1000),
    "bias": (1000,),
}


def shapes(layers: dict[str, tuple[int, ...]]) -> Any:
    return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in layers.items()}


@pytest.mark.parametrize(
    ("arguments", "least", "most"),
    [
        ({}, 4.0, 4.001),
        ({"momentum": 0.9}, 8.0, 8.001),
        ({"moment_storage": "int8"}, 1.0, 1.1),
        ({"momentum": 0.9, "moment_storage": "int8"}, 2.0, 2.2),
        ({"momentum": 0.9, "moment_storage": "bfloat16"}, 4.0, 4.001),
        ({"centered": True, "moment_storage": "int8"}, 2.0, 2.2),
    ],
)
def test_bytes_a_parameter(arguments: Any, least: float, most: float) -> None:
    found = ro.state_bytes(ro.rmsprop(**arguments), shapes(LAYERS))
    assert sum(found.sizes.values()) > 25_000_000
    assert least <= found.per_parameter <= most


@pytest.mark.parametrize("storage", [None, "int8", "bfloat16"])
def test_it_is_the_weight_of_the_state(storage: Any) -> None:
    params = {
        "encoder": {"kernel": jnp.ones((64, 100)), "bias": jnp.ones(100)},
        "nu": [jnp.ones(3), None],
    }
    tx = optax.chain(
        optax.clip(1.0), ro.rmsprop(momentum=0.9, use_ema=True, moment_storage=storage)
    )
    held = sum(x.nbytes for x in jax.tree.leaves(tx.init(params)))
    found = ro.state_bytes(tx, params)
    assert found.total == held == sum(found.by_moment.values())
    assert found.by_leaf["ema", "encoder/kernel"] == 25_600
    assert found.by_leaf["nu", "nu/0"] == (6 if storage == "bfloat16" else 12)
    kernel = {None: 25_600, "int8": 6_400, "bfloat16": 12_800}
    assert found.by_leaf["trace", "encoder/kernel"] == kernel[storage]
    scales = found.by_leaf.get(("scales", "encoder/kernel"))
    assert scales == (2 * 64 * 4 if storage == "int8" else None)
    assert found.by_leaf["count", ""] == 4  # of the average


def test_one_array() -> None:
    found = ro.state_bytes(ro.rmsprop(momentum=0.9), jnp.ones(1000))
    assert found.by_moment == {"nu": 4000, "trace": 4000}
    assert found.by_leaf["nu", "<the root>"] == 4000


def test_no_state() -> None:
    assert ro.state_bytes(optax.identity(), {"w": jnp.ones(3)}).total == 0
    assert str(ro.state_bytes(optax.identity(), {})).splitlines()[-1].startswith("total")


def test_nothing_is_allocated() -> None:
    huge = {"w": jax.ShapeDtypeStruct((10**6, 10**6), jnp.bfloat16)}
    assert ro.state_bytes(ro.rmsprop(), huge).by_moment["nu"] == 4 * 10**12


def test_tables_of_moments_and_of_leaves() -> None:
    params = {"w": jnp.ones((10, 100)), "b": jnp.ones(100)}
    found = ro.state_bytes(ro.rmsprop(use_ema=True), params)
    assert str(found).splitlines() == [
        "moment  bytes  a parameter",
        "nu      4,400         4.00",
        "ema     4,400         4.00",
        "count       4",
        "total   8,804         8.00",
    ]
    assert found.leaves().splitlines()[:3] == [
        "moment  leaf  bytes  a parameter",
        "nu      b       400         4.00",
        "nu      w     4,000         4.00",
    ]
