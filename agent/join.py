"""How a device gets its identity: `nanofleet-agent join TOKEN`, once.

    token    <id>.<secret>.<pin>@<host>:<port>      pin: SHA-256 of the CA's public key, base 32

    1  read the certificates that the enrolment server presents; nothing is trusted yet
    2  the CA among them must have the pin's key, and must have signed the server's certificate
    3  open a channel that trusts only that CA, and only the name of the fleet's controller
    4  make the key, here; send the secret and a request for a certificate
    5  the identity takes its place in one rename

The secret is sent only after 3: somebody in between learns nothing that could be spent. The
cryptography library is loaded by this module alone, never by the daemon.
"""

import asyncio
import base64
import hashlib
import re
import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.identity import AUTHORITY, CHAIN, FOLDER, KEY
from artifacts import durable, headroom
from artifacts.persisting import Point
from protos import status
from protos.errors import InvalidRequest, Unauthenticated, Unreachable
from protos.identity import Identity, Role
from protos.nanofleet.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.transport import channel_options

SERVER = Identity(Role.CONTROLLER, "controller")
_TIMEOUT_S = 20.0
_TOKEN = re.compile(
    r"(?P<id>[^.@\s]+)\.(?P<secret>[^.@\s]+)\.(?P<pin>[a-z2-7]{52})"
    r"@(?P<host>\[[^\]]+\]|[^:\s]+):(?P<port>\d{1,5})"
)


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    secret: str
    pin: str
    host: str
    port: int

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def parse_token(text: str) -> Token:
    match = _TOKEN.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InvalidRequest(
            "This is not a whole token.",
            why="A token looks like id.secret.pin@host:port.",
            fix="Copy it again from the controller: `nanofleet device token NAME`.",
            field="token",
        )
    return Token(match["id"], match["secret"], match["pin"], match["host"], int(match["port"]))


def join(token: Token, state: Path, agent_address: str) -> str:
    """Joins the fleet; returns the device's name. An identity from before is kept aside."""
    authority = _pinned_authority(token)
    key = ec.generate_private_key(ec.SECP256R1())
    request = enrolment_pb2.JoinRequest(
        token_id=token.id,
        secret=token.secret,
        certificate_request=_certificate_request(key),
        agent_address=agent_address,
    )
    response = asyncio.run(_ask(token, authority, request))
    _check(response, key, authority)
    with headroom.naming_disk_faults(state):
        _keep(state, key, response)
    return response.device_name


def pin_of(certificate: x509.Certificate) -> str:
    """The SHA-256 of the certificate's SubjectPublicKeyInfo, in base 32 without padding."""
    public = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b32encode(hashlib.sha256(public).digest()).decode().rstrip("=").lower()


def _pinned_authority(token: Token) -> x509.Certificate:
    """The fleet's CA, found by its pin among what the server presents."""
    chain = [x509.load_der_x509_certificate(der) for der in _presented(token)]
    authority = next((found for found in chain if pin_of(found) == token.pin), None)
    if authority is None:
        raise Unauthenticated(
            f"The server at {token.address} does not belong to the fleet of this token.",
            why="Its certificates do not have the key that the token names. The secret was not"
            " sent.",
            fix="Check the address in the token; if it is right, somebody may sit in between.",
            reason="PIN_MISMATCH",
        )
    try:
        chain[0].verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise Unauthenticated(
            f"The certificate of {token.address} was not issued by the fleet of this token.",
            why="The secret was not sent.",
            reason="PIN_MISMATCH",
        ) from None
    return authority


def _presented(token: Token) -> list[bytes]:
    """The server's certificates as DER, leaf first. Nothing about them has been checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((token.host.strip("[]"), token.port), _TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=SERVER.dns_name) as connection,
        ):
            return _chain(connection)
    except OSError as error:
        raise Unreachable(
            f"Cannot reach the controller at {token.address}: {error.strerror or error}.",
            fix="Check that `nanofleet device token` is still waiting there, and the firewall.",
        ) from None


def _chain(connection: ssl.SSLSocket) -> list[bytes]:
    """Public since Python 3.13; the same call has been on the inner object since 3.10."""
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner = getattr(connection, "_sslobj")  # noqa: B009 - private before 3.13
    return [
        ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
        for certificate in inner.get_unverified_chain()
    ]


def _certificate_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Proves that we hold the key. Who we are is up to the token, not to what we write here."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nanofleet")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


async def _ask(
    token: Token, authority: x509.Certificate, request: enrolment_pb2.JoinRequest
) -> enrolment_pb2.JoinResponse:
    credentials = grpc.ssl_channel_credentials(authority.public_bytes(serialization.Encoding.PEM))
    options = channel_options(SERVER.dns_name)
    async with grpc.aio.secure_channel(token.address, credentials, options) as channel:
        stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
        try:
            return await stub.Join(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, f"the controller ({token.address})") from None


def _check(
    response: enrolment_pb2.JoinResponse,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
) -> None:
    """The certificate must be for our key and by the pinned CA, or it would never be accepted."""
    try:
        leaf = x509.load_pem_x509_certificates(response.certificate_chain)[0]
        trusted = x509.load_pem_x509_certificate(response.certificate_authority)
        leaf.verify_directly_issued_by(authority)
        sound = leaf.public_key() == key.public_key() and pin_of(trusted) == pin_of(authority)
    except (InvalidSignature, ValueError, TypeError):
        sound = False
    if not sound:
        raise Unauthenticated(
            "The controller sent a certificate that is not for this device's key.",
            fix="Make a new token and join again.",
        )


def _keep(
    state: Path, key: ec.EllipticCurvePrivateKey, response: enrolment_pb2.JoinResponse
) -> None:
    """Writes the new identity beside the old one, then lets it take its place."""
    durable.make_folder(state)
    folder, fresh = state / FOLDER, state / f"{FOLDER}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    durable.make_folder(fresh)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    durable.write_bytes(fresh / KEY, private, Point.DEVICE_IDENTITY_PART)
    for name, pem in (
        (CHAIN, response.certificate_chain),
        (AUTHORITY, response.certificate_authority),
    ):
        durable.write_bytes(fresh / name, pem, Point.DEVICE_IDENTITY_PART, 0o644)
    if folder.exists():
        previous = state / f"{FOLDER}.previous"
        shutil.rmtree(previous, ignore_errors=True)
        with Point.DEVICE_IDENTITY_MOVED:
            folder.rename(previous)
    durable.publish(fresh, folder, Point.DEVICE_IDENTITY_TAKEN)
