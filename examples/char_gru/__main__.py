"""Trains a character-level GRU on English text with `rmsprop()`.

    pip install '.[demo]'
    python examples/char_gru

The text is that of Python's own `help()` topics, about 450,000 characters; `--text FILE`
trains on another one. 2,000 steps take about two minutes on two CPU cores. The loss on
held-out text falls to about 1.43 nats per character, from 3.33 for a model that knows
only how frequent each character is. The network then writes lines that look like the
text. The folder `char_gru_run` holds the learning curve and the checkpoints.

`--help` lists the flags; each argument of `rmsprop()` has one. Ctrl-C saves and stops,
`--resume` continues to the same numbers, `--compare` trains with Adam and SGD too.
"""

import importlib
import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not {"-h", "--help"}.intersection(sys.argv):
    print("loading JAX ...", flush=True)  # noqa: T201

import jax
import jax.numpy as jnp
import numpy as np
from flags import FLAGS_FILE, UserError, make_optimizers, read_flags
from model import Trainer, TrainState, encode, load_corpus, sample, unigram_loss

from rmsprop_optax import finalize
from rmsprop_optax.checkpoints import CheckpointError, Checkpoints

EXTRAS = ("matplotlib.figure", "orbax.checkpoint", "tqdm")
MISTAKE, INTERRUPTED = 2, 130  # exit codes
# The step and the losses of each evaluation ("steps", "train", "held_out"), in nats,
# and the training losses since the last evaluation ("recent").
Curve = dict[str, list[Any]]


def train(
    trainer: Trainer,
    checkpoints: Checkpoints,
    flags: Namespace,
    label: str,
    interrupted: list[int],
) -> tuple[TrainState, Curve]:
    """Trains from the newest checkpoint, if any, to the last step or an interruption."""
    from tqdm import tqdm

    def evaluate() -> None:
        curve["steps"].append(step)
        curve["train"].append(float(np.mean(curve["recent"])))
        curve["held_out"].append(trainer.held_out_loss(state))
        curve["recent"].clear()

    state = trainer.init()
    curve: Curve = {"steps": [], "train": [], "held_out": [], "recent": []}
    if checkpoints.latest_step() is not None:
        state, curve = checkpoints.restore(jax.eval_shape(trainer.init))
    step = saved = int(state.step)
    if step > flags.steps:
        raise UserError(f"The run is at step {step}, so --steps must be at least {step}.")
    say(f"{label}: compiling ...")
    with tqdm(total=flags.steps, initial=step, desc=label, unit="step") as bar:
        while step < flags.steps and not interrupted:
            state, loss = trainer.step(state)
            step += 1
            curve["recent"].append(float(loss))
            bar.set_postfix(loss=f"{float(loss):.4g}", refresh=False)
            bar.update()
            if step % flags.evaluate_every == 0:
                evaluate()
            if step % flags.save_every == 0:
                checkpoints.save(step, state, curve)
                saved = step
    if step > saved:
        checkpoints.save(step, state, curve)
    if curve["recent"] and not interrupted:  # not saved: a longer run does not have it
        evaluate()
    return state, curve


def note_interruptions() -> list[int]:
    """A list that Ctrl-C and SIGTERM add to; the second of them ends the process."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received


def check_extras() -> None:
    """Names everything that is not installed."""
    missing = []
    for module in EXTRAS:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(module.removesuffix(".figure"))
    if missing:
        names = ", ".join(missing)
        raise UserError(f"{names} not installed: pip install '.[demo]'")


def run(argv: list[str]) -> int:
    """Trains, writes the files, and prints the results."""
    flags, folder, argv = read_flags(argv)
    optimizers = make_optimizers(flags)
    try:
        corpus = load_corpus(flags.text)
    except UnicodeDecodeError as error:
        raise UserError(f"{flags.text} is not a text in UTF-8: {error}.") from error
    if len(corpus.held_out) <= flags.length:
        raise UserError(
            f"The text is too short for --length {flags.length}: its last tenth, which "
            f"is held out, has {len(corpus.held_out)} characters."
        )
    check_extras()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new").write_text(json.dumps(argv))
    os.replace(folder / "new", folder / FLAGS_FILE)  # complete at any moment
    interrupted = note_interruptions()
    curves, networks = {}, {}
    sizes = {name: getattr(flags, name) for name in ("hidden", "batch", "length")}
    for name, (tx, description) in optimizers.items():
        trainer = Trainer(tx, corpus, flags.seed, **sizes)
        with Checkpoints(folder / name, f"{description}\ntext {corpus.digest}") as c:
            state, curves[name] = train(trainer, c, flags, name, interrupted)
        networks[name] = finalize(state.network, state.opt_state)
        if interrupted:
            say(f"Interrupted at step {state.step} of {name}. Continue with:")
            say(f"python {sys.argv[0]} --resume --folder {folder}")
            return INTERRUPTED
    unigram = unigram_loss(corpus)
    draw(curves, unigram, folder / "curve.png")
    say("\nHeld-out loss, in nats per character:")
    say(f"  {'letter frequencies':20}{unigram:8.3f}")
    for name, curve in curves.items():
        say(f"  {name:20}{curve['held_out'][-1]:8.3f}   after {curve['steps'][-1]} steps")
    prompt = jnp.asarray(encode(corpus.prompt, corpus.alphabet))
    key = jax.random.key(flags.seed)
    codes = np.asarray(sample(networks["rmsprop"], prompt, flags.sample_length, key))
    written = "".join(corpus.alphabet[code] for code in codes)
    say(f"\nThe network continues {corpus.prompt!r}:\n\n{corpus.prompt}{written}")
    say(f"\nLearning curve: {folder / 'curve.png'}\nCheckpoints:    {folder}")
    return 0


def draw(curves: dict[str, Curve], unigram: float, file: Path) -> None:
    """Held-out loss (solid) and training loss (dotted) over steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        label = f"{name}: {curve['held_out'][-1]:.2f}"
        axes.plot(curve["steps"], curve["train"], ":", color=f"C{i}")
        axes.plot(curve["steps"], curve["held_out"], "o-", color=f"C{i}", label=label)
    label = f"letter frequencies: {unigram:.2f}"
    axes.axhline(unigram, color="0.45", ls="--", lw=1, label=label)
    axes.set(xlabel="training step", ylabel="loss (nats per character)")
    axes.set_title("Held-out loss (solid) and training loss (dotted)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
    figure.savefig(file, dpi=150)


def say(line: str) -> None:
    """Prints at once."""
    print(line, flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 (a mistake) or 130 (interrupted)."""
    try:
        return run(list(sys.argv[1:] if argv is None else argv))
    except (UserError, CheckpointError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
