"""Complex parameters as pairs of real ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._dtypes import common_dtype, leaf_dtype, real_dtype
from rmsprop_optax._foundation._missing_gradients import checked_inner
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._trees import is_inexact, is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.wrappers._precision import keep_types


class _RealPair(NamedTuple):
    """A complex leaf as ``inner`` sees it."""

    real: Any
    imag: Any


@recorded
def split_complex(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs ``inner`` on the real and the imaginary part of each complex leaf by itself.

    PyTorch's way with complex parameters: each part has a second moment of its own,
    where Optax and the other dialects divide both by the root of the mean of |g|². It
    differs from `optax.contrib.split_real_and_imaginary` in three things: an infinite
    part does not make the other one NaN, gradients may be None (give ``params`` then),
    and the state keeps the parameters' own tree.

    Args:
      inner: The transformation.

    Returns:
      A transformation with the state of ``inner``, in which a moment of a complex
      parameter is one complex array: its real part is the moment of the real part, its
      imaginary part that of the imaginary part. Extra arguments go to ``inner``.

    Raises:
      ValueError: At ``init``, for an ``inner`` that keeps moments in integers.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.split_complex(rmsprop_optax.scale_by_rms(0.75, eps=0.0))
      >>> params = jnp.zeros(1, jnp.complex64)
      >>> updates, state = tx.update(jnp.array([3 - 0.5j]), tx.init(params), params)
      >>> print(updates, state.nu)
      [2.-2.j] [2.25+0.0625j]

    References:
      PyTorch, `torch.view_as_real` in `torch/optim/rmsprop.py`.
    """
    inner_init, inner_update = checked_inner(inner)

    def init_fn(params: PyTree) -> PyTree:
        if _is_split(params):
            return inner_init(params)
        return _join(inner_init(_split(params)))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        if _is_split(updates):
            return inner_update(updates, state, params, **extra_args)
        if params is None:
            updates = _split(updates)
        else:
            updates = jax.tree.map(_split_as, updates, params, is_leaf=is_leaf)
            params = _split(params)
        old = state
        new, state = inner_update(updates, _split(state), params, **extra_args)
        return _join(new), keep_types(old, _join(state))

    return check_states(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _is_complex(leaf: Any) -> bool:
    return is_inexact(leaf) and jnp.issubdtype(leaf_dtype(leaf), jnp.complexfloating)


def _is_pair(node: Any) -> bool:
    return isinstance(node, _RealPair)


def _is_split(tree: PyTree) -> bool:
    """Whether this wrapper is inside another one, which joins the pairs."""
    return any(map(_is_pair, jax.tree.leaves(tree, is_leaf=_is_pair)))


def _split(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: _parts(x) if _is_complex(x) else x, tree)


def _split_as(update: Any, p: PyTree) -> Any:
    """The gradient in as many parts as its parameter, also where it is None or real."""
    return _parts(update) if _is_complex(p) else update


def _parts(leaf: Any) -> _RealPair:
    if leaf is None:
        return _RealPair(None, None)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        part = leaf.update(dtype=real_dtype(leaf.dtype))
        return _RealPair(part, part)
    return _RealPair(jnp.real(leaf), jnp.imag(leaf))


def _join(tree: PyTree) -> PyTree:
    def join(node: Any) -> Any:
        if not _is_pair(node):
            return node
        if node.real is None:
            return None
        if jnp.issubdtype(node.real.dtype, jnp.integer):
            raise ValueError(
                f"The state of `inner` keeps the parts of a complex parameter in "
                f"{node.real.dtype}, of which there are no complex numbers: put the "
                "wrapper that stores them so around `split_complex`."
            )
        # Not real + 1j * imag, which makes NaN of an infinite part. Moments of a narrow
        # dtype have no complex counterpart, and become complex64.
        dtype = common_dtype(node.real.dtype, jnp.float32)
        return jax.lax.complex(node.real.astype(dtype), node.imag.astype(dtype))

    return jax.tree.map(join, tree, is_leaf=_is_pair)
