"""Embedding tables that cost what a batch touches, not what the table weighs.

`value_and_grad` differentiates a loss that looks rows up with `lookup`, and gives the
gradient of each table as [`RowSlices`][rmsprop_optax.sparse.RowSlices]. Every
transformation of this library takes those in the place of a dense gradient, and leaves
the rows alone that are not in it: their parameters, and all of their moments.
"""

from rmsprop_optax._foundation._row_slices import RowSlices
from rmsprop_optax.sparse._gradients import value_and_grad
from rmsprop_optax.sparse._lookup import TableView, lookup

__all__ = ["RowSlices", "TableView", "lookup", "value_and_grad"]
