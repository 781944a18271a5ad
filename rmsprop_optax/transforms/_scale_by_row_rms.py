"""Division by the root of a mean square with one number a row, for tall tables."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax import rules
from rmsprop_optax._foundation._alignment import check_parameters
from rmsprop_optax._foundation._axes import explicit_sharding, named_sharding
from rmsprop_optax._foundation._checks import check_decay, check_flag, check_non_negative
from rmsprop_optax._foundation._dtypes import leaf_dtype, real_dtype, wide_dtype
from rmsprop_optax._foundation._leafwise import map_moments
from rmsprop_optax._foundation._origin import recorded
from rmsprop_optax._foundation._state_check import check_states
from rmsprop_optax._foundation._state_fields import register, state_fields
from rmsprop_optax._foundation._trees import is_leaf
from rmsprop_optax._foundation._types import PyTree, Scalar, Tracer


class ScaleByRowRmsState(NamedTuple):
    """State of [`scale_by_row_rms`][rmsprop_optax.scale_by_row_rms].

    Attributes:
      nu: The running mean of squared gradients, of shape (rows, 1, ...).
    """

    nu: PyTree


register(ScaleByRowRmsState, state_fields(nu="second_moment"))


@recorded
def scale_by_row_rms(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
) -> optax.GradientTransformation:
    r"""Divides each row of a gradient by the root of the running mean of its square.

    $$ν_t = ρ ν_{t-1} + (1 - ρ) \frac{1}{n} \sum_{j=1}^n |g_{t,j}|^2$$

    $$u_t = g_t / \sqrt{ν_t + ε}$$

    [`scale_by_rms`][rmsprop_optax.scale_by_rms] with one number for the n columns of a
    row: a table of 10 million rows has 40 MB of ``nu``, however wide it is. The rows are
    the first axis of a parameter. One of a single axis has a number for each value, as in
    `scale_by_rms`. `sparse.lazy` goes around it for gradients by rows.

    Args:
      decay: $ρ$, in [0, 1).
      eps: $ε$, at least 0. With 0, a row that was always 0 gives 0/0.
      initial_scale: $ν_0$.
      eps_in_sqrt: False adds $ε$ outside the root, as FBGEMM does.

    Returns:
      A transformation. Updates keep their dtype; ``nu`` is in the parameter's dtype or
      float32, whichever is wider, and `low_precision` leaves it so.

    Raises:
      ValueError: For a value out of its range, or gradients that do not fit the state.
      TypeError: For a value that is not a number, or a parameter that is not
        floating-point or complex.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.scale_by_row_rms(decay=0.75, eps=0.0)
      >>> grads = jnp.array([[3.0, 4.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
      >>> updates, state = tx.update(grads, tx.init(grads))
      >>> print(updates, state.nu.shape)
      [[2.4 3.2 0.  0. ]
       [2.  2.  2.  2. ]] (2, 1)

    References:
      FBGEMM, `EXACT_ROWWISE_ADAGRAD`, with a running mean in the place of the sum;
      Mudigere et al., [Software-Hardware Co-design for Fast and Scalable Training of Deep
      Learning Recommendation Models](https://arxiv.org/abs/2104.05158), 2022.
    """
    check_decay("decay", decay)
    check_non_negative("eps", eps)
    check_non_negative("initial_scale", initial_scale)
    check_flag("eps_in_sqrt", eps_in_sqrt)

    def init_fn(params: PyTree) -> ScaleByRowRmsState:
        check_parameters(params)
        init_leaf = partial(_init_leaf, fill=initial_scale)
        return ScaleByRowRmsState(jax.tree.map(init_leaf, params, is_leaf=is_leaf))

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree = None
    ) -> tuple[PyTree, ScaleByRowRmsState]:
        del params

        def rule(g: jax.Array, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
            columns = tuple(range(1, g.ndim))
            mean = jnp.mean(rules.abs_sq(g), axis=columns, keepdims=True)
            nu = rules.average(mean, nu, decay)
            return rules.normalize(g, nu, eps, eps_in_sqrt=eps_in_sqrt), nu

        what = "moments of rows in the optimizer state"
        updates, nu = map_moments(rule, updates, state.nu, moment_shape=_shape, what=what)
        return updates, ScaleByRowRmsState(nu)

    return check_states(optax.GradientTransformation(init_fn, update_fn))


def _shape(leaf: Any) -> tuple[int, ...]:
    """That of the moment of a parameter."""
    rows, columns = jnp.shape(leaf)[:1], jnp.shape(leaf)[1:]
    return (*rows, *[1] * len(columns))


def _init_leaf(p: Any, fill: Scalar) -> jax.Array | None:
    if p is None:
        return None
    traced = isinstance(p, Tracer)
    sharding = explicit_sharding(p) if traced else named_sharding(p)
    if sharding is not None:
        parts = [*sharding.spec[:1], *[None] * (len(jnp.shape(p)) - 1)]
        sharding = jax.NamedSharding(sharding.mesh, jax.P(*parts))
    where: Any = {"out_sharding" if traced else "device": sharding}
    moment = jnp.zeros(_shape(p), real_dtype(wide_dtype(leaf_dtype(p))), **where)
    return moment + jnp.asarray(fill, moment.dtype)
