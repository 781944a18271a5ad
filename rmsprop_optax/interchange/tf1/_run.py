"""Variables and slots of a TensorFlow 1 checkpoint together."""

from collections.abc import Iterable, Mapping
from os import PathLike

from rmsprop_optax._foundation._checks import check_names
from rmsprop_optax._foundation._types import PyTree
from rmsprop_optax.interchange._foreign import Convert
from rmsprop_optax.interchange._weights import import_weights
from rmsprop_optax.interchange.tf1._state import import_state
from rmsprop_optax.interchange.tf1._weights import read_variables


def import_run(
    foreign: str | PathLike[str],
    params: PyTree,
    opt_state: PyTree,
    *,
    names: Mapping[str, str] | None = None,
    convert: Convert | None = None,
    ignore_weights: Iterable[str] = (),
    optimizer_name: str = "RMSProp",
) -> tuple[PyTree, PyTree]:
    """Variables and slots of a TensorFlow 1 checkpoint, in one call.

    Args:
      foreign: The prefix of the checkpoint.
      params: As for [`import_params`][rmsprop_optax.interchange.tf1.import_params].
      opt_state: As for [`import_state`][rmsprop_optax.interchange.tf1.import_state].
      names: As for `import_params`.
      convert: By path, for the variable and its slots.
      ignore_weights: ``ignore`` of `import_params`.
      optimizer_name: As for `import_state`.

    Returns:
      The parameters and the state.

    Raises:
      ValueError: As for the two.
      ImportError: Where TensorFlow is missing.

    Examples:
      >>> from rmsprop_optax import interchange
      >>> interchange.tf1.import_run("none.ckpt-1", {}, None)
      Traceback (most recent call last):
      ...
      ValueError: The checkpoint 'none.ckpt-1' can't be read: ...
    """
    ignored = check_names("ignore_weights", ignore_weights)
    weights, arrays = read_variables(foreign, params, names, ignored, optimizer_name)
    opt_state = import_state(
        foreign,
        opt_state,
        names={w.path: w.name for w in weights},
        convert=convert,
        optimizer_name=optimizer_name,
    )
    return import_weights(params, weights, arrays.__getitem__, convert), opt_state
