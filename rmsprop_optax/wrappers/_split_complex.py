"""Complex parameters as pairs of real ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.leaves import leaf_dtype, map_values


class RealPair(NamedTuple):
    """A complex leaf inside of [`split_complex`][rmsprop_optax.split_complex].

    Attributes:
      real: The real part.
      imag: The imaginary part.
    """

    real: Any
    imag: Any


def split_complex(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs ``inner`` on the real and the imaginary part of each complex leaf by itself.

    PyTorch's way with complex parameters: each part has a second moment of its own,
    where Optax and this library otherwise divide both by the root of the mean of |g|².
    As `optax.contrib.split_real_and_imaginary`, but with infinities that stay where they
    are, gradients that are None (give ``params`` then), and extra arguments.

    Args:
      inner: The transformation.

    Returns:
      A transformation with the state of ``inner``, in which each moment of a complex
      parameter is a [`RealPair`][rmsprop_optax.RealPair].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.split_complex(rmsprop_optax.scale_by_rms(0.75, eps=0.0))
      >>> params = jnp.zeros(1, jnp.complex64)
      >>> print(tx.update(jnp.array([3 - 0.5j]), tx.init(params), params)[0])
      [2.-2.j]

    References:
      PyTorch, `torch.view_as_real` in `torch/optim/rmsprop.py`.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> PyTree:
        return inner.init(jax.tree.map(_split, params))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        if params is None:
            updates = jax.tree.map(_split, updates, is_leaf=is_leaf)
        else:
            updates = jax.tree.map(_split_as, updates, params, is_leaf=is_leaf)
            params = jax.tree.map(_split, params)
        made, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(_join, made, is_leaf=_is_pair_or_leaf), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _split(leaf: Any) -> Any:
    if leaf is None or not jnp.issubdtype(leaf_dtype(leaf), jnp.complexfloating):
        return leaf
    return RealPair(map_values(jnp.real, leaf), map_values(jnp.imag, leaf))


def _split_as(update: Any, p: PyTree) -> Any:
    """The gradient in as many parts as its parameter, also where it is None or real."""
    if not (jax.tree_util.all_leaves([p]) and jnp.iscomplexobj(p)):
        return update
    if update is None:
        return RealPair(None, None)
    return RealPair(map_values(jnp.real, update), map_values(jnp.imag, update))


def _is_pair_or_leaf(node: Any) -> bool:
    return isinstance(node, RealPair) or is_leaf(node)


def _join(node: Any) -> Any:
    if not isinstance(node, RealPair):
        return node
    # Not real + 1j * imag, which makes NaN of an infinite part.
    if isinstance(node.imag, RowSlices):
        return map_values(lambda real: jax.lax.complex(real, node.imag.values), node.real)
    return None if node.real is None else jax.lax.complex(node.real, node.imag)
