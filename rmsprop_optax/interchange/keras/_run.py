"""Weights and optimizer state of a Keras model together."""

from collections.abc import Iterable, Mapping
from typing import Any

import optax

from rmsprop_optax._foundation._checks import check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert
from rmsprop_optax.interchange._slots import read
from rmsprop_optax.interchange._weights import (
    Layouts,
    converts,
    find_weights,
    import_weights,
)
from rmsprop_optax.interchange.keras._state import import_state
from rmsprop_optax.interchange.keras._weights import (
    LAYOUTS,
    NO_WEIGHTS,
    as_numpy,
    model_weights,
)


def import_run(
    foreign: Any,
    params: PyTree,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore_weights: Iterable[str] = NO_WEIGHTS,
    order: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
) -> tuple[PyTree, PyTree]:
    """Weights and optimizer state of a Keras model, in one call.

    Args:
      foreign: The compiled model, or its file.
      params: As for [`import_params`][rmsprop_optax.interchange.keras.import_params].
      opt_state: As for [`import_state`][rmsprop_optax.interchange.keras.import_state].
      tx: As there.
      names: As for `import_params`.
      layouts: As there; moments are laid out as their weights.
      convert: By path, for the weight and its moments.
      ignore_weights: ``ignore`` of `import_params`.
      order: As for `import_state`. None: that of ``model.trainable_variables``, which a
        file does not tell.
      ignore: As for `import_state`.

    Returns:
      The parameters and the state.

    Raises:
      ValueError: As for the two.
      ImportError: For a path, where h5py is missing.

    Examples:
      >>> from rmsprop_optax import interchange, rmsprop
      >>> interchange.keras.import_run("none.keras", {}, None, rmsprop())
      Traceback (most recent call last):
      ...
      FileNotFoundError: [Errno 2] No such file or directory: 'none.keras'
    """
    theirs = model_weights(foreign, params)
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, ignored, "/")
    held = read(opt_state).nu
    if order is None and hasattr(foreign, "trainable_variables"):
        paths = {w.name: w.path for w in weights}
        order = [paths[v.path] for v in foreign.trainable_variables]
        order = [path for path in order if path in held]
    both = converts(weights, convert, held)
    params = import_weights(params, weights, lambda name: as_numpy(theirs[name]), convert)
    optimizer = getattr(foreign, "optimizer", foreign)
    opt_state = import_state(
        optimizer, opt_state, tx, order=order, convert=both, ignore=ignore
    )
    return params, opt_state
