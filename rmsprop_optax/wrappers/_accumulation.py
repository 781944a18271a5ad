"""Gradient accumulation: the mean of k gradients, one update."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from rmsprop_optax._foundation._alignment import MOMENTS, aligned
from rmsprop_optax._foundation._checks import check_whole_number
from rmsprop_optax._foundation._dtypes import cast, leaf_dtype, narrow, wide_dtype
from rmsprop_optax._foundation._leafwise import init_moment
from rmsprop_optax._foundation._trees import (
    is_gradient_leaf,
    is_leaf,
    leaves_with_paths,
    map_values,
    rebuild,
)
from rmsprop_optax._foundation._types import Count, PyTree
from rmsprop_optax.wrappers._cond_update import cond_update


class AccumulateGradientsState(NamedTuple):
    """State of [`accumulate_gradients`][rmsprop_optax.accumulate_gradients].

    Attributes:
      count: Micro-steps since the last update, int32, from 0 to k - 1.
      acc_grads: The sums of the gradients since then, in the parameter's dtype or
        float32, whichever is wider; exactly zero after an update.
      inner_state: The state of the inner transformation, which changes with updates.
    """

    count: jax.Array
    acc_grads: PyTree
    inner_state: PyTree


class GradientSums(Protocol):
    """How gradients are added up, and how the sums are kept in the state."""

    def init(self, params: PyTree) -> PyTree:
        """What the state keeps before the first gradient."""
        ...

    def add(self, acc_grads: PyTree, updates: PyTree) -> PyTree:
        """The sums with one more gradient, as a tree of gradients."""
        ...

    def store(self, sums: PyTree) -> PyTree:
        """The sums as the state keeps them."""
        ...


class DenseSums:
    """Sums of dense gradients, one array for each parameter."""

    def init(self, params: PyTree) -> PyTree:
        """Zeros in the parameter's dtype or float32, whichever is wider."""
        return init_moment(params)

    def add(self, acc_grads: PyTree, updates: PyTree) -> PyTree:
        """The sums with one more gradient."""
        for path, g in leaves_with_paths(updates):
            if is_gradient_leaf(g):
                raise TypeError(
                    f"Gradient '{path}' is {g!r} and is accumulated: say how many rows "
                    "the calls of one update touch at the most, with `accumulate_rows="
                    f"{{'{path}': n}}` (of `accumulate_gradients`: `sums=sparse.RowSums("
                    f"{{'{path}': n}})`)."
                )
        rows = aligned(updates, acc_grads, what=MOMENTS)
        return rebuild(acc_grads, [add_leaf(g, total) for g, total in rows])

    def store(self, sums: PyTree) -> PyTree:
        """The sums as they are."""
        return sums


def add_leaf(g: Any, total: Any) -> Any:
    """The sum with one more gradient, in the dtype of the sum."""
    if g is None:
        return total
    wide = jnp.promote_types(wide_dtype(leaf_dtype(g)), total.dtype)
    return cast(cast(total, wide) + cast(g, wide), total.dtype)


def accumulate_gradients(
    inner: optax.GradientTransformation,
    gradient_accumulation_steps: Count,
    sums: GradientSums | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs ``inner`` once every k calls, on the mean of the k gradients.

    The calls in between add the gradient and return zero updates. `optax.MultiSteps`
    runs ``inner`` at each of them and multiplies by 0, so that one infinite gradient
    leaves a NaN in its accumulator for ever; here the sums are exactly zero after each
    update. (A leaf whose gradient is None in the k-th call keeps its sum for the next
    update.)

    Args:
      inner: The transformation. Everything in it moves with updates, not with calls.
      gradient_accumulation_steps: k, the calls of an update, at least 2.
      sums: How gradients are added up. For tables whose gradients come as
        [`RowSlices`][rmsprop_optax.sparse.RowSlices] give
        [`sparse.RowSums`][rmsprop_optax.sparse.RowSums]; None: all gradients are dense.

    Returns:
      A transformation. Extra arguments go to ``inner``, of the k-th call only.

    Raises:
      ValueError: For a number of steps less than 2.
      TypeError: For one that is not an integer; at the first trace, for a gradient by
        rows without `sparse.RowSums`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> import rmsprop_optax
      >>> tx = rmsprop_optax.accumulate_gradients(optax.scale(-1.0), 2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for gradient in (1.0, 3.0):
      ...     update, state = tx.update(jnp.array(gradient), state)
      ...     print(update)
      0.0
      -2.0

    References:
      Keras 3, `gradient_accumulation_steps`.
    """
    check_whole_number(
        "gradient_accumulation_steps", gradient_accumulation_steps, least=2
    )
    adds = DenseSums() if sums is None else sums
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: PyTree) -> AccumulateGradientsState:
        return AccumulateGradientsState(
            count=jnp.zeros([], jnp.int32),
            acc_grads=adds.init(params),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulateGradientsState]:
        is_last = state.count + 1 >= gradient_accumulation_steps

        def mean_leaf(g: Any, total: Any) -> Any:
            if g is None:
                return None
            dtype = leaf_dtype(g)
            return map_values(
                lambda values: narrow(values / gradient_accumulation_steps, dtype), total
            )

        def update(total: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            mean = jax.tree.map(mean_leaf, updates, total, is_leaf=is_leaf)
            return inner.update(mean, inner_state, params, **extra_args)

        total = adds.add(state.acc_grads, updates)
        outcome = cond_update(is_last, update, total, state.inner_state)
        left = jax.tree.map(_left, updates, total, outcome.unused, is_leaf=is_leaf)
        return outcome.updates, AccumulateGradientsState(
            count=jnp.where(is_last, 0, state.count + 1).astype(jnp.int32),
            acc_grads=adds.store(left),
            inner_state=outcome.state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _left(g: Any, total: Any, unused: Any) -> Any:
    """The sum after a call. Without a gradient in this call it waits for the next one."""
    return total if g is None else unused
