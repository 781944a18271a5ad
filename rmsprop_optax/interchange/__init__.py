"""Half-finished runs, moved from a framework to this library and back.

A module for each framework, `torch`, `keras` and `tf1`, with the same functions:

* ``transformation``, of `torch` and `keras`, builds the transformation that a run was
  trained with.
* ``import_run`` moves weights and optimizer state together, from a model or its file.
* ``import_params`` and ``export_params`` move weights: a tree of our parameters is filled
  with the framework's arrays. `LAYOUTS` says what the framework calls a weight of Flax's
  layers, and how its axes lie.
* ``import_state`` puts a framework's optimizer state into one of ours, and
  ``export_state`` gives it back in the form that the framework loads itself.

The state is moments, momentum, averages, accumulators and counts. The numbers that ``tx``
is built from (decay, epsilon, weight decay) are compared with those of the run. The
learning rate moves where both sides keep it in their state, here under
`optax.inject_hyperparams`.

Nothing is dropped without an error. What one side cannot hold, a missing or an unknown
key, a name that two have, a wrong shape, a value that is not finite, a number that is not
that of ``tx``, a damaged file: each is a ValueError that names it, in every function. A
package that is needed for a file or a tensor, and is missing, is an ImportError.

These arguments are the same in every function that has them. The functions describe what
is special to them.

* ``params``: our parameters, whose tree, shapes, dtypes and shardings the result has.
* ``opt_state``: to import, the place to put the state, ``tx.init(params)``: the result
  has its structure, dtypes and shardings.
* ``tx``: the transformation that goes on, with the numbers of the run.
* ``names``: from our paths, or the paths of our layers, to the framework's names:
  ``{"hidden": "fc1"}``. A parameter that is not in it is looked for by its own path, as
  the end of a name.
* ``layouts``: by the last part of a path and its number of axes, what the framework calls
  such a weight, and its axes (`Layout`).
* ``convert``: by path, a function that brings a NumPy array into the layout of the other
  side, in the place of ``layouts``: ``{"dense/kernel": np.transpose}``.
* ``ignore_weights``, or ``ignore`` of ``import_params`` and ``export_params``: regular
  expressions of names that are not wanted. A weight that no parameter takes is an error
  otherwise.
* ``order``: the paths of our parameters in the order in which the framework's optimizer
  has them. None: parameters are matched by the framework's names, if these end with our
  paths (``sequential_dense_kernel`` with ``dense/kernel``). Otherwise the framework's
  order is taken to be our own, that of `jax.tree.leaves`; this is refused if parameters
  of the same shape could be swapped.
* ``ignore``: names of the run's numbers that may differ from those of ``tx``.
* ``key``: the entry of a file that holds the weights, or the state, beside other things.
* ``step``: how many updates the run has made. None: as the state counts them; where
  nothing in it needs a count, as ``like`` says.
"""

from rmsprop_optax.interchange import keras, tf1, torch
from rmsprop_optax.interchange._matching import Layout

__all__ = ["Layout", "keras", "tf1", "torch"]
