"""The main job as a person runs it: to its end, interrupted, resumed, and misused."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("equinox", reason="pip install 'rmsprop_optax[demo]'")
pytest.importorskip("orbax.checkpoint", reason="pip install 'rmsprop_optax[demo]'")

from rmsprop_optax import rmsprop
from rmsprop_optax.checkpoints import Checkpoints
from rmsprop_optax.demo import _flags
from rmsprop_optax.demo._main import main
from rmsprop_optax.demo._text import decode, load_corpus, unigram_entropy
from rmsprop_optax.demo._training import Sizes, Trainer, TrainState

SMALL = ["--hidden", "16", "--batch", "4", "--length", "16", "--sample-length", "20"]
OFTEN = ["--evaluate-every", "5", "--save-every", "5"]
# Everything that has a state, so that everything must travel through a checkpoint.
FULL = [
    *("--centered", "--weight-decay", "1e-3", "--weight-decay-mask", "bias"),
    *("--use-ema", "--ema-overwrite-frequency", "4", "--global-clipnorm", "1"),
    *("--gradient-accumulation-steps", "2", "--loss-scale-factor", "8"),
    "--skip-nonfinite",
]


def _run(folder: Path, *flags: str) -> int:
    return main(["--folder", str(folder), *SMALL, *OFTEN, *flags])


def _state(folder: Path, steps: str) -> TrainState:
    flags = _flags.make_parser().parse_args([*SMALL, *FULL])
    sizes = Sizes(flags.hidden, flags.batch, flags.length)
    tx = _flags.make_optimizers(flags)["rmsprop"]
    trainer = Trainer(tx, load_corpus(), sizes, flags.seed)
    with Checkpoints(folder / "rmsprop") as checkpoints:
        state, curve = checkpoints.restore(trainer.abstract())
    assert int(state.step) == int(steps)
    assert curve["steps"] == list(range(5, int(steps) + 1, 5))
    return state


@pytest.mark.slow
def test_a_run_that_went_on_is_bit_identical_to_one_that_never_stopped(
    tmp_path: Path,
) -> None:
    assert _run(tmp_path / "whole", *FULL, "--steps", "20") == 0
    assert _run(tmp_path / "parts", *FULL, "--steps", "5") == 0
    assert main(["--folder", str(tmp_path / "parts"), "--resume", "--steps", "20"]) == 0
    whole = jax.tree.leaves(_state(tmp_path / "whole", "20"))
    parts = jax.tree.leaves(_state(tmp_path / "parts", "20"))
    assert len(whole) == len(parts) > 30
    for a, b in zip(whole, parts, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_it_learns_and_says_where_its_files_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--hidden", "64", "--batch", "16", "--length", "32", "--steps", "150"]
    folder = tmp_path / "run"
    code = main(["--folder", str(folder), *flags, "--learning-rate", "2e-3"])
    out = capsys.readouterr().out
    assert code == 0
    (line,) = [line for line in out.splitlines() if "rmsprop " in line]
    loss = float(line.split()[1])
    unigram = unigram_entropy(load_corpus())
    assert f"{unigram:.3f}" in out
    assert loss < unigram - 0.7
    assert str(folder / "curve.png") in out
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(out.split("The following ", 2)[2].splitlines()[0]) > 0


@pytest.mark.slow
def test_compare_draws_three_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path / "run", "--compare", "--steps", "5") == 0
    out = capsys.readouterr().out
    for name in ("rmsprop", "adam", "sgd"):
        assert f"  {name:20}" in out
        assert (tmp_path / "run" / name / "5").is_dir()


def test_every_argument_of_the_factory_has_a_flag() -> None:
    text = _flags.make_parser().format_help()
    for name in set(inspect.signature(rmsprop).parameters) - _flags.NOT_FLAGS:
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interruption_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "rmsprop_optax", "--folder", str(folder)]
    process = subprocess.Popen(
        [*command, *SMALL, "--steps", "1000000", "--save-every", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )
    deadline = time.monotonic() + 60
    while not (folder / "rmsprop").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted at step" in out
    assert "--resume" in out
    (saved,) = [int(p.name) for p in (folder / "rmsprop").iterdir() if p.is_dir()]
    assert saved > 0
    assert main(["--folder", str(folder), "--resume", "--steps", str(saved + 2)]) == 0
    assert (folder / "rmsprop" / str(saved + 2)).is_dir()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rho", "1.2"], ["rho", "[0, 1)", "1.2"]),
        (["--clipnorm", "1", "--clipvalue", "1"], ["At most one", "clipnorm=1.0"]),
        (["--ema-overwrite-frequency", "3"], ["ema_overwrite_frequency", "use_ema"]),
        (["--weight-decay", "1", "--weight-decay-mask", "("], ["regular expression"]),
        (["--gradient-accumulation-steps", "1"], ["gradient_accumulation_steps", "2"]),
    ],
)
def test_a_bad_flag_is_one_line_and_makes_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: list[str],
) -> None:
    assert _run(tmp_path / "run", *flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--steps", "x"], ["--wrong"]])
def test_a_flag_that_is_no_flag_exits_with_2(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        _run(tmp_path / "run", *flags)
    assert raised.value.code == 2
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert _run(tmp_path / "file" / "run") == 2
    assert "Can't write to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_mistakes_with_a_folder_that_holds_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert _run(folder, "--steps", "5") == 0
    before = _contents(folder)
    capsys.readouterr()

    assert _run(folder, "--steps", "5") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["--folder", str(folder), "--resume", "--rho", "0.5"]) == 2
    assert "--rho was 0.9, asked for 0.5" in capsys.readouterr().err
    assert main(["--folder", str(tmp_path / "none"), "--resume"]) == 2
    assert "no run to resume" in capsys.readouterr().err
    assert _contents(folder) == before


def test_a_truncated_checkpoint_is_one_line_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = tmp_path / "run"
    assert _run(original, "--steps", "5") == 0
    files = [
        path.relative_to(original)
        for path in sorted((original / "rmsprop" / "5").rglob("*"))
        if path.is_file() and path.stat().st_size > 1
    ]
    assert len(files) >= 3
    for index, file in enumerate(files):
        folder = tmp_path / f"broken_{index}"
        shutil.copytree(original, folder)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        before = _contents(folder)
        capsys.readouterr()
        assert main(["--folder", str(folder), "--resume", "--steps", "6"]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: The checkpoint of step 5 in ")
        assert "can't be read, and was left as it is" in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert _contents(folder) == before


def test_a_checkpoint_without_its_checksum_is_complete(tmp_path: Path) -> None:
    assert _run(tmp_path / "run", "--steps", "5") == 0
    (tmp_path / "run" / "rmsprop" / "checksums.json").unlink()
    assert main(["--folder", str(tmp_path / "run"), "--resume", "--steps", "6"]) == 0


def test_settings_that_were_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.json").write_text('{"rho": 0.')
    assert main(["--folder", str(folder), "--resume"]) == 2
    assert "no run to resume" in capsys.readouterr().err


def test_the_corpus_is_english_and_is_split_without_loss() -> None:
    corpus = load_corpus()
    assert len(corpus.train) + len(corpus.held_out) > 400_000
    assert 0.09 < len(corpus.held_out) / len(corpus.train) < 0.13
    assert " the " in decode(corpus.held_out[:5000], corpus.alphabet)
    assert json.dumps(corpus.alphabet)
    assert 3.0 < unigram_entropy(corpus) < 3.6


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
