"""`examples/actor_critic.py` in a short form."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "actor_critic.py"


@pytest.mark.slow
def test_agents_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnax", reason="needs gymnax")
    main = runpy.run_path(str(EXAMPLE))["main"]
    picture = tmp_path / "picture.png"
    curves = main(["--seeds", "4", "--rounds", "8", "--picture", str(picture)])
    assert list(curves) == ["torch", "tf1", "optax"]
    for curve in curves.values():
        assert curve.shape == (8, 4)
    # An agent that acts at random holds the pole for about 20 steps.
    assert np.nanmean(curves["torch"][-1]) > 60
    assert picture.stat().st_size > 10_000
    assert capsys.readouterr().out.count("mean return") == 3
