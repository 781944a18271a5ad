"""`examples/embeddings.py` in a short form."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "embeddings.py"


@pytest.mark.slow
def test_rows_and_8_bits_learn_as_dense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flax.nnx", reason="needs flax")
    main = runpy.run_path(str(EXAMPLE))["main"]
    picture = tmp_path / "picture.png"
    arguments = ["--rows", "50000", "--steps", "60", "--picture", str(picture)]
    results = main(arguments)
    assert len(results) == 6
    for name in ("optax.adam", "rmsprop"):
        dense, rows, narrow = (
            results[f"{name}, {way}"] for way in ("dense", "rows", "rows, 8 bits")
        )
        assert dense.accuracy > 0.7
        assert abs(rows.accuracy - dense.accuracy) < 0.05
        assert abs(narrow.accuracy - dense.accuracy) < 0.05
        assert narrow.megabytes < 0.3 * dense.megabytes == 0.3 * rows.megabytes
    assert picture.stat().st_size > 10_000
    assert "MB of moments" in capsys.readouterr().out
