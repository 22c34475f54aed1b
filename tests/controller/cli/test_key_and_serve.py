"""``nanofleet key``, and what ``nanofleet serve`` refuses before it listens."""

import json
import socket
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Invoke, Start

pytestmark = pytest.mark.usefixtures("fleet_home")


def test_a_key_is_made_listed_and_revoked(nanofleet: Invoke) -> None:
    assert "nanofleet key add NAME" in nanofleet("key", "list").stderr
    made = nanofleet("key", "add", "laptop", "--role", "viewer", "--expires", "90d")
    assert made.exit_code == 0, made.stderr
    (text,) = made.stdout.split()
    assert text.startswith("nf-")
    assert "not shown again" in made.stderr
    (row,) = nanofleet("key", "list").stdout.splitlines()[1:]
    assert row.split()[:3] == ["laptop", "viewer", "valid"]
    assert text not in row
    assert nanofleet("key", "add", "laptop").exit_code == 5
    assert nanofleet("key", "revoke", "laptop").stdout.split() == ["REVOKED", "laptop"]
    assert nanofleet("key", "revoke", "laptop").exit_code == 5
    (key,) = json.loads(nanofleet("key", "list", "-o", "json").stdout)["keys"]
    assert (key["state"], key["role"]) == ("revoked", "viewer")
    assert key["expires_utc_ns"] - key["created_utc_ns"] == 90 * 86_400 * 10**9


def test_a_key_for_a_program(nanofleet: Invoke) -> None:
    made = json.loads(nanofleet("key", "add", "bot", "-o", "json").stdout)["key"]
    assert made["key"].startswith(f"nf-{made['id']}-")
    assert (made["role"], made["expires_utc_ns"]) == ("operator", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("key", "add", "Lap Top"), "cannot name a key"),
        (("key", "add", "laptop", "--role", "device"), "device"),
        (("key", "add", "laptop", "--expires", "soon"), "--expires"),
        (("serve", "-o", "yaml"), "-o jsonl"),
        (("serve", "--listen", "nowhere:x"), "not an address"),
        (("serve", "--tls-cert", "chain.pem"), "both --tls-cert and --tls-key"),
        (("serve", "--tls-cert", "chain.pem", "--tls-key", "key.pem"), "chain.pem"),
    ],
)
def test_usage(nanofleet: Invoke, arguments: tuple[str, ...], said: str) -> None:
    result = nanofleet(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_nobody_else_is_let_in_by_accident(nanofleet: Invoke) -> None:
    for arguments in ((), ("--insecure-http",)):
        refused = nanofleet("serve", "--listen", "0.0.0.0:0", *arguments)
        assert refused.exit_code == 5
        assert "nanofleet key add" in refused.stderr
    assert nanofleet("key", "add", "laptop").exit_code == 0
    refused = nanofleet("serve", "--listen", "0.0.0.0:0")
    assert refused.exit_code == 5
    assert "--insecure-http" in refused.stderr


def test_a_model_that_is_not_there(nanofleet: Invoke) -> None:
    refused = nanofleet("serve", "--models", "gemma")
    assert refused.exit_code == 5
    assert "'gemma'" in refused.stderr


def test_a_port_that_is_taken(nanofleet: Invoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = nanofleet("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert refused.exit_code == 5
    assert "--listen" in refused.stderr


def test_one_line_says_where_it_is_and_how_to_ask(
    nanofleet: Invoke, start: Start, tiny_base: Path
) -> None:
    assert nanofleet("model", "import", str(tiny_base), "--name", "tiny").exit_code == 0
    with start("serve", "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        rest, complaints = process.communicate(timeout=30)
    assert line.startswith("lab is at http://127.0.0.1:")
    assert "this machine, without a key: curl http://127.0.0.1:" in line
    body = json.loads(line.rpartition("-d '")[2].strip().removesuffix("'"))
    assert body["model"] == "tiny"
    assert (rest, complaints, process.returncode) == ("", "", 0)
