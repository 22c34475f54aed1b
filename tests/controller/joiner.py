"""A device that joins, written against the contract alone: TLS, the pin, then the secret.

Independent of agent/join.py, so that the two sides cannot agree on the same mistake.
"""

import base64
import hashlib
import socket
import ssl
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from protos.identity import Identity, Role
from protos.nanofleet.v1 import enrolment_pb2, enrolment_pb2_grpc
from protos.transport import channel_options

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
SERVER_NAME = Identity(Role.CONTROLLER, "controller").dns_name


def certificate_request(
    key: Key | None = None, extension: x509.SubjectAlternativeName | None = None
) -> tuple[Key, bytes]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return key, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def presented_chain(address: str) -> list[x509.Certificate]:
    """What the server shows in a TLS 1.3 handshake that trusts nobody yet."""
    host, port = address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain) as tls,
    ):
        # Public from Python 3.13 on, and then bytes of DER.
        public = getattr(tls, "get_unverified_chain", None)
        if public is not None:
            return [x509.load_der_x509_certificate(der) for der in public()]
        chain = getattr(tls, "_sslobj").get_unverified_chain()  # noqa: B009 (private before)
        return [x509.load_pem_x509_certificate(each.public_bytes().encode()) for each in chain]


def pin_of(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b32encode(hashlib.sha256(spki).digest()).decode().rstrip("=").lower()


@dataclass(frozen=True)
class Joined:
    """A device's identity after joining."""

    key: bytes
    response: enrolment_pb2.JoinResponse


class Joiner:
    """One token, and the address in it."""

    def __init__(self, token: str) -> None:
        front, self.address = token.split("@")
        self.token_id, self.secret, self.pin = front.split(".")

    async def join(self, *, secret: str = "", agent_address: str = ":7401") -> Joined:
        key, request = certificate_request()
        (authority,) = [c for c in presented_chain(self.address) if pin_of(c) == self.pin]
        credentials = grpc.ssl_channel_credentials(authority.public_bytes(Encoding.PEM))
        async with grpc.aio.secure_channel(
            self.address, credentials, channel_options(SERVER_NAME)
        ) as channel:
            stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
            response = await stub.Join(
                enrolment_pb2.JoinRequest(
                    token_id=self.token_id,
                    secret=secret or self.secret,
                    certificate_request=request,
                    agent_address=agent_address,
                ),
                timeout=10,
            )
        return Joined(key_pem(key), response)


async def renew(address: str, identity: Joined) -> enrolment_pb2.RenewCertificateResponse:
    """Over mTLS with the certificate in use, at the renewal door."""
    _, request = certificate_request()
    response = identity.response
    credentials = grpc.ssl_channel_credentials(
        response.certificate_authority, identity.key, response.certificate_chain
    )
    async with grpc.aio.secure_channel(
        address, credentials, channel_options(SERVER_NAME)
    ) as channel:
        stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
        wanted = enrolment_pb2.RenewCertificateRequest(certificate_request=request)
        return await stub.RenewCertificate(wanted, timeout=10)
