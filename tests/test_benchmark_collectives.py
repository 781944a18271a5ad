"""What the benchmarks read off compiled programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.suites import _collectives


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
