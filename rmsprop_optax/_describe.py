"""The update that a transformation makes, written out for a person to check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import optax

from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._configurations import visit_configurations
from rmsprop_optax._foundation._types import PyTree, Tracer


def describe(tx: optax.GradientTransformation, params: PyTree = None) -> str:
    """The update that is about to run, in formulas and in words.

    Args:
      tx: What `rmsprop` or a dialect returned; or, with ``params``, any transformation
        around such parts: `optax.chain`, `optax.partition`, `optax.inject_hyperparams`.
      params: The parameters, or their shapes, for which ``tx.init`` is traced to find
        the parts inside of ``tx``. What no part describes is named by its state. An
        `update` that `_replace` put in the place of a part's own is not seen.

    Returns:
      Lines to print: g is the gradient, p the parameter, v the mean square, m the mean,
      s the denominator, b the momentum, t the step from 0.

    Raises:
      TypeError: For a transformation around others, without ``params``; with them, for
        one without any part that `rmsprop` or a dialect made.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import describe, dialects
      >>> print(describe(dialects.torch(lr=0.01, momentum=0.9, weight_decay=1e-5)))
      torch.optim.RMSprop
        g = g + 1e-05 p                   coupled weight decay, before all else
        v = 0.99 v + 0.01 |g|²            mean square, 0 at first
        s = √v + 1e-08                    epsilon outside the root
        b = 0.9 b + g / s                 momentum, without the learning rate
        p = p - 0.01 b
        complex p                         two parameters, its real and its imaginary part

      Parameter groups:

      >>> tx = optax.partition(
      ...     {"body": dialects.keras(0.1), "head": dialects.keras(0.01)},
      ...     {"conv": "body", "linear": "head"},
      ... )
      >>> print(describe(tx, {"conv": jnp.ones(2), "linear": jnp.ones(3)}))
      keras.optimizers.RMSprop, for conv
        v = 0.9 v + 0.1 |g|²              mean square, 0 at first
        s = √(v + 1e-07)                  epsilon inside the root
        p = p - 0.1 g / s
      keras.optimizers.RMSprop, for linear
        v = 0.9 v + 0.1 |g|²              mean square, 0 at first
        s = √(v + 1e-07)                  epsilon inside the root
        p = p - 0.01 g / s
      and what has the states PartitionState, MaskedState
    """
    config = getattr(tx, "config", None)
    if isinstance(config, RmspropConfig):
        return "\n".join([config.source, *_formulas(config)])
    if params is None:
        raise TypeError(
            f"`tx` must be what `rmsprop` or a dialect returned, got {tx!r}. For a "
            "transformation around such parts, give `params` too: `describe(tx, params)`."
        )
    lines: list[str] = []

    def add(config: RmspropConfig, paths: list[str]) -> None:
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        lines.append(f"{config.source}, for {', '.join(paths[:4])}{more}")
        lines.extend(_formulas(config))

    foreign = visit_configurations(tx, params, add)
    if not lines:
        raise TypeError(f"No part of {tx!r} was made by `rmsprop` or a dialect.")
    if foreign:
        lines.append(f"and what has the states {', '.join(foreign)}")
    return "\n".join(lines)


def _formulas(config: RmspropConfig) -> list[str]:
    parts = (_gradient_lines, _moment_lines, _descent_lines, _parameter_lines)
    lines = [line for part in parts for line in part(config)]
    return [f"  {left:<33} {right}".rstrip() for left, right in lines]


def _gradient_lines(f: RmspropConfig) -> Iterator[tuple[str, str]]:
    if f.loss_scale_factor is not None:
        yield f"g = g / {_number(f.loss_scale_factor)}", "the loss was scaled"
    if f.gradient_accumulation_steps is not None:
        k = _number(f.gradient_accumulation_steps)
        yield f"g = mean of {k} gradients", f"one update every {k} calls"
    if f.maximize:
        yield "g = -g", "maximizes"
    if f.clipvalue is not None:
        yield f"g = g within ±{_number(f.clipvalue)}", "each value clipped"
    if f.clipnorm is not None:
        yield f"g = g min(1, {_number(f.clipnorm)} / ‖g‖)", "each leaf clipped"
    if f.global_clipnorm is not None:
        limit = _number(f.global_clipnorm)
        yield f"g = g min(1, {limit} / ‖all g‖)", "all leaves clipped by one factor"
    if is_on(f.coupled_decay):
        weight = _number(f.coupled_decay, "λ(t)")
        yield f"g = g + {weight} p", f"coupled weight decay{_of_mask(f)}, before all else"


def _moment_lines(f: RmspropConfig) -> Iterator[tuple[str, str]]:
    decay, share = _number(f.decay), _rest(f.decay)
    if f.centered:
        yield f"m = {decay} m + {share} g", "mean, 0 at first"
    start = _number(f.initial_scale)
    yield f"v = {decay} v + {share} |g|²", f"mean square, {start} at first"
    if f.bias_correction:
        moments = "v and m" if f.centered else "v"
        yield f"c = 1 - {decay}^(t+1)", f"bias correction: {moments} are divided by it"
    v = "v / c" if f.bias_correction else "v"
    if f.centered:
        v += " - |m / c|²" if f.bias_correction else " - |m|²"
    eps = _number(f.eps)
    inside = f"√({v} + {eps})"
    outside = f"√{v} + {eps}" if v == "v" else f"√({v}) + {eps}"
    words = f"epsilon {'inside' if f.eps_in_sqrt else 'outside'} the root"
    if f.centered:
        words += ", the variance never below 0"
    yield f"s = {inside if f.eps_in_sqrt else outside}", words


def _descent_lines(f: RmspropConfig) -> Iterator[tuple[str, str]]:
    rate = _number(f.learning_rate, "η(t)")
    if is_on(f.weight_decay):
        by = rate if f.decay_rate is None else "η²/η_max"
        weight = _number(f.weight_decay, "λ(t)")
        yield f"p = (1 - {by} · {weight}) p", f"decoupled weight decay{_of_mask(f)}"
    if not is_on(f.momentum):
        yield f"p = p - {rate} g / s", ""
        return
    mu, step = _number(f.momentum), f"{rate} g / s" if f.lr_in_momentum else "g / s"
    place = (
        "the learning rate inside" if f.lr_in_momentum else "without the learning rate"
    )
    yield f"b = {mu} b + {step}", f"momentum, {place}"
    moved = f"({step} + {mu} b)" if f.nesterov else "b"
    words = ["Nesterov's"] if f.nesterov else []
    words += ["where b and g agree in sign"] if f.cautious else []
    yield f"p = p - {'' if f.lr_in_momentum else rate + ' '}{moved}", ", ".join(words)


def _parameter_lines(f: RmspropConfig) -> Iterator[tuple[str, str]]:
    if callable(f.learning_rate):
        yield "η(t)", "the learning rate at call t, from 0"
    if f.use_ema:
        beta = f.ema_momentum
        first = ", from the initial p" if f.ema_from_initial else ""
        at = " at updates" if f.ema_per_update else ""
        words = f"average{at}{first}: `finalize` returns it"
        yield f"a = {_number(beta)} a + {_rest(beta)} p", words
    if f.ema_overwrite_frequency is not None:
        yield "p = a", f"every {_number(f.ema_overwrite_frequency)} iterations"
    if f.split_complex:
        yield "complex p", "two parameters, its real and its imaginary part"
    storage = f.storage
    if storage is not None:
        kind = storage.kind if storage.in_blocks else np.dtype(storage.kind).name
        yield "moments", f"stored as {kind}, {storage.rounding} rounding"
    if f.skip_nonfinite:
        yield "g infinite or NaN", "the call is dropped"


def _of_mask(f: RmspropConfig) -> str:
    return "" if f.weight_decay_mask is None else " of the parameters in the mask"


def _rest(decay: Any) -> str:
    """1 - decay, without the digits that binary fractions add."""
    if isinstance(decay, Tracer):
        return "(1 - traced)"
    return f"{1 - float(decay):.6g}"


def _number(value: Any, scheduled: str = "") -> str:
    if callable(value):
        return scheduled
    if isinstance(value, Tracer):
        return "traced"
    number = np.asarray(value).item()
    return str(number) if isinstance(number, int) else f"{number:.6g}"
