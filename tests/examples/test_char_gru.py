"""`examples/char_gru` as a person runs it: to its end, interrupted, resumed, misused."""

import inspect
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="pip install '.[demo]'")
pytest.importorskip("matplotlib", reason="pip install '.[demo]'")
pytest.importorskip("tqdm", reason="pip install '.[demo]'")

from rmsprop_optax import rmsprop

EXAMPLE = Path(__file__).parents[2] / "examples" / "char_gru"
SMALL = ["--hidden", "8", "--batch", "2", "--length", "8", "--sample-length", "20"]
OFTEN = ["--evaluate-every", "4", "--save-every", "5"]
# All that has a state, so that all of it must travel through a checkpoint.
FULL = [
    *("--centered", "--weight-decay", "1e-3", "--weight-decay-mask", "bias"),
    *("--use-ema", "--ema-overwrite-frequency", "4", "--global-clipnorm", "1"),
    *("--gradient-accumulation-steps", "2", "--loss-scale-factor", "8"),
    "--skip-nonfinite",
]
MAIN = runpy.run_path(str(EXAMPLE), run_name="char_gru")["main"]
TRAINER = MAIN.__globals__["Trainer"]


@pytest.fixture(autouse=True)
def _signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _run(folder: Path, *flags: str) -> int:
    return MAIN(["--folder", str(folder), *SMALL, *OFTEN, *flags])


def _command(*flags: str, without: tuple[str, ...] = ()) -> list[str]:
    """The command line of the example, as if some modules were not installed."""
    code = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))"
    code += f"; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    return [sys.executable, "-c", code, " ".join(without), *flags]


def _process(*flags: str, without: tuple[str, ...] = ()) -> Any:
    command = _command(*flags, without=without)
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The state and the curve of each training in this process."""
    results: list[tuple[Any, Any]] = []
    train = MAIN.__globals__["train"]

    def note(*args: Any) -> tuple[Any, Any]:
        results.append(train(*args))
        return results[-1]

    monkeypatch.setitem(MAIN.__globals__, "train", note)
    return results


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sizes = ["--hidden", "32", "--batch", "16", "--length", "32", "--steps", "200"]
    done = _process("--folder", str(folder), *sizes, "--learning-rate", "3e-3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["loading JAX ...", "rmsprop: compiling ..."]
    assert "200/200" in done.stderr
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    unigram, loss = (
        float(line.split()[-1 if "letter" in line else 1])
        for line in done.stdout.splitlines()
        if line.startswith(("  letter frequencies", "  rmsprop"))
    )
    assert 3.2 < unigram < 3.5
    assert loss < unigram - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--use-ema"], FULL])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trained: list[tuple[Any, Any]],
    flags: list[str],
) -> None:
    assert _run(tmp_path / "whole", *flags, "--steps", "12") == 0
    with monkeypatch.context() as context:
        step = TRAINER.step

        def interrupt(trainer: Any, state: Any) -> Any:
            if int(state.step) == 6:
                signal.raise_signal(signal.SIGTERM)
            return step(trainer, state)

        context.setattr(TRAINER, "step", interrupt)
        assert _run(tmp_path / "parts", *flags, "--steps", "12") == 130
    assert "Interrupted at step 7" in capsys.readouterr().out
    assert MAIN(["--folder", str(tmp_path / "parts"), "--resume"]) == 0
    (whole, whole_curve), _, (parts, parts_curve) = trained
    assert len(jax.tree.leaves(whole)) > 4 * 7
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert whole_curve == parts_curve
    assert whole_curve["steps"] == [4, 8, 12]
    assert len(whole_curve["train"]) == 3


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = ["--folder", str(folder), *SMALL, "--steps", "1000000"]
    process = subprocess.Popen(
        _command(*flags, "--save-every", "1000000"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "compiling" in line:
            break
    process.kill()
    process.communicate(timeout=60)
    assert _run(folder) == 2  # it does not start over by mistake
    assert "add --resume" in capsys.readouterr().err
    assert MAIN(["--folder", str(folder), "--resume", "--steps", "3"]) == 0
    assert (folder / "rmsprop" / "3").is_dir()


@pytest.mark.slow
def test_the_text_of_a_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "text.txt", tmp_path / "run"
    file.write_text("Übung macht den Meister.\n" * 40, encoding="utf-8")
    assert _run(folder, "--text", str(file), "--steps", "2") == 0
    file.write_text("Übung macht den Meister!\n" * 40, encoding="utf-8")
    capsys.readouterr()
    assert MAIN(["--folder", str(folder), "--resume", "--steps", "3"]) == 2
    error = capsys.readouterr().err
    assert "text" in error
    assert "another configuration" in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"too short", "too short for --length 8"),
        (b"", "too short for --length 8"),
        (b"\xff\xfe\xff" * 100, "not a text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_text_that_cannot_be_used(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    words: str,
) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    assert _run(tmp_path / "run", "--text", str(file)) == 2
    _check_one_line(capsys, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path / "run", "--steps", "5") == 0
    assert MAIN(["--folder", str(tmp_path / "run"), "--resume", "--compare"]) == 0
    out = capsys.readouterr().out
    for name in ("rmsprop", "adam", "sgd"):
        assert f"  {name:20}" in out
        assert (tmp_path / "run" / name / "5").is_dir()


def test_help_needs_no_extras() -> None:
    done = _process("--help", without=("matplotlib", "orbax", "tqdm", "equinox"))
    assert done.returncode == 0, done.stderr
    for name in set(inspect.signature(rmsprop).parameters):
        is_flag = name not in ("accumulate_rows", "axis_name")
        assert (f"--{name.replace('_', '-')}" in done.stdout) == is_flag


def test_missing_extras_are_named_at_once(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    done = _process("--folder", folder, without=("matplotlib", "orbax", "tqdm"))
    assert done.returncode == 2
    assert done.stderr == (
        "error: matplotlib, orbax.checkpoint, tqdm not installed: pip install '.[demo]'\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "--steps: must be an integer from 1"),
        (["--steps", "9" * 5000], "--steps: must be an integer from 1"),
        (["--seed", "99999999999999999999"], "--seed: must be an integer from 0"),
        (["--wrong"], "unrecognized arguments: --wrong"),
        (["--length", "60000"], "too short for --length 60000"),
        (["--folder", "f" * 300], "File name too long"),
        (["--folder", "a\0b"], "--folder: 'a\\x00b' is no path"),
        (["--text", "a\0b"], "--text: 'a\\x00b' is no path"),
        (["--rho", "1.2"], "[0, 1)"),
        (["--rho", "x"], "`rho` must be"),
        (["--clipnorm", "1", "--clipvalue", "1"], "At most one"),
        (["--ema-overwrite-frequency", "3"], "use_ema"),
        (["--weight-decay", "1", "--weight-decay-mask", "("], "regular expression"),
        (["--gradient-accumulation-steps", "99999999999"], "gradient_accumulation_steps"),
        (["--gradient-accumulation-steps", "1"], "gradient_accumulation_steps"),
        (["--moment-storage", "x"], "moment_storage"),
        (["--resume"], "no run to resume"),
    ],
)
def test_a_bad_flag_is_one_line_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert _run(tmp_path / "run", *flags) == 2
    _check_one_line(capsys, words)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert _run(tmp_path / "file" / "run") == 2
    _check_one_line(capsys, "Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content", ["[1]", "null", "3", "{}", '["--rho', '["--rho"]'])
def test_a_file_of_flags_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "flags.json").write_text(content)
    assert MAIN(["--folder", str(tmp_path), "--resume"]) == 2
    _check_one_line(capsys, "--rho" if content == '["--rho"]' else "no run to resume")


def test_mistakes_with_a_folder_that_holds_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "char_gru_run"
    assert MAIN([*SMALL, *OFTEN, "--steps", "5"]) == 0  # in the default folder
    capsys.readouterr()
    cases = {
        "holds a run": ["--folder", str(folder)],
        "--rho was 0.9, asked for 0.5": ["--resume", "--rho", "0.5"],
        "--steps must be at least 5": ["--resume", "--steps", "4"],
    }
    for words, flags in cases.items():
        assert MAIN(flags) == 2
        _check_one_line(capsys, words)
    for file in (folder / "rmsprop" / "5").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    assert MAIN(["--resume", "--steps", "6"]) == 2
    _check_one_line(capsys, "The checkpoint of step 5")


def _check_one_line(capsys: pytest.CaptureFixture[str], words: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
