"""The command line, and the processes that it starts."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from benchmarks import _readme
from benchmarks._report import machine, versions
from benchmarks._suite import Found, Suite, merge
from benchmarks.peers import PEERS
from benchmarks.suites import ABOUT, NAMES, find

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
# Threads that wait asleep take nothing from the contender whose turn it is: OpenMP's go
# round for 5 to 10 ms of CPU time after a step of PyTorch, if they are let.
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
INSTALL = "pip install '.[benchmarks]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes, prints; the exit code is 0 also where a goal is missed."""
    options = _parser().parse_args(arguments)
    suites = [find(name) for name in options.suite]
    if options.render:
        measured = [suite.name for suite in suites]
    elif options.quick:
        measured = _measure_together(suites, options)
    else:
        measured = (suite.name for suite in suites if _measure(suite, options))
    for name in measured:
        _show(find(name), options)
    return 0


def _measure_together(suites: Sequence[Suite], options: argparse.Namespace) -> list[str]:
    """One suite on each core: what disturbs a measurement does not disturb a trial."""
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(suites), desc="quick", unit="suite", file=sys.stderr) as bar,
    ):
        runs = {pool.submit(_measure, suite, options): suite.name for suite in suites}
        done = []
        for run in as_completed(runs):
            done += [runs[run]] if run.result() else []
            bar.update()
    return [suite.name for suite in suites if suite.name in done]


def _show(suite: Suite, options: argparse.Namespace) -> None:
    """The table and the picture of what was measured, into files and to the reader."""
    name = suite.name
    found = json.loads((options.out / f"{name}.json").read_text())
    text = suite.markdown(found)
    (options.out / f"{name}.md").write_text(text)
    suite.draw(found, options.out / f"{name}.png")
    if options.readme:
        _readme.put(ROOT / "README.md", name, suite.shown(found))
    sys.stdout.write(f"# {name}\n\n{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures this library against its peers, and writes NAME.json, "
        "NAME.md and NAME.png for each suite.",
        epilog=f"Suites: {'; '.join(f'{name}: {text}' for name, text in ABOUT.items())}.",
    )
    parser.add_argument(
        "--suite", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="which"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=tuple(PEERS),
        default=tuple(PEERS),
        metavar="NAME",
        help=f"against whom: {', '.join(PEERS)}",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few turns")
    parser.add_argument(
        "--device", choices=tuple(PLATFORMS), default="cpu", help="on what"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--render",
        action="store_true",
        help="measure nothing: tables and pictures from the JSON files in the folder",
    )
    parser.add_argument(
        "--readme", action="store_true", help="put the tables into README.md too"
    )
    return parser


def _measure(suite: Suite, options: argparse.Namespace) -> bool:
    """Writes what all processes of a suite found; False where no peer is its own."""
    parts, notes = [], []
    for name in suite.peers:
        if name not in options.peers:
            continue
        if missing := PEERS[name].missing():
            note = f"Not measured against {name}: {', '.join(missing)} not installed"
            notes.append(f"{note} ({INSTALL}).")
            _say(notes[-1])
        else:
            count = 1 if options.quick else suite.parts
            parts += [_run_part(suite, name, options, i, count) for i in range(count)]
    if not parts and not notes:
        _say(f"{suite.name} measures nothing against {', '.join(options.peers)}.")
        return False
    if options.quick:
        notes.append("Small sizes and few turns: the goals are for a full run.")
    found = merge([{"machine": machine()}, *parts, {"notes": notes}])
    about = {
        "machine": found.pop("machine"),
        "versions": versions(),
        "settings": suite.settings(options.quick),
    }
    _write_json({**about, **found}, options.out, suite.name)
    return True


def _run_part(
    suite: Suite, peer: str, options: argparse.Namespace, part: int, parts: int
) -> Found:
    """One process, whose progress bar goes where ours would."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks._part", suite.name, peer, str(file)]
        command += ["--device", options.device, *["--quick"] * options.quick]
        command += ["--part", str(part), "--parts", str(parts)]
        environment = _environment(suite, peer, options.device)
        if options.quick:  # two bars at once write over one another
            environment["TQDM_DISABLE"] = "1"
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if done.returncode != 0:
            raise SystemExit(
                f"{suite.name} against {peer} failed, with exit code {done.returncode}; "
                "the reason is above."
            )
        return json.loads(file.read_text())


def _environment(suite: Suite, peer: str, device: str) -> dict[str, str]:
    # Whoever asked for more devices on the CPU wanted them for something else.
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    platform = {"JAX_PLATFORMS": PLATFORMS[device]}
    if device == "gpu":  # or one takes the memory that the other needs
        platform["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        platform["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    else:  # frameworks that find a GPU would run on it
        platform["CUDA_VISIBLE_DEVICES"] = ""
    return {
        **inherited,
        **platform,
        **QUIET,
        **PEERS[peer].environment,
        **suite.environment,
    }


def _write_json(found: Found, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
