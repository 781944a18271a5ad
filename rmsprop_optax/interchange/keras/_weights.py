"""Weights of Keras models and of their files."""

import math
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

import jax
import numpy as np

from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert
from rmsprop_optax.interchange._weights import (
    Layout,
    Layouts,
    export_weights,
    find_weights,
    import_weights,
)
from rmsprop_optax.interchange.keras._files import read_weights

LAYOUTS: Layouts = {
    ("bias", 1): Layout(("bias", "beta")),
    ("embedding", 2): Layout(("embeddings",)),
    ("scale", 1): Layout(("gamma",)),
    ("mean", 1): Layout(("moving_mean",)),
    ("var", 1): Layout(("moving_variance",)),
}
"""How Keras calls the weights of Flax's `Embed` and norms; other names are the same."""


NO_WEIGHTS = (r"\bmoving_(mean|variance)$", "seed_generator_state$")


def import_params(
    foreign: Any,
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = NO_WEIGHTS,
) -> PyTree:
    """The weights of a Keras model as parameters of ours.

    A parameter ``dense/kernel`` is the weight whose name in Keras ends with it; the
    scale of a norm is called ``gamma`` there, as ``layouts`` says.

    Args:
      foreign: The model; or the path of a ``.keras`` or ``.weights.h5`` file, which is
        read by h5py, without Keras. A file names layers, but not the weights of a layer:
        they are numbered (``my_layer/0``) where the layer is not one of Keras's usual
        ones.
      params: Our parameters, whose tree, shapes, dtypes and shardings the result has.
      names: From our paths, or the paths of our layers, to Keras's names:
        ``{"hidden": "dense_1", "out/kernel": "my_layer/0"}``.
      layouts: By the last part of a path and its number of axes, what Keras calls such a
        weight, and its axes.
      convert: By path, a function that brings Keras's NumPy array into our layout.
      ignore: Regular expressions of names that are not wanted. A weight that no
        parameter takes is an error otherwise.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: For what does not fit, by name and path.
      ImportError: For a path, where h5py is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from types import SimpleNamespace as Named
      >>> from rmsprop_optax import interchange
      >>> kernel = Named(path="sequential/dense/kernel", value=np.ones((2, 1)))
      >>> params = {"dense": {"kernel": jnp.zeros((2, 1))}}
      >>> params = interchange.keras.import_params(Named(weights=[kernel]), params,
      ...     convert={"dense/kernel": np.float32})
      >>> print(params["dense"]["kernel"].T)
      [[1. 1.]]
    """
    theirs = model_weights(foreign, params)
    weights = find_weights(params, theirs, names, layouts, ignore, "/")
    return import_weights(params, weights, lambda name: as_numpy(theirs[name]), convert)


def export_params(
    params: PyTree,
    like: Any,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = NO_WEIGHTS,
) -> dict[str, np.ndarray]:
    """Our parameters by the names that a Keras model has for them.

    Args:
      params: Our parameters.
      like: The Keras model.
      names: As for [`import_params`][rmsprop_optax.interchange.keras.import_params].
      layouts: As there.
      convert: By path, a function that brings our NumPy array into Keras's layout.
      ignore: As there.

    Returns:
      Arrays by ``variable.path``: load them by ``variable.assign(arrays[variable.path])``
      for each of ``model.trainable_variables``.

    Raises:
      ValueError: For what does not fit, by name and path.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from types import SimpleNamespace as Named
      >>> from rmsprop_optax import interchange
      >>> model = Named(weights=[Named(path="model/dense/bias", value=np.zeros(2))])
      >>> interchange.keras.export_params({"dense": {"bias": jnp.ones(2)}}, model)
      {'model/dense/bias': array([1., 1.], dtype=float32)}
    """
    theirs = model_weights(like, params)
    weights = find_weights(params, theirs, names, layouts, ignore, "/")
    result = export_weights(params, weights, convert)
    for name, array in result.items():
        if tuple(np.shape(as_numpy(theirs[name]))) != array.shape:
            raise ValueError(
                f"`{name}` has shape {np.shape(as_numpy(theirs[name]))} in Keras, "
                f"{array.shape} here: give `convert`."
            )
    return result


def model_weights(foreign: Any, params: PyTree) -> Mapping[str, Any]:
    """The variables of a model, or the arrays of its file, by name."""
    if isinstance(foreign, (str, PathLike)):
        sizes = [math.prod(np.shape(x)) for x in jax.tree.leaves(params)]
        return read_weights(fspath(foreign), max([1, *sizes]))
    if not hasattr(foreign, "weights"):
        raise TypeError(f"`foreign` must be a Keras model or its file, got {foreign!r}.")
    return {variable.path: variable for variable in foreign.weights}


def as_numpy(variable: Any) -> np.ndarray:
    """The values of a variable of Keras's, or an array."""
    return np.asarray(getattr(variable, "value", variable))
