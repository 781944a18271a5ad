"""Weights and optimizer state of a PyTorch checkpoint together."""

from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from typing import Any

import optax

from rmsprop_optax._foundation._checks import check_name, check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert
from rmsprop_optax.interchange._slots import read
from rmsprop_optax.interchange._weights import (
    Layouts,
    Weight,
    converts,
    find_weights,
    import_weights,
)
from rmsprop_optax.interchange.torch._files import load, state_dict_of
from rmsprop_optax.interchange.torch._state import Order, import_state
from rmsprop_optax.interchange.torch._weights import BUFFERS, LAYOUTS


def import_run(
    foreign: Mapping[str, Any] | str | PathLike[str],
    params: PyTree,
    opt_state: PyTree,
    tx: optax.GradientTransformation,
    *,
    model: str = "model",
    optimizer: str = "optimizer",
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore_weights: Iterable[str] = BUFFERS,
    order: Order = None,
    ignore: Iterable[str] = (),
    fresh: Iterable[str] = (),
) -> tuple[PyTree, PyTree]:
    """Weights and optimizer state of a PyTorch checkpoint, in one call.

    Args:
      foreign: A checkpoint with the state dictionaries of both, or its path.
      params: As for [`import_params`][rmsprop_optax.interchange.torch.import_params].
      opt_state: As for [`import_state`][rmsprop_optax.interchange.torch.import_state].
      tx: As there.
      model: The key of the model's state dictionary.
      optimizer: The key of the optimizer's.
      names: As for `import_params`.
      layouts: As there; moments are laid out as their weights.
      convert: By path, for the weight and its moments.
      ignore_weights: ``ignore`` of `import_params`.
      order: As for `import_state`. None: the names in the optimizer's state; without
        names, for one parameter group, the order of the model's weights.
      ignore: As for `import_state`.
      fresh: As for `import_state`.

    Returns:
      The parameters and the state.

    Raises:
      ValueError: As for the two.
      ImportError: For a path, where torch is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import dialects, interchange
      >>> model = torch.nn.Linear(3, 2)
      >>> optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
      >>> model(torch.ones(1, 3)).sum().backward(); optimizer.step()
      >>> run = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
      >>> tx = dialects.torch(lr=1e-2)
      >>> params = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
      >>> params, opt_state = interchange.torch.import_run(
      ...     run, params, tx.init(params), tx
      ... )
    """
    if isinstance(foreign, (str, PathLike)):
        foreign = load(foreign, None)
    for name, key in (("model", model), ("optimizer", optimizer)):
        check_name(name, key)
        if not isinstance(foreign, Mapping) or key not in foreign:
            there = list(foreign) if isinstance(foreign, Mapping) else type(foreign)
            raise ValueError(
                f"The checkpoint lacks {key!r}, which `{name}` names: {there}."
            )
    theirs, state_dict = foreign[model], state_dict_of(foreign[optimizer], None)
    ignored = check_names("ignore_weights", ignore_weights)
    weights = find_weights(params, theirs, names, layouts, ignored, ".")
    held = read(opt_state).nu
    if order is None:
        order = _order_of_model(weights, theirs, state_dict["param_groups"], held)
    converts_both = converts(weights, convert, held)
    params = import_weights(params, weights, theirs.__getitem__, convert)
    opt_state = import_state(
        state_dict,
        opt_state,
        tx,
        order=order,
        convert=converts_both,
        ignore=ignore,
        fresh=fresh,
    )
    return params, opt_state


def _order_of_model(
    weights: list[Weight],
    theirs: Mapping[str, Any],
    groups: list[Any],
    held: Collection[str],
) -> Order:
    """Our paths in the optimizer's order; None for a parameter that is frozen here.

    The optimizer names its parameters, or has those of the model, in one group.
    """
    paths = {w.name: w.path if w.path in held else None for w in weights}
    if all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
        if not set(names) <= set(paths):
            return {w.path: w.name for w in weights}  # the error says which are unknown
        return [paths[name] for name in names]
    if len(groups) > 1:
        return None
    order = [paths[name] for name in theirs if name in paths]
    trained = [path for path in order if path is not None]
    return trained if len(groups[0]["params"]) == len(trained) else order
