"""Embedding tables at the cost of the rows that a batch touches.

[`value_and_grad`][rmsprop_optax.sparse.value_and_grad] differentiates a loss that looks
rows up with [`lookup`][rmsprop_optax.sparse.lookup], and returns the gradient of each
table as [`RowSlices`][rmsprop_optax.sparse.RowSlices]. `rmsprop`, the dialects and any
transformation inside [`lazy`][rmsprop_optax.sparse.lazy] update the rows that are in it,
and no others.
"""

from rmsprop_optax.sparse._gradients import value_and_grad
from rmsprop_optax.sparse._lazy import lazy
from rmsprop_optax.sparse._lookup import TableView, lookup
from rmsprop_optax.sparse._row_slices import RowSlices
from rmsprop_optax.sparse._row_sums import RowSums, RowSumsState

__all__ = [
    "RowSlices",
    "RowSums",
    "RowSumsState",
    "TableView",
    "lazy",
    "lookup",
    "value_and_grad",
]
