"""The random bits of roundings: uniform, independent, and the same for the same key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmsprop_optax.storage._rounding import hash_bits, next_seed, uniform
from tests._platforms import force


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


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4)])
def test_all_platforms_have_the_same_bits(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = jnp.uint32(0xFEDCBA98)
    expected = hash_bits(shape, seed)
    force(monkeypatch, "tpu")
    np.testing.assert_array_equal(hash_bits(shape, seed), expected)
