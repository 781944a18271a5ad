"""Half-finished runs, moved from a framework to this library and back.

A module for each framework, `torch`, `keras` and `tf1`, with the same functions:

* ``import_run`` moves weights and optimizer state together, from a model or its file.
* ``import_params`` and ``export_params`` move weights: a tree of our parameters is filled
  with the framework's arrays. `LAYOUTS` says what the framework calls a weight of Flax's
  layers, and how its axes lie.
* ``import_state`` puts a framework's optimizer state into one of ours, and
  ``export_state`` gives it back in the form that the framework loads itself.

The state is moments, momentum, averages, accumulators and counts. The numbers that a
transformation is built from (decay, epsilon, weight decay) are for you to give, in its
dialect: they are compared with those of the run. The learning rate moves where both sides
keep it in their state, here under `optax.inject_hyperparams`.

Nothing is dropped without an error: what one side cannot hold, a missing or an unknown
key, a wrong shape, and a value that is not finite are errors that name it.
"""

from rmsprop_optax.interchange import keras, tf1, torch
from rmsprop_optax.interchange._weights import Layout

__all__ = ["Layout", "keras", "tf1", "torch"]
