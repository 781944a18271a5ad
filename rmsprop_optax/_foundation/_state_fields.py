"""What the fields of known optimizer states hold, by the class of the state."""

from functools import cache
from typing import Literal, TypeAlias

import jax
import optax

Holds: TypeAlias = Literal["second_moment", "signed", "full", "sum"]
"""What a field holds.

``"second_moment"`` is never negative, and one divides by its root. ``"signed"`` is any
other moment. ``"sum"`` adds gradients up over several calls. ``"full"`` is what is none
of these, such as an average of the parameters.
"""

Fields: TypeAlias = dict[str, Holds]

_OURS: dict[type, Fields] = {}


def state_fields(**fields: Holds) -> Fields:
    """The fields of a state, checked by type; for `register`."""
    return fields


def register(kind: type, fields: Fields) -> None:
    """Says what the fields of a state of this library hold, beside its class."""
    _OURS[kind] = fields


def holds(kind: type | None, field: str) -> Holds | None:
    """What a field of a state holds; None: it is not known."""
    if kind is None:
        return None
    return _OURS.get(kind, _of_optax().get(kind, {})).get(field)


@cache
def _of_optax() -> dict[type, Fields]:
    adam = state_fields(mu="signed", nu="second_moment")
    return {
        optax.ScaleByRssState: state_fields(sum_of_squares="second_moment"),
        optax.ScaleByRmsState: adam,
        # The states of bias-corrected moments have no public name in Optax.
        _class_of(optax.scale_by_rms(bias_correction=True)): adam,
        optax.ScaleByRStdDevState: adam,
        _class_of(optax.scale_by_stddev(bias_correction=True)): adam,
        optax.ScaleByAdamState: adam,
        optax.ScaleByAmsgradState: adam | state_fields(nu_max="second_moment"),
        optax.ScaleByBeliefState: adam,
        optax.ScaleByNovogradState: adam,
        optax.ScaleByLionState: adam,
        optax.contrib.MuonState: adam,
        optax.ScaleByAdaDeltaState: dict.fromkeys(("e_g", "e_x"), "second_moment"),
        optax.ScaleByAdanState: state_fields(
            m="signed", v="signed", n="second_moment", g="full"
        ),
        # A momentum in spite of its name; `mu` has an array for each axis.
        optax.ScaleBySM3State: state_fields(mu="full", nu="signed"),
        optax.FactoredState: dict.fromkeys(("v", "v_row", "v_col"), "second_moment"),
        optax.contrib.ScaleByAdemamixState: state_fields(
            m1="signed", m2="signed", nu="second_moment"
        ),
        optax.contrib.ScaleBySimplifiedAdEMAMixState: state_fields(
            m="signed", n="second_moment"
        ),
        optax.TraceState: state_fields(trace="signed"),
        optax.EmaState: state_fields(ema="full"),
        optax.MultiStepsState: state_fields(acc_grads="sum"),
        optax.ApplyEvery: state_fields(grad_acc="sum"),
    }


def _class_of(tx: optax.GradientTransformation) -> type:
    return type(jax.eval_shape(tx.init, {}))
