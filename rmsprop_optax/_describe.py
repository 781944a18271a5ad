"""The update that a transformation makes, written out for a person to check."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import optax

from rmsprop_optax._composition import Update, node_of
from rmsprop_optax._config import RmspropConfig, is_on
from rmsprop_optax._configurations import visit_configurations
from rmsprop_optax._foundation._checks import check_transformation
from rmsprop_optax._foundation._trees import leaves_with_keys, path_of
from rmsprop_optax._foundation._types import PyTree, Tracer
from rmsprop_optax._value_text import (
    arguments_text,
    call_text,
    number_text,
    paths_text,
    samples_text,
    text_of,
)

Lines = Iterator[tuple[str, str]]
_Group = tuple[list[str], set[str]]  # paths, and those of them that do not decay

# What only puts others together.
_CHAINS = ("chain", "named_chain", "with_extra_args_support")
_STEPS = "(0), (1), (10), ..., (10^6)"


def describe(tx: optax.GradientTransformation, params: PyTree = None) -> str:
    """The update that is about to run, in formulas and in words.

    What `rmsprop` or a dialect made is written as formulas, with numbers. Any other
    transformation is named with its arguments; one that is not of this library, with
    what its functions keep. A schedule is named, with its values at the steps 0, 1, 10,
    ..., 10^6, in four digits.

    Two descriptions of one transformation are equal. Two transformations can have equal
    descriptions: the description does not show what a callable without arguments
    returns, the code of a function, the values of an array, nor parameters
    after the fourth of a list.

    Args:
      tx: Any transformation.
      params: The parameters, or their shapes. With them, ``tx.init`` is traced: the
        description then says which parameters each RMSprop updates, which of them a
        mask excludes, and which moments are stored in full; and it shows an RMSprop
        inside of `optax.inject_hyperparams`.

    Returns:
      Lines to print: g is the gradient, p the parameter, ν the mean square, m the mean,
      w the variance, s the denominator, b the momentum, t the step from 0.

    Raises:
      TypeError: For what is not a transformation.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_optax import clip_by_global_norm, describe, dialects
      >>> print(describe(dialects.torch(lr=0.01, momentum=0.9, weight_decay=1e-5)))
      torch.optim.RMSprop
        g = g + 1e-05 p                   coupled weight decay, before all else
        ν = 0.99 ν + 0.01 |g|²            mean square, 0 at first
        s = √ν + 1e-08                    epsilon outside the root
        b = 0.9 b + g / s                 momentum, without the learning rate
        p = p - 0.01 b
        complex p                         two parameters, its real and its imaginary part

      Parameter groups:

      >>> tx = optax.partition(
      ...     {"body": dialects.keras(0.1), "head": optax.adam(0.01)},
      ...     {"conv": "body", "linear": "head"},
      ... )
      >>> tx = optax.chain(clip_by_global_norm(1.0), tx)
      >>> print(describe(tx, {"conv": jnp.ones(2), "linear": jnp.ones(3)}))
      clip_by_global_norm(max_norm=1)
      partition(param_labels=body for conv; head for linear)
        body:
          keras.optimizers.RMSprop, for conv
            ν = 0.9 ν + 0.1 |g|²              mean square, 0 at first
            s = √(ν + 1e-07)                  epsilon inside the root
            p = p - 0.1 g / s
        head:
          scale_by_adam(b1=0.9, b2=0.999, eps=1e-08, eps_root=0)
          scale(step_size=-0.01)
    """
    check_transformation("tx", tx)
    found: dict[int, tuple[RmspropConfig, list[_Group]]] = {}

    def add(config: RmspropConfig, paths: list[str], excluded: set[str]) -> None:
        found.setdefault(id(config), (config, []))[1].append((paths, excluded))

    if params is not None:
        visit_configurations(tx, params, add)
    shown: set[int] = set()

    def rmsprop_lines(config: RmspropConfig) -> list[str]:
        shown.add(id(config))
        lines = [line for part in _PARTS for line in part(config)]
        title, groups = config.source, found.get(id(config), (config, []))[1]
        if groups:  # one for each place that it has in `tx`
            paths, excluded = groups.pop(0) if len(groups) > 1 else groups[0]
            title += f", for {paths_text(paths)}"
            full = _stored_in_full(config, params, paths)
            lines += [(paths_text(full), "moments stored in full")] if full else []
            without = [path for path in paths if path in excluded]
            lines += [(paths_text(without), "no weight decay")] if without else []
        return [title, *(_line(*line) for line in lines)]

    def lines_of(update: Update) -> list[str]:
        node = node_of(update)
        if node.config is not None:
            return rmsprop_lines(node.config)
        inner = {label: lines_of(part) for label, part in node.inner.items()}
        if inner and node.name in _CHAINS:
            return [line for part in inner.values() for line in part]
        lines = [call_text(node.name, node.values)]
        for name, value in node.values.items():
            schedules = value if isinstance(value, Mapping) else {name: value}
            samples = {n: samples_text(x) for n, x in schedules.items()}
            lines += [_line(f"{n}{_STEPS}", text) for n, text in samples.items() if text]
        for label, part in inner.items():
            if node.has_labels:
                part = [f"{label}:", *(f"  {line}" for line in part)]
            lines += [f"  {line}" for line in part]
        return lines

    lines = lines_of(tx.update)
    # Those that a function makes at each call, as in `optax.inject_hyperparams`.
    for key, (config, _) in found.items():
        lines += [] if key in shown else rmsprop_lines(config)
    return "\n".join(lines)


def _line(left: str, right: str) -> str:
    return f"  {left:<33} {right}".rstrip()


def _gradient_lines(f: RmspropConfig) -> Lines:
    if f.loss_scale_factor is not None:
        yield f"g = g / {number_text(f.loss_scale_factor)}", "the loss was scaled"
    if f.gradient_accumulation_steps is not None:
        k = number_text(f.gradient_accumulation_steps)
        yield f"g = mean of {k} gradients", f"one update every {k} calls"
    if f.maximize:
        yield "g = -g", "maximizes"
    if f.clipvalue is not None:
        yield f"g = g within ±{number_text(f.clipvalue)}", "each value clipped"
    if f.clipnorm is not None:
        yield f"g = g min(1, {number_text(f.clipnorm)} / ‖g‖)", "each leaf clipped"
    if f.global_clipnorm is not None:
        limit = number_text(f.global_clipnorm)
        yield f"g = g min(1, {limit} / ‖all g‖)", "all leaves clipped by one factor"
    if is_on(f.coupled_decay):
        weight = _rate(f, "coupled_decay")
        yield f"g = g + {weight} p", f"coupled weight decay{_of_mask(f)}, before all else"


def _moment_lines(f: RmspropConfig) -> Lines:
    decay, share = number_text(f.decay), _rest(f.decay)
    start = f"{number_text(f.initial_scale)} at first"
    if f.centered:
        yield f"m = {decay} m + {share} g", "mean, 0 at first"
    if f.centered and not f.bias_correction:
        yield f"w = {decay} w + {share}/{decay} |g - m|²", f"variance, {start}"
    else:
        yield f"ν = {decay} ν + {share} |g|²", f"mean square, {start}"
    if f.bias_correction:
        moments = "ν and m" if f.centered else "ν"
        yield f"c = 1 - {decay}^(t+1)", f"bias correction: {moments} are divided by it"
    if f.centered and f.bias_correction:
        yield "w = ν / c - |m / c|²", "variance, as a sum that is never below 0"
    square = "w" if f.centered else "ν / c" if f.bias_correction else "ν"
    root = f"√({square})" if " " in square else f"√{square}"
    eps = number_text(f.eps)
    words = f"epsilon {'inside' if f.eps_in_sqrt else 'outside'} the root"
    yield f"s = √({square} + {eps})" if f.eps_in_sqrt else f"s = {root} + {eps}", words


def _descent_lines(f: RmspropConfig) -> Lines:
    rate = _rate(f, "learning_rate")
    if is_on(f.weight_decay):
        by = rate if f.decay_rate is None else _rate(f, "decay_rate")
        weight = _rate(f, "weight_decay")
        yield f"p = (1 - {by} · {weight}) p", f"decoupled weight decay{_of_mask(f)}"
    step = f"{rate} g / s" if f.lr_in_momentum else "g / s"
    moved = f"{rate} g / s"
    if is_on(f.momentum):
        place = "the learning rate inside" if f.lr_in_momentum else _WITHOUT
        mu = number_text(f.momentum)
        yield f"b = {mu} b + {step}", f"momentum, {place}"
        moved = f"({step} + {mu} b)" if f.nesterov else "b"
        moved = moved if f.lr_in_momentum else f"{rate} {moved}"
    words = ["Nesterov's"] if is_on(f.momentum) and f.nesterov else []
    words += ["where the step and g agree in sign"] if f.cautious else []
    yield f"p = p - {moved}", ", ".join(words)


def _parameter_lines(f: RmspropConfig) -> Lines:
    for name, letter in _LETTERS.items():
        rate = f.rates.get(name)
        if letter != _rate(f, name) or rate is None or isinstance(rate.given, Tracer):
            continue
        words, samples = name.replace("_", " "), samples_text(rate)
        calls = "at call t, from 0" if rate.counts else "read at each call"
        yield letter, f"the {words} {calls}: {text_of(rate)}"
        if samples:
            yield f"{letter[0]}{_STEPS}", samples
    if f.use_ema:
        beta = f.ema_momentum
        first = ", from the initial p" if f.ema_from_initial else ""
        at = " at updates" if f.ema_per_update else ""
        words = f"average{at}{first}: `finalize` returns it"
        yield f"a = {number_text(beta)} a + {_rest(beta)} p", words
    if f.ema_overwrite_frequency is not None:
        yield "p = a", f"every {number_text(f.ema_overwrite_frequency)} iterations"
    if f.split_complex:
        yield "complex p", "two parameters, its real and its imaginary part"
    if f.storage is not None:
        kind = "int8" if f.storage.in_blocks else np.dtype(f.storage.kind).name
        rest = {x.name: getattr(f.storage, x.name) for x in fields(f.storage)}
        rest |= {"kind": None, "rounding": None}
        words = f"stored as {kind}, {f.storage.rounding} rounding"
        yield "moments", f"{words}, {arguments_text(rest)}"
    if f.accumulate_rows is not None:
        yield "rows in the sum of gradients", text_of(f.accumulate_rows)
    if f.axis_name is not None:
        yield "over the mesh axis", text_of(f.axis_name)
    if f.skip_nonfinite:
        yield "g infinite or NaN", "the call is dropped"


def _stored_in_full(f: RmspropConfig, params: PyTree, paths: list[str]) -> list[str]:
    if f.storage is None:
        return []
    leaves = [(path_of(keys), p) for keys, p in leaves_with_keys(params)]
    return [x for x, p in leaves if x in paths and not f.storage.includes(x, p)]


_PARTS = (_gradient_lines, _moment_lines, _descent_lines, _parameter_lines)
_WITHOUT = "without the learning rate"
_LETTERS = {
    "learning_rate": "η(t)",
    "weight_decay": "λ(t)",
    "coupled_decay": "λ(t)",
    "decay_rate": "κ(t)",
}


def _rate(f: RmspropConfig, option: str) -> str:
    """A rate as it stands in a formula: the number, or its letter."""
    rate = f.rates.get(option)
    value = getattr(f, option)
    if rate is None or isinstance(value, Tracer):
        return number_text(value)
    if rate.counts or callable(rate.given):
        return _LETTERS[option]
    return number_text(rate(None))


def _of_mask(f: RmspropConfig) -> str:
    mask = f.weight_decay_mask
    return "" if mask is None else f" where {text_of(mask)}"


def _rest(decay: Any) -> str:
    """1 - decay, without the digits that binary fractions add."""
    if isinstance(decay, Tracer):
        return "(1 - traced)"
    return f"{1 - float(decay):.6g}"
