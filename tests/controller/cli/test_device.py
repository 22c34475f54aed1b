"""Devices, as far as no device is needed: tokens, selectors, refusals."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Invoke, Start

JOIN = re.compile(r"nanofleet-agent join [a-z0-9]+\.\S+\.[a-z2-7]+@(?P<address>\S+)")

pytestmark = pytest.mark.usefixtures("fleet_home")


def test_an_empty_fleet_says_how_to_add_a_device(nanofleet: Invoke) -> None:
    result = nanofleet("device", "list")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "nanofleet device token NAME" in result.stderr


def test_a_token_is_the_line_to_run(nanofleet: Invoke) -> None:
    result = nanofleet("device", "token", "kitchen", "--no-wait", "--address", "10.0.0.5")
    assert result.exit_code == 0, result.stderr
    match = JOIN.fullmatch(result.stdout.strip())
    assert match is not None
    assert match["address"] == "10.0.0.5:7402"
    assert "Nobody is listening yet" in result.stderr


def test_a_token_as_json(nanofleet: Invoke) -> None:
    result = nanofleet(
        "device", "token", "kitchen", "--no-wait", "--ttl", "90s", "--label", "site=lab", "-ojson"
    )
    token = json.loads(result.stdout)["token"]
    assert token["device"] == "kitchen"
    assert token["expires_in_s"] == 90
    assert JOIN.fullmatch(token["command"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("Kitchen Sink",),
        ("kitchen", "--ttl", "soon"),
        ("kitchen", "--label", "lab"),
        ("kitchen", "--address", "10.0.0.5:http"),
    ],
)
def test_wrong_tokens_are_usage_errors(arguments: tuple[str, ...], nanofleet: Invoke) -> None:
    result = nanofleet("device", "token", "--no-wait", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""


def test_waiting_ends_with_the_token(nanofleet: Invoke) -> None:
    result = nanofleet("device", "token", "kitchen", "--ttl", "0.2s", "--port", "0")
    assert result.exit_code == 3
    assert JOIN.fullmatch(result.stdout.strip())
    assert "kitchen has not joined within 200 ms." in result.stderr


def test_a_port_that_is_taken_is_refused(nanofleet: Invoke, start: Start) -> None:
    process = start("device", "token", "kitchen", "--port", "0")
    assert process.stdout is not None
    match = JOIN.fullmatch(process.stdout.readline().strip())
    assert match is not None
    port = match["address"].rpartition(":")[2]
    result = nanofleet("device", "token", "hall", "--port", port)
    assert result.exit_code == 5
    assert port in result.stderr


def test_ctrl_c_stops_waiting_without_a_traceback(start: Start) -> None:
    process = start("device", "token", "kitchen", "--port", "0")
    assert process.stdout is not None
    assert process.stderr is not None
    assert JOIN.fullmatch(process.stdout.readline().strip())
    while "Ctrl-C" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "-l", "site=nowhere"),
        ("remove", "-l", "site=nowhere", "--yes"),
        ("label", "-l", "site=nowhere", "room=3"),
    ],
)
def test_a_selector_that_matches_nothing_is_an_error(
    arguments: tuple[str, ...], nanofleet: Invoke
) -> None:
    result = nanofleet("device", *arguments)
    assert result.exit_code == 5
    assert "No device matches site=nowhere." in result.stderr
    assert "The fleet has 0 devices." in result.stderr


def test_a_selector_that_is_none_is_a_usage_error(nanofleet: Invoke) -> None:
    assert nanofleet("device", "list", "-l", "site==").exit_code == 2


def test_an_unknown_device_is_refused(nanofleet: Invoke) -> None:
    for verb in ("show", "remove"):
        result = nanofleet("device", verb, "kitchen")
        assert result.exit_code == 5
        assert "No device is called kitchen." in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("remove",), ("remove", "kitchen", "-l", "a=b"), ("label", "kitchen"), ("label", "a=b")],
)
def test_which_devices_must_be_said_once(arguments: tuple[str, ...], nanofleet: Invoke) -> None:
    assert nanofleet("device", *arguments).exit_code == 2


def test_the_home_of_no_fleet(nanofleet: Invoke, tmp_path: Path) -> None:
    result = nanofleet("device", "list", "--home", str(tmp_path / "none"))
    assert result.exit_code == 5
    assert "nanofleet init" in result.stderr
