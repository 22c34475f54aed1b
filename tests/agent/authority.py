"""A fleet's certificate authority as a test needs it: any role, any name, in two lines."""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protos.identity import Identity, Role

_BEGIN = datetime(1970, 1, 1, tzinfo=timezone.utc)
_END = datetime(2090, 1, 1, tzinfo=timezone.utc)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Issued:
    """PEM of a key, its certificate, and the authority above it."""

    key: bytes
    chain: bytes
    authority: bytes

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "key.pem").write_bytes(self.key)
        (folder / "chain.pem").write_bytes(self.chain)
        (folder / "authority.pem").write_bytes(self.authority)


class Authority:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _signed(
            self._key, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0), None
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, role: Role, name: str) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self.sign(key.public_key(), Identity(role, name))
        return Issued(_private(key), chain, self.pem)

    def sign(self, public: ec.EllipticCurvePublicKey, identity: Identity) -> bytes:
        leaf = _signed(
            self._key, public, x509.BasicConstraints(ca=False, path_length=None), identity
        )
        return leaf.public_bytes(serialization.Encoding.PEM) + self.pem


def _signed(
    key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    constraints: x509.BasicConstraints,
    identity: Identity | None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(identity.name if identity else "test fleet"))
        .issuer_name(_name("test fleet"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(constraints, critical=True)
    )
    if identity is not None:
        names = [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(identity.dns_name)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
