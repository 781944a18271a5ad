"""Half-finished runs, moved from a framework to this library and back.

A module for each framework: `torch`, `keras` and `tf1`, with the same two functions:

* ``import_state(foreign, opt_state)`` puts a framework's optimizer state into one of
  ours; ``tx.init(params)`` gives the place to put it.
* ``export_state(opt_state, like)`` gives it back in the form that the framework loads
  itself.

They move the *state*: moments, momentum, averages, accumulators, counts. The numbers that
a transformation is built from (decay, epsilon, weight decay) are for you to give, in its
dialect; the learning rate moves where both sides keep it in their state, here under
`optax.inject_hyperparams`. Weights are not moved; if yours are transposed on the way, say
so in ``convert``.

Nothing is dropped without an error: what one side cannot hold, a missing or an unknown
key, a wrong shape, and a value that is not finite are errors that name it.
"""

from rmsprop_optax.interchange import keras, tf1, torch

__all__ = ["keras", "tf1", "torch"]
