"""`examples/move_a_run.py` in a short form."""

import runpy
from pathlib import Path

import pytest

from tests.parity._installed import peer

EXAMPLE = Path(__file__).parents[2] / "examples" / "move_a_run.py"


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer("torch", "torch")
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    main = runpy.run_path(str(EXAMPLE))["main"]
    picture = tmp_path / "picture.png"
    assert main(["--steps", "40", "--picture", str(picture)]) < 1e-5
    assert picture.stat().st_size > 10_000
    assert "weights alone: the parameters differ by" in capsys.readouterr().out
