"""A fixed loss scale: the loss is multiplied by it, the gradients are divided by it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._dtypes import real_like
from rmsprop_optax._foundation._trees import path_of
from rmsprop_optax._foundation._types import PyTree, Scalar
from rmsprop_optax._foundation._validation import check_found_once, check_positive
from rmsprop_optax.leaves import map_leaves


class UnscaleLossState(NamedTuple):
    """State of [`unscale_loss`][rmsprop_optax.unscale_loss].

    Attributes:
      loss_scale: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the loss by,
        and the next update divides the gradients by; float32.
    """

    loss_scale: jax.Array


def unscale_loss(loss_scale: Scalar) -> optax.GradientTransformation:
    """Divides the gradients by the scale that the loss was multiplied by.

    Comes first in a chain. The scale is kept in the state, where
    [`scale_loss`][rmsprop_optax.scale_loss] finds it, so that loss and gradients always
    agree: a scale that changes between steps acts from the next loss on.

    Args:
      loss_scale: The factor, greater than 0.

    Returns:
      A transformation.

    Raises:
      ValueError: For a factor that is not greater than 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.unscale_loss(8.0)
      >>> print(tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))[0])
      0.5

    References:
      Micikevicius et al., [Mixed Precision Training](https://arxiv.org/abs/1710.03740),
      2018; Keras 3, `loss_scale_factor`.
    """
    check_positive("loss_scale", loss_scale)

    def current() -> UnscaleLossState:
        return UnscaleLossState(loss_scale=jnp.asarray(loss_scale, jnp.float32))

    def init_fn(params: PyTree) -> UnscaleLossState:
        del params
        return current()

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, UnscaleLossState]:
        del params
        scale = state.loss_scale
        updates = map_leaves(lambda g: g / real_like(scale, g), updates)
        return updates, current()

    return optax.GradientTransformation(init_fn, update_fn)


def scale_loss(loss: jax.Array, opt_state: PyTree) -> jax.Array:
    """The loss times the loss scale of ``opt_state``: differentiate this.

    Finds the scale of ``rmsprop(loss_scale_factor=...)``, of
    [`unscale_loss`][rmsprop_optax.unscale_loss] and of
    [`dynamic_loss_scale`][rmsprop_optax.dynamic_loss_scale]; where there is none, the
    loss comes back as it is.

    Args:
      loss: The loss, a scalar.
      opt_state: The optimizer state that the next update is given.

    Returns:
      The scaled loss, in the loss's dtype.

    Raises:
      ValueError: Where the state holds several scales.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.rmsprop(0.1, loss_scale_factor=1024.0)
      >>> opt_state = tx.init(jnp.array(0.0))
      >>> print(rmsprop_optax.scale_loss(jnp.array(0.5), opt_state))
      512.0
    """
    found = list(_loss_scales(opt_state))
    check_found_once(
        [path for path, _ in found],
        what="the loss scales",
        remedy="Scale once: around the chain or partition, not inside each part of it.",
    )
    for _, scale in found:
        return loss * scale.astype(jnp.result_type(loss))
    return loss


def _loss_scales(state: PyTree, prefix: str = "") -> Iterator[tuple[str, jax.Array]]:
    """Every loss scale in a state behind its path, those inside wrappers too."""

    def is_scaled(node: Any) -> bool:
        return "loss_scale" in getattr(node, "_fields", ())

    for path, node in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_scaled):
        if is_scaled(node):
            at = f"{prefix}{path_of(path)}"
            yield at, node.loss_scale
            yield from _loss_scales(getattr(node, "inner_state", ()), f"{at}/")
