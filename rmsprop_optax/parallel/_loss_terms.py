"""What a loss returns: its value, the weight of its part of the batch, and aux."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import check_choice
from rmsprop_optax._foundation._dtypes import cast, wide_dtype
from rmsprop_optax._foundation._trees import Keys, map_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree


class Aux(NamedTuple):
    """What a loss returns beside its value, by how devices and micro-steps reduce it.

    Three trees like it, each with None in the place of what is in the others.
    """

    mean: PyTree
    sum: PyTree
    none: PyTree


def check_reduction(reduction: PyTree) -> None:
    """The name of a reduction, or a tree of names."""
    for word in jax.tree.leaves(reduction):
        check_choice("aux_reduction", word, Aux._fields)


def loss_terms(result: Any, *, has_aux: bool, weighted: bool) -> tuple[Any, Any, Any]:
    """Value, weight and aux of what a loss returned; None for what it does not return.

    A weighted value and its weight are float32 or wider, as sums over many examples.
    """
    weight = aux = None
    if has_aux:
        result, aux = _pair(result, "has_aux", "(value, aux)")
    if weighted:
        pair = _pair(result, "weighted", "(total, weight)")
        result, weight = (_as_summand(_as_float(_check_scalar(x))) for x in pair)
    return _check_scalar(result), weight, aux


def by_reduction(aux: PyTree, reduction: PyTree, batch: PyTree) -> Aux:
    """The aux of a part of the batch, sorted, as numbers that can be reduced."""
    try:
        words = jax.tree.map(
            lambda word, part: jax.tree.map(lambda _: word, part), reduction, aux
        )
    except ValueError as error:
        raise ValueError(
            "`aux_reduction` must be one of the words or a tree like the aux, "
            f"{jax.tree.structure(aux)}, got {reduction!r}."
        ) from error
    sizes = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(batch)}

    def of_examples(keys: Keys, x: Any) -> jax.Array:
        if not sizes.issuperset(jnp.shape(x)[:1] or [None]):
            raise ValueError(
                f"Aux '{path_of(keys)}' of shape {jnp.shape(x)} has no first axis of "
                f'{sizes} examples: `aux_reduction` can\'t be "none" for it.'
            )
        return jnp.asarray(x)

    def those(kind: str, convert: Any) -> PyTree:
        return map_with_keys(
            lambda keys, x, word: convert(keys, x) if word == kind else None, aux, words
        )

    return Aux(
        mean=those("mean", lambda _, x: _as_float(x)),
        sum=those("sum", lambda _, x: _as_summand(x)),
        none=those("none", of_examples),
    )


def joined(aux: Aux) -> PyTree:
    """The tree that a loss returned, with what has become of its leaves."""
    return jax.tree.map(
        lambda *xs: next((x for x in xs if x is not None), None),
        *aux,
        is_leaf=lambda x: x is None,
    )


def _pair(result: Any, argument: str, wanted: str) -> tuple[Any, Any]:
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            f"With `{argument}=True` the loss must return `{wanted}`, got {result!r}."
        )
    return tuple(result)


def _check_scalar(x: Any) -> Any:
    number = isinstance(x, (int, float, np.generic, np.ndarray, jax.Array))
    if not number or np.shape(x):
        raise TypeError(
            "The value and the weight of a loss must be scalars, got "
            f"{x!r}. A loss that returns more needs `has_aux=True` or `weighted=True`."
        )
    return x


def _as_float(x: Any) -> jax.Array:
    """A count or a flag as a number that has a mean."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def _as_summand(x: Any) -> jax.Array:
    """A flag as a count, a narrow number in float32."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return cast(x, wide_dtype(x.dtype))
    return x.astype(jnp.int32) if x.dtype == bool else x
