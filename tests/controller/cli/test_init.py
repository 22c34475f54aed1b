import json
from pathlib import Path

from tests.controller.cli.conftest import Invoke


def test_a_fleet_is_made_once(nanofleet: Invoke, home: Path) -> None:
    made = nanofleet("init", "--name", "lab", "-o", "json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["fleet"] == {"name": "lab", "home": str(home)}
    certificate = (home / "authority" / "certificate.pem").read_bytes()
    again = nanofleet("init")
    assert again.exit_code == 5
    assert "There is a fleet in" in again.stderr
    assert (home / "authority" / "certificate.pem").read_bytes() == certificate


def test_the_first_steps_are_shown(nanofleet: Invoke) -> None:
    assert "nanofleet device token" in nanofleet("init").stderr


def test_a_name_that_is_none_is_a_usage_error(nanofleet: Invoke, home: Path) -> None:
    assert nanofleet("init", "--name", "My Lab").exit_code == 2
    assert not home.exists()


def test_home_as_an_option_wins_over_the_environment(nanofleet: Invoke, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert nanofleet("init", "--home", str(other)).exit_code == 0
    assert (other / "fleet.db").exists()
