"""Weights of PyTorch models and of their files."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rmsprop_optax._foundation._checks import check_name
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert, rounded
from rmsprop_optax.interchange._weights import (
    Layout,
    Layouts,
    export_weights,
    find_weights,
    import_weights,
)
from rmsprop_optax.interchange.torch._files import Foreign, import_torch, weights_of

LAYOUTS: Layouts = {
    ("kernel", 2): Layout(("weight",), (1, 0)),
    ("kernel", 3): Layout(("weight",), (2, 1, 0)),
    ("kernel", 4): Layout(("weight",), (2, 3, 1, 0)),
    ("kernel", 5): Layout(("weight",), (2, 3, 4, 1, 0)),
    ("embedding", 2): Layout(("weight",)),
    ("scale", 1): Layout(("weight",)),
    ("mean", 1): Layout(("running_mean",)),
    ("var", 1): Layout(("running_var",)),
}
"""How PyTorch keeps the weights of Flax's `Linear`, `Conv`, `Embed` and norms."""


BUFFERS = (r"\bnum_batches_tracked$", r"\brunning_(mean|var)$")


def import_params(
    foreign: Foreign,
    params: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = BUFFERS,
    key: str | None = None,
) -> PyTree:
    """The weights of a PyTorch model as parameters of ours.

    A parameter ``dense/kernel`` is looked for as ``dense.weight``, transposed, as
    ``layouts`` says. The framework's name may have more in front (``module.``).

    Args:
      foreign: What ``model.state_dict()`` returned; or the path of a ``.pt`` file, read
        with ``weights_only=True``, or of a ``.safetensors`` file.
      params: Our parameters, whose tree, shapes, dtypes and shardings the result has.
      names: From our paths, or the paths of our layers, to PyTorch's names:
        ``{"hidden": "fc1", "scale": "norm.weight"}``.
      layouts: By the last part of a path and its number of axes, what PyTorch calls such
        a weight, and its axes: ``{**LAYOUTS, ("w", 2): Layout(("weight",), (1, 0))}``.
      convert: By path, a function that brings PyTorch's NumPy array into our layout, in
        the place of the transposition.
      ignore: Regular expressions of names that are not wanted. A weight that no
        parameter takes is an error otherwise.
      key: The entry of a file that holds the weights beside other things.

    Returns:
      A tree like ``params``.

    Raises:
      ValueError: For what does not fit, by name and path.
      ImportError: For a path, where torch or safetensors is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import interchange
      >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2))
      >>> params = {"hidden": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
      >>> params = interchange.torch.import_params(
      ...     model.state_dict(), params, names={"hidden": "0"}
      ... )
      >>> bool((params["hidden"]["kernel"] == model[0].weight.detach().numpy().T).all())
      True
    """
    if key is not None:
        check_name("key", key)
    theirs = weights_of(foreign, key)
    weights = find_weights(params, theirs, names, layouts, ignore, ".")
    return import_weights(params, weights, theirs.__getitem__, convert)


def export_params(
    params: PyTree,
    like: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    layouts: Layouts = LAYOUTS,
    convert: Convert | None = None,
    ignore: Iterable[str] = BUFFERS,
) -> dict[str, Any]:
    """Our parameters as what ``model.load_state_dict`` takes.

    Args:
      params: Our parameters.
      like: ``model.state_dict()`` of the model that is to have them; what `ignore` names
        stays as it is there.
      names: As for [`import_params`][rmsprop_optax.interchange.torch.import_params].
      layouts: As there.
      convert: By path, a function that brings our NumPy array into PyTorch's layout.
      ignore: As there.

    Returns:
      A state dictionary of tensors in the dtypes of ``like``.

    Raises:
      ValueError: For what does not fit, by name and path.
      ImportError: Where torch is missing.

    Examples:
      >>> import jax.numpy as jnp, torch
      >>> from rmsprop_optax import interchange
      >>> model = torch.nn.Linear(3, 2)
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
      >>> like = model.state_dict()
      >>> model.load_state_dict(interchange.torch.export_params(params, like))
      <All keys matched successfully>
    """
    torch = import_torch()
    weights = find_weights(params, like, names, layouts, ignore, ".")
    result = dict(like)
    for name, array in export_weights(params, weights, convert).items():
        if tuple(like[name].shape) != array.shape:
            raise ValueError(
                f"`{name}` has shape {tuple(like[name].shape)} in `like`, {array.shape} "
                "here: give `convert`."
            )
        # NumPy's bfloat16 is none that PyTorch knows.
        wide = array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        dtype = str(like[name].dtype).removeprefix("torch.")
        rounded(wide, dtype, name)
        result[name] = torch.tensor(wide, dtype=like[name].dtype)
    return result
