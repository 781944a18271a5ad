"""The command line: a flag for each property of the run and argument of `rmsprop()`."""

import argparse
import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import optax
from model import TUNED

from rmsprop_optax import describe, exclude_paths, rmsprop

FOLDER, FLAGS_FILE = "char_gru_run", "flags.json"
# A command line can't give what these arguments take.
NOT_FLAGS = {"accumulate_rows", "axis_name"}
# What a resumed run may change. The checkpoints know the text by its content.
FREE_ON_RESUME = {
    *("folder", "resume", "compare", "text"),
    *("steps", "evaluate_every", "save_every", "sample_length"),
}


class UserError(Exception):
    """A mistake that the user can correct; the message is one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> Any:
        """Leaves the message to `main`."""
        raise UserError(message)


def make_parser() -> Parser:
    """A flag for each property of the run and each argument of `rmsprop()`."""
    summary = "Trains a character-level GRU on English text with rmsprop()."
    parser = Parser("python examples/char_gru", description=summary, allow_abbrev=False)
    add = parser.add_argument_group("the run").add_argument
    add("--text", type=path, metavar="FILE", help="UTF-8 text (default: help() topics)")
    add("--folder", type=path, help=f"of the run (default: a new {FOLDER})")
    add("--resume", action="store_true", help="continue the run in the folder")
    add("--compare", action="store_true", help="train with optax.adam and optax.sgd too")
    count = partial(add, type=partial(integer, least=1), metavar="N")
    shown = "(default: %(default)s)"
    add("--seed", type=integer, default=0, metavar="N", help=f"of the run {shown}")
    count("--steps", default=2000, help=f"training steps in all {shown}")
    count("--hidden", default=256, help=f"units of the GRU {shown}")
    count("--batch", default=32, help=f"windows of text in a step {shown}")
    count("--length", default=64, help=f"characters in a window {shown}")
    count("--evaluate-every", default=100, help=f"steps between evaluations {shown}")
    count("--save-every", default=250, help=f"steps between checkpoints {shown}")
    count("--sample-length", default=400, help=f"characters to write at the end {shown}")
    add = parser.add_argument_group("rmsprop(), see its documentation").add_argument
    for name, default in factory_defaults().items():
        flag = f"--{name.replace('_', '-')}"
        if name == "weight_decay_mask":
            text = "regular expressions of the parameters that do not decay"
            add(flag, nargs="+", metavar="REGEX", help=text)
        elif isinstance(default, bool):
            add(flag, action=argparse.BooleanOptionalAction, default=default, help=shown)
        else:
            kind = str if isinstance(default, str) else value
            add(flag, type=kind, default=default, metavar="X", help=shown)
    return parser


def factory_defaults() -> dict[str, Any]:
    """The arguments of `rmsprop()` that have a flag, and the flag's default."""
    parameters = inspect.signature(rmsprop).parameters.items()
    return {n: TUNED.get(n, p.default) for n, p in parameters if n not in NOT_FLAGS}


def integer(text: str, least: int = 0) -> int:
    """A number that fits in an int32."""
    if not text.isdecimal() or not least <= int(text[:11]) < 2**31:
        expected = f"must be an integer from {least} to {2**31 - 1}"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return int(text)


def path(text: str) -> Path:
    """A path that a system call takes."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def value(text: str) -> Any:
    """An int, a float, None ("none"), or the text itself; the factory checks it."""
    try:
        number = float(text)
    except ValueError:
        return None if text.lower() == "none" else text
    return int(number) if text.isdecimal() and number < 2**31 else number


def read_flags(argv: list[str]) -> tuple[argparse.Namespace, Path, list[str]]:
    """The flags, the folder of the run, and the flags to write into it."""
    parser = make_parser()
    flags = parser.parse_args(argv)
    runs = [Path(FOLDER)]
    while runs[-1].exists():
        runs.append(Path(f"{FOLDER}_{len(runs) + 1}"))
    if not flags.resume:
        folder = flags.folder or runs[-1]
        if (folder / FLAGS_FILE).exists():
            raise UserError(f"{folder} holds a run: add --resume, or change --folder.")
        return flags, folder, argv
    folder = flags.folder or runs[-2:][0]
    try:
        saved = json.loads((folder / FLAGS_FILE).read_text())
        if not isinstance(saved, list) or not all(isinstance(x, str) for x in saved):
            raise ValueError(f"{FLAGS_FILE} is not a list of flags")
    except (OSError, ValueError) as error:
        raise UserError(f"There is no run to resume in {folder}: {error}.") from error
    before, argv = vars(parser.parse_args(saved)), [*saved, *argv]
    flags = parser.parse_args(argv)
    changed = [
        f"--{name.replace('_', '-')} was {before[name]!r}, asked for {now!r}"
        for name, now in vars(flags).items()
        if name not in FREE_ON_RESUME and before[name] != now
    ]
    if changed:
        raise UserError(f"The run in {folder} has other flags: {'; '.join(changed)}.")
    return flags, folder, argv


def make_optimizers(flags: argparse.Namespace) -> dict[str, tuple[Any, str]]:
    """The optimizers and their descriptions, by name."""
    arguments = {name: getattr(flags, name) for name in factory_defaults()}
    try:
        if flags.weight_decay_mask is not None:
            arguments["weight_decay_mask"] = exclude_paths(*flags.weight_decay_mask)
        tx = rmsprop(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    optimizers: dict[str, Any] = {"rmsprop": tx}
    if flags.compare:
        optimizers["adam"] = optax.adam(2e-3)
        optimizers["sgd"] = optax.sgd(0.5, momentum=0.9)
    return {name: (tx, describe(tx)) for name, tx in optimizers.items()}
