"""The variables of a TensorFlow 1 model."""

import math
import re
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

import jax

from rmsprop_optax._foundation._checks import check_name, check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert
from rmsprop_optax.interchange._weights import Weight, find_weights, import_weights
from rmsprop_optax.interchange.tf1._files import checkpoint_reader


def import_params(
    foreign: Mapping[str, Any] | str | PathLike[str],
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    ignore: Iterable[str] = (),
    optimizer_name: str = "RMSProp",
) -> PyTree:
    """The variables of a TensorFlow 1 model as parameters of ours.

    To give them back, assign each of ours to the variable of its name.

    Args:
      foreign: Arrays by the variable's name; or the prefix of a checkpoint.
      params: Our parameters, whose tree, shapes, dtypes and shardings the result has.
      names: From our paths, or the paths of our layers, to the names of variables,
        without ``:0``. A path that is not in it is looked for as the end of a name.
      convert: By path, a function that brings TensorFlow's NumPy array into our layout.
      ignore: Regular expressions of names that are not wanted, beside ``global_step``
        and the optimizer's slots. A variable that no parameter takes is an error
        otherwise.
      optimizer_name: As for [`import_state`][rmsprop_optax.interchange.tf1.import_state].

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: For what does not fit, by name and path.
      ImportError: For a checkpoint, where TensorFlow is missing.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from rmsprop_optax import interchange
      >>> variables = {"model/w": np.ones(2, np.float32)}
      >>> print(interchange.tf1.import_params(variables, {"w": jnp.zeros(2)}))
      {'w': Array([1., 1.], dtype=float32)}
    """
    ignore = check_names("ignore", ignore)
    weights, arrays = read_variables(foreign, params, names, ignore, optimizer_name)
    return import_weights(params, weights, arrays.__getitem__, convert)


def read_variables(
    foreign: Mapping[str, Any] | str | PathLike[str],
    params: PyTree,
    names: Mapping[str, str] | None,
    ignore: Iterable[str],
    optimizer_name: str,
) -> tuple[list[Weight], Mapping[str, Any]]:
    """Which variables are our parameters, and their arrays by name."""
    check_name("optimizer_name", optimizer_name)
    slots = (rf"/{re.escape(optimizer_name)}(_\d)?$", "^global_step$")
    ignored = (*ignore, *slots)
    if isinstance(foreign, Mapping):
        return find_weights(params, foreign, names, {}, ignored, "/"), foreign
    with checkpoint_reader(fspath(foreign)) as reader:
        shapes = reader.get_variable_to_shape_map()
        weights = find_weights(params, sorted(shapes), names, {}, ignored, "/")
        # One of another size is not read: its shape is what the error says.
        arrays = {
            w.name: reader.get_tensor(w.name)
            if math.prod(shapes[w.name]) == math.prod(w.like.shape)
            else jax.ShapeDtypeStruct(tuple(shapes[w.name]), "float32")
            for w in weights
        }
    return weights, arrays
