"""The command line: a flag for every argument of the factory, and for the run."""

import argparse
import inspect
from typing import Any

import optax

from rmsprop_optax._rmsprop import rmsprop
from rmsprop_optax.transforms._weight_decay import exclude_paths

# What this task likes; everything else has the factory's own default.
TUNED = {"learning_rate": 5e-4, "momentum": 0.9}
WHOLE_NUMBERS = {"ema_overwrite_frequency", "gradient_accumulation_steps"}
TEXTS = {"name", "moment_storage"}
# The demo looks up no table by rows, and trains on one device.
NOT_FLAGS = {"accumulate_rows", "axis_name"}
# Which run it is, and how it is started, is not part of what it is.
NOT_SETTINGS = {"folder", "resume"}
# A resumed run may change these; all else would make another run of it.
FREE_ON_RESUME = {"steps", "evaluate_every", "save_every", "sample_length"}


class FlagError(Exception):
    """Flags that the factory refuses; the message is one line."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of `python -m rmsprop_optax`."""
    parser = argparse.ArgumentParser(
        prog="python -m rmsprop_optax",
        description="Train a character-level GRU on English prose with rmsprop().",
    )
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--folder",
        help="where checkpoints and the curve go (default: a new folder rmsprop_run)",
    )
    run.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    run.add_argument(
        "--compare",
        action="store_true",
        help="train with optax.adam and optax.sgd too, and draw the curves together",
    )
    for name, default, text in (
        ("steps", 2000, "training steps in all"),
        ("seed", 0, "seed of weights, batches and sample"),
        ("hidden", 256, "units of the GRU"),
        ("batch", 32, "windows of text in a step"),
        ("length", 64, "characters in a window"),
        ("evaluate-every", 100, "steps between evaluations on held-out text"),
        ("save-every", 250, "steps between checkpoints"),
        ("sample-length", 400, "characters that the network writes at the end"),
    ):
        run.add_argument(
            f"--{name}",
            type=int if name == "seed" else _at_least_one,
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )
    _add_factory_flags(parser.add_argument_group("rmsprop()", "see help(rmsprop)"))
    return parser


def _arguments() -> dict[str, inspect.Parameter]:
    """Those of the factory that have a flag."""
    parameters = inspect.signature(rmsprop).parameters
    return {n: p for n, p in parameters.items() if n not in NOT_FLAGS}


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer, at least 1, got {text!r}")
    return int(text)


def _add_factory_flags(group: Any) -> None:
    for name, parameter in _arguments().items():
        flag = f"--{name.replace('_', '-')}"
        default = TUNED.get(name, parameter.default)
        text = f"{name} of rmsprop() (default: %(default)s)"
        if name == "weight_decay_mask":
            text = "regular expressions of parameter paths that do not decay"
            group.add_argument(flag, nargs="+", metavar="REGEX", help=text)
        elif isinstance(default, bool):
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=default, help=text)
        else:
            kind = int if name in WHOLE_NUMBERS else str if name in TEXTS else float
            group.add_argument(flag, type=kind, default=default, metavar="X", help=text)


def make_optimizers(
    flags: argparse.Namespace,
) -> dict[str, optax.GradientTransformationExtraArgs]:
    """`rmsprop()` as the flags ask for it, and with `--compare` its peers."""
    arguments = {name: getattr(flags, name) for name in _arguments()}
    optimizers: dict[str, optax.GradientTransformationExtraArgs] = {}
    patterns = arguments["weight_decay_mask"]
    try:
        if patterns is not None:
            arguments["weight_decay_mask"] = exclude_paths(*patterns)
        optimizers["rmsprop"] = rmsprop(**arguments)
    except (TypeError, ValueError) as error:
        raise FlagError(str(error)) from error
    if flags.compare:
        optimizers["adam"] = optax.with_extra_args_support(optax.adam(2e-3))
        optimizers["sgd"] = optax.with_extra_args_support(optax.sgd(0.5, momentum=0.9))
    return optimizers


def settings(flags: argparse.Namespace) -> dict[str, Any]:
    """What the run is: a resumed one begins with these as its defaults."""
    return {n: v for n, v in vars(flags).items() if n not in NOT_SETTINGS}


def differing(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """The settings that a resumed run may not change, and was asked to."""
    return [
        f"--{name.replace('_', '-')} was {saved.get(name)!r}, asked for {value!r}"
        for name, value in asked.items()
        if name not in FREE_ON_RESUME and saved.get(name) != value
    ]
