"""How a moment is stored between steps: as a narrower float, or as codes in blocks."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rmsprop_optax._foundation._dtypes import cast, wide_dtype
from rmsprop_optax.storage import _codes as codes
from rmsprop_optax.storage._blocks import largest, spread
from rmsprop_optax.storage._rounding import (
    array_seed,
    hash_bits,
    round_stochastically,
    uniform,
)


class Format(Protocol):
    """A way to store a moment.

    What is stored and its scales both have the rows of the parameter along their first
    axis (unless that is the last one too). So `sparse.lazy` takes rows of both.

    Attributes:
      dtypes: Those of what is stored.
    """

    @property
    def dtypes(self) -> tuple[jnp.dtype, ...]: ...

    def init(self, moment: jax.Array, *, signed: bool, blocks: int) -> "Pair":
        """The moment before the first step, stored."""
        ...

    def decode(self, stored: jax.Array, scale: jax.Array | None) -> jax.Array:
        """The values, in float32 or wider."""
        ...

    def encode(self, values: "Twice", like: "Pair", seed: "Seed") -> "Pair":
        """New values, stored as before; rounded to nearest where there is no seed.

        They come twice: for what is computed over a block, and for what is stored.
        """
        ...


CODES = (jnp.dtype(jnp.uint8), jnp.dtype(jnp.int8))
"""The dtypes of codes: where a moment is never negative, and where it has a sign."""

Twice = tuple[jax.Array, jax.Array]
"""The same values, which XLA may compute in two loops."""

Pair = tuple[jax.Array, jax.Array | None]
"""What is stored in the moment's place, and its scales; None: there are none."""

Seed = tuple[jax.Array, Any] | None
"""The seed of a step, and the number of an array in it; None: rounding is to nearest."""


@dataclass(frozen=True)
class FloatFormat:
    """A floating dtype. Finite values beyond its largest are stored as that.

    Attributes:
      dtype: The dtype.
    """

    dtype: jnp.dtype

    @property
    def dtypes(self) -> tuple[jnp.dtype, ...]:
        return (self.dtype,)

    def init(self, moment: jax.Array, *, signed: bool, blocks: int) -> Pair:
        del signed, blocks
        return _saturated(moment, self.dtype).astype(self.dtype), None

    def decode(self, stored: jax.Array, scale: jax.Array | None) -> jax.Array:
        del scale
        if jnp.finfo(stored.dtype).bits < 16:  # and so few bits have its tangents
            stored = _constant(stored)
        return cast(stored, wide_dtype(stored.dtype))

    @partial(jax.jit, static_argnums=0)
    def encode(self, values: Twice, like: Pair, seed: Seed) -> Pair:
        dtype = like[0].dtype
        x = _saturated(values[1], dtype)
        if seed is None or wide_dtype(dtype) == dtype:
            return cast(x, dtype), None
        bits = hash_bits(x.shape, array_seed(*seed))
        return round_stochastically(cast(x, jnp.float32), dtype, bits), None


def _saturated(values: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Finite values within the range of a dtype: an infinite moment never decays."""
    largest = float(jnp.finfo(dtype).max)
    if float(jnp.finfo(values.dtype).max) <= largest or dtype == jnp.bfloat16:
        return values
    return jnp.where(jnp.isfinite(values), jnp.clip(values, -largest, largest), values)


@dataclass(frozen=True)
class BlockFormat:
    """8-bit codes, and a scale for each block of values along the last axis.

    Codes are uint8 where the moment is never negative, else int8.
    """

    @property
    def dtypes(self) -> tuple[jnp.dtype, ...]:
        return CODES

    # Compiled whole outside of `jit`; inside, traced once for all moments of a shape.
    @partial(jax.jit, static_argnums=0, static_argnames=("signed", "blocks"))
    def init(self, moment: jax.Array, *, signed: bool, blocks: int) -> Pair:
        dtype = jnp.dtype(jnp.int8 if signed else jnp.uint8)
        scale = largest(jnp.zeros_like(moment), blocks)
        like = jnp.zeros_like(moment, dtype), scale
        return self.encode((moment, moment), like, None)

    @partial(jax.jit, static_argnums=0)
    def decode(self, stored: jax.Array, scale: jax.Array | None) -> jax.Array:
        scale = _present(scale)
        if not stored.size:
            return jnp.zeros(stored.shape, scale.dtype)
        return codes.decode(stored, spread(_constant(scale), stored))

    @partial(jax.jit, static_argnums=0)
    def encode(self, values: Twice, like: Pair, seed: Seed) -> Pair:
        stored, old_scale = like[0], _present(like[1])
        if not stored.size:
            return like
        for_scale, x = (cast(v, old_scale.dtype) for v in jax.lax.stop_gradient(values))
        magnitudes = codes.magnitude(for_scale, stored.dtype)
        top = largest(magnitudes, old_scale.shape[-1])
        scale, unit = (f(top, stored.dtype) for f in (codes.scale_of, codes.unit_of))
        chance = None
        if seed is not None:
            chance = uniform(hash_bits(stored.shape, array_seed(*seed))).astype(x.dtype)
        new = codes.encode(x, spread(unit, stored), stored.dtype, chance)
        return new, _varying(scale, values[1])


def _present(scale: jax.Array | None) -> jax.Array:
    if scale is None:
        raise TypeError("8-bit codes need their scales, got None.")
    return scale


@jax.custom_jvp
def _constant(x: jax.Array) -> jax.Array:
    """``x``; an error where it has a derivative, which what is stored can't carry."""
    return x


@partial(_constant.defjvp, symbolic_zeros=True)
def _constant_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    if isinstance(tangents[0], SymbolicZero):
        return primals[0], tangents[0]
    raise TypeError(
        "Moments in 8 bits carry no derivative from one step to the next. Store them as "
        '"bfloat16", or in full (`moment_storage=None`); or take the state as a constant '
        "in each step: `tx.update(grads, jax.lax.stop_gradient(opt_state), params)`."
    )


@jax.custom_jvp
def _varying(scale: jax.Array, x: jax.Array) -> jax.Array:
    """``scale``, with a derivative where ``x`` has one, so that `_constant` sees it."""
    del x
    return scale


@_varying.defjvp
def _varying_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    # Zeros, but computed from the tangent: reverse mode drops those that are constant.
    return primals[0], tangents[0] + 0 * jnp.sum(tangents[1]).astype(primals[0].dtype)


def format_of(dtype: jnp.dtype) -> Format:
    """The format that stores in this dtype."""
    return BlockFormat() if dtype in CODES else FloatFormat(dtype)
