"""Numbers of blocks: the largest of each, and one number in each place of its block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmsprop_optax.storage._blocks import largest, spread
from tests._platforms import force

# With and without the tiles of a TPU: rows that are no multiple of 8, odd columns.
SHAPES = [(16, 384), (13, 256), (3, 10, 256), (2, 2, 8, 128), (2048,), (5, 300), (4, 100)]
SHAPES += [(0, 256), (0, 3, 256)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_numbers_of_blocks(
    shape: tuple[int, ...], platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, platform)
    x = np.random.default_rng(0).gamma(0.3, size=shape).astype(np.float32)
    count = math.ceil(shape[-1] / 128)
    size = math.ceil(shape[-1] / count)
    if x.size:
        x.flat[-1] = np.inf
    if (
        x.size and platform == "cpu"
    ):  # where XLA loses NaN in `jnp.max`, the form of the others
        x.flat[7] = np.nan
    padded = np.zeros((*shape[:-1], count * size), np.float32)
    padded[..., : shape[-1]] = x
    top = padded.reshape(*shape[:-1], count, size).max(axis=-1)
    found = jax.jit(lambda x: largest(x, count))(x)
    np.testing.assert_array_equal(found, top)
    everywhere = np.repeat(top, size, axis=-1)[..., : shape[-1]]
    np.testing.assert_array_equal(jax.jit(spread)(top, x), everywhere)


def test_the_shape_of_one_block_is_that_of_a_row() -> None:
    x = jnp.arange(12.0).reshape(3, 4)
    assert largest(x, 1).tolist() == [[3.0], [7.0], [11.0]]
    assert spread(largest(x, 1), x).shape == (3, 4)
