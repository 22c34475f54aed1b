"""Joining a fleet: against a server that signs with a test's authority, over real TLS."""

import asyncio
import base64
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import identity, join
from controller.demo.processes import free_port
from protos import status
from protos.errors import InvalidRequest, NanofleetError, Unauthenticated, Unreachable
from protos.identity import Identity, Role
from protos.nanofleet.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.transport import server_options
from tests.agent.authority import Authority


class Enrolment(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Signs what it is told to sign, and remembers who asked."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.requests: list[enrolment_pb2.JoinRequest] = []
        self.wrong_key = False

    async def Join(  # noqa: N802
        self,
        request: enrolment_pb2.JoinRequest,
        context: "grpc.aio.ServicerContext[object, object]",
    ) -> enrolment_pb2.JoinResponse:
        self.requests.append(request)
        if request.secret != "secret":
            await status.abort(context, Unauthenticated("Spent.", reason="TOKEN_SPENT"))
        asked = x509.load_pem_x509_csr(request.certificate_request)
        assert asked.is_signature_valid
        public = asked.public_key()
        if self.wrong_key:
            public = ec.generate_private_key(ec.SECP256R1()).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return enrolment_pb2.JoinResponse(
            device_name="kitchen",
            certificate_chain=self.authority.sign(public, Identity(Role.DEVICE, "kitchen")),
            certificate_authority=self.authority.pem,
        )


class Controller:
    """The enrolment service on loopback, in a loop of its own: joining blocks."""

    def __init__(self, authority: Authority) -> None:
        self.service = Enrolment(authority)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._started.wait()

    async def _serve(self) -> None:
        issued = self.service.authority.issue(join.SERVER.role, join.SERVER.name)
        server = grpc.aio.server(options=server_options())
        enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(self.service, server)
        credentials = grpc.ssl_server_credentials([(issued.key, issued.chain)])
        self.port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        self._started.set()
        await self._stop.wait()
        await server.stop(None)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def token(self, *, secret: str = "secret", pin: str = "") -> join.Token:
        pin = pin or pin_of(self.service.authority)
        return join.parse_token(f"id.{secret}.{pin}@127.0.0.1:{self.port}")


def pin_of(authority: Authority) -> str:
    public = authority.certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b32encode(hashlib.sha256(public).digest()).decode().strip("=").lower()


@pytest.fixture
def controller() -> Iterator[Controller]:
    serving = Controller(Authority())
    yield serving
    serving.close()


def test_a_device_joins(controller: Controller, tmp_path: Path) -> None:
    assert join.join(controller.token(), tmp_path, ":7401") == "kitchen"
    credentials = identity.load(tmp_path / "identity")
    assert credentials.identity == Identity(Role.DEVICE, "kitchen")
    assert credentials.authority == controller.service.authority.pem
    assert (tmp_path / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    (request,) = controller.service.requests
    assert request.agent_address == ":7401"
    assert credentials.key not in request.SerializeToString()


def test_joining_again_keeps_the_old_identity_aside(controller: Controller, tmp_path: Path) -> None:
    join.join(controller.token(), tmp_path, "")
    first = (tmp_path / "identity" / "key.pem").read_bytes()
    join.join(controller.token(), tmp_path, "")
    assert (tmp_path / "identity" / "key.pem").read_bytes() != first
    assert (tmp_path / "identity.previous" / "key.pem").read_bytes() == first


def test_the_secret_is_not_sent_to_another_fleet(controller: Controller, tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated) as caught:
        join.join(controller.token(pin=pin_of(Authority())), tmp_path, "")
    assert caught.value.reason == "PIN_MISMATCH"
    assert controller.service.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_spent_token(controller: Controller, tmp_path: Path) -> None:
    with pytest.raises(NanofleetError) as caught:
        join.join(controller.token(secret="old"), tmp_path, "")
    assert caught.value.reason == "TOKEN_SPENT"
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_for_another_key_is_not_kept(controller: Controller, tmp_path: Path) -> None:
    controller.service.wrong_key = True
    with pytest.raises(Unauthenticated, match="not for this device's key"):
        join.join(controller.token(), tmp_path, "")
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_there(tmp_path: Path) -> None:
    token = join.parse_token(f"id.secret.{'a' * 52}@127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match="Cannot reach the controller"):
        join.join(token, tmp_path, "")


@pytest.mark.parametrize(
    "text",
    ["", "id.secret", "id.secret.pin@host:1", "id.secret." + "a" * 52 + "@host",
     "id.secret." + "a" * 52 + "@host:0", "id.secret." + "a" * 52 + "@host:99999"],
)  # fmt: skip
def test_half_a_token(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a whole token"):
        join.parse_token(text)


def test_a_whole_token() -> None:
    token = join.parse_token("id.secret." + "a" * 52 + "@[::1]:7402\n")
    assert (token.host, token.port, token.address) == ("[::1]", 7402, "[::1]:7402")
