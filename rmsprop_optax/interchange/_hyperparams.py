"""The numbers that a run was made with, beside those of the transformation."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax

from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._configurations import visit_configurations
from rmsprop_optax._foundation._checks import check_names, check_transformation
from rmsprop_optax._foundation._trees import leaves_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree, Tracer
from rmsprop_optax.interchange._foreign import as_number
from rmsprop_optax.interchange._slots import Slots, parameters_like

Configs = Mapping[str, RmspropConfig]

_NO_MASK: dict[str, Any] = {"weight_decay_mask": None, "decay_rate": None}


def configurations(
    tx: optax.GradientTransformation, opt_state: PyTree, current: Slots
) -> dict[str, RmspropConfig]:
    """The configuration that each parameter of a state is trained with, by path.

    A parameter that a mask excludes has one without weight decay.
    """
    check_transformation("tx", tx)
    found: dict[str, RmspropConfig] = {}
    params = parameters_like(opt_state)

    def add(config: RmspropConfig, paths: list[str]) -> None:
        excluded = _excluded(config, params)
        alone = replace(config, coupled_decay=None, weight_decay=None, **_NO_MASK)
        found.update({path: alone if path in excluded else config for path in paths})

    visit_configurations(tx, params, add, opt_state)
    unknown = [path for path in current.nu if path not in found]
    if unknown:
        raise ValueError(
            f"No `rmsprop` and no dialect in `tx` trains {unknown}, so the numbers of "
            "the run can't be compared with those of `tx`. Build it with a dialect: "
            "`dialects.optax` in the place of `optax.rmsprop`."
        )
    return found


def _excluded(config: RmspropConfig, params: PyTree) -> set[str]:
    """The paths of the parameters that the mask keeps from decaying."""
    mask = config.weight_decay_mask
    if mask is None:
        return set()
    flags = jax.tree.broadcast(mask(params) if callable(mask) else mask, params)
    return {path_of(keys) for keys, decays in leaves_with_keys(flags) if not decays}


def check_ignored(ignore: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """The names in ``ignore``, all of which the framework has."""
    names = check_names("ignore", ignore)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"`ignore` names {unknown}, the run has {sorted(known)}.")
    return frozenset(names)


def compare(
    theirs: Mapping[str, Any],
    config: RmspropConfig,
    options: Mapping[str, str],
    ignore: Collection[str],
    where: str,
    path: str,
) -> None:
    """Raises an error for a number of the run with which a parameter is not trained here.

    Schedules are not compared.

    Args:
      theirs: The numbers of the run, by the framework's own names.
      config: What the parameter is trained with.
      options: From the framework's names to those of the configuration.
      ignore: Names of the framework's that may differ.
      where: What has these numbers, for the message.
      path: The parameter, for the message.
    """
    for name, option in options.items():
        ours = _known(getattr(config, option))
        if name not in theirs or name in ignore or callable(ours):
            continue
        value = _plain(theirs[name], f"`{name}` of {where}")
        if isinstance(ours, Tracer) or _same(value, ours):
            continue
        raise ValueError(
            f"`{name}` of {where} is {value!r}, and `tx` trains '{path}' with "
            f"{config.argument(option)}={ours!r}. Build it with the numbers of the run; "
            f"or give ignore=({name!r},) to go on with those of `tx`."
        )


def check_formula(
    config: RmspropConfig, formula: Mapping[str, Any], dialect: str
) -> None:
    """Raises an error where the transformation has another update than the framework."""
    for option, value in formula.items():
        ours = _known(getattr(config, option))
        if not isinstance(ours, Tracer) and not _same(value, ours):
            raise ValueError(
                f"The run is one of {dialect}, with {option}={value!r}; `tx`, "
                f"{config.source}, has {config.argument(option)}={ours!r}. Build it with "
                f"{dialect}."
            )


def _known(ours: Any) -> Any:
    """A number of the state as one of Python's."""
    array = isinstance(ours, jax.Array) and not isinstance(ours, Tracer)
    return np.asarray(ours).item() if array else ours


def _plain(value: Any, key: str) -> Any:
    """None and flags as they are; else a finite number."""
    return value if value is None or isinstance(value, bool) else as_number(value, key)


def _same(theirs: Any, ours: Any) -> bool:
    """Whether two numbers are one; None, False and 0 all switch an option off."""
    if not is_on(theirs) or not is_on(ours):
        return not is_on(theirs) and not is_on(ours)
    # A framework may have rounded its own to float32.
    return math.isclose(float(theirs), float(ours), rel_tol=1e-6)
