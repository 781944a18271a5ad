"""The update that a transformation makes, written out for a person to check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.core import Tracer

from rmsprop_optax._chain import Rmsprop
from rmsprop_optax._config import RmspropConfig, is_on

_WIDTH = 34


def describe(tx: Rmsprop) -> str:
    """The update that is about to run, in formulas and in words.

    Args:
      tx: What `rmsprop` or a dialect returned.

    Returns:
      Lines to print: g is the gradient, p the parameter, v the mean square, m the mean,
      s the denominator, b the momentum, t the step from 0.

    Raises:
      TypeError: For anything else. `optax.chain`, `optax.inject_hyperparams` and other
        wrappers hide what is inside them: describe that instead.

    Examples:
      >>> from rmsprop_optax import describe, dialects
      >>> print(describe(dialects.torch(lr=0.01, momentum=0.9, weight_decay=1e-5)))
      torch.optim.RMSprop
        g = g + 1e-05 p                   coupled weight decay, before all else
        v = 0.99 v + 0.01 |g|²            mean square, 0 at first
        s = √v + 1e-08                    epsilon outside the root
        b = 0.9 b + g / s                 momentum, without the learning rate
        p = p - 0.01 b
        complex p                         two parameters, its real and its imaginary part
    """
    config = getattr(tx, "config", None)
    if not isinstance(config, RmspropConfig):
        raise TypeError(
            f"`describe` takes what `rmsprop` or a dialect returned, got {tx!r}. A chain "
            "or a wrapper hides what is inside it: describe the part that `rmsprop` or "
            "the dialect made."
        )
    lines = [f"  {left:<{_WIDTH - 1}} {right}".rstrip() for left, right in _lines(config)]
    return "\n".join([config.source, *lines])


def _lines(f: RmspropConfig) -> Iterator[tuple[str, str]]:
    yield from _gradient_lines(f)
    yield from _moment_lines(f)
    yield from _descent_lines(f)
    yield from _parameter_lines(f)


def _gradient_lines(f: RmspropConfig) -> Iterator[tuple[str, str]]:
    if f.loss_scale_factor is not None:
        yield f"g = g / {_number(f.loss_scale_factor)}", "the loss was scaled"
    if f.gradient_accumulation_steps is not None:
        k = _number(f.gradient_accumulation_steps)
        yield f"g = mean of {k} gradients", f"one update every {k} calls"
    if f.maximize:
        yield "g = -g", "maximizes"
    if f.clipvalue is not None:
        limit = _number(f.clipvalue)
        yield f"g = g within ±{limit}", "each value clipped"
    if f.clipnorm is not None:
        yield f"g = g min(1, {_number(f.clipnorm)} / ‖g‖)", "each leaf clipped"
    if f.global_clipnorm is not None:
        limit = _number(f.global_clipnorm)
        yield f"g = g min(1, {limit} / ‖all g‖)", "all leaves clipped by one factor"
    if is_on(f.coupled_decay):
        decayed = f"g = g + {_weight(f.coupled_decay)} p"
        yield decayed, "coupled weight decay, before all else"


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
    if is_on(f.weight_decay):
        rate = "η²/η_max" if f.decay_rate is not None else _rate(f.learning_rate)
        which = (
            " of the parameters in the mask" if f.weight_decay_mask is not None else ""
        )
        decayed = f"p = (1 - {rate} {_weight(f.weight_decay)}) p"
        yield decayed, f"decoupled weight decay{which}"
    rate = _rate(f.learning_rate)
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
        yield f"a = {_number(beta)} a + {_rest(beta)} p", "average: `finalize` returns it"
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


def _rate(rate: Any) -> str:
    return "η(t)" if callable(rate) else _number(rate)


def _weight(decay: Any) -> str:
    return "λ(t)" if callable(decay) else _number(decay)


def _rest(decay: Any) -> str:
    """1 - decay, without the digits that binary fractions add."""
    if isinstance(decay, Tracer):
        return "(1 - traced)"
    return f"{1 - float(decay):.6g}"


def _number(value: Any) -> str:
    if isinstance(value, Tracer):
        return "traced"
    number = np.asarray(value).item()
    return str(number) if isinstance(number, int) else f"{number:.6g}"
