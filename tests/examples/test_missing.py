"""An example names everything that is not installed, at once, with the command."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDED = {
    "actor_critic": ("gymnax", "matplotlib", "tqdm"),
    "embeddings": ("flax", "matplotlib", "tqdm"),
    "move_a_run": ("flax", "matplotlib", "sklearn", "torch", "tqdm"),
}


@pytest.mark.parametrize("name", NEEDED)
def test_all_that_is_missing_is_one_line(name: str) -> None:
    file = EXAMPLES / f"{name}.py"
    code = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv[1:]))"
    code += f"; runpy.run_path({str(file)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, *NEEDED[name]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {', '.join(NEEDED[name])} not installed: pip install")
    # The command is that of the example's first lines.
    assert f"pip install {line.partition('pip install ')[2]}\n" in file.read_text()
