"""The main job, from the command line to the files that it leaves."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmsprop_optax.checkpoints import CheckpointError, Checkpoints
from rmsprop_optax.demo import _curve, _flags, _folder
from rmsprop_optax.demo._network import sample
from rmsprop_optax.demo._text import (
    Corpus,
    decode,
    encode,
    load_corpus,
    unigram_entropy,
)
from rmsprop_optax.demo._training import Cadence, Curve, Sizes, Trainer, TrainState, train
from rmsprop_optax.transforms._averaging import finalize

MISTAKE = 2
INTERRUPTED = 130
PROMPT = "The following "


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code: 0, 2 (a mistake) or 130 (interrupted)."""
    parser = _flags.make_parser()
    flags = parser.parse_args(argv)
    try:
        folder = None
        if flags.resume:
            folder, saved = _folder.find(flags.folder)
            parser.set_defaults(**saved)
            flags = parser.parse_args(argv)
            if others := _flags.differing(saved, _flags.settings(flags)):
                raise _folder.FolderError(
                    f"The run in {folder} has other settings ({'; '.join(others)}): "
                    "resume it without these flags, or start a new run."
                )
        optimizers = _flags.make_optimizers(flags)
        folder = folder or _folder.start(flags.folder, _flags.settings(flags))
        return _run(flags, folder, optimizers)
    except (CheckpointError, _folder.FolderError, _flags.FlagError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return MISTAKE


def _run(
    flags: argparse.Namespace,
    folder: Path,
    optimizers: dict[str, optax.GradientTransformationExtraArgs],
) -> int:
    corpus = load_corpus()
    unigram = unigram_entropy(corpus)
    sizes = Sizes(flags.hidden, flags.batch, flags.length)
    cadence = Cadence(flags.steps, flags.evaluate_every, flags.save_every)
    curves: dict[str, Curve] = {}
    networks: dict[str, Any] = {}
    with _interruptions() as is_interrupted:
        for name, tx in optimizers.items():
            trainer = Trainer(tx, corpus, sizes, flags.seed)
            state, curves[name] = _train_one(
                trainer, folder / name, cadence, flags.resume, name, is_interrupted
            )
            networks[name] = finalize(state.network, state.opt_state)
            if is_interrupted():
                _say(
                    f"\nInterrupted at step {int(state.step)} of {name}; saved in "
                    f"{folder}. Go on with: python -m rmsprop_optax --resume "
                    f"--folder {folder}"
                )
                return INTERRUPTED
    _curve.draw(curves, unigram, folder / "curve.png")
    _report(flags, corpus, unigram, curves, networks["rmsprop"], folder)
    return 0


def _train_one(
    trainer: Trainer,
    folder: Path,
    cadence: Cadence,
    resume: bool,
    name: str,
    is_interrupted: Callable[[], bool],
) -> tuple[TrainState, Curve]:
    with Checkpoints(folder) as checkpoints:
        # With --compare, an interruption may have come before this optimizer's turn.
        if resume and (name == "rmsprop" or checkpoints.latest_step() is not None):
            state, losses = checkpoints.restore(trainer.abstract())
            curve = Curve(**losses)
        else:
            state, curve = trainer.init(), Curve([], [], [])
        state = train(
            trainer,
            state,
            curve,
            cadence,
            label=name,
            save=lambda state, curve: checkpoints.save(
                int(state.step), state, curve._asdict()
            ),
            is_interrupted=is_interrupted,
        )
    return state, curve


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run after the step at hand; a second one ends it now."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: object) -> None:
        del frame
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = [signal.signal(number, note) for number in signals]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _report(
    flags: argparse.Namespace,
    corpus: Corpus,
    unigram: float,
    curves: dict[str, Curve],
    network: Any,
    folder: Path,
) -> None:
    _say("\nHeld-out loss, in nats per character:")
    _say(f"  {'letter frequencies':20}{unigram:8.3f}")
    for name, curve in curves.items():
        _say(f"  {name:20}{curve.held_out[-1]:8.3f}   after {curve.steps[-1]} steps")
    _say(f"\nWhat the network writes after {PROMPT!r}:\n")
    _say(PROMPT + _write(network, corpus, flags.sample_length, flags.seed))
    _say(f"\nLearning curve: {folder / 'curve.png'}\nCheckpoints:    {folder}")


def _write(params: Any, corpus: Corpus, length: int, seed: int) -> str:
    prompt = jnp.asarray(encode([PROMPT], corpus.alphabet))
    write = eqx.filter_jit(sample)
    codes = write(params, prompt, length, jax.random.key(seed))
    return decode(np.asarray(codes), corpus.alphabet)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
