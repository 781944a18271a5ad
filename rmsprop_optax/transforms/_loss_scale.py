"""Division of the gradients by a fixed loss scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._checks import check_loss_scale
from rmsprop_optax._foundation._dtypes import as_number, cast, divided, wide_dtype
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._trees import is_leaf, map_values
from rmsprop_optax._foundation._types import PyTree, Scalar


class UnscaleLossState(NamedTuple):
    """State of [`unscale_loss`][rmsprop_optax.unscale_loss].

    Attributes:
      loss_scale: What [`scale_loss`][rmsprop_optax.scale_loss] multiplies the loss by,
        and the next update divides the gradients by; float32.
    """

    loss_scale: jax.Array


@recorded
def unscale_loss(loss_scale: Scalar) -> optax.GradientTransformation:
    """Divides the gradients by the scale that the loss was multiplied by.

    Comes first in a chain. The scale is kept in the state, where
    [`scale_loss`][rmsprop_optax.scale_loss] finds it, so that loss and gradients always
    agree: a scale that changes between steps acts from the next loss on.

    Args:
      loss_scale: The factor, greater than 0.

    Returns:
      A transformation. Its updates are float32, or wider where the gradients are: a
      scaled float16 gradient may be too small for float16 once it is divided.

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
    check_loss_scale("loss_scale", loss_scale)

    def current() -> UnscaleLossState:
        # A copy: a donated step must not delete the user's own array.
        return UnscaleLossState(loss_scale=jnp.array(loss_scale, jnp.float32))

    def init_fn(params: PyTree) -> UnscaleLossState:
        del params
        return current()

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, UnscaleLossState]:
        del params
        return divide_wide(updates, state.loss_scale), current()

    return optax.GradientTransformation(init_fn, update_fn)


def divide_wide(updates: PyTree, scale: jax.Array) -> PyTree:
    """Updates divided by a real number, in float32 or wider."""

    def divide(g: Any) -> Any:
        if g is None:
            return None
        wide = map_values(lambda x: cast(x, wide_dtype(jnp.result_type(x))), g)
        return map_values(lambda x: divided(x, as_number(scale)), wide)

    return jax.tree.map(divide, updates, is_leaf=is_leaf)
