"""The random bits of roundings: uniform, independent, and the same for the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmsprop_optax.storage._blocks import split, view_of
from rmsprop_optax.storage._rounding import hash_bits, next_seed, uniform


def draw(shape: tuple[int, ...], key: int) -> np.ndarray:
    return np.asarray(uniform(hash_bits(shape, jnp.uint32(key))), np.float64)


@pytest.mark.parametrize("shape", [(65536,), (256, 256), (64, 16, 64), (8, 8, 8, 8, 16)])
def test_uniform(shape: tuple[int, ...]) -> None:
    counts, _ = np.histogram(draw(shape, 7), bins=256, range=(0, 1))
    chi_square = np.sum((counts - 256) ** 2 / 256)
    assert 255 - 5 * np.sqrt(510) < chi_square < 255 + 5 * np.sqrt(510)


def test_independent_between_neighbours_and_steps() -> None:
    key, steps = jnp.uint32(3), []
    for _ in range(4):
        steps.append(np.asarray(uniform(hash_bits((256, 256), key))))
        key = next_seed(key)
    x = np.stack(steps).astype(np.float64) - 0.5
    pairs = {
        "steps": (x[:-1], x[1:]),
        "rows": (x[:, :-1], x[:, 1:]),
        "columns": (x[..., :-1], x[..., 1:]),
        "blocks": (x[..., :-64], x[..., 64:]),
        "transposed": (x, x.swapaxes(1, 2)),
    }
    for name, (a, b) in pairs.items():
        correlation = 12 * np.mean(a * b)
        slack = 2 if name == "transposed" else 1  # the diagonal is there twice
        assert abs(correlation) < slack * 5 / np.sqrt(a.size) + 0.004 * slack, name


def test_keys_do_not_come_again_soon() -> None:
    _, keys = jax.lax.scan(
        lambda key, _: (next_seed(key), key), jnp.uint32(0), length=50_000
    )
    assert len(np.unique(keys)) == 50_000


def test_the_same_key_gives_the_same_bits() -> None:
    np.testing.assert_array_equal(draw((3, 5), 11), draw((3, 5), 11))
    assert np.all((draw((3, 5), 11) >= 0) & (draw((3, 5), 11) < 1))
    assert draw((), 11).shape == ()


@pytest.mark.parametrize("shape", [(16, 384), (3, 8, 256), (2048,), (5, 384), (4, 100)])
def test_a_position_has_its_bits_in_every_view(shape: tuple[int, ...]) -> None:
    """So the same seed draws the same numbers in blocks of any size."""
    seed, x = jnp.uint32(7), jnp.zeros(shape)
    for count in (c for c in (1, 2, 3, 16, shape[-1]) if shape[-1] % c == 0):
        bits = hash_bits(shape, seed, view_of(x, count))
        assert bits.shape == split(x, count).shape
        np.testing.assert_array_equal(bits.reshape(shape), hash_bits(shape, seed))
