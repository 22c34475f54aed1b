"""A log of tegrastats, summed up."""

import json
from pathlib import Path

import pytest

from agent import cli
from agent.telemetry import imported
from tests.jetson.lines import LINES

R32 = LINES["r32 nano, root"]


def log_of(*powers_mw: int) -> list[str]:
    return [R32.replace("POM_5V_IN 1022", f"POM_5V_IN {power_mw}") for power_mw in powers_mw]


def test_energy_by_the_trapezoid_over_the_period() -> None:
    log = imported.read(log_of(1000, 3000, 5000), period_s=0.5)
    assert (log.lines, log.span_s, log.has_times) == (3, 1.0, False)
    assert log.energy_j == 3.0
    assert (log.power_mw.mean, log.power_mw.peak, log.power_source) == (3000, 5000, "POM_5V_IN")
    assert (log.celsius.peak, log.heat_zone) == (39.5, "AO")


def test_times_of_the_lines_count_where_they_have_them() -> None:
    line = LINES["r36 orin nano, root"]
    later = line.replace("15:38:17", "15:38:21")
    log = imported.read([line, "\n", later])
    assert (log.lines, log.span_s, log.has_times) == (2, 4.0, True)
    assert log.energy_j == pytest.approx(4 * 2.957)
    assert log.smallest_free_block_bytes == 4 << 20


def test_damaged_lines_are_told_with_their_numbers() -> None:
    log = imported.read([R32, R32[:100], "tegrastats: no such device"])
    assert list(log.damaged) == [2, 3]
    text = imported.as_text(log)
    assert "line 3: tegrastats: no such device" in text
    assert "2 lines" in text


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "board.log"
    file.write_text("\n".join(log_of(1000, 3000)))
    assert cli.main(["tegrastats", str(file)]) == 0
    assert "2.00 W mean, 3.00 W peak (POM_5V_IN)" in capsys.readouterr().out
    assert cli.main(["tegrastats", str(file), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["log"]["energy_j"] == 2.0
    assert cli.main(["tegrastats", str(tmp_path / "none")]) != 0
    assert "cannot be read" in capsys.readouterr().err
