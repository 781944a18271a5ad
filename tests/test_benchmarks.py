"""What a user of `python -m benchmarks` sees."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import on_device
from benchmarks.__main__ import main
from benchmarks.suites import NAMES


def test_help_names_the_suites(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f"  {name} " in printed


def test_an_unknown_suite_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--suite", "unknown"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown" in line
    assert "dense" in line


@pytest.mark.slow
def test_a_quick_run_writes_a_table_a_picture_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--quick", "--suite", "accumulation", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "accumulation.md").read_text()
    assert text in capsys.readouterr().out
    assert "| a call that adds, plain, 3 small leaves |" in text
    assert (tmp_path / "accumulation.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "accumulation.json").read_text())
    assert summary["machine"]["cpus"] == os.cpu_count()
    for row in summary["peers"]["optax"]["rows"]:
        low, median, high = row["ratio"]
        assert 0 < low <= median <= high


@pytest.mark.slow
def test_a_small_run_on_a_device_times_each_form_and_tests_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert on_device.main(["--small"]) == 0
    printed = capfd.readouterr().out
    for name in on_device.FEW_ROWS:
        assert f"\n| {name} | " in printed
    assert "| 4096 rows of a table (1000, 64), row_formats | " in printed
    assert "no time left" not in printed
    assert printed.endswith("\npytest: exit code 0\n")
