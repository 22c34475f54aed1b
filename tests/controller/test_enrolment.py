"""Joining and renewing, over real TLS on loopback."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from controller import Fleet
from controller.authority import Authority
from controller.enrolment import Enrolment
from controller.enrolment_server import EnrolmentServer
from controller.records import server_name
from controller.store import Store
from protos.errors import InUse, InvalidRequest, NanofleetError, TimedOut, Unauthenticated
from protos.nanofleet.v1 import enrolment_pb2
from protos.status import from_rpc_error
from tests.controller.joiner import Joiner, certificate_request, pin_of, presented_chain, renew


@pytest.fixture
def fleet(empty_fleet: Fleet) -> Fleet:
    return empty_fleet


@pytest.fixture
async def server(fleet: Fleet) -> AsyncIterator[EnrolmentServer]:
    async with fleet.enrolment("127.0.0.1", 0) as server:
        yield server


async def reason_of(call: object) -> NanofleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # a coroutine of any result
    return from_rpc_error(caught.value, "the controller")


async def test_a_device_joins_and_is_known(fleet: Fleet, server: EnrolmentServer) -> None:
    token = fleet.new_token("kitchen", address=server.address, labels={"site": "lab"})
    waiting = asyncio.ensure_future(server.joined("kitchen", 60))
    joined = await Joiner(token.text).join()
    record = await waiting
    assert record.name == "kitchen"
    assert record.address == "127.0.0.1:7401"
    assert dict(record.labels) == {"site": "lab"}
    assert fleet.devices() == [record]
    assert joined.response.device_name == "kitchen"
    assert dict(joined.response.labels) == {"site": "lab"}
    assert abs(joined.response.utc_ns - record.joined_utc_ns) < 10**9
    leaf = x509.load_pem_x509_certificates(joined.response.certificate_chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert server_name("kitchen", record.enrolment) in names.get_values_for_type(x509.DNSName)


async def test_the_presented_chain_has_the_pinned_authority(
    fleet: Fleet, server: EnrolmentServer
) -> None:
    pin = Joiner(fleet.new_token("kitchen", address=server.address).text).pin
    chain = await asyncio.to_thread(presented_chain, server.address)
    assert pin_of(chain[-1]) == pin
    chain[0].verify_directly_issued_by(chain[-1])


async def test_an_agent_says_its_own_address(fleet: Fleet, server: EnrolmentServer) -> None:
    token = fleet.new_token("kitchen", address=server.address)
    await Joiner(token.text).join(agent_address="kitchen.local:9000")
    assert (await server.joined("kitchen", 60)).address == "kitchen.local:9000"


async def test_a_token_is_spent_once(fleet: Fleet, server: EnrolmentServer) -> None:
    joiner = Joiner(fleet.new_token("kitchen", address=server.address).text)
    await joiner.join()
    error = await reason_of(joiner.join())
    assert isinstance(error, Unauthenticated)
    assert error.reason == "TOKEN_SPENT"
    assert "nanofleet device token" in error.fix


async def test_of_many_that_come_at_once_with_one_token_one_gets_in(
    fleet: Fleet, server: EnrolmentServer
) -> None:
    joiner = Joiner(fleet.new_token("kitchen", address=server.address).text)
    results = await asyncio.gather(*(joiner.join() for _ in range(8)), return_exceptions=True)
    refused = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert len(refused) == 7
    assert {from_rpc_error(each, "").reason for each in refused} == {"TOKEN_SPENT"}


async def test_wrong_and_unknown_tokens(fleet: Fleet, server: EnrolmentServer) -> None:
    joiner = Joiner(fleet.new_token("kitchen", address=server.address).text)
    assert (await reason_of(joiner.join(secret="a" * 32))).reason == "TOKEN_WRONG"
    await joiner.join()  # a wrong secret has not spent it
    joiner.token_id = "nobody"
    assert (await reason_of(joiner.join())).reason == "TOKEN_UNKNOWN"


async def test_a_token_expires(fleet: Fleet, server: EnrolmentServer) -> None:
    token = fleet.new_token("kitchen", address=server.address, ttl_s=0)
    error = await reason_of(Joiner(token.text).join())
    assert error.reason == "TOKEN_EXPIRED"
    assert "expired" in error.what


async def test_nonsense_costs_no_token(fleet: Fleet, server: EnrolmentServer) -> None:
    joiner = Joiner(fleet.new_token("kitchen", address=server.address).text)
    assert isinstance(await reason_of(joiner.join(agent_address="nonsense")), InvalidRequest)
    await joiner.join()


async def test_a_device_renews_its_own_certificate(fleet: Fleet, server: EnrolmentServer) -> None:
    joined = await Joiner(fleet.new_token("kitchen", address=server.address).text).join()
    renewed = await renew(server.renewal_address, joined)
    old = x509.load_pem_x509_certificates(joined.response.certificate_chain)[0]
    new = x509.load_pem_x509_certificates(renewed.certificate_chain)[0]
    assert new.serial_number != old.serial_number
    kind = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(
        kind
    )


async def test_removed_and_replaced_devices_do_not_renew(
    fleet: Fleet, server: EnrolmentServer
) -> None:
    first = await Joiner(fleet.new_token("kitchen", address=server.address).text).join()
    await Joiner(fleet.new_token("kitchen", address=server.address).text).join()
    error = await reason_of(renew(server.renewal_address, first))
    assert error.reason == "FORBIDDEN"
    fleet.remove_device("kitchen")
    assert (await reason_of(renew(server.renewal_address, first))).reason == "NOT_FOUND"


async def test_renewal_needs_a_certificate_of_the_fleet(
    fleet: Fleet, server: EnrolmentServer
) -> None:
    joined = await Joiner(fleet.new_token("kitchen", address=server.address).text).join()
    error = await reason_of(renew(server.address, joined))  # the door without mTLS
    assert error.reason == "UNAUTHENTICATED"
    assert "renewal port" in error.fix


async def test_waiting_for_a_device_ends(server: EnrolmentServer) -> None:
    with pytest.raises(TimedOut, match=r"nanofleet-agent join"):
        await server.joined("kitchen", 0.01)


async def test_a_taken_port_is_named(fleet: Fleet, server: EnrolmentServer) -> None:
    port = int(server.address.rsplit(":", 1)[1])
    with pytest.raises(InUse, match=str(port)):
        async with fleet.enrolment("127.0.0.1", port):
            pass


async def test_no_secret_is_stored(fleet: Fleet) -> None:
    token = Joiner(fleet.new_token("kitchen", address="10.0.0.2:7402").text)
    stored = b"".join(path.read_bytes() for path in fleet.home.glob("fleet.db*"))
    assert token.token_id.encode() in stored
    assert token.secret.encode() not in stored


@pytest.mark.parametrize(
    ("device", "address", "labels"),
    [
        ("Kitchen", "h:1", {}),
        ("kitchen", "h", {}),
        ("kitchen", ":7402", {}),
        ("kitchen", "h:99999", {}),
        ("kitchen", "h:1", {"a b": "c"}),
    ],
)
async def test_bad_invitations(
    fleet: Fleet, device: str, address: str, labels: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest):
        fleet.new_token(device, address=address, labels=labels)


def test_the_clock_decides_and_is_given(tmp_path: Path) -> None:
    """A device without a battery learns the controller's time; a token lives by it."""
    utc_ns = 1_800_000_000 * 10**9
    store = Store.open(tmp_path / "fleet.db")
    authority = Authority.make("home", datetime.now(timezone.utc))
    enrolment = Enrolment(store, authority, lambda: utc_ns)
    joiner = Joiner(enrolment.invite("kitchen", "h:1", {}, 900).text)
    _, csr = certificate_request()
    request = enrolment_pb2.JoinRequest(
        token_id=joiner.token_id, secret=joiner.secret, certificate_request=csr
    )
    late = Enrolment(store, authority, lambda: utc_ns + 901 * 10**9)
    with pytest.raises(Unauthenticated) as caught:
        late.join(request, "h:2")
    assert caught.value.reason == "TOKEN_EXPIRED"
    assert enrolment.join(request, "h:2").utc_ns == utc_ns
    store.close()
