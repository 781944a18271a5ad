"""The command line: `python -m benchmarks`."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from benchmarks._suite import say
from benchmarks._summary import machine, merge, versions
from benchmarks._table import markdown
from benchmarks.peers import PEERS
from benchmarks.suites import NAMES, find

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PLATFORMS = {
    "cpu": {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    # No allocation in advance, which would take the memory of the other framework.
    "gpu": {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}
# OpenMP's threads would spin, and take time from the contender whose turn it is.
ALWAYS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "KERAS_BACKEND": "jax"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the suites; the exit code is 0 also where a goal is missed."""
    options = _parser().parse_args(arguments)
    folder = options.out or (RESULTS / "quick" if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    # Times of a quick run say nothing, so that two suites may share the machine.
    with ThreadPoolExecutor(2 if options.quick else 1) as pool:
        list(pool.map(lambda name: _measure(name, options, folder), options.suite))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures this library against its peers. Each suite writes a table "
        "(NAME.md),\na picture (NAME.png) and a summary (NAME.json).",
        epilog="\n".join(["suites:", *(f"  {x:13} {find(x).about}" for x in NAMES)]),
    )
    add: Any = parser.add_argument
    many = {"nargs": "+", "metavar": "NAME"}
    add("--suite", choices=NAMES, default=NAMES, help="which; all by default", **many)
    kept = "others keep their rows, if machine and versions are the same"
    peers = f"against whom: {', '.join(PEERS)}; {kept}"
    add("--peers", choices=PEERS, default=PEERS, help=peers, **many)
    add("--quick", action="store_true", help="small sizes, few turns, no goals")
    add("--device", choices=tuple(PLATFORMS), default="cpu", help="cpu by default")
    add("--out", type=Path, help="folder; benchmarks/results by default")
    return parser


def _measure(name: str, options: argparse.Namespace, folder: Path) -> None:
    suite, file = find(name), folder / f"{name}.json"
    parts, notes, device = {}, [], ""
    for peer in (peer for peer in suite.peers if peer in options.peers):
        if importlib.util.find_spec(peer) is None:
            notes.append(f"Not measured against {peer}, which is not installed.")
            say(notes[-1])
        else:
            say(f"{name} against {peer}")
            result = _run(name, peer, options)
            parts[peer], device = result["found"], result["device"]
    if not parts:
        say(f"{name}: nothing to measure against {', '.join(options.peers)}")
        return
    summary = {"suite": name, "quick": options.quick}
    summary |= {"machine": machine(device), "versions": versions()}
    earlier = json.loads(file.read_text()) if file.exists() else {}
    if all(earlier.get(key) == value for key, value in summary.items()):
        parts = earlier["peers"] | parts
    parts = {peer: parts[peer] for peer in suite.peers if peer in parts}
    file.write_text(json.dumps({**summary, "peers": parts}, indent=1) + "\n")
    found = merge([*parts.values(), {"notes": notes}])
    text = markdown(suite.about, summary, found)
    file.with_suffix(".md").write_text(text)
    suite.draw(found, file.with_suffix(".png"))
    sys.stdout.write(f"{text}\n")


def _run(name: str, peer: str, options: argparse.Namespace) -> dict[str, Any]:
    """One suite against one peer in a process: two frameworks disturb each other."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    environment = inherited | ALWAYS | PLATFORMS[options.device]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        arguments = [name, peer, str(file), "quick" if options.quick else "full"]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks._process", *arguments],
            cwd=ROOT,
            env=environment | dict(find(name).environment),
        )
        if done.returncode:
            raise SystemExit(f"{name} against {peer}: exit code {done.returncode}")
        return json.loads(file.read_text())


if __name__ == "__main__":
    sys.exit(main())
