"""Where the service may listen, and what stands at its door: a process without any device."""

import json
import signal
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib import error, request

import pytest

from controller import Fleet
from controller.authority import Authority
from controller.web import server
from protos.errors import InUse, InvalidRequest, Refused
from tests.controller.gateway.conftest import Service, serving


@pytest.fixture
async def home(empty_fleet: Fleet) -> Path:
    return empty_fleet.home


def fetch(
    service: Service,
    path: str,
    *,
    body: bytes | None = None,
    trusted: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[int, Any, dict[str, str]]:
    """Status, document and headers."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = request.Request(f"{service.url}{path}", data=body, headers=sent)
    try:
        with request.urlopen(asked, timeout=60, context=trusted) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused), dict(refused.headers)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_open(host: str) -> None:
    server.check_reach(host, has_keys=False, has_tls=False, is_insecure_ok=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "workstation.local", ""])
def test_others_are_let_in_by_key_and_over_tls_only(host: str) -> None:
    with pytest.raises(Refused, match="no API key"):
        server.check_reach(host, has_keys=False, has_tls=True, is_insecure_ok=True)
    with pytest.raises(Refused, match="no TLS"):
        server.check_reach(host, has_keys=True, has_tls=False, is_insecure_ok=False)
    server.check_reach(host, has_keys=True, has_tls=True, is_insecure_ok=False)
    server.check_reach(host, has_keys=True, has_tls=False, is_insecure_ok=True)


def test_a_port_that_is_taken() -> None:
    with server.bound("127.0.0.1", 0) as first:
        assert first.proto == socket.IPPROTO_TCP, "or asyncio holds back each token"
        first.listen()
        with pytest.raises(InUse, match="Cannot listen on 127"):
            server.bound("127.0.0.1", first.getsockname()[1])


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    for chain in (tmp_path / "key.pem", tmp_path / "nothing.pem"):
        with pytest.raises(InvalidRequest, match="cannot be used for TLS"):
            server.Certificate(chain, tmp_path / "key.pem").check()


def test_what_is_asked_wrongly_is_told_how(home: Path) -> None:
    with serving(home) as service:
        assert fetch(service, "/healthz")[:2] == (200, {"status": "ok"})
        assert fetch(service, "/v1/models")[1] == {"object": "list", "data": []}
        chat, kind = "/v1/chat/completions", {"content_type": "application/json"}

        def refused(path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
            status, document, _ = fetch(service, path, body=body, **headers)
            assert set(document["error"]) == {"message", "type", "param", "code"}
            return status, document["error"]["message"]

        assert refused("/v2/models")[0] == 404
        assert refused(chat)[0] == 405
        status, said = refused(chat, b"{}")
        assert status == 400
        assert "Content-Type: application/json" in said
        assert refused(chat, b"{", **kind)[0] == 400
        assert refused(chat, b"[]", **kind)[0] == 400
        assert "`model` is missing" in refused(chat, b"{}", **kind)[1]
        assert refused(chat, b" " * (4 << 20) + b"{}", **kind)[0] == 413
        assert refused(chat, b'{"model": "\\ud800"}', **kind)[0] == 400
        deep = b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        assert refused(chat, deep, **kind)[0] == 400
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
        status, said = refused(chat, body.encode(), **kind)
        assert status == 404
        assert "nanofleet model import" in said
        assert refused("/v1/models", host="evil.example")[0] == 403


def test_keys_open_and_close_while_it_runs(empty_fleet: Fleet) -> None:
    with serving(empty_fleet.home) as service:
        assert fetch(service, "/v1/models")[0] == 200
        text = empty_fleet.add_key("laptop").text
        status, document, headers = fetch(service, "/v1/models")
        assert (status, document["error"]["code"]) == (401, "invalid_api_key")
        assert headers["www-authenticate"] == "Bearer"
        assert fetch(service, "/v1/models", authorization=f"Bearer {text}")[0] == 200
        empty_fleet.revoke_key("laptop")
        assert fetch(service, "/v1/models", authorization=f"Bearer {text}")[0] == 401
        requests = [service.read("request") for _ in range(4)]
        assert [line["status"] for line in requests] == [200, 401, 200, 401]
        assert [line.get("key") for line in requests] == ["", None, "laptop", None]
        assert text not in json.dumps(service.lines), "nobody's key is in a log"


def test_tls(home: Path, empty_fleet: Fleet, tmp_path: Path) -> None:
    """With the fleet's own certificate: what matters is that it is spoken."""
    authority = Authority.open(home / "authority")
    trusted = ssl.create_default_context(cadata=authority.certificate.decode())
    trusted.check_hostname = False
    chain, key = home / "identity/chain.pem", home / "identity/key.pem"
    files = ("--tls-cert", str(chain), "--tls-key", str(key))
    empty_fleet.add_key("laptop")
    with serving(home, *files, "--listen", "0.0.0.0:0") as service:
        assert service.url.startswith("https://0.0.0.0:")
        service.url = service.url.replace("0.0.0.0", "127.0.0.1")
        status, _, _ = fetch(service, "/v1/models", trusted=trusted)
        assert status == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well(home: Path, number: signal.Signals) -> None:
    with serving(home) as service:
        service.process.send_signal(number)
        assert service.process.wait(30) == 0
